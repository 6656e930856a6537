"""`./pds blobs`."""

from typing import Literal

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument, stack_option, yes_option


@command(
    "blobs",
    Topic.DATA,
    exit_codes="0 done, 1 not finished or blobs are lost, 2 it could not start. It can always be repeated.",
)
@stack_argument()
@click.option("--to", type=click.Choice(["bucket", "disk"]), help="Move all blobs to the bucket or to the volume.")
@click.option("--accept-losses", is_flag=True, help="Move without the blobs that are damaged or missing; they are "
              "listed.")  # fmt: skip
@click.option("--repair", is_flag=True, help="Only restore lost blobs, from the other location or the backups.")
@stack_option("--from", "source", help="Stack whose backups --repair uses, with the same hostname (default: the stack "
              "itself).")  # fmt: skip
@click.option(
    "--forget-old", is_flag=True, help="Only remove the copies at the location that the server no longer uses."
)
@yes_option
def blobs(
    stack: str,
    to: Literal["bucket", "disk"] | None,
    accept_losses: bool,
    repair: bool,
    source: str | None,
    forget_old: bool,
    yes: bool,
) -> int:
    """Show where the blobs of STACK are, or move them between its volume and its bucket.

    The command copies and checks the blobs while the PDS runs. It pauses the PDS to copy the rest, and `pulumi up`
    starts the server with the new location. The old copies stay until `--forget-old`.
    """
    from cli.backups import move_blobs

    if sum(map(bool, (to, repair, forget_old))) > 1:
        raise click.UsageError("Choose one of --to, --repair and --forget-old.")
    if accept_losses and not to:
        raise click.UsageError("--accept-losses belongs to --to.")
    if source and not repair:
        raise click.UsageError("--from belongs to --repair.")
    if repair:
        return move_blobs.repair(Stack(stack), Stack(source) if source else None)
    if forget_old:
        return move_blobs.forget_old(Stack(stack))
    if to:
        return move_blobs.move_blobs(Stack(stack), to, yes=yes, accept_losses=accept_losses)
    return move_blobs.show(Stack(stack))
