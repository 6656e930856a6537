"""ssh to a stack's host, or to IO's console on it; `./pds ssh`, `./pds traffic`.

The state knows no host key. So ssh prompts for it once a droplet, under an alias that names the droplet: a changed key
of the same droplet is refused, and a rebuilt host at the same address is a new one.
"""

import contextlib
import shlex
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from cli.errors import CommandError
from cli.lib import temporary_firewall
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.stack import Stack, StackError, digitalocean_token
from cli.lib.subprocesses import orderly_end, run_in_foreground
from components.render.cluster.user_data import server_tag, worker_tag
from components.settings.sections.settings import Settings
from offline.stackfile import read_settings

USER = "root"
"""The droplet's only account (components/render/host/files/sshd.conf)."""
PORT = 22
_PATIENCE = 5.0
"""Seconds for a connection."""


@dataclass(frozen=True)
class SshEndpoint:
    """An SSH server at the address of a stack."""

    stack: Stack
    settings: Settings
    address: str
    port: int
    user: str
    """Empty for ssh's own default."""
    droplet: str = ""
    """Its number; empty for the stack's only one."""
    tag: str = ""
    """DigitalOcean's tag of the droplet; empty for that of the stack's only one."""

    def command(self, arguments: Sequence[str], forward: str = "") -> list[str]:
        """Return ssh's command line; one argument is a line for the host's shell, several are one command's words.
        With `forward`, as in ssh's -L, it runs no command."""
        remote = list(arguments) if len(arguments) == 1 else [shlex.join(arguments)] if arguments else []
        login = f"{self.user}@{self.address}" if self.user else self.address
        alias = f"pds-{self.stack.name}-{self.droplet or self._droplet()}-{self.port}"
        options = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", forward] if forward else []
        base = ["ssh", "-p", str(self.port), "-o", f"HostKeyAlias={alias}"]
        return [*base, *options, login, *(["--", *remote] if remote else [])]

    def _droplet(self) -> str:
        with contextlib.suppress(StackError):
            return next((item.id for item in self.stack.state().of("Droplet")), self.address)
        return self.address

    def require_open(self) -> None:
        """Raise CommandError if the port does not answer from here."""
        try:
            socket.create_connection((self.address, self.port), timeout=_PATIENCE).close()
        except OSError as error:
            operators = self.settings.operators
            cidrs = ", ".join(map(str, operators.cidrs)) if operators else ""
            firewall = (
                f"The firewall opens it to 'operators.cidrs' only ({cidrs}). If your address is another one, "
                "`--allow-ip` opens it while ssh runs."
                if operators
                else "The host's operator decides who reaches it."
            )
            raise CommandError(f"Port {self.port} of {self.address} does not answer ({error}). {firewall}") from None


def host_endpoint(stack: Stack, host: str | None = None) -> SshEndpoint:
    """Return the stack's own host; of a cluster the droplet that runs `host`, or the server that operators reach.
    Raises CommandError if the host is not this stack's."""
    settings = read_settings(stack.name, stack.root)
    require_own_host(stack.name, settings, "./pds ssh")
    if settings.cluster:
        return _of_cluster(stack, settings, host)
    if host:
        raise CommandError(f"{stack.name} is not a cluster: it has one host. Leave '--host' out.")
    return SshEndpoint(stack, settings, _address(stack), PORT, USER)


def _of_cluster(stack: Stack, settings: Settings, host: str | None) -> SshEndpoint:
    """The address moves from droplet to droplet, and each has a key of its own."""
    outputs = stack.required_outputs("ipv4", "hosts")
    if host and host not in outputs["hosts"]:
        raise CommandError(f"Cluster {stack.name} has no host {host}. Write one of: {', '.join(outputs['hosts'])}.")
    address = str(outputs["hosts"][host]["address"] if host else outputs["ipv4"])
    with DigitalOceanAccount(digitalocean_token(stack)) as account:
        found = (account.get(f"reserved_ips/{address}") or {}).get("droplet")
    if not found:
        raise CommandError(
            f"{address} leads to no droplet. `./pds check {stack.name}` shows which worker runs which host."
        )
    tag = (worker_tag if host else server_tag)(stack.name)
    return SshEndpoint(stack, settings, address, PORT, USER, droplet=str(found["id"]), tag=tag)


def console_endpoint(stack: Stack, user: str) -> SshEndpoint:
    """Return IO's console. IO decides which users it knows."""
    settings = read_settings(stack.name, stack.root)
    return SshEndpoint(stack, settings, _address(stack), settings.ingress.ssh_port, user)


def _address(stack: Stack) -> str:
    return str(stack.required_outputs("ipv4")["ipv4"])


def require_own_host(stack: str, settings: Settings, command: str) -> None:
    """Raise CommandError if the host is not this stack's. `command` is what its operator uses instead."""
    on = settings.on
    if on and on.stack:
        raise CommandError(f"{stack} runs on the host of stack {on.stack}. Its operator uses `{command} {on.stack}`.")
    if on:
        raise CommandError(f"{stack} runs in the Nomad at {on.nomad_address}. Its operator gives access to that host.")


def connect(endpoint: SshEndpoint, arguments: Sequence[str], *, allow_ip: bool, forward: str = "") -> int:
    """Run ssh to its end; return its exit code. `allow_ip` opens the port to this machine meanwhile, and `forward` is a
    port to forward instead of a command. Raises CommandError."""
    if not shutil.which("ssh"):
        raise CommandError("ssh is not on PATH. Install the OpenSSH client.")
    command = endpoint.command(arguments, forward)
    if not allow_ip:
        endpoint.require_open()
        with orderly_end():
            return run_in_foreground(command)
    stack = endpoint.stack
    require_own_host(stack.name, endpoint.settings, "./pds allow-ip")
    with DigitalOceanAccount(digitalocean_token(stack)) as account:
        tag = endpoint.tag or temporary_firewall.droplet_tag(stack.name)
        firewalls = temporary_firewall.TemporaryFirewalls(
            account, stack.name, tag=tag, per_run=True, port=endpoint.port
        )
        return temporary_firewall.run_with_access(firewalls, temporary_firewall.own_address(), command)
