"""`./pds upgrade`."""

import click

from cli.registry import Topic, command, did_option, stack_argument, stack_option, yes_option


@command("upgrade", Topic.CHANGE, exit_codes="0 upgraded, 1 not upgraded, 2 it could not start.")
@stack_argument("stacks", nargs=-1, metavar="[STACK]...")
@click.option("--to", metavar="TAG", help="Tag of the same image, or another image. Required, except for a cluster.")
@click.option("--package", metavar="VERSION", help="Version of @atproto/pds in it, if the tag does not name it.")
@yes_option
@stack_option("--canary", help="Stack to upgrade first (default: one on the host with the fewest PDSes).")
@did_option("--without", multiple=True, help="Account that need not be restorable from the backup; can be repeated.")
@click.option(
    "--settle",
    default=300,
    metavar="SECONDS",
    help="For a cluster: seconds to wait after each rebuilt worker (default: 300). Nothing reports the end of its "
    "setup.",
)
def upgrade(
    stacks: tuple[str, ...],
    to: str | None,
    package: str | None,
    yes: bool,
    canary: str | None,
    without: tuple[str, ...],
    settle: int,
) -> int:
    """Upgrade the server after a trial on the host: one stack, or all after a canary. For a cluster, the droplets.

    The stack's job `pds-upgrade-trial` runs the image on throw-away data, then starts it on a copy of the newest
    backup, without a network. A backup follows, then the stack file, the preflight checks and `pulumi up`.

    With several stacks, one is the canary, and only it has the trial. Once it is as healthy as before, the others
    follow, each after a backup and the preflight checks. The command stops at the first unhealthy stack. If an older
    version cannot read the migrated databases, the command reports that going back needs a restore.

    For a cluster (`./pds upgrade fleet`, without `--to`), it rebuilds the workers, and the servers if there are three,
    from the stack file, one droplet at a time: first the Nomad servers, only while Nomad reports them healthy, then the
    workers without a host. Then it drains each host to a rebuilt worker, and rebuilds the old one. It writes
    `cluster.servers.generations`, `cluster.servers.endpoint` and `cluster.workers.generations`. After an interruption,
    repeat the command.
    """
    from cli.cluster import upgrade as rolling
    from cli.lib.stack import Stack
    from cli.stacks import selection, upgrade
    from offline.stackfile import read_settings

    target = Stack(stacks[0]) if len(stacks) == 1 else None
    if target and read_settings(target.name, target.root).cluster:
        if to or package or canary or without:
            raise click.UsageError(f"{target.name} is a cluster, whose droplets are rebuilt. Give no option of a PDS.")
        return rolling.upgrade(target, yes=yes, settle_seconds=settle)
    if not to:
        raise click.UsageError("Missing option '--to': the image tag to upgrade to.")
    if len(stacks) == 1:
        return upgrade.upgrade(Stack(stacks[0]), to, package, yes=yes, without=without)
    return selection.upgrade_selected(stacks, canary, to, package, without)
