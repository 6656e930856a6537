"""Restores a backup onto damaged data or an empty volume; `./pds restore`.

`components/render/scripts/restore.cjs` changes the data on the host. This module has what only the operator's machine
knows: the stack, its lists of removed accounts, and the rotation key's public half.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cli.check.run import run_checks, subject_of
from cli.lib import nomad_jobs
from cli.lib.apply import pause, unpause
from cli.lib.nomad_exec import TruncatedOutputError, nomad_access, nomad_api, run_in_container, running_allocation
from cli.lib.stack import Stack, StackError
from cli.people.members import relays_in
from components.clients.errors import ServiceError
from components.clients.nomad import NomadApi
from components.render.jobs.backup import JOB as BACKUP
from components.render.jobs.blobs import JOB as BLOBS
from components.render.jobs.blobs import OTHER_PATH
from components.render.jobs.restic import region_environment
from components.render.jobs.restore import JOB, OTHER_PATHS
from components.settings.checks.pds_env import DATA_DIRECTORY, GENERATED_SECRETS
from components.settings.sections.settings import Settings
from offline.stackfile import read_config, read_settings

MOVE_NOTE = "move:note"
"""The key of a move's progress in the club's stack file (`cli/move/progress.py`)."""

DEADLINE = 24 * 3600  # seconds; a volume's worth of blobs from another region
"""How long a run is followed. It goes on if its command is interrupted."""

_TIMEOUT = 30.0  # seconds
_RESTORED = {True: "Restored", False: "Restored, but not all blobs"}
_SENT = re.compile(r"snapshot (?P<id>[0-9a-f]{8,}) saved")


@dataclass(frozen=True, kw_only=True)
class RestoreRequest:
    """The requested restore.

    `snapshot` is an id, "volume" for the last one on the volume, or empty for the newest in the bucket. `only` is the
    DID of the one account to restore, `without` those to leave out, `bring_back` those to restore although they were
    deleted or taken down since. `sequence` is a number above every event that a relay saw, if no relay answers.
    `source` is the stack of the backups. Without `old_data` no account comes from the data on the volume.
    `without_directory` restores accounts whose identities the directory does not return, `without_departures` restores
    without the list of the accounts that left. `whole` restores nothing if an account other than those in `without`
    would be left out, or be an older copy.
    """

    snapshot: str = ""
    only: str = ""
    without: tuple[str, ...] = ()
    without_directory: bool = False
    without_departures: bool = False
    sequence: int = 0
    bring_back: tuple[str, ...] = ()
    source: Stack | None = None
    old_data: bool = True
    whole: bool = False
    yes: bool = False


def restore(stack: Stack, request: RestoreRequest) -> int:
    """Restore onto `stack`; return the exit code. Raises StackError, StackFileError, ServiceError."""
    settings = with_backup(stack)
    refuse_during_move(stack)
    if request.only:
        return _restore_one(stack, settings, request)
    other = request.source if request.source and request.source != stack else None
    items = repository_access(other, settings) if other else None
    api = nomad_jobs.stack_nomad_api(stack)
    nomad_jobs.wait_for_other_runs(api, JOB)  # another operator's, which starts the PDS again at its end
    step(1, "Pause the PDS through the engine.")
    pause(stack, yes=request.yes)

    step(2, "Fetch and verify the snapshot, prepare it next to the old data, and swap them.")
    nomad_jobs.wait_for_other_runs(api, JOB)
    with _access_lent(api, OTHER_PATHS.values(), items):
        restored = restore_data(stack, settings, request, api)
    if not restored:
        print(
            f"\nThe data were not replaced; the PDS is still paused. Fix the fault above and repeat the command, or "
            f"start the PDS as it is: `pulumi config set --path pds.paused false --stack {stack.name}` and "
            "`pulumi up`."
        )
        return 1
    complete = _with_blobs_back(stack, settings, api, other=other)

    step(3, "Start the PDS again.")
    start_again(stack, settings, yes=request.yes)

    step(4, "The checks.")
    _check(stack)
    print(
        f"\n{_RESTORED[complete]}. Accounts that were left out, or came from another backup, are listed in step 2. The "
        f"old data are on the volume until you run `./pds restore {stack.name} --forget-old`."
    )
    return 0 if complete else 1


def refuse_during_move(stack: Stack) -> None:
    """A move restores its own backup, and would do so again over a server that another command has started. Raises
    StackError and StackFileError."""
    note: Mapping[str, Any] | None = read_config(stack.name, stack.root).get(MOVE_NOTE)
    if is_begun(note) and not note.get("opened"):
        raise StackError(
            f"{stack.name} is being moved from {note['from']} to {note['to']} ('{MOVE_NOTE}' in "
            f"Pulumi.{stack.name}.yaml). Nothing was changed. First end the move with the same './pds move' as before, "
            "or go back with its old host as '--to'."
        )


def is_begun(note: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, Any]]:
    """Return whether it is the note of a move. A command that was killed before it had done anything else may have left
    one host only."""
    return bool(note and note.get("from") and note.get("to"))


def _with_blobs_back(
    stack: Stack, settings: Settings, api: NomadApi, only: str = "", other: Stack | None = None
) -> bool:
    """Bring back the blobs that the restored data name, of one account if `only` is given; return whether all of them
    are there. The backups are those of the stack `other`, if given. Blobs on the volume alone are part of the data."""
    items = repository_access(other, settings) if other else None
    if settings.blobs is None or run_blobs_job(api, {"step": "repair", "only": only}, items):
        return True
    print(
        "\nThe data are restored. Some of their blobs are lost (WITH LOSSES above), or could not be brought back. Once "
        f"the fault is fixed, run `./pds blobs {stack.name} --repair{f' --from {other.name}' if other else ''}`."
    )
    return False


def _check(stack: Stack) -> None:
    for result in run_checks(subject_of(stack, None, None, None, mail=None, relay=True)):
        print(result, flush=True)


def _restore_one(stack: Stack, settings: Settings, request: RestoreRequest) -> int:
    """Restore one account. The PDS keeps running while it is fetched and checked."""
    if request.source and request.source != stack:
        raise StackError("'--only' restores from the stack's own backups. Leave '--to' out.")
    if request.without_directory:
        raise StackError(
            "'--only' needs the account's identity from the directory. Leave '--without-directory' out, and repeat the "
            "command once the directory answers. The PDS keeps running."
        )
    api = nomad_jobs.stack_nomad_api(stack)
    nomad_jobs.wait_for_other_runs(api, JOB)
    step(1, "Fetch, check and prepare the account. The PDS keeps running.")
    meta = {"only": request.only, "rotation_public_key": _public_key(stack.outputs())} | _snapshot_meta(request)
    if not nomad_jobs.follow(api, nomad_jobs.dispatch(api, JOB, meta), DEADLINE):
        print("\nNothing was changed. The reason is above.")
        return 1

    step(2, "Pause the PDS through the engine.")
    pause(stack, yes=request.yes)
    step(3, "Replace the account with the restored one, at a new revision.")
    restored = nomad_jobs.follow(api, nomad_jobs.dispatch(api, JOB, {"only": request.only, "step": "in"}), DEADLINE)
    if not restored:
        print(f"\nThe PDS is paused. Repeat the command to continue: ./pds restore {stack.name} --only {request.only}")
        return 1
    complete = _with_blobs_back(stack, settings, api, request.only)
    step(4, "Start the PDS again.")
    start_again(stack, settings, yes=request.yes)
    step(5, "The checks.")
    _check(stack)
    old = f"The account's old data are on the volume until `./pds restore {stack.name} --forget-old`."
    print(f"\n{_RESTORED[complete]}. {old}")
    return 0 if complete else 1


def last_backup_is_restorable(api: NomadApi, without: Sequence[str] = ()) -> bool:
    """Check the last backup's snapshot on the volume, account by account, on the host. Return whether all accounts but
    those in `without` can be restored from it. Raises ServiceError."""
    nomad_jobs.wait_for_other_runs(api, JOB)
    meta = {"verify": "yes", "from": "volume", "without": " ".join(without)}
    return nomad_jobs.follow(api, nomad_jobs.dispatch(api, JOB, meta), DEADLINE)


def restore_data(stack: Stack, settings: Settings, request: RestoreRequest, api: NomadApi) -> bool:
    """Fetch the snapshot on the host of the paused PDS and put it in place; return whether that succeeded. Raises as
    above."""
    return nomad_jobs.follow(api, dispatch(stack, settings, request, api), DEADLINE)


def dispatch(stack: Stack, settings: Settings, request: RestoreRequest, api: NomadApi) -> str:
    """Begin the same; return the id of the run. Raises as above."""
    return nomad_jobs.dispatch(api, JOB, _meta(stack, settings, request))


def start_again(stack: Stack, settings: Settings, *, yes: bool, env: Mapping[str, str] | None = None) -> None:
    """Start the PDS, and ask the relays to crawl it. Raises as above."""
    unpause(stack, yes=yes, env=env)
    for relay in relays_in(stack.outputs()):
        print(f"{relay}: {_crawl(relay, settings.hostname)}")


def run_blobs_job(api: NomadApi, meta: Mapping[str, str], items: Mapping[str, str] | None = None) -> bool:
    """Run a step of the job that copies blobs to its end; return whether it succeeded. `items` open another stack's
    backups. Raises ServiceError."""
    nomad_jobs.wait_for_other_runs(api, BLOBS)  # another operator's, or a killed command's
    with _access_lent(api, [OTHER_PATH], items):
        return nomad_jobs.follow(api, nomad_jobs.dispatch(api, BLOBS, meta), DEADLINE)


def back_up(api: NomadApi, show: Callable[[str], None] = print) -> str | None:
    """Make a backup now; return its id in the bucket, None if it failed. Raises ServiceError."""
    ids: list[str] = []

    def read_id(line: str) -> None:
        show(line)
        ids.extend(match["id"] for match in _SENT.finditer(line))

    return (ids or [""])[-1] if nomad_jobs.follow(api, nomad_jobs.force(api, BACKUP), DEADLINE, read_id) else None


def list_snapshots(stack: Stack) -> int:
    """List the snapshots in the bucket; return the exit code. Raises as above."""
    print("Times are UTC.")  # restic prints them in its container's zone, which has no other
    return _run_alone(stack, {"show": "yes"})


def forget_old(stack: Stack) -> int:
    """Remove the data that restores kept from before, unless they hold the last copy of a signing key.

    Returns the exit code. Raises as above.
    """
    return _run_alone(stack, {"forget": "yes", "delete": _deleted(stack, with_backup(stack))})


def _run_alone(stack: Stack, meta: Mapping[str, str]) -> int:
    with_backup(stack)
    api = nomad_jobs.stack_nomad_api(stack)
    if "show" not in meta:  # a list touches no files
        nomad_jobs.wait_for_other_runs(api, JOB)
    return 0 if nomad_jobs.follow(api, nomad_jobs.dispatch(api, JOB, meta), DEADLINE) else 1


def run_now(stack: Stack, job: str) -> int:
    """Run the stack's periodic `job` before its time; return the exit code. Raises as above."""
    with_backup(stack)
    api = nomad_jobs.stack_nomad_api(stack)
    return 0 if nomad_jobs.follow(api, nomad_jobs.force(api, job), DEADLINE) else 1


