"""`./pds upgrade`."""

import click

from cli.registry import Topic, command, did_option, stack_argument, stack_option, yes_option


@command("upgrade", Topic.CHANGE, exit_codes="0 upgraded, 1 not upgraded, 2 it could not start.")
@stack_argument("stacks", nargs=-1, metavar="[STACK]...")
@click.option("--to", required=True, metavar="TAG", help="Tag of the same image, or another image.")
@click.option("--package", metavar="VERSION", help="Version of @atproto/pds in it, if the tag does not name it.")
@yes_option
@stack_option("--canary", help="Stack to upgrade first (default: one on the smallest host).")
@did_option("--without", multiple=True, help="Account that need not be restorable from the backup; can be repeated.")
def upgrade(
    stacks: tuple[str, ...], to: str, package: str | None, yes: bool, canary: str | None, without: tuple[str, ...]
) -> int:
    """Upgrade the server after a trial on the host: one stack, or all after a canary.

    The stack's job `pds-upgrade-trial` runs the image on throw-away data, then starts it on a copy of the newest
    backup, without a network. A backup follows, then the stack file, the preflight checks and `pulumi up`.

    Of several stacks one is the canary, which has the trial. The others follow, each after a backup and the preflight
    checks, once the canary is as healthy as before. At the first unhealthy one the command stops. If an older version
    cannot read the migrated databases, the command reports that going back needs a restore.
    """
    from cli.lib.stack import Stack
    from cli.stacks import selection, upgrade

    if len(stacks) == 1:
        return upgrade.upgrade(Stack(stacks[0]), to, package, yes=yes, without=without)
    return selection.upgrade_selected(stacks, canary, to, package, without)
