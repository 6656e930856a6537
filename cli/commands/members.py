"""`./pds members`."""

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument


@command("members", Topic.ACCOUNTS)
@stack_argument()
@click.option("--relay", is_flag=True, help="Also query the relays about each account.")
@click.option("--adopt", is_flag=True, help="Write accounts that the stack file lacks into it.")
def members(stack: str, relay: bool, adopt: bool) -> None:
    """List every account on the PDS, with the way its handle resolves.

    An account that signed up with an invite is not in the stack file. With `--adopt` the command adds it there as a
    member, and the next `pulumi up` creates its DNS records.
    """
    from cli.people import adopt_members, members
    from components.clients import pds_admin
    from offline.stackfile import read_settings

    server = members.server_of(stack)
    outputs = Stack(stack).outputs()
    in_stack_file = outputs.get("members", {})
    if not adopt:
        relays = members.relays_in(outputs) if relay else None
        print(members.table(members.rows(server, in_stack_file, relays, read_settings(stack))))
        return
    adoption = adopt_members.adopt(stack, pds_admin.hosted(server), in_stack_file)
    for line in adoption.skipped:
        print(f"Not adopted: {line}")
    if not adoption.added:
        print(f"Nothing to write: {adoption.path.name} names every other account.")
        return
    print(adoption.diff("adopted"))
    adoption.write()
    print(f"Wrote {adoption.path.name}. The next `pulumi up` creates the DNS records and changes no account.")
