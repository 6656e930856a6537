"""The PLC directory's record of an identity (web.plc.directory/api/redoc; did-method-plc).

Owns: reading it, and the CID of an operation. Writing goes through the new server, which checks the operation.
"""

import time
from dataclasses import dataclass
from typing import Any

import httpx
import libipld

from cli.migrate.xrpc import LOOPBACK, Clock
from cli.snapshot.repository import cid_of
from components.clients.errors import ServiceError

Json = Any

_TIMEOUT = 20.0
_ATTEMPTS = 4
MOST_KEYS = 5
"""Rotation keys that an operation may have (@did-plc/lib, `assureValidOp`)."""
PDS_SERVICE = "atproto_pds"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """An identity's present data (`/DID/data`), and the CID of its newest operation."""

    data: dict[str, Json]
    cid: str

    @property
    def rotation_keys(self) -> list[str]:
        """The keys that may change the identity, the strongest first."""
        return list(self.data["rotationKeys"])

    @property
    def aliases(self) -> list[str]:
        """`alsoKnownAs`."""
        return list(self.data["alsoKnownAs"])

    @property
    def server(self) -> str:
        """URL of the server that it names; empty if it names none."""
        return str(self.data["services"].get(PDS_SERVICE, {}).get("endpoint", "")).rstrip("/")


class Directory:
    """The directory at `url`."""

    def __init__(self, url: str, clock: Clock = time) -> None:
        self.url, self._clock = url.rstrip("/"), clock

    def identity(self, did: str) -> Identity:
        """Return the present identity. Raises ServiceError."""
        cid = str(self.log(did)[-1]["cid"])  # first: older than the data at most, so a change of it is noticed
        return Identity(data=self._get(f"/{did}/data"), cid=cid)

    def log(self, did: str) -> list[Json]:
        """Return the identity's valid operations, the oldest first. Raises ServiceError."""
        entries = self._get(f"/{did}/log/audit")
        return [entry for entry in entries if not entry.get("nullified")]

    def earlier_server(self, did: str, present: str) -> str:
        """Return the URL of the server before `present`; empty if there was none. Raises ServiceError."""
        for entry in reversed(self.log(did)):
            services = entry["operation"].get("services") or {}
            url = str(services.get(PDS_SERVICE, {}).get("endpoint", "")).rstrip("/")
            if url and url != present:
                return url
        return ""

    def _get(self, path: str) -> Json:
        reason = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._clock.sleep(2.0**attempt)
            try:
                own = any(f"//{name}" in self.url for name in LOOPBACK)
                answer = httpx.get(f"{self.url}{path}", timeout=_TIMEOUT, trust_env=not own)
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
                continue
            if answer.is_success:
                return answer.json()
            reason = f"it answers {answer.status_code}"
            if answer.status_code < 500 and answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
                break
        raise ServiceError(f"{self.url}{path} cannot be read ({reason}). Run the command again.")


def cid_of_operation(operation: dict[str, Json]) -> str:
    """Return the CID of a signed operation, as the directory computes it: the SHA-256 of its DAG-CBOR."""
    return cid_of(libipld.encode_dag_cbor(operation))
