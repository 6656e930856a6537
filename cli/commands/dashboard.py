"""`./pds dashboard`."""

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument


@command("dashboard", Topic.OBSERVE, exit_codes="ssh's; 2 if it could not be started.")
@stack_argument()
@click.option("--port", type=click.IntRange(0, 65535), default=None, metavar="N",
              help="Port on this machine (default: 8428; 0: any free one).")  # fmt: skip
@click.option("--allow-ip", is_flag=True, help="Open port 22 to this machine while ssh runs.")
def dashboard(stack: str, port: int | None, allow_ip: bool) -> int:
    """Forward the dashboard of the stack's host to this machine, and print its address.

    The connection uses ssh, with the same host key as `./pds ssh`. The dashboard is at the printed address on this
    machine until Ctrl-C. Until then, other users of this machine can open it. Web pages of other sites cannot.
    """
    from cli.observe import dashboard as metrics

    return metrics.serve(Stack(stack), port, allow_ip=allow_ip)
