"""Acknowledged writes survive a power cut with the preload `durable.cjs`, and do not without it.

This process keeps the journal of acknowledged writes, outside of the disk that is cut while members write.
"""

from __future__ import annotations

import base64
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.club import BLOBS, PASSWORD, POSTS, Club, Member
from tests.contract.disk import Disk, NoDiskError, disk
from tests.contract.restores import FILES
from tests.contract.snapshots import open_environment
from tools.trial.directory import PlcDirectory
from tools.trial.node import Install
from tools.trial.pds import PdsProcess
from tools.trial.xrpc import Client, RefusedError

pytestmark = pytest.mark.contract

_MEMBERS = 2
_WRITERS = 2
"""Per member: the last connection to close a database flushes it, so a single writer would hide the loss."""
_ROUNDS = 12
"""Minimum of acknowledged rounds per writer before the cut."""
_PATIENCE = 600.0


@dataclass
class Acknowledged:
    """The writes for which the server's clients have a response."""

    accounts: list[str] = field(default_factory=list)
    records: dict[str, str] = field(default_factory=dict)
    """URI to CID."""
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """DID and CID to content; a record refers to each."""
    uploads: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """DID and reference of blobs that wait for a record."""


@dataclass
class Scenario:
    """A club on a disk, and its writers."""

    env: Mapping[str, str]
    install: Install
    reader: Install
    """The same server with its modules in one file, for after the cut."""
    disk: Disk
    acknowledged: Acknowledged = field(default_factory=Acknowledged)

    def until_the_cut(self) -> None:
        """Let members write, join and upload without a pause, and cut the power meanwhile."""
        enough = threading.Semaphore(0)
        with self._server(self.install) as server:
            club = Club(server.url, self.env["PDS_HOSTNAME"])
            steps: list[Callable[[], object]] = [partial(self._join, club)]
            for _ in range(_MEMBERS):
                steps += [partial(self._write, club, self._join(club))] * _WRITERS
            threads = [threading.Thread(target=_repeat, args=(step, enough), daemon=True) for step in steps]
            for thread in threads:
                thread.start()
            for _ in range(_ROUNDS * len(steps)):
                assert enough.acquire(timeout=_PATIENCE), f"a writer has stopped: {server.last_lines()}"
            os.kill(server.pid, signal.SIGSTOP)  # nothing is acknowledged from now on
            self.disk.cut()
            os.kill(server.pid, signal.SIGKILL)
            for thread in threads:
                thread.join(_PATIENCE)
        self.disk.again()

    def lost(self) -> dict[str, list[str]]:
        """Acknowledged writes that are missing, by kind."""
        found: dict[str, list[str]] = {kind: [] for kind in ("account", "record", "event", "blob", "upload", "key")}
        with self._server(self.reader) as server, httpx.Client(base_url=server.url, trust_env=False) as http:
            clients = dict(self._logged_in(server.url, found["account"]))
            served_records = {uri: cid for did in self.acknowledged.accounts for uri, cid in _records(http, did)}
            found["record"] = [uri for uri, cid in self.acknowledged.records.items() if served_records.get(uri) != cid]
            for (did, cid), content in self.acknowledged.blobs.items():
                if http.get("/xrpc/com.atproto.sync.getBlob", params={"did": did, "cid": cid}).content != content:
                    found["blob"].append(cid)
            for did, blob in self.acknowledged.uploads:
                if did in clients and not _recorded(clients[did], did, blob):
                    found["upload"].append(blob["ref"]["$link"])
            found["key"] = [did for did, client in clients.items() if not _recorded(client, did, None)]
            found["event"] = self._without_event()
        return {kind: names for kind, names in found.items() if names}

    def _server(self, install: Install) -> PdsProcess:
        return PdsProcess(install, self.env, self.disk.mount.with_suffix(".log"))

    def _join(self, club: Club) -> Member:
        member = club.join()
        self.acknowledged.accounts.append(member.did)
        return member

    def _write(self, club: Club, member: Member) -> None:
        uri = club.post(member, "posted")
        self.acknowledged.records[uri] = club.journal.records[uri][0]
        content = os.urandom(30_000)
        blob = member.client.upload_blob([content], len(content))
        uri = club.refer(member, blob)
        self.acknowledged.records[uri] = club.journal.records[uri][0]
        self.acknowledged.blobs[member.did, blob["ref"]["$link"]] = content
        content = os.urandom(1000)
        self.acknowledged.uploads.append((member.did, member.client.upload_blob([content], len(content))))

    def _logged_in(self, url: str, lost: list[str]) -> Iterator[tuple[str, Client]]:
        for did in self.acknowledged.accounts:
            client = Client(url, self.env["PDS_HOSTNAME"])
            try:
                body = {"identifier": did, "password": PASSWORD}
                client.log_in(client.procedure("com.atproto.server.createSession", body)["accessJwt"])
                yield did, client
            except RefusedError:
                lost.append(did)

    def _without_event(self) -> list[str]:
        with closing(sqlite3.connect(Path(self.env["PDS_DATA_DIRECTORY"]) / "sequencer.sqlite")) as db:
            events = b"".join(event for (event,) in db.execute("select event from repo_seq"))
        return [uri for uri, cid in self.acknowledged.records.items() if _bytes_of(cid) not in events]


