"""`./pds restore`: restores a backup in one command, onto damaged data or an empty volume.

It pauses the PDS through the engine, runs the stack's job `pds-restore` on the host, starts the PDS again, asks the
relays to crawl it, and runs the checks. `components/render/files/restore.cjs` changes the data. This module has what
only the owner's machine knows: the stack, its lists of removed accounts, and the rotation key's public half.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from components.probes import NomadApi, ProbeError
from components.render.backup_job import JOB as BACKUP
from components.render.restic import region_environment
from components.render.restore_job import JOB, OTHER_PATHS
from components.settings.environment import GENERATED_SECRETS
from components.settings.settings import Settings
from tools import runs
from tools.check.run import check, subject_of
from tools.pause import pause, unpause
from tools.people import relays_in
from tools.stack import Stack, StackError
from tools.stackfile import read_settings

_DEADLINE = 6 * 3600  # seconds; a volume's worth of blobs from another region
_TIMEOUT = 30.0  # seconds
_SENT = re.compile(r"snapshot (?P<id>[0-9a-f]{8,}) saved")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The requested restore.

    `snapshot` is an id, "volume" for the last one on the volume, or empty for the newest in the bucket. `only` is the
    DID of the one account to restore, `without` those to leave out, `bring_back` those to restore although they were
    deleted or taken down since. `sequence` is a number above every event that a relay saw, if no relay answers.
    `source` is the stack of the backups.
    """

    snapshot: str = ""
    only: str = ""
    without: tuple[str, ...] = ()
    sequence: int = 0
    bring_back: tuple[str, ...] = ()
    source: Stack | None = None
    yes: bool = False


def restore(stack: Stack, wish: Wish) -> int:
    """Restore onto `stack`; return the exit code. Raises StackError, StackFileError, ProbeError."""
    settings = with_backup(stack)
    if wish.only:
        return _restore_one(stack, settings, wish)
    items = _opened_by(wish.source, settings) if wish.source and wish.source != stack else None
    api = runs.api_of(stack)
    runs.alone(api, JOB)  # another operator's, which lets the PDS run again at its end
    step(1, "The PDS is paused, through the engine.")
    pause(stack, yes=wish.yes)

    step(2, "The snapshot is fetched, verified, made ready beside the old data, and takes their place.")
    runs.alone(api, JOB)
    _lend(api, items)  # also none: a killed run's variable opens another stack's
    try:
        done = put_back(stack, settings, wish, api)
    finally:
        if items:
            _lend(api, None)
    if not done:
        print(
            f"\nNothing was opened; the PDS is still paused. Fix the fault above and run the same again, or "
            f"let it run as it is: `pulumi config set --path pds:pds.paused false --stack {stack.name}`, `pulumi up`."
        )
        return 1

    step(3, "The PDS runs again.")
    run_again(stack, settings, yes=wish.yes)

    step(4, "Is everything as it should be?")
    _check(stack)
    print(
        "\nRestored. Accounts that were left out, or came from another backup, are listed under 2. The old data are on "
        f"the volume until you run `./pds restore {stack.name} --forget-old`."
    )
    return 0


def _check(stack: Stack) -> None:
    for result in check(subject_of(stack, None, None, None, mail=None, relay=True)):
        print(result, flush=True)


def _restore_one(stack: Stack, settings: Settings, wish: Wish) -> int:
    """Restore one account. The PDS keeps running while it is fetched and checked."""
    if wish.source and wish.source != stack:
        raise StackError("'--only' takes an account out of the stack's own backups: leave '--to' out.")
    api = runs.api_of(stack)
    runs.alone(api, JOB)
    step(1, "The account is fetched, checked, and made ready. The PDS runs on.")
    meta = {"only": wish.only, "rotation_public_key": _public_key(stack.outputs())} | _which(wish)
    if not runs.follow(api, runs.dispatch(api, JOB, meta), _DEADLINE):
        print("\nNothing was changed. Read what is said above.")
        return 1

    step(2, "The PDS is paused, through the engine.")
    pause(stack, yes=wish.yes)
    step(3, "The account takes the place of the one that is there, and gets a new revision.")
    done = runs.follow(api, runs.dispatch(api, JOB, {"only": wish.only, "step": "in"}), _DEADLINE)
    if not done:
        print(f"\nThe PDS is paused. Run the same again: it goes on. ./pds restore {stack.name} --only {wish.only}")
        return 1
    step(4, "The PDS runs again.")
    run_again(stack, settings, yes=wish.yes)
    step(5, "Is everything as it should be?")
    _check(stack)
    print(f"\nRestored. What the account was before is on the volume until `./pds restore {stack.name} --forget-old`.")
    return 0


def last_backup_is_restorable(api: NomadApi, without: Sequence[str] = ()) -> bool:
    """Check the last backup's snapshot on the volume, account by account, on the host. Return whether all accounts but
    those in `without` can be restored from it. Raises ProbeError."""
    runs.alone(api, JOB)
    meta = {"verify": "yes", "from": "volume", "without": " ".join(without)}
    return runs.follow(api, runs.dispatch(api, JOB, meta), _DEADLINE)


def put_back(stack: Stack, settings: Settings, wish: Wish, api: NomadApi) -> bool:
    """Fetch the snapshot on the host of the paused PDS and put it in place; return whether that succeeded. Raises as
    above."""
    return runs.follow(api, runs.dispatch(api, JOB, _meta(stack, settings, wish)), _DEADLINE)


