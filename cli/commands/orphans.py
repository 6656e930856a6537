"""`./pds orphans`."""

import click

from cli.lib.stack import Stack, digitalocean_token
from cli.registry import Topic, command, stack_argument


@command(
    "orphans", Topic.REPAIR, exit_codes="0 nothing is left over or missing, 1 something is, 2 the check could not run."
)
@stack_argument()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def orphans(stack: str, as_json: bool) -> int:
    """List resources of the stack that are not in its state, with the command that adopts or deletes each.

    A lost response or a killed engine leaves unrecorded resources, and `pulumi destroy` leaves those that are retained
    on purpose. The command also reports resources of the state that the account lacks, and whether the firewall covers
    the droplet. It lists alerts and Spaces keys if the stack file has such sections, and the volumes, addresses and
    droplets of a cluster. It changes nothing.

    DigitalOcean identifies a stack's resources only by names: tag, droplet, firewall and volume are called `pds-STACK`.
    Another stack of that name in the same account has the same names. A reserved IP has no name at all. No command is
    printed for what another stack file here names, or what is in that stack's state: another stack may use it.
    """
    from cli.drift import orphans
    from cli.lib.digitalocean import DigitalOceanAccount

    target = Stack(stack)
    with DigitalOceanAccount(digitalocean_token(target)) as account:
        report = orphans.find_orphans(target, account)
    print(report.json() if as_json else orphans.text(stack, report))
    return 1 if report.orphans or report.missing or report.gaps else 0
