"""`./pds migrate-account`."""

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument


@command(
    "migrate-account",
    Topic.ACCOUNTS,
    exit_codes="0 moved, 1 not finished, 2 it could not start or continue. The command can always be repeated.",
)
@stack_argument()
@click.argument("handle")
@click.option("--from", "source", required=True, metavar="URL", help="Server where the member logs in today.")
@click.option("--new-handle", default="", metavar="HANDLE", help="Handle after the move (default: the same name).")
@click.option("--email", default="", metavar="ADDRESS", help="E-mail address after the move (default: the same).")
def migrate_account(stack: str, handle: str, source: str, new_handle: str, email: str) -> int:
    """Move an existing account from another server to the PDS of a stack.

    The member answers the questions: the password at the old server, a password for the new one, and the token that the
    old server mails. The command creates the account here, deactivated, and copies repository, blobs and preferences.
    It lists what is missing and what no tool moves, and asks before anything is final. Then the identity changes, the
    account becomes active here, the stack file gets the member, and the old account is deactivated. The member's own
    rotation keys stay first.

    An interrupted run continues when the command is repeated. Waits for rate limits of the old server are shown. Only
    did:plc accounts can be moved. docs/guide/migrate.md describes each step.
    """
    from cli.migrate.run import migrate
    from cli.migrate.target import MigrationRequest, Target, Terminal

    request = MigrationRequest(handle=handle, source=source, new_handle=new_handle, email=email)
    return migrate(Target.of(Stack(stack)), request, Terminal())
