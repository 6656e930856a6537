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
@stack_option("--from", "single", required=True, help="Stack of the single host.")
@yes_option
def adopt(cluster: str, host: str, single: str, yes: bool) -> int:
    """Move a single host into a cluster, with its volume and address.

    Its volume and its reserved IP become those of HOST, and nothing is copied. The stack's own PDS and the clubs on the
    host become clubs of the cluster. The command checks everything, shows the changed stack files, and asks. Then it
    shuts the droplet down cleanly, detaches the volume, and runs one `up` of each stack. `./pds release` reverses it.

    The cluster's stack file records the progress. After an interruption, repeat the command.
    """
    from cli.adoption import adopt as adoption

    return adoption.adopt(Stack(cluster), host, Stack(single), yes=yes)
