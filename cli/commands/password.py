"""`./pds password`."""

import click

from cli.registry import Topic, command, stack_argument


@command("password", Topic.ACCOUNTS)
@stack_argument()
@click.argument("handle")
def password(stack: str, handle: str) -> None:
    """Set a new password for an account, and print it."""
    from cli.people import members

    new_password = members.new_password(members.server_of(stack), handle)
    print(f"The password of {handle} is now\n  {new_password}\nThe member has to log in again and can change it.")