def forget_repository(stack: Stack) -> None:
    """Let the next backup begin a new repository if the recorded one is gone. Raises as above."""
    with_backup(stack)
    access = nomad_access(stack.outputs())
    allocation = running_allocation(nomad_api(access))
    if allocation is None:
        raise StackError(f"The PDS of {stack.name} is not running. Start it, then repeat the command.")
    remove = f"rm -f {DATA_DIRECTORY}/.run-status/repository && echo {{}}"
    for attempt in (1, 2):
        try:
            run_in_container(access, allocation, ["sh", "-c", remove], "the record of the repository")
        except TruncatedOutputError:
            if attempt == 2:
                raise
        else:
            return


def with_backup(stack: Stack) -> Settings:
    """Return the stack's settings, with backups. Raises StackError, StackFileError."""
    settings = read_settings(stack.name, stack.root)
    if settings.backup is None:
        raise StackError(
            f"Pulumi.{stack.name}.yaml has no 'backup', which names the bucket and creates the job that restores. For "
            "backups of a lost stack, give bucket, 'adopt: true' and 'password' from the escrow file."
        )
    return settings


def _meta(stack: Stack, settings: Settings, request: RestoreRequest) -> dict[str, str]:
    known = _removals(stack, "taken_down")
    hidden = {known.get(entry, entry) for entry in settings.takedown}
    return _snapshot_meta(request) | {
        "sequence": str(request.sequence or ""),
        "rotation_public_key": _public_key(stack.outputs()),
        # A handle without a DID is unknown to `up` so far; the one below takes it down.
        "takedown": " ".join(sorted(did for did in hidden if did.startswith("did:"))),
        "delete": _deleted(stack, settings),
        "applied": " ".join(sorted({did for _, did in settings.delete.items() & _removals(stack, "deleted").items()})),
        "bring_back": " ".join(request.bring_back),
        "without": " ".join(request.without),
        "without_directory": "yes" if request.without_directory else "",
        "without_departures": "yes" if request.without_departures else "",
        "old_data": "" if request.old_data else "no",
        "whole": "yes" if request.whole else "",
    }


