"""`./pds allow-ip`."""

import ipaddress

import click

from cli.registry import Topic, command, stack_argument


@command(
    "allow-ip", Topic.OBSERVE, exit_codes="the command's; 2 if the firewall could not be opened, or may still be open."
)
@stack_argument()
@click.argument("arguments", nargs=-1, metavar="[-- COMMAND...]")
@click.option("--address", type=ipaddress.IPv4Address, metavar="IP", help="Address to open (default: the one that "
              "https://ifconfig.co/ip returns).")  # fmt: skip
@click.option("--label", metavar="NAME", help="Label of this run (default: this machine's name).")
@click.option("--close", is_flag=True, help="Close a firewall that was opened without a command.")
def allow_ip(
    stack: str,
    arguments: tuple[str, ...],
    address: ipaddress.IPv4Address | None,
    label: str | None,
    close: bool,
) -> int:
    """Open the stack's Nomad to this machine while a command runs.

    Use it on a machine whose address changes and is not in `operators.cidrs`, such as a CI runner. With a command it
    opens the firewall, runs the command and always closes the firewall:

    \b
        ./pds allow-ip main -- pulumi up

    Without a command it opens the firewall, and `--close` closes it. Clients still need the stack's client certificate
    and a token. `./pds orphans` lists firewalls that were left open.
    """
    if close and arguments:
        raise click.UsageError("'--close' runs no command.", click.get_current_context())
    from cli.lib import temporary_firewall
    from cli.lib.digitalocean import DigitalOceanAccount
    from cli.lib.stack import Stack, digitalocean_token

    host = temporary_firewall.host_stack(stack)
    with DigitalOceanAccount(digitalocean_token(Stack(stack))) as account:
        tag = temporary_firewall.droplet_tag(host)
        firewalls = temporary_firewall.TemporaryFirewalls(account, host, label, tag=tag, per_run=bool(arguments))
        if close:
            temporary_firewall.close(firewalls)
            return 0
        allowed = str(address or temporary_firewall.own_address())
        return temporary_firewall.run_with_access(firewalls, allowed, arguments)
