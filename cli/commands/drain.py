"""`./pds drain`."""

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument


@command(
    "drain",
    Topic.REPAIR,
    exit_codes="0 the host is ready on another worker, 1 something is left to do, 2 it could not start or continue: "
    "`./pds repair` continues.",
)
@stack_argument()
@click.argument("host")
@click.option("--yes", is_flag=True, help="Move it without a prompt.")
def drain(stack: str, host: str, yes: bool) -> int:
    """Move a host of a cluster to a spare worker.

    The command shuts the host's droplet down cleanly, attaches its volume to a spare, and assigns the address. The
    clubs on it are down until then. The old worker gets no host again until its generation is raised.
    """
    from cli.cluster.drain import drain as move_host
    from cli.cluster.hosts import require_cluster
    from offline.stackfile import read_settings

    target = Stack(stack)
    require_cluster(stack, read_settings(stack, target.root))
    return move_host(target, host, yes=yes)
