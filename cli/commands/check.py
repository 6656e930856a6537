"""`./pds check`."""

import re

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument


def _mail_address(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse text that is not an address; a callback of Click."""
    if value and not re.fullmatch(r"[A-Za-z0-9][^@\s\"<>]*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", value):
        raise click.BadParameter(f"{value!r} is not an e-mail address. Write for example ann@my-club.org.")
    return value


@command("check", Topic.OBSERVE, exit_codes="0 nothing to do, 1 something to do, 2 the check could not run.")
@stack_argument()
@click.option(
    "--mail",
    metavar="ADDRESS",
    callback=_mail_address,
    help="Let the server send a message to this address, and check SPF, DKIM and DMARC.",
)
@click.option("--relay", is_flag=True, help="Also query the relays about this server.")
@click.option("--source", metavar="ADDRESS", help="Second address of this machine, to test the rate limit.")
@click.option("--at", metavar="URL", help="Address to check instead of the stack's: https://IP:PORT.")
@click.option("--ca", metavar="FILE", help="Certificate of the CA to trust, if not the system's.")
def check(stack: str, mail: str | None, relay: bool, source: str | None, at: str | None, ca: str | None) -> int:
    """Check the PDS after `up`: one line for each check, with the remedy.

    The command changes nothing and shows no secret. It sends Nomad's token and DigitalOcean's only to the service that
    issued them.

    For a cluster, it checks servers, hosts, spares, ingresses, takeover, snapshots, firewalls and the escrow file.
    """
    from cli.check import run
    from cli.cluster import checks
    from cli.errors import CommandError
    from offline.stackfile import read_settings

    target = Stack(stack)
    if read_settings(stack, target.root).cluster:
        if mail or relay or source or at or ca:
            raise CommandError(f"{stack} is a cluster, and has no PDS. Leave the options out, or name a club's stack.")
        results = checks.run_checks(checks.ClusterSubject.of(target))
    else:
        results = run.run_checks(run.subject_of(target, at, ca, source, mail=mail, relay=relay))
    outcomes = []
    for result in results:
        print(result, flush=True)
        outcomes.append(result.ok)
    print(f"\n{outcomes.count(True)} ok, {outcomes.count(False)} to do, {outcomes.count(None)} skipped.")
    return 1 if False in outcomes else 0