def run_again(stack: Stack, settings: Settings, *, yes: bool) -> None:
    """Start the PDS, and ask the relays to crawl it. Raises as above."""
    unpause(stack, yes=yes)
    for relay in relays_in(stack.outputs()):
        print(f"{relay}: {_crawl(relay, settings.hostname)}")


def back_up(api: NomadApi, show: Callable[[str], None] = print) -> str | None:
    """Make a backup now; return its id in the bucket, None if it failed. Raises ProbeError."""
    ids: list[str] = []

    def hear(line: str) -> None:
        show(line)
        ids.extend(found["id"] for found in _SENT.finditer(line))

    return (ids or [""])[-1] if runs.follow(api, runs.force(api, BACKUP), _DEADLINE, hear) else None


def show(stack: Stack) -> int:
    """List the snapshots in the bucket; return the exit code. Raises as above."""
    return _alone(stack, {"show": "yes"})


def forget_old(stack: Stack) -> int:
    """Remove the data that restores kept from before, unless they hold the last copy of a signing key.

    Returns the exit code. Raises as above.
    """
    return _alone(stack, {"forget": "yes", "delete": " ".join(sorted(with_backup(stack).delete.values()))})


def _alone(stack: Stack, meta: Mapping[str, str]) -> int:
    with_backup(stack)
    api = runs.api_of(stack)
    if "show" not in meta:  # a list touches no files
        runs.alone(api, JOB)
    return 0 if runs.follow(api, runs.dispatch(api, JOB, meta), _DEADLINE) else 1


def now(stack: Stack, job: str) -> int:
    """Run the stack's periodic `job` before its time; return the exit code. Raises as above."""
    with_backup(stack)
    api = runs.api_of(stack)
    return 0 if runs.follow(api, runs.force(api, job), _DEADLINE) else 1


def with_backup(stack: Stack) -> Settings:
    """Return the stack's settings, with backups. Raises StackError, StackFileError."""
    settings = read_settings(stack.name, stack.root)
    if settings.backup is None:
        raise StackError(
            f"Pulumi.{stack.name}.yaml has no 'backup': it says where backups are, and brings the job that puts them "
            "back. For backups of a lost stack, give bucket, 'adopt: true' and 'password' from the escrow file."
        )
    return settings


def _meta(stack: Stack, settings: Settings, wish: Wish) -> dict[str, str]:
    removals = stack.state().named("pds-removals")
    known: Mapping[str, str] = removals.outputs.get("taken_down") or {} if removals else {}
    hidden = {known.get(entry, entry) for entry in settings.takedown}
    return _which(wish) | {
        "sequence": str(wish.sequence or ""),
        "rotation_public_key": _public_key(stack.outputs()),
        # A handle without a DID is unknown to `up` so far; the one below takes it down.
        "takedown": " ".join(sorted(did for did in hidden if did.startswith("did:"))),
        "delete": " ".join(sorted(settings.delete.values())),
        "bring_back": " ".join(wish.bring_back),
        "without": " ".join(wish.without),
    }


def _which(wish: Wish) -> dict[str, str]:
    """Return the snapshot in the terms of the job."""
    volume = wish.snapshot == "volume"
    return {"snapshot": "" if volume else wish.snapshot, "from": "volume" if volume else ""}


def _public_key(outputs: Mapping[str, Any]) -> str:
    """Return the public half of the rotation key, from the mark on the volume."""
    private = outputs["escrow"]["secrets"][GENERATED_SECRETS["plc_rotation_key"]]
    public = ec.derive_private_key(int(private, 16), ec.SECP256K1()).public_key()
    return public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint).hex()


def _opened_by(source: Stack, settings: Settings) -> dict[str, str]:
    """Return what opens the backups of `source`, by restic's names."""
    theirs = with_backup(source)
    if theirs.hostname != settings.hostname:
        raise StackError(
            f"Stack {source.name} is the PDS {theirs.hostname}, this one is {settings.hostname}. A hostname is for "
            "life: give the stack that hostname, or move its members one by one."
        )
    assert theirs.backup
    backup: dict[str, str] = source.outputs()["escrow"]["backup"]
    if theirs.backup.volume:
        raise StackError(f"The backups of {source.name} are on a disk of its host: copy them to this one's first.")
    # Empty, not omitted: these override the environment of this stack's task, whose region is its own service's.
    return backup | {"AWS_DEFAULT_REGION": region_environment(theirs).get("AWS_DEFAULT_REGION", "")}


def _lend(api: NomadApi, items: Mapping[str, str] | None) -> None:
    """Let only the fetching tasks read what opens another stack's backups; with None end that."""
    for path in OTHER_PATHS.values():
        if items is None:
            api.request("DELETE", f"/v1/var/{path}")
            continue
        status, said = api.request("PUT", f"/v1/var/{path}", {"Path": path, "Items": dict(items)})
        if status != 200:
            raise ProbeError(f"Nomad takes no variable at {path}: {status} {str(said)[:200]}")


def _crawl(relay: str, hostname: str) -> str:
    url = f"{relay}/xrpc/com.atproto.sync.requestCrawl"
    try:
        answer = httpx.post(url, json={"hostname": hostname}, timeout=_TIMEOUT, trust_env=False)
    except httpx.HTTPError as error:
        return f"does not answer ({type(error).__name__}); the PDS asks it again by itself with the next post"
    return "comes" if answer.is_success else f"answers {answer.status_code}: {answer.text[:200]}"


def step(number: int, text: str) -> None:
    """Print the next step of a command with several steps."""
    print(f"\n{number}  {text}", flush=True)