def _deleted(stack: Stack, settings: Settings) -> str:
    """Return the DIDs that the stack file deletes, without members who are back: `up` keeps those as well."""
    deleted = settings.delete.items() - _removals(stack, "returned").items()
    return " ".join(sorted({did for _handle, did in deleted}))


def _removals(stack: Stack, output: str) -> Mapping[str, str]:
    """Return an output of the stack's AccountRemovals: an entry of the stack file to its DID."""
    removals = stack.state().named("pds-people-removals")
    return removals.outputs.get(output) or {} if removals else {}


def _snapshot_meta(request: RestoreRequest) -> dict[str, str]:
    """Return the snapshot in the terms of the job."""
    volume = request.snapshot == "volume"
    return {"snapshot": "" if volume else request.snapshot, "from": "volume" if volume else ""}


def _public_key(outputs: Mapping[str, Any]) -> str:
    """Return the public half of the rotation key, as in the identity file on the volume."""
    private = outputs["escrow"]["secrets"][GENERATED_SECRETS["plc_rotation_key"]]
    public = ec.derive_private_key(int(private, 16), ec.SECP256K1()).public_key()
    return public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint).hex()


def repository_access(source: Stack, settings: Settings) -> dict[str, str]:
    """Return what opens the backups of `source`, by restic's names. Raises as above."""
    theirs = with_backup(source)
    if theirs.hostname != settings.hostname:
        raise StackError(
            f"Stack {source.name} is the PDS {theirs.hostname}, this one is {settings.hostname}. A hostname is "
            "permanent. Give the stack that hostname, or move its members one by one."
        )
    assert theirs.backup
    backup: dict[str, str] = source.outputs()["escrow"]["backup"]
    if theirs.backup.volume:
        raise StackError(
            f"The backups of {source.name} are on a disk of its host. Copy them to the disk of this stack's host first."
        )
    # Empty, not omitted: these override the environment of this stack's task, whose region is its own service's.
    return backup | {"AWS_DEFAULT_REGION": region_environment(theirs).get("AWS_DEFAULT_REGION", "")}


