"""`./pds check`."""

import click

from cli.lib.stack import Stack
from cli.registry import command, stack_argument


@command("check", exit_codes="0 nothing to do, 1 something to do, 2 the check could not run.")
@stack_argument()
@click.option("--mail", metavar="ADDRESS", help="Let the server send a message to the account with this address.")
@click.option("--relay", is_flag=True, help="Also query the relays about this server.")
@click.option("--source", metavar="ADDRESS", help="Second address of this machine, to test the rate limit.")
@click.option("--at", metavar="URL", help="Address to check instead of the stack's: https://IP:PORT.")
@click.option("--ca", metavar="FILE", help="Certificate of the CA to trust, if not the system's.")
def check(stack: str, mail: str | None, relay: bool, source: str | None, at: str | None, ca: str | None) -> int:
    """Check the PDS after `up`: one line for each check, with the remedy.

    The command changes nothing, and neither sends nor shows a secret.
    """
    from cli.check import run

    subject = run.subject_of(Stack(stack), at, ca, source, mail=mail, relay=relay)
    outcomes = []
    for result in run.run_checks(subject):
        print(result, flush=True)
        outcomes.append(result.ok)
    print(f"\n{outcomes.count(True)} ok, {outcomes.count(False)} to do, {outcomes.count(None)} skipped.")
    return 1 if False in outcomes else 0
