"""Nomad's state from a snapshot of Raft, in a Nomad that was emptied."""

from pathlib import Path

from components.clients.errors import PendingError, ServiceError
from components.clients.nomad import NomadApi
from components.clients.wait import until

_SECONDS = 120
_SEND_SECONDS = 1800
_TRIES = 3


def restore(api: NomadApi, file: Path, token: str, accessor: str) -> str:
    """Restore the snapshot in `file`; returns `accessor`, by which Nomad knows `token` afterwards.

    A snapshot of another cluster does not know the token. Raises ServiceError.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ServiceError(f"PDS_NOMAD_SNAPSHOT: {file} cannot be read ({error.strerror}).") from None
    failures: list[PendingError] = []

    def taken() -> str | None:
        try:
            api.restore_snapshot(content)
        except PendingError as error:
            failures.append(error)
            if len(failures) == _TRIES:
                raise ServiceError(f"{error} Repeat `./pds restore` to continue.") from None
            raise
        return None

    until(taken, _SEND_SECONDS, f"Nomad, which is sent {file.name}", pause=5)

    def known() -> str | None:
        try:
            found = api.accessor(token)
        except PendingError as error:
            return str(error)
        return None if found == accessor else "it does not know this stack's management token"

    until(known, _SECONDS, f"Nomad with the state of {file.name}")
    return accessor