@contextmanager
def _access_lent(api: NomadApi, paths: Collection[str], items: Mapping[str, str] | None) -> Iterator[None]:
    """Let only the tasks with these paths read what opens another stack's backups, meanwhile. With None none may: a
    killed command's variable would open them."""
    try:
        for path in paths:
            if items is None:
                api.request("DELETE", f"/v1/var/{path}")
                continue
            status, answer = api.request("PUT", f"/v1/var/{path}", {"Path": path, "Items": dict(items)})
            if status != 200:
                raise ServiceError(f"Nomad refuses a variable at {path}: {status} {str(answer)[:200]}")
        yield
    finally:
        for path in paths if items else ():
            api.request("DELETE", f"/v1/var/{path}")


def _crawl(relay: str, hostname: str) -> str:
    url = f"{relay}/xrpc/com.atproto.sync.requestCrawl"
    try:
        answer = httpx.post(url, json={"hostname": hostname}, timeout=_TIMEOUT, trust_env=False)
    except httpx.HTTPError as error:
        return f"does not answer ({type(error).__name__}); the PDS requests it again with the next post"
    return "will crawl" if answer.is_success else f"answers {answer.status_code}: {answer.text[:200]}"


def step(number: int, text: str) -> None:
    """Print the next step of a command with several steps."""
    print(f"\n{number}  {text}", flush=True)
