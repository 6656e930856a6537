"""The restore program on real data of a real PDS, as members, relays and the directory see it afterwards."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cli.snapshot.verify import IDENTITY_FILE, MANIFEST, repo_path, verify
from tests.contract.club import PASSWORD, Member, cid_of
from tests.contract.lines import one_line
from tests.contract.relay import Relay
from tests.contract.restores import BLOBS_AFTER, Restore, Scenario, newest
from tools.trial.pds import PdsProcess
from tools.trial.xrpc import Client, RefusedError

pytestmark = pytest.mark.contract

BLOB_PLACE = ".pds-blobs.json"
"""The file on the volume that records where blobs are (blob_place.cjs)."""


def _client(server: PdsProcess, restore: Restore) -> Client:
    return Client(server.url, restore.scenario.env["PDS_HOSTNAME"])


def _logged_in(server: PdsProcess, restore: Restore, did: str) -> Member:
    client = _client(server, restore)
    body = {"identifier": did, "password": PASSWORD}
    client.log_in(client.procedure("com.atproto.server.createSession", body)["accessJwt"])
    return Member(did=did, client=client)


def _departed(scenario: Scenario) -> set[str]:
    return {scenario.deleted.did, scenario.hidden.did, scenario.resting.did, scenario.gone.did}


def _everything_is_served(server: PdsProcess, restore: Restore, but: set[str]) -> None:
    """Assert that old passwords work and every post acknowledged before the snapshot has its old CID."""
    scenario = restore.scenario
    members, records = scenario.club.journal.before(scenario.began)
    for did in members - but:
        _logged_in(server, restore, did)
    expected = {uri: cid for uri, cid in records.items() if uri.split("/")[2] not in but}
    assert expected
    for uri, cid in expected.items():
        assert _cid(server, restore, uri) == cid, uri


def _cid(server: PdsProcess, restore: Restore, uri: str) -> str:
    return cid_of(_client(server, restore), uri)


def _status(client: Client, did: str) -> str:
    try:
        output = client.query("com.atproto.sync.getRepoStatus", {"did": did})
    except RefusedError as refusal:
        return refusal.error
    return str(output.get("status") or "active")


def _relay_follows(server: PdsProcess, restore: Restore, relay: Relay) -> None:
    """Assert that the relay follows the restored server to its newest event and to a new post."""
    scenario = restore.scenario
    stayed = scenario.club.journal.before(scenario.began)[0] - _departed(scenario)
    client = _client(server, restore)
    scenario.club.post(_logged_in(server, restore, scenario.writer.did), "after the restore")
    relay.follow(server.url, newest(restore.data.path))
    assert not relay.idle, "its cursor must not be in the future"
    assert relay.dropped == []
    for did in stayed:
        assert relay.repositories[did].rev == client.query("com.atproto.sync.getLatestCommit", {"did": did})["rev"]


@pytest.mark.parametrize("fixture_name", ["in_place", "disaster"])
def test_restored_members_keep_passwords_and_posts_and_a_relay_continues(
    fixture_name: str, line: str, request: pytest.FixtureRequest
) -> None:
    restore: Restore = request.getfixturevalue(fixture_name)
    scenario, relay = restore.scenario, restore.relay
    with relay.answering() as url:
        output = restore.run(PDS_CRAWLERS=url)
    assert "ready" in output
    with restore.opened() as server:
        _everything_is_served(server, restore, but=_departed(scenario))
        with pytest.raises(RefusedError, match="Could not locate record"):
            _cid(server, restore, scenario.written_after)
        _relay_follows(server, restore, relay)


def test_relay_stays_idle_if_the_first_event_is_omitted(in_place: Restore) -> None:
    in_place.plant("restore_server.cjs", "    await announce(ctx, did, handle, status, sync);\n", "")
    in_place.plant("restore_server.cjs", "await announceDeleted(ctx, did);", "await null;")
    relay = in_place.relay
    in_place.run()
    with in_place.opened() as server:
        relay.follow(server.url, relay.cursor + 1)
        assert relay.idle


def test_relay_drops_a_repository_without_a_newer_revision(in_place: Restore) -> None:
    in_place.plant("restore_server.cjs", "    await store.repo.processWrites([]);\n", "")
    in_place.plant("restore_server.cjs", "if (seen && sync.rev <= seen)", "if (false)")
    in_place.run()
    with (
        in_place.opened() as server,
        pytest.raises(AssertionError, match=f"#sync of {in_place.scenario.writer.did}: old revision"),
    ):
        _relay_follows(server, in_place, in_place.relay)


@pytest.mark.parametrize("fixture_name", ["in_place", "disaster"])
def test_departed_accounts_are_not_restored(
    fixture_name: str, in_place: Restore, request: pytest.FixtureRequest
) -> None:
    restore: Restore = request.getfixturevalue(fixture_name)
    scenario = restore.scenario
    if restore is not in_place:
        # The list that a later backup, before the disaster, had sent beside its snapshot.
        in_place.data.take()
        restore.fetch_list(in_place.data.path)
    output = restore.run(NOMAD_META_sequence="1000000")
    assert f"LEFT OUT: {scenario.deleted.did}: it was deleted after the snapshot" in output
    assert f"LEFT OUT: {scenario.hidden.did}: it was taken down after the snapshot" in output
    assert f"LEFT OUT: {scenario.resting.did}: it was deactivated after the snapshot" in output
    assert f"LEFT OUT: {scenario.gone.did}: its DID document names the server rooks.test" in output
    with restore.opened() as server:
        client = _client(server, restore)
        assert _status(client, scenario.deleted.did) == "RepoNotFound"
        assert _status(client, scenario.hidden.did) == "takendown"
        assert _status(client, scenario.resting.did) == "deactivated"
        assert _status(client, scenario.gone.did) == "deactivated"
    assert not (restore.data.path / repo_path(scenario.deleted.did)).exists()


def test_departures_that_only_a_relay_knows_are_applied(disaster: Restore) -> None:
    scenario, relay = disaster.scenario, disaster.relay
    with relay.answering() as url:
        output = disaster.run(PDS_CRAWLERS=url)
    assert f"LEFT OUT: {scenario.deleted.did}: the relay says that it was deleted" in output
    assert f"LEFT OUT: {scenario.resting.did}: the relay says that it was deactivated" in output
    assert f"the relay distributes nothing of {scenario.hidden.did} (takendown)" in output, (
        "the relay may have taken it down itself"
    )


def test_operator_lists_are_applied_before_accounts_are_served(disaster: Restore) -> None:
    scenario = disaster.scenario
    deleted, hidden = scenario.writer.did, scenario.resting.did
    disaster.run(NOMAD_META_sequence="1", NOMAD_META_delete=deleted, NOMAD_META_takedown=f"{hidden} did:plc:unknown")
    with disaster.opened() as server:
        client = _client(server, disaster)
        assert (_status(client, deleted), _status(client, hidden)) == ("RepoNotFound", "takendown")


def test_account_that_was_deleted_by_mistake_can_be_restored(in_place: Restore) -> None:
    did = in_place.scenario.deleted.did
    in_place.run(NOMAD_META_bring_back=did)
    with in_place.opened() as server:
        assert _status(_client(server, in_place), did) == "active"
        _logged_in(server, in_place, did)


def test_repository_that_is_behind_the_events_is_updated_from_them(in_place: Restore, scenario: Scenario) -> None:
    # As when a post is written after its repository is copied and before the events are.
    in_place.data.take()
    torn = in_place.data.snapshot
    manifest, older = (json.loads((folder / MANIFEST).read_text()) for folder in (torn, scenario.snapshot))
    store = repo_path(scenario.writer.did) / "store.sqlite"
    shutil.copy(scenario.snapshot / store, torn / store)
    manifest["repositories"][scenario.writer.did] = older["repositories"][scenario.writer.did]
    manifest["files"][str(store)] = older["files"][str(store)]
    manifest["started"] = older["started"]
    (torn / MANIFEST).write_text(json.dumps(manifest))
    # Blobs of such records: the copy has neither, the old data have one.
    blobs = in_place.data.path / "blocks" / scenario.writer.did
    kept, lost = (next(file for file in blobs.iterdir() if file.read_bytes() == content) for content in BLOBS_AFTER)
    for file in (kept, lost):
        (torn / "blocks" / scenario.writer.did / file.name).unlink()
    lost.unlink()
    assert verify(torn, in_place.data.document_key).problems == ()
    output = in_place.run(NOMAD_META_from="volume")
    losses = [line for line in output.splitlines() if line.startswith("WITH LOSSES")]
    assert losses == [
        f"WITH LOSSES: {scenario.writer.did}: blob {lost.name} is lost: it was uploaded while the snapshot was made"
    ]
    with in_place.opened() as server:
        assert (
            _cid(server, in_place, scenario.written_after) == scenario.club.journal.records[scenario.written_after][0]
        )
        served = _client(server, in_place).stream_blob(scenario.writer.did, kept.name)
        assert b"".join(served) == BLOBS_AFTER[0]
        _relay_follows(server, in_place, in_place.relay)


def test_next_snapshot_of_restored_data_is_whole_and_the_list_continues(in_place: Restore) -> None:
    in_place.run()
    in_place.data.take()
    assert in_place.data.verify().problems == ()
    listed = [json.loads(line) for line in (in_place.data.path / ".departures.jsonl").read_text().splitlines()]
    assert {line["did"] for line in listed} >= _departed(in_place.scenario) - {in_place.scenario.gone.did}
    assert [line["seq"] for line in listed] == sorted({line["seq"] for line in listed})


def test_old_data_is_kept_until_the_operator_removes_it(in_place: Restore, scenario: Scenario) -> None:
    before = _content(scenario.data.path)
    before.pop(BLOB_PLACE)  # it says where the server's blobs are now, so it stays
    in_place.run()
    assert (in_place.data.path / BLOB_PLACE).exists()
    (old,) = (in_place.data.path / ".restore").glob("old-*")
    assert _content(old) == before
    assert f"old data                     removed: {old.name}" in in_place.run(NOMAD_META_forget="yes")
    assert not old.exists()
    assert (in_place.data.path / "account.sqlite").exists()


@one_line
@pytest.mark.parametrize("content", [b"frames", b""])
def test_side_files_of_a_snapshot_database_are_not_part_of_it(disaster: Restore, content: bytes) -> None:
    """A killed reader leaves an empty log and its index. SQLite would apply a log with content."""
    database = disaster.data.path / ".restore" / "fetched" / repo_path(disaster.scenario.writer.did) / "store.sqlite"
    log, index = (database.with_name(f"{database.name}-{suffix}") for suffix in ("wal", "shm"))
    log.write_bytes(content)
    index.write_bytes(bytes(32768))
    output = disaster.run(NOMAD_META_sequence="1")
    assert (f"{log.name} is not in the manifest" in output) == bool(content)
    assert "0 with losses, 0 not restorable" in output


# --- refused before anything is touched


def _refused(restore: Restore, because: str, **change: str) -> str:
    before = _content(restore.data.path)
    output = restore.run(code=1, **change)
    assert "REFUSED: " in output
    assert because in output
    assert _content(restore.data.path) == before, "a refusal must change nothing"
    return output


@one_line
def test_refuses_to_restore_under_a_running_server(in_place: Restore) -> None:
    with in_place.opened():
        output = in_place.run(code=1)
    assert "REFUSED: the server is running on these data" in output
    assert (in_place.data.path / IDENTITY_FILE).exists()


@one_line
def test_refuses_the_snapshot_of_another_pds(in_place: Restore) -> None:
    _refused(in_place, "its hostname is noted.at, not chess.at", PDS_HOSTNAME="chess.at")
    _refused(in_place, "another PDS: its rotation_public_key", NOMAD_META_rotation_public_key="02")


@one_line
def test_refuses_a_snapshot_with_an_unreadable_account_database(in_place: Restore) -> None:
    accounts = in_place.data.path / ".restore" / "fetched" / "account.sqlite"
    accounts.write_bytes(accounts.read_bytes()[:8192])
    _refused(in_place, "account.sqlite is damaged")


@one_line
def test_refuses_to_run_without_a_snapshot(in_place: Restore) -> None:
    shutil.rmtree(in_place.data.path / ".restore" / "fetched")
    _refused(in_place, "manifest.json cannot be read")


@one_line
def test_refuses_to_run_while_the_directory_is_unreachable(in_place: Restore) -> None:
    _refused(in_place, "its DID document cannot be read: http://localhost:1", PDS_DID_PLC_URL="http://localhost:1")


@one_line
def test_requires_a_sequence_number_if_the_last_event_is_unknown(disaster: Restore) -> None:
    _refused(disaster, "--sequence N", PDS_CRAWLERS="http://localhost:1")
    disaster.run(PDS_CRAWLERS="http://localhost:1", NOMAD_META_sequence="5000")
    assert newest(disaster.data.path) > 5000


@one_line
def test_refuses_a_full_volume(in_place: Restore) -> None:
    _refused(in_place, "Make it larger", PDS_SNAPSHOT_RESERVE_MIB=str(10**9))


def _uris(data: Path, did: str) -> set[str]:
    with closing(sqlite3.connect(data / repo_path(did) / "store.sqlite")) as db:
        return {row[0] for row in db.execute("select uri from record")}


def _content(folder: Path) -> dict[str, bytes]:
    """The content of every relevant file; side files of databases are excluded."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and not {".snapshot", ".restore", ".run-status"} & set(path.relative_to(folder).parts)
        and not path.name.endswith(("-wal", "-shm"))
        and path.name != ".departures.jsonl"
    }
