"""`./pds move`."""

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, did_option, stack_argument, stack_option, yes_option


@command(
    "move",
    Topic.CHANGE,
    exit_codes="0 moved, 1 not finished, 2 it could not start or continue. The command can always be repeated.",
)
@stack_argument("club")
@stack_option("--to", required=True, help="Stack of the target host.")
@click.option("--host", metavar="NAME", help="Host of the cluster `--to` (default: the one that its file grants).")
@did_option("--without", multiple=True, help="Account to leave behind; can be repeated.")
@yes_option
def move(club: str, to: str, host: str | None, without: tuple[str, ...], yes: bool) -> int:
    """Move a club to another host, with everything its server ever acknowledged.

    The command checks everything, pauses the PDS, makes a backup of the stopped PDS, and writes the new host into the
    club's stack file. One `up` then moves jobs, secrets and DNS records. The backup is restored on the new host and the
    PDS starts. Once it serves, the old host removes the club. There are never two servers. The members' data stay on
    the old host until its operator removes them.

    The club's stack file records the progress. After an interruption, repeat the command on any machine with the same
    files. To go back before the new server has run, pass the old host's stack as `--to`. Its data are unchanged.

    Between hosts of one cluster, `--to` is the cluster that the club is on, and `--host` the other host. The command
    then adds the second host to the club's entry in the cluster's file, and removes the first one at the end.
    """
    from cli.move import move

    return move.move(Stack(club), to, yes=yes, host=host, without=without)
