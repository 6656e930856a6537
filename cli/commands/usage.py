"""`./pds usage`."""

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument


@command("usage", Topic.OBSERVE)
@stack_argument()
@click.option("--blobs", is_flag=True, help="Also list the blobs that no record names, with size and time.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def usage(stack: str, blobs: bool, as_json: bool) -> None:
    """Show records, blobs and sizes by account, the largest first.

    `unreferenced` is the number of uploads that no record names. Their size includes replaced uploads.
    `pds.unreferenced_blob_days` removes them. The command runs in the server's container and changes nothing.
    """
    from cli.observe import usage as accounts
    from cli.stacks import selection

    report = accounts.usage(Stack(stack))
    if as_json:
        print(report.json())
    else:
        report.print_to(selection.console(), show_blobs=blobs)
