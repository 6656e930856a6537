"""`./pds release`."""

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument, stack_option, yes_option


@command(
    "release",
    Topic.CHANGE,
    exit_codes="0 released, 1 not confirmed, or Nomad refused, 2 it could not start or continue. The command can "
    "always be repeated.",
)
@stack_argument("cluster")
@click.argument("host")
@stack_option("--to", "target", required=True, help="Stack on the host, which gets the droplet.")
@click.option("--size", default="", metavar="SLUG", help="Size of the droplet (default: that of the workers).")
@yes_option
def release(cluster: str, host: str, target: str, size: str, yes: bool) -> int:
    """Move a host out of a cluster, onto its own droplet.

    Its volume and its address become those of the stack given by --to, and nothing is copied. The other clubs on HOST
    become clubs of that stack. The command checks everything, shows the changed stack files, and asks. Then it removes
    the host from the cluster, shuts the worker down, detaches the volume, and runs one `up` of each stack.

    The stack file of --to records the progress. After an interruption, repeat the command.
    """
    from cli.adoption import release as releasing

    return releasing.release_host(Stack(cluster), host, Stack(target), size, yes=yes)
