"""`./pds upgrade`: another version of the server, after it has shown on the host that it does its work.

The stack's job `pds-candidate` puts the image to work on throw-away data (accounts, records, blobs, event stream), then
lets it start on a copy of the newest backup, with no way out. A backup follows, then the stack file and `pulumi up`.
A version whose databases an older one cannot read is no way back: what leads back then is a restore, and it is said.
"""

from dataclasses import dataclass

from components.render.candidate_job import JOB
from components.settings.sections import package_of_tag
from components.settings.settings import Settings
from tools import runs
from tools.check.run import check, subject_of
from tools.pause import change, up
from tools.restore import back_up, with_backup
from tools.stack import Stack, StackError

_DEADLINE = 3600  # seconds; an image pull, a fetch, and the migration of large databases
_MIGRATES = "MIGRATES "


@dataclass(frozen=True, kw_only=True)
class Target:
    """A version of the server: its image, and the version of @atproto/pds in it."""

    image: str
    package: str


def upgrade(stack: Stack, to: str, package: str | None, *, yes: bool) -> int:
    """Bring `stack` to the image tag or image `to`; the exit code. Raises StackError, StackFileError, ProbeError."""
    settings = with_backup(stack)
    target = _target(settings, to, package)
    if target.image == settings.pds.image:
        print(f"{stack.name} has {target.image} already.")
        return 0
    api = runs.api_of(stack)
    said: list[str] = []

    def show(line: str) -> None:
        said.append(line)
        print(line, flush=True)

    print(f"\n1  {target.image} on throw-away data, then on a copy of the newest backup, with no way out.")
    if not runs.follow(api, runs.dispatch(api, JOB, {"image": target.image}), _DEADLINE, show):
        print(f"\n{target.image} did not stand the trial. Nothing was changed.")
        return 1
    migrates = [line.removeprefix(_MIGRATES) for line in said if line.startswith(_MIGRATES)]

    print("\n2  A backup, to come back to.")
    sent = back_up(api)
    if sent is None:
        print("\nThe backup failed. Nothing was changed.")
        return 1

    print("\n3  The stack.")
    change(stack, "pds:pds.image", target.image)
    change(stack, "pds:pds.package_version", target.package)
    up(stack, yes=yes)

    print("\n4  Is everything as it should be?")
    for result in check(subject_of(stack, None, None, None, mail=None, relay=False)):
        print(result, flush=True)
    print(_way_back(stack.name, settings, migrates, sent))
    return 0


def _target(settings: Settings, to: str, package: str | None) -> Target:
    name = settings.pds.image.partition("@")[0].rpartition(":")[0]
    image = to if ":" in to or "@" in to else f"{name}:{to}"
    found = package or package_of_tag(image.partition("@")[0].rpartition(":")[2])
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
        return f"\nUpgraded. No database changed its form; the way back is\n  {old}\n  pulumi up --stack {name}"
    return (
        f"\nUpgraded. It changed the form of the databases ({', '.join(migrates)}), which the version before cannot "
        "read. Going back is a restore, and loses what is written from now on:\n"
        f"  {old}\n  ./pds restore {name} --snapshot {snapshot}"
    )
