"""`./pds release`."""

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument, stack_option, yes_option


@command(
    "release",
    Topic.CHANGE,
    exit_codes="0 released, 1 not confirmed, 2 it could not start or continue. The command can always be repeated.",
)
@stack_argument("cluster")
@click.argument("host")
@stack_option("--to", "target", required=True, help="Stack on the host, which gets the droplet.")
@click.option("--size", default="", metavar="SLUG", help="Size of the droplet. Default: that of the workers.")
@yes_option
def release(cluster: str, host: str, target: str, size: str, yes: bool) -> int:
    """Make a host of a cluster a host with a droplet of its own.

    Its volume and its address become those of the stack given by --to, and nothing is copied. The other clubs on HOST
    become clubs of that stack. The command checks everything, shows the changed stack files, and asks. Then the cluster
    forgets the host, the worker is shut down in order, the volume is detached, and one `up` of each stack follows.

    The stack file of --to has the progress, so that the same command continues after an interruption.
    """
    from cli.adoption import release as releasing

    return releasing.release_host(Stack(cluster), host, Stack(target), size, yes=yes)
