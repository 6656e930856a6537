"""Where the address of a cluster's servers leads, and which servers answer; for `./pds repair`, `list` and `check`.

Nomad itself answers at this address only. So each server is asked at its own address, too, with the same certificates.
"""

import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from cli.lib.digitalocean import DigitalOceanAccount
from components.clients.https import client_tls, connection_to
from components.takeover.endpoint import Cloud
from components.takeover.services import Refused

_CONNECT_SECONDS = 5.0
_MOVED_SECONDS = 180.0
_PAUSE = 3.0


@dataclass(frozen=True)
class ServersAddress:
    """The address of a cluster with several servers, and its stack's outputs."""

    stack: str
    outputs: Mapping[str, Any]
    cloud: Cloud
    token: str

    @property
    def is_movable(self) -> bool:
        """Whether there is more than one server."""
        return len(self._servers) > 1

    @property
    def address(self) -> str:
        """The reserved IP."""
        return str(self.outputs["ipv4"])

    @property
    def _servers(self) -> list[int]:
        return [int(droplet) for droplet in self.outputs.get("servers") or []]

    def at(self) -> int | None:
        """The number of the server that the address leads to, from 1; None if it leads to none. Raises Unavailable and
        Refused."""
        droplet = self.cloud.address_at(self.address)
        return self._servers.index(droplet) + 1 if droplet in self._servers else None

    def leads_to(self) -> str:
        """A phrase for it. Raises Unavailable and Refused."""
        at = self.at()
        return f"{self.address} leads to {f'server {at}' if at else 'no server'}"

    def lost(self) -> str:
        """What is wrong if nothing answers at the address, but another server does; empty otherwise. Raises
        Unavailable, Refused and CommandError."""
        if not self.is_movable or self.has_leader(self.address):
            return ""
        answering = self._answering(self.at())
        if not answering:
            return ""
        known = ", ".join(map(str, answering))
        return f"{self.leads_to()}, and Nomad does not answer there. At their own addresses these servers do: {known}."

    def has_leader(self, address: str) -> bool:
        """Whether the server at this address answers, and knows a leader."""
        values = self.outputs
        tls = client_tls(values["nomad_ca_pem"], values["nomad_client_cert_pem"], values["nomad_client_key_pem"])
        connection = connection_to(values["nomad_address"], address, _CONNECT_SECONDS, tls)
        try:
            connection.request("GET", "/v1/status/leader")
            answer = connection.getresponse()
            return answer.status == 200 and len(answer.read().strip().strip(b'"')) > 0
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def repair(self, *, yes: bool) -> bool:
        """Assign the address to a server that answers, if nothing answers at it. Returns whether nothing is left to do.
        Raises Unavailable, Refused and CommandError."""
        if not (lost := self.lost()):
            return True
        print(lost)
        target = min(self._answering(self.at()), default=None)
        if target is None:
            return True  # it came back meanwhile
        print(f"The address is assigned to server {target}. PDSes and their hosts notice nothing.")
        if not yes and not click.confirm("Assign it?"):
            return False
        self._assign(target)
        end = time.monotonic() + _MOVED_SECONDS
        while self.at() != target or not self.has_leader(self.address):
            if time.monotonic() > end:
                print(f"Nomad does not answer at {self.address} after {_MOVED_SECONDS:.0f} s. Run the command again.")
                return False
            time.sleep(_PAUSE)
        print(f"{self.leads_to()}. {self.to_write(target)}\n")
        return True

    def to_write(self, number: int) -> str:
        """What a person has to do once the address leads to another server than the stack file says."""
        return (
            f"Write 'cluster.servers.endpoint: {number}' into Pulumi.{self.stack}.yaml, and run `pulumi up --stack "
            f"{self.stack}`. A refresh before that leads the address back to the server in the file."
        )

    def _assign(self, target: int) -> None:
        try:
            self.cloud.assign(self.address, self._servers[target - 1])
        except Refused as error:
            if error.status != 422:
                raise
            print(f"{error}. A takeover may assign it at the moment.")  # the wait below sees which

    def _answering(self, at: int | None) -> list[int]:
        with DigitalOceanAccount(self.token) as account:
            found = {
                number: account.get(f"droplets/{droplet}")
                for number, droplet in enumerate(self._servers, 1)
                if number != at
            }
        return [number for number, droplet in found.items() if droplet and self.has_leader(_public_address(droplet))]


def _public_address(droplet: Mapping[str, Any]) -> str:
    return next((item["ip_address"] for item in droplet["networks"]["v4"] if item["type"] == "public"), "")
