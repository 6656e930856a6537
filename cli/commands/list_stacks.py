"""`./pds list`."""

import click

from cli.registry import Topic, command


@command("list", Topic.CHANGE, exit_codes="0; 2 if there was nothing to query.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_stacks(as_json: bool) -> None:
    """List every stack: state, version, accounts, disk, memory, backups, cost, and capacity for the next club.

    A stack is a file `Pulumi.STACK.yaml` here, or a stack of this project in the backend. `-` means unknown; the reason
    is printed below the table, as are uploads that no record names.
    """
    from cli.stacks import selection

    stack_list = selection.list_all()
    if as_json:
        print(stack_list.json())
    else:
        stack_list.print_to(selection.console())
