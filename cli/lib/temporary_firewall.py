"""A temporary firewall that opens one port of a stack's host to one address; `./pds allow-ip`, `./pds ssh --allow-ip`.

The program manages the stack's own firewall. A rule added there would be drift, and the next `up` would remove it while
it uses Nomad. But the firewalls of a droplet add up (docs.digitalocean.com,
networking/firewalls/how-to/manage-droplets). So this is a separate firewall for the stack's tag, with one rule: one
port from one address. The engine does not know it. The label in its name identifies it for closing, also if the
response to its creation was lost.

With a command each run has its own firewall, named after its process, so that of two runs on one machine neither closes
the other's. The next `allow-ip` on that machine with that label, `--close` included, closes a killed run's firewall.
Any run of the stack closes a firewall that is older than a run may last. `./pds orphans` lists them.
"""

import hashlib
import ipaddress
import os
import re
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from cli.errors import CommandError
from cli.lib.digitalocean import DigitalOceanAccount, DigitalOceanError, Json
from cli.lib.stack import Stack, StackError
from cli.lib.subprocesses import ignore_signals, orderly_end, run_in_foreground
from components.render.cluster.user_data import server_tag
from components.settings.sections import NOMAD_PORT
from offline.stackfile import read_settings

WHO_AM_I = "https://ifconfig.co/ip"
"""Returns the address of the client."""
LONGEST_RUN = timedelta(hours=6)
"""A hosted runner's job ends after this time (docs.github.com, actions/reference/limits)."""
_PATIENCE = 60.0
"""Seconds until a firewall is open, or closed, or the endpoint answers."""
_PAUSE = 1.0


class FirewallError(CommandError):
    """The firewall cannot be opened or closed; the text names the cause and the remedy."""


class TemporaryFirewalls:
    """The temporary firewalls of one stack's host. `label` names the one to open and close, `tag` is the droplet's tag,
    which a renamed stack has kept, `per_run` names the firewall after this process, `port` is opened."""

    def __init__(
        self,
        account: DigitalOceanAccount,
        stack: str,
        label: str | None = None,
        tag: str = "",
        *,
        per_run: bool = False,
        port: int = NOMAD_PORT,
    ) -> None:
        self.port = port
        self._account, self._tag, self._stack = account, tag or f"pds-{stack}", stack
        self._label = f"{_prefix(stack)}{_spelled(label or socket.gethostname())}"
        self._name = f"{self._label}{_of_run(os.getpid())}" if per_run else self._label

    def open(self, address: str) -> None:
        """Open the port to `address`, and wait until the rule is active. Raises DigitalOceanError and FirewallError.

        A firewall of this label is created again; others are unchanged unless they are stale.
        """
        self.close()
        if self._account.get(f"tags/{self._tag}") is None:
            # Before the first `up`. The engine adopts the tag.
            self._account.create("tags", {"name": self._tag})
        rule = {"protocol": "tcp", "ports": str(self.port), "sources": {"addresses": [f"{address}/32"]}}
        created = self._account.create("firewalls", {"name": self._name, "inbound_rules": [rule], "tags": [self._tag]})
        end = time.monotonic() + _PATIENCE
        while created["status"] == "waiting" and time.monotonic() < end:
            time.sleep(_PAUSE)
            created = self._account.get(f"firewalls/{created['id']}") or created
        if created["status"] != "succeeded":
            raise FirewallError(
                f"DigitalOcean created firewall {self._name} and does not apply it (status '{created['status']}'). "
                "Try again, or inspect it under Networking → Firewalls."
            )

    def close(self) -> list[str]:
        """Close the own firewall, and those that outlived their run or any run; return their names. Raises
        DigitalOceanError."""
        now = datetime.now(UTC)
        closed = []
        for firewall in temporary_firewalls(self._account, self._stack, self._tag):
            late = now - datetime.fromisoformat(firewall["created_at"]) > LONGEST_RUN
            if late or firewall["name"] == self._name or self._outlived(firewall["name"]):
                self._account.delete(f"firewalls/{firewall['id']}")
                closed.append(str(firewall["name"]))
        return closed

    def _outlived(self, name: str) -> bool:
        """Return whether a run on this machine with this label created it, and its process is gone."""
        match = re.fullmatch(rf"{re.escape(self._label)}(-run(\d+)-[0-9a-f]+)", name)
        return match is not None and match[1] == _of_run(int(match[2])) and not _runs(int(match[2]))

    def close_with_retries(self) -> list[str]:
        """Do as `close`, and retry for a minute if the API fails. Raises FirewallError."""
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                return self.close()
            except DigitalOceanError as error:
                if time.monotonic() > end:
                    raise FirewallError(
                        f"Firewall {self._name} may still be open: {error}\nClose it with "
                        f"`./pds allow-ip {self._stack} --close`, or delete that firewall under Networking → Firewalls."
                    ) from None
            time.sleep(_PAUSE)

    def unreachable(self) -> list[str]:
        """Return the addresses of the stack's host at which the port does not answer within a minute."""
        hosts = {item["id"] for item in self._account.list_all("droplets", tag_name=self._tag)}
        addresses = [item for item in self._account.list_all("reserved_ips") if item["droplet"]]
        todo = [str(item["ip"]) for item in addresses if item["droplet"]["id"] in hosts]
        end = time.monotonic() + _PATIENCE
        while todo and time.monotonic() < end:
            todo = [address for address in todo if not _answers((address, self.port))]
            if todo:
                time.sleep(_PAUSE)
        return todo


