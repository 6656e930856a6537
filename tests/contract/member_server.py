"""A server whose only name server is the tests' own, for the providers of accounts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

from components.clients import pds_admin
from components.dynamic.accounts import AccountProvider
from components.people.members import temporary_handle
from tests.support import fake_dns
from tools.trial.directory import PlcDirectory
from tools.trial.xrpc import Client

if TYPE_CHECKING:
    from tests.contract.conftest import StartPds  # which imports this module's fixture

PRELOAD = Path(__file__).with_name("own_name_server.cjs")
DOMAINS = (".noted.at",)
PASSWORD = "5f" * 16
Props = dict[str, Any]


@dataclass
class HostConnection:
    """A running PDS, its directory, and its only name server."""

    client: Client
    directory: PlcDirectory
    server: pds_admin.Server
    nameserver: str
    records: dict[str, list[str]]
    asked: list[str] = field(default_factory=list)
    made: int = 0

    def common(self) -> Props:
        return {
            "url": self.server.url,
            "ip": self.server.address,
            "ingress_state": "open",
            "admin_password": self.server.admin_password,
            "version": "1",
        }

    def account(self, handle: str, **more: Any) -> Props:
        """The inputs of an account."""
        temporary = temporary_handle(handle, DOMAINS) or ""
        email = f"{handle.replace('.', '-')}@noted.at"
        asked = {"handle": handle, "temporary": temporary, "email": email, "password": PASSWORD, "was": []}
        return {**self.common(), **asked, "recovery_key": "", "did": None, **more}

    def handle(self, account: Props, **more: Any) -> Props:
        """The inputs of the handle of an account as it was returned."""
        same = {key: account[key] for key in ("handle", "temporary", "was", "did")}
        external = not account["handle"].endswith(DOMAINS)
        place = {"nameservers": [self.nameserver], "wait": 0, "external": external}
        return {**self.common(), **same, **place, **more}

    def new_name(self) -> str:
        """An unused name."""
        self.made += 1
        return f"member{self.made}"

    def document(self, did: str) -> Any:
        return httpx.get(f"{self.directory.url}/{did}/data", timeout=600, trust_env=False).json()


@pytest.fixture(scope="session")
def member_server(
    start_pds: StartPds, directory: PlcDirectory, program_env: dict[str, str]
) -> Iterator[HostConnection]:
    """A server on empty data. `records` are those of its name server, `asked` the queries that it received."""
    records: dict[str, list[str]] = {}
    asked: list[str] = []
    with fake_dns.serve(records, asked) as nameserver:
        change = {"NODE_OPTIONS": f"--require={PRELOAD}", "TESTS_NAME_SERVER": nameserver}
        with start_pds(program_env, change) as pds:
            port = urlsplit(pds.url).port
            server = pds_admin.Server(f"http://noted.at:{port}", "127.0.0.1", program_env["PDS_ADMIN_PASSWORD"])
            client = Client(pds.url, "noted.at")
            with client.http:
                yield HostConnection(client, directory, server, nameserver, records, asked)


def made(place: HostConnection, handle: str, **more: Any) -> Props:
    """The outputs of an account that the provider created or found."""
    outs = AccountProvider().create(place.account(handle, **more)).outs
    assert outs is not None
    return outs


def handle_of(place: HostConnection, did: str) -> str:
    """The handle of the account on the server."""
    found = pds_admin.account(place.server, did)
    assert found is not None
    return found.handle


def log_in(place: HostConnection, did: str, password: str) -> str:
    """The DID of the session. Raises RefusedError if the server refuses the password."""
    body = {"identifier": did, "password": password}
    return str(place.client.procedure("com.atproto.server.createSession", body)["did"])
