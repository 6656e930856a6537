"""`./pds ssh`."""

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument


@command("ssh", Topic.OBSERVE, exit_codes="ssh's; 2 if it could not be started.")
@stack_argument()
@click.argument("arguments", nargs=-1, metavar="[-- COMMAND...]")
@click.option("--host", metavar="NAME", help="Host of the cluster (default: the server that operators reach).")
@click.option("--allow-ip", is_flag=True, help="Open port 22 to this machine while ssh runs.")
def ssh(stack: str, arguments: tuple[str, ...], host: str | None, allow_ip: bool) -> int:
    """Open a shell on the stack's host, or run a command there.

    \b
        ./pds ssh main -- journalctl -u nomad -n 50
        ./pds ssh fleet --host a -- ls /srv/nomad/.trash

    A single argument is run by the host's shell as one line. ssh prompts for the host key once per droplet, and refuses
    a changed key. Port 22 is open to `operators.cidrs` only.
    """
    from cli.observe import ssh

    return ssh.connect(ssh.host_endpoint(Stack(stack), host), arguments, allow_ip=allow_ip)
