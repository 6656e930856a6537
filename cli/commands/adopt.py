"""`./pds adopt`."""

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument, stack_option, yes_option


@command(
    "adopt",
    Topic.CHANGE,
    exit_codes="0 adopted, 1 not confirmed, 2 it could not start or continue. The command can always be repeated.",
)
@stack_argument("cluster")
@click.argument("host")
@stack_option("--from", "island", required=True, help="Stack with a droplet of its own.")
@yes_option
def adopt(cluster: str, host: str, island: str, yes: bool) -> int:
    """Make a host with a droplet of its own a host of a cluster.

    Its volume and its reserved IP become those of HOST, and nothing is copied. The stack's own PDS becomes a club of
    the cluster, as the clubs on the host. The command checks everything, shows the changed stack files, and asks. Then
    it shuts the droplet down in order, detaches the volume, and runs one `up` of each stack. `./pds release` is the way
    back.

    The cluster's stack file has the progress, so that the same command continues after an interruption.
    """
    from cli.adoption import adopt as adoption

    return adoption.adopt(Stack(cluster), host, Stack(island), yes=yes)