def _repeat(step: Callable[[], object], enough: threading.Semaphore) -> None:
    try:
        while True:
            step()
            enough.release()
    except httpx.HTTPError:
        pass  # the power is cut


def _records(http: httpx.Client, did: str) -> Iterator[tuple[str, str]]:
    """URI and CID of each record that the server itself has. For a missing one, `getRecord` would query an app view."""
    for collection in (POSTS, BLOBS):
        ask: dict[str, Any] = {"repo": did, "collection": collection, "limit": 100}
        while (answer := http.get("/xrpc/com.atproto.repo.listRecords", params=ask).json()).get("records"):
            yield from ((record["uri"], record["cid"]) for record in answer["records"])
            ask["cursor"] = answer.get("cursor")


def _recorded(client: Client, did: str, blob: dict[str, Any] | None) -> bool:
    """Whether the server accepts a record. It needs the signing key, and the blob to which the record refers."""
    body = {"repo": did, "collection": BLOBS, "record": {"$type": BLOBS, "blob": blob}, "validate": False}
    try:
        client.procedure("com.atproto.repo.createRecord", body)
    except RefusedError:
        return False
    return True


def _bytes_of(cid: str) -> bytes:
    return base64.b32decode(cid[1:].upper() + "=" * (-len(cid[1:]) % 8))


@pytest.fixture
def scenario(
    pds_installs: dict[str, Install],
    quick_installs: dict[str, Install],
    program_env: dict[str, str],
    directory: PlcDirectory,
    line: str,
    tmp_path: Path,
) -> Iterator[Scenario]:
    try:
        with disk(tmp_path) as scratch_disk:
            data = scratch_disk.mount / "pds"
            data.mkdir()
            env = open_environment(program_env, data, directory, line)
            yield Scenario(env=env, install=pds_installs[line], reader=quick_installs[line], disk=scratch_disk)
    except NoDiskError as missing:
        pytest.skip(f"a power cut cannot be simulated: {missing}. Run this as root with loop devices.")


def test_acknowledged_writes_survive_a_power_cut(scenario: Scenario) -> None:
    scenario.until_the_cut()
    assert scenario.lost() == {}, (
        f"of {len(scenario.acknowledged.records)} records, {len(scenario.acknowledged.accounts)} accounts"
    )


def test_without_durable_writes_a_power_cut_loses_acknowledged_writes(scenario: Scenario) -> None:
    """Proves that the test above detects a loss, and that upstream's server still needs the preload."""
    scenario.env = {**scenario.env, "NODE_OPTIONS": f'--require="{FILES / "volume_check.cjs"}"'}
    scenario.until_the_cut()
    lost = scenario.lost()
    assert {"blob", "event"} <= lost.keys(), "commits were acknowledged before they were on the disk"
