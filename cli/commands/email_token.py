"""`./pds email-token`."""

import click

from cli.registry import Topic, command, stack_argument


@command("email-token", Topic.ACCOUNTS)
@stack_argument()
@click.argument("handle")
def email_token(stack: str, handle: str) -> None:
    """Show the tokens that a PDS without mail would have mailed to a member.

    The member requests the message in the app first. A token is valid for 15 minutes after that. It goes from the
    server's database to this terminal only.
    """
    from cli.people import email_tokens, members

    tokens = email_tokens.tokens(stack, members.server_of(stack), handle)
    if not tokens:
        print(f"{handle} has requested no token. A token is created when the member requests a message in the app.")
        return
    for token in tokens:
        purpose = email_tokens.PURPOSES.get(token.purpose, token.purpose)
        print(f"{token.token}  {purpose}; requested at {token.requested_at}")
    print("Each is valid for 15 minutes after the request.")
