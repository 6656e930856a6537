"""Two real servers with one directory: a server of the test's version line, and one of the other line.

Members move between them in `test_moving_away.py`, `test_arrival_backed_up.py` and `test_migrate_account.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.contract.member_server import PRELOAD
from tests.support import fake_dns
from tests.unit.components.render.test_volume_check import VOLUME_CHECK
from tools.trial.directory import PlcDirectory
from tools.trial.node import PDS_LINES, Install
from tools.trial.pds import PdsProcess
from tools.trial.xrpc import Client

if TYPE_CHECKING:
    from tests.contract.conftest import StartPds  # which imports this module's fixture

OLD, NEW = "noted.at", "rooks.test"
PASSWORD = "5f" * 16
OTHER_SECRETS = {
    "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": "41" * 32,
    "PDS_JWT_SECRET": "42" * 16,
    "PDS_ADMIN_PASSWORD": "43" * 16,
}
POST, BLOB_RECORD = "app.bsky.feed.post", "at.noted.try.blob"


@dataclass(frozen=True)
class Side:
    """One of the two servers, with the calls of its operator and of the member."""

    hostname: str
    env: Mapping[str, str]
    install: Install
    pds: PdsProcess
    client: Client

    def invite(self) -> str:
        """Return an invite code of its operator."""
        method = "com.atproto.server.createInviteCode"
        made = self.client.procedure(method, {"useCount": 1}, admin_password=self.env["PDS_ADMIN_PASSWORD"])
        return str(made["code"])

    def log_in(self, did: str) -> str:
        """Log in the member and use the session for all later calls."""
        body = {"identifier": did, "password": PASSWORD}
        token = str(self.client.procedure("com.atproto.server.createSession", body)["accessJwt"])
        self.client.log_in(token)
        return token

    def send(self, token: str, method: str, content: bytes = b"", kind: str | None = None) -> None:
        """POST something that is not JSON, or nothing at all."""
        headers = {"Authorization": f"Bearer {token}"} | ({"Content-Type": kind} if kind else {})
        answer = self.client.http.post(f"/xrpc/{method}", content=content, headers=headers)
        assert answer.is_success, f"{method}: {answer.status_code} {answer.text}"

    def post(self, did: str, text: str) -> None:
        """Create a post of the member."""
        record = {"$type": POST, "text": text, "createdAt": "2026-06-01T12:00:00.000Z"}
        self.client.procedure("com.atproto.repo.createRecord", {"repo": did, "collection": POST, "record": record})

    def records(self, did: str) -> dict[str, str]:
        """The member's records: the CID of each, by its address."""
        return {
            record["uri"]: record["cid"]
            for collection in (POST, BLOB_RECORD)
            for record in self.client.query(
                "com.atproto.repo.listRecords", {"repo": did, "collection": collection, "limit": 100}
            )["records"]
        }

    def status(self, did: str) -> tuple[bool, str | None]:
        """The public status: whether the account is active here, and the reason if not."""
        response = self.client.query("com.atproto.sync.getRepoStatus", {"did": did})
        return response["active"], response.get("status")


@dataclass(frozen=True)
class World:
    """The two servers, the directory that both use, and the DNS records of the member's own domain."""

    old: Side
    new: Side
    directory: PlcDirectory
    dns: dict[str, list[str]]


@pytest.fixture(scope="session")
def world(
    start_pds: StartPds,
    pds_installs: dict[str, Install],
    directory: PlcDirectory,
    program_env: dict[str, str],
    line: str,
) -> Iterator[World]:
    """A server of `line`, which the member leaves, and one of the other line."""
    [other] = set(PDS_LINES) - {line}
    dns: dict[str, list[str]] = {}
    theirs = {**program_env, **OTHER_SECRETS, "PDS_HOSTNAME": NEW}
    with fake_dns.serve(dns) as nameserver:
        asks = {"TESTS_NAME_SERVER": nameserver}
        checked = {**asks, "NODE_OPTIONS": f'--require="{VOLUME_CHECK}" --require="{PRELOAD}"'}
        unchecked = {**asks, "NODE_OPTIONS": f'--require="{PRELOAD}"'}
        with start_pds(program_env, checked) as first, start_pds(theirs, unchecked, line=other) as second:
            old = Side(OLD, program_env, pds_installs[line], first, Client(first.url, OLD))
            new = Side(NEW, theirs, pds_installs[other], second, Client(second.url, NEW))
            with old.client.http, new.client.http:
                yield World(old, new, directory, dns)