def temporary_firewalls(account: DigitalOceanAccount, stack: str, tag: str = "") -> list[Json]:
    """Return every temporary firewall of the stack, found by its name, its one tag and its one rule. `tag` is that of a
    renamed stack. Raises DigitalOceanError.

    Another stack's name may have the same prefix, but not this one's tag.
    """
    return [
        item
        for item in account.list_all("firewalls")
        if item["name"].startswith(_prefix(stack))
        and item["tags"] == [tag or f"pds-{stack}"]
        and [_is_one_port(rule) for rule in item["inbound_rules"] or []] == [True]
        and not item["outbound_rules"]
    ]


def _is_one_port(rule: Json) -> bool:
    return bool(rule["protocol"] == "tcp" and str(rule.get("ports")).isdigit())


def _prefix(stack: str) -> str:
    return f"pds-{stack}-allow-ip-"


def _spelled(label: str) -> str:
    """Return the label as a firewall's name allows it (digitalocean/openapi, firewalls/models/firewall.yml)."""
    return re.sub(r"[^a-zA-Z0-9.-]+", "-", label)


def _of_run(process: int) -> str:
    """Return the suffix of the firewall's name for a process; the digits are the machine's, as several may have one
    label."""
    machine = Path("/etc/machine-id")
    here = f"{socket.gethostname()} {machine.read_text() if machine.exists() else ''}"
    return f"-run{process}-{hashlib.sha256(here.encode()).hexdigest()[:6]}"


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _answers(endpoint: tuple[str, int]) -> bool:
    try:
        socket.create_connection(endpoint, timeout=5).close()
    except OSError:
        return False
    return True


def host_stack(stack: str) -> str:
    """Return the stack whose host runs `stack`; a club reaches Nomad through its host. Raises FirewallError and
    StackFileError."""
    on = read_settings(stack).on
    if on and not on.stack:
        raise FirewallError(f"The Nomad at {on.nomad_address} is not this program's. Ask its operator for access.")
    return on.stack if on and on.stack else stack


def droplet_tag(stack: str) -> str:
    """Return the tag of the stack's droplet, of a cluster that of the servers; empty before the first `up`."""
    with suppress(StackError):
        tags = Stack(stack).state().ids("Tag")
        servers = server_tag(stack)
        return servers if servers in tags else next(iter(tags), "")
    return ""


def own_address() -> str:
    """Return this machine's public address; IPv4, as the host's is. Raises FirewallError."""
    try:
        # The address of an interface, not of a proxy: Nomad is reached without one.
        with httpx.Client(transport=httpx.HTTPTransport(local_address="0.0.0.0"), timeout=10.0) as client:  # noqa: S104
            text = client.get(WHO_AM_I).raise_for_status().text.strip()
        address = ipaddress.IPv4Address(text)
    except (httpx.HTTPError, ValueError) as error:
        raise FirewallError(
            f"{WHO_AM_I} did not return this machine's address ({error}). Give it with `--address`."
        ) from None
    return str(address)


def run_with_access(firewalls: TemporaryFirewalls, address: str, command: Sequence[str]) -> int:
    """Open, run, close; return the command's exit code. Without a command it stays open.

    Raises DigitalOceanError and FirewallError if it cannot be opened and was closed, or if it may still be open.
    """
    with orderly_end():
        stays_open = False
        try:
            _open(firewalls, address)
            stays_open = not command
            return 0 if stays_open else run_in_foreground(command)
        finally:
            if not stays_open:
                ignore_signals()
                close(firewalls)


def _open(firewalls: TemporaryFirewalls, address: str) -> None:
    firewalls.open(address)
    print(f"{port_name(firewalls.port)} is open to {address}.", flush=True)
    for host in firewalls.unreachable():
        print(
            f"warning: {host}:{firewalls.port} does not answer. Is {address} the address that the host sees?",
            file=sys.stderr,
        )


def port_name(port: int) -> str:
    """Return what the operator knows the port as."""
    return {NOMAD_PORT: "Nomad", 22: "SSH"}.get(port, f"Port {port}")


def close(firewalls: TemporaryFirewalls) -> None:
    """Close and report. Raises FirewallError."""
    closed = firewalls.close_with_retries()
    print(f"Closed: {', '.join(closed) or 'no firewall was open'}.", flush=True)
