"""`./pds upgrade`: upgrades the server, after a trial of the new version on the host.

The stack's job `pds-candidate` runs the image on throw-away data (accounts, records, blobs, event stream), then starts
it on a copy of the newest backup, without a network. A backup follows, then the stack file, the gate and `pulumi up`.
Of several stacks one is the canary, which has the trial. The others follow, each after a backup and the gate, once the
canary is as healthy as before. At the first unhealthy one the command stops. If an older version cannot read the
migrated databases, the command reports that going back needs a restore.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from components.probes import NomadApi
from components.render.candidate_job import JOB
from components.settings.images import package_of_tag, tag_of
from components.settings.settings import Settings
from tools import runs
from tools.check.run import check, subject_of
from tools.clubs.known import Known, by_host
from tools.gate import gate
from tools.pause import change, up
from tools.restore import back_up, last_backup_is_restorable, step, with_backup
from tools.stack import Stack, StackError

_DEADLINE = 3600  # seconds; an image pull, a fetch, and the migration of large databases
_MIGRATES = "MIGRATES "

Bring = Callable[[Stack], bool]
"""The gate, then `pulumi up`; whether both succeeded."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A version of the server: its image, and the version of @atproto/pds in it."""

    image: str
    package: str


def upgrade(stack: Stack, to: str, package: str | None, *, yes: bool, without: Sequence[str] = ()) -> int:
    """Upgrade `stack` to the image tag or image `to`, even if the accounts `without` could not be restored.

    Returns the exit code. Raises StackError, StackFileError, ProbeError.
    """
    target = _wanted(stack, to, package)
    if target is None:
        return 0
    migrates = _trial(stack, target)
    return 1 if migrates is None else _change(stack, target, migrates, _asking(yes=yes), without)


def upgrade_all(
    stacks: Sequence[Known],
    canary: str | None,
    to: str,
    package: str | None,
    bring: Callable[[Known], bool],
    without: Sequence[str] = (),
) -> int:
    """Do the same for all of them, the canary first; return the exit code. Raises as above, before anything is begun if
    one of them has no backups."""
    order = [stack for group in by_host(stacks).values() for stack in group]
    order.sort(key=lambda stack: stack.name != canary)
    targets = {stack.name: _wanted(Stack(stack.name), to, package) for stack in order}
    wanted = [(stack, target) for stack in order if (target := targets[stack.name])]
    if not wanted:
        return 0
    names = [stack.name for stack, _ in wanted]
    print(f"The canary is {names[0]}." + (f" Then: {', '.join(names[1:])}." if names[1:] else ""))
    # A version changes all databases alike, so only the canary has the trial.
    migrates = _trial(Stack(names[0]), wanted[0][1])
    if migrates is None:
        return 1
    for number, (stack, target) in enumerate(wanted):
        print(f"\n{stack.name}")
        if code := _change(Stack(stack.name), target, migrates, partial(_brought, bring, stack), without):
            if later := names[number + 1 :]:
                print(f"\nLeft as they were: {', '.join(later)}.")
            return code
    return 0


def _brought(bring: Callable[[Known], bool], stack: Known, _: Stack) -> bool:
    return bring(stack)


def _wanted(stack: Stack, to: str, package: str | None) -> Target | None:
    settings = with_backup(stack)
    target = _target(settings, to, package)
    if target.image == settings.pds.image:
        print(f"{stack.name} has {target.image} already.")
        return None
    return target


def _trial(stack: Stack, target: Target) -> list[str] | None:
    """Return its migrations; None if it failed the trial."""
    api = runs.api_of(stack)
    step(1, f"{target.image} on throw-away data, then on a copy of the newest backup, with no way out.")
    said = _followed(api, runs.dispatch(api, JOB, {"image": target.image}))
    if said is None:
        print(f"\n{target.image} did not stand the trial. Nothing was changed.")
        return None
    return [line.removeprefix(_MIGRATES) for line in said if line.startswith(_MIGRATES)]


def _change(stack: Stack, target: Target, migrates: list[str], bring: Bring, without: Sequence[str]) -> int:
    """Do what follows a trial; return the exit code."""
    settings, api = with_backup(stack), runs.api_of(stack)
    step(2, "A backup, to come back to.")
    sent = back_up(api)
    if sent is None:
        print("\nThe backup failed. Nothing was changed.")
        return 1
    if not last_backup_is_restorable(api, without):
        print("\nWhat cannot be restored could not come back either. Nothing was changed.")
        return 1
    way_back = _way_back(stack.name, settings, migrates, sent)
    before = _not_well(stack)

    step(3, "The stack.")
    change(stack, "pds:pds.image", target.image)
    change(stack, "pds:pds.package_version", target.package)
    if not bring(stack):
        print(f"\nIt was not brought up. Pulumi.{stack.name}.yaml has the new version. {way_back}")
        return 1

    step(4, "Is everything as it should be?")
    if worse := _not_well(stack, show=True) - before:
        print(f"\nUpgraded, and {', '.join(sorted(worse))} was well before. {way_back}")
        return 1
    print(f"\nUpgraded. {way_back}")
    return 0


def _asking(*, yes: bool) -> Bring:
    def bring(stack: Stack) -> bool:
        if gate.judge(stack, None, frozenset(), Console(soft_wrap=True, highlight=False, emoji=False)):
            return False
        up(stack, yes=yes)
        return True

    return bring


def _followed(api: NomadApi, run: str) -> list[str] | None:
    """Return a run's output, which is shown as it comes; None if it failed."""
    said: list[str] = []

    def show(line: str) -> None:
        said.append(line)
        print(line, flush=True)

    return said if runs.follow(api, run, _DEADLINE, show) else None


def _not_well(stack: Stack, *, show: bool = False) -> set[str]:
    found = set()
    for result in check(subject_of(stack, None, None, None, mail=None, relay=False)):
        if show:
            print(result, flush=True)
        if result.ok is False:
            found.add(result.name)
    return found


def _target(settings: Settings, to: str, package: str | None) -> Target:
    name = settings.pds.image.partition("@")[0].rpartition(":")[0]
    image = to if ":" in to or "@" in to else f"{name}:{to}"
    found = package or package_of_tag(tag_of(image))
    if found is None:
        raise StackError(
            f"Which version of @atproto/pds is in {image}? Say it, '--package 0.5.N': it decides which options exist."
        )
    return Target(image=image, package=found)


def _way_back(name: str, before: Settings, migrates: list[str], snapshot: str) -> str:
    old = (
        f"pulumi config set --path pds:pds.image {before.pds.image} --stack {name}\n"
        f"  pulumi config set --path pds:pds.package_version {before.pds.package_version} --stack {name}"
    )
    if not migrates:
        return f"No database changed its form; the way back is\n  {old}\n  pulumi up --stack {name}"
    return (
        f"It changed the form of the databases ({', '.join(migrates)}), which the version before cannot "
        "read. Going back is a restore, and loses what is written from now on:\n"
        f"  {old}\n  ./pds restore {name} --snapshot {snapshot}"
    )
