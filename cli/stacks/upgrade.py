"""Upgrades the server of one stack or of several, after a trial of the new version on the host; `./pds upgrade`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from cli.backups.restore import back_up, last_backup_is_restorable, refuse_during_move, step, with_backup
from cli.check.run import run_checks, subject_of
from cli.lib import nomad_jobs, preflight
from cli.lib.apply import change, up
from cli.lib.stack import Stack, StackError
from cli.stacks.stack_files import KnownStack, by_host
from components.clients.nomad import NomadApi
from components.render.jobs.upgrade_trial import JOB
from components.settings.fields.images import package_of_tag, tag_of
from components.settings.sections.settings import Settings

_DEADLINE = 3600  # seconds; an image pull, a fetch, and the migration of large databases
_MIGRATES = "MIGRATES "

Update = Callable[[Stack], bool]
"""Preflight, then `pulumi up`; whether both succeeded."""


@dataclass(frozen=True, kw_only=True)
class ServerVersion:
    """A version of the server: its image, and the version of @atproto/pds in it."""

    image: str
    package: str


def upgrade(stack: Stack, to: str, package: str | None, *, yes: bool, without: Sequence[str] = ()) -> int:
    """Upgrade `stack` to the image tag or image `to`, even if the accounts `without` could not be restored.

    Returns the exit code. Raises StackError, StackFileError, ServiceError.
    """
    target = _version_to_install(stack, to, package)
    if target is None:
        return 0
    migrates = _trial(stack, target)
    return 1 if migrates is None else _change(stack, target, migrates, _with_prompt(yes=yes), without)


def upgrade_all(
    stacks: Sequence[KnownStack],
    canary: str | None,
    to: str,
    package: str | None,
    update: Callable[[KnownStack], bool],
    without: Sequence[str] = (),
) -> int:
    """Do the same for all of them, the canary first; return the exit code. Raises as above, before anything is begun if
    one of them has no backups, or is being moved."""
    order = [stack for group in by_host(stacks).values() for stack in group]
    order.sort(key=lambda stack: stack.name != canary)
    targets = {stack.name: _version_to_install(Stack(stack.name), to, package) for stack in order}
    outdated = [(stack, target) for stack in order if (target := targets[stack.name])]
    if not outdated:
        return 0
    names = [stack.name for stack, _ in outdated]
    print(f"The canary is {names[0]}." + (f" Then: {', '.join(names[1:])}." if names[1:] else ""))
    # A version changes all databases alike, so only the canary has the trial.
    migrates = _trial(Stack(names[0]), outdated[0][1])
    if migrates is None:
        return 1
    for number, (stack, target) in enumerate(outdated):
        print(f"\n{stack.name}")
        if code := _change(Stack(stack.name), target, migrates, partial(_update_known, update, stack), without):
            if later := names[number + 1 :]:
                print(f"\nLeft as they were: {', '.join(later)}.")
            return code
    return 0


def _update_known(update: Callable[[KnownStack], bool], stack: KnownStack, _: Stack) -> bool:
    return update(stack)


def _version_to_install(stack: Stack, to: str, package: str | None) -> ServerVersion | None:
    settings = with_backup(stack)
    target = _target(settings, to, package)
    if target.image == settings.pds.image:
        print(f"{stack.name} has {target.image} already.")
        return None
    refuse_during_move(stack)
    return target


def _trial(stack: Stack, target: ServerVersion) -> list[str] | None:
    """Return its migrations; None if it failed the trial."""
    api = nomad_jobs.stack_nomad_api(stack)
    step(1, f"Try {target.image} on throw-away data, then on a copy of the newest backup, without a network.")
    output = _followed(api, nomad_jobs.dispatch(api, JOB, {"image": target.image}))
    if output is None:
        print(f"\n{target.image} failed the trial. Nothing was changed.")
        return None
    return [line.removeprefix(_MIGRATES) for line in output if line.startswith(_MIGRATES)]


def _change(stack: Stack, target: ServerVersion, migrates: list[str], update: Update, without: Sequence[str]) -> int:
    """Do what follows a trial; return the exit code."""
    settings, api = with_backup(stack), nomad_jobs.stack_nomad_api(stack)
    step(2, "Make a backup to return to.")
    sent = back_up(api)
    if sent is None:
        print("\nThe backup failed. Nothing was changed.")
        return 1
    if not last_backup_is_restorable(api, without):
        print("\nSome accounts could not be restored from the backup. Nothing was changed.")
        return 1
    way_back = _way_back(stack.name, settings, migrates, sent)
    before = _failed_checks(stack)

    step(3, "Update the stack.")
    change(stack, "pds:pds.image", target.image)
    change(stack, "pds:pds.package_version", target.package)
    if not update(stack):
        print(f"\nThe stack was not updated. Pulumi.{stack.name}.yaml has the new version. {way_back}")
        return 1

    step(4, "The checks.")
    if worse := _failed_checks(stack, show=True) - before:
        print(f"\nUpgraded, and these checks passed before and fail now: {', '.join(sorted(worse))}. {way_back}")
        return 1
    print(f"\nUpgraded. {way_back}")
    return 0


def _with_prompt(*, yes: bool) -> Update:
    def update(stack: Stack) -> bool:
        if preflight.run(stack, None):
            return False
        up(stack, yes=yes)
        return True

    return update


def _followed(api: NomadApi, run: str) -> list[str] | None:
    """Return a run's output, which is shown as it arrives; None if it failed."""
    output: list[str] = []

    def show(line: str) -> None:
        output.append(line)
        print(line, flush=True)

    return output if nomad_jobs.follow(api, run, _DEADLINE, show) else None


def _failed_checks(stack: Stack, *, show: bool = False) -> set[str]:
    unhealthy = set()
    for result in run_checks(subject_of(stack, None, None, None, mail=None, relay=False)):
        if show:
            print(result, flush=True)
        if result.ok is False:
            unhealthy.add(result.name)
    return unhealthy


def _target(settings: Settings, to: str, package: str | None) -> ServerVersion:
    name = settings.pds.image.partition("@")[0].rpartition(":")[0]
    image = to if ":" in to or "@" in to else f"{name}:{to}"
    version = package or package_of_tag(tag_of(image))
    if version is None:
        raise StackError(
            f"Which version of @atproto/pds is in {image}? Give it with '--package 0.5.N': it decides "
            "which options exist."
        )
    return ServerVersion(image=image, package=version)


def _way_back(name: str, before: Settings, migrates: list[str], snapshot: str) -> str:
    old = (
        f"pulumi config set --path pds.image {before.pds.image} --stack {name}\n"
        f"  pulumi config set --path pds.package_version {before.pds.package_version} --stack {name}"
    )
    if not migrates:
        return f"The schema of no database changed. To go back:\n  {old}\n  pulumi up --stack {name}"
    return (
        f"It migrated databases ({', '.join(migrates)}), which the old version cannot read. Going back is a restore, "
        "and loses everything written from now on:\n"
        f"  {old}\n  ./pds restore {name} --snapshot {snapshot}"
    )
