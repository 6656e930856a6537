"""Backups of a server while a member moves to it from another one: the account's records are in each of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cli.snapshot.repository import RepositoryStore, open_unchanged
from cli.snapshot.verify import WHOLE, repo_path
from tests.contract import test_moving_away as moving
from tests.contract.restores import FILES, restoring
from tests.contract.snapshots import DEADLINE, Data
from tests.contract.two_servers import World
from tools.trial.node import Install

pytestmark = pytest.mark.contract

_KEY = "02ab"  # of the server's identity file: only compared


def _records(folder: Path, did: str) -> int:
    with closing(open_unchanged(folder / repo_path(did) / "store.sqlite")) as db:
        return int(db.execute("select count(*) from record").fetchone()[0])


def _restored(data: Data, world: World, path: Path, **change: str) -> None:
    known = {"PDS_HOSTNAME": world.new.hostname, "PDS_DID_PLC_URL": world.directory.url}
    meta = {"NOMAD_META_rotation_public_key": _KEY, "NOMAD_META_sequence": "1"}
    with restoring(replace(data, path=path), FILES, **known | meta | change) as running:
        try:
            output, _ = running.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            running.kill()
            raise
    assert running.returncode == 0, output


@pytest.fixture
def backups(world: World, pds_installs: dict[str, Install], quick_installs: dict[str, Install]) -> Data:
    """The data of the server to which the member moves."""
    [install] = [quick_installs[line] for line, slow in pds_installs.items() if slow == world.new.install]
    path = Path(world.new.pds.log).with_suffix("")
    identity = {"hostname": world.new.hostname, "rotation_public_key": _KEY}
    (path / ".pds-identity.json").write_text(json.dumps(identity))
    return Data(path=path, install=install, document_key=lambda _: None)


def test_records_of_a_moving_member_are_in_each_backup_and_are_restored(
    world: World, backups: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """importRepo stores the old server's commit. The new server signs one only with the member's first write, which may
    be hours or weeks later."""
    old, new = world.old, world.new
    did, _ = moving.member_of(old, "wren")
    count = len(old.records(did))
    sessions = moving.arrive(old, new, did, f"wren.{new.hostname}")
    backups.take()
    assert _records(backups.snapshot, did) == 0, "the account is new and empty"

    moving.import_records(old, new, did, sessions[1])
    backups.take()
    assert _records(backups.snapshot, did) == count, "before the account is active"
    moving.import_blobs(old, new, did)
    moving.activate(world, did, sessions, monkeypatch, [])
    backups.take()
    assert _records(backups.snapshot, did) == count
    assert did not in backups.manifest()["findings"]
    assert len(list((backups.snapshot / "blocks" / did).iterdir())) == 1, "the member's picture"
    verdict = backups.verify().accounts[did]
    assert (verdict.state, verdict.sentences()) == (WHOLE, [])

    fresh = tmp_path / "pds"
    shutil.copytree(backups.snapshot, fresh / ".restore" / "fetched")
    _restored(backups, world, fresh)
    assert _records(fresh, did) == count
    with closing(RepositoryStore(fresh / repo_path(did) / "store.sqlite", did)) as store:
        assert list(store.problems((fresh / repo_path(did) / "key").read_bytes())) == []
        root, _ = store.root()
    assert root != backups.manifest()["repositories"][did]["cid"], (
        "a restore signs a new commit with the key that is here"
    )
    _restored(backups, world, backups.path, NOMAD_META_only=did, NOMAD_META_from="volume")
    assert _records(backups.path / ".restore" / "only", did) == count
    shutil.rmtree(backups.path / ".restore")
    assert new.status(did) == (True, None)
    new.post(did, "here now")
    backups.take()
    assert _records(backups.snapshot, did) == count + 1
