"""Accounts with realistically many records, in the memory of the jobs."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cli.snapshot.repository import RepositoryStore
from cli.snapshot.verify import repo_path
from components.settings.sections import BackupOptions
from offline.mock_engine import ROOT
from tests.contract.club import POSTS, Member
from tests.contract.large import enlarge, realistic
from tests.contract.lines import one_line
from tests.contract.memory import Limit, NoLimitError, limited
from tests.contract.restores import FILES, restoring
from tests.contract.snapshots import DEADLINE, Data, Running, open_environment
from tests.contract.test_drill import Drill
from tools.trial.directory import PlcDirectory
from tools.trial.node import Install
from tools.trial.pds import PdsProcess

pytestmark = pytest.mark.contract


_RECORDS = 200_000
_FEW = 3_000
_AS_SERVED = """
const { openCar, problems, publicKey } = require(process.argv[1]);
const fs = require("node:fs");
const [name, key, did, rev] = process.argv.slice(2);
const car = openCar(name);
const verifier = publicKey(fs.readFileSync(key)).verifier;
console.log(JSON.stringify([...problems({ ...car, rev, did, verifier })].map(({ text }) => text)));
"""
_BY_THE_OPERATOR = """
import json, sys
from pathlib import Path
from cli.snapshot.verify import verify
print(json.dumps(verify(Path(sys.argv[1]), lambda did: None).problems))
"""


@dataclass(frozen=True, kw_only=True)
class Large:
    """The data of a stopped server with one large account, and the memory limit of all programs."""

    data: Data
    did: str
    limit: Limit


@pytest.fixture(scope="module")
def large(
    running: Running,
    still: Data,
    pds_installs: dict[str, Install],
    line: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Large]:
    """An account with 200,000 records, and a snapshot of it taken within the memory limit of the jobs. The modules are
    as npm installs them: they take more memory than in one file."""
    path = tmp_path_factory.mktemp("large") / "pds"
    shutil.copytree(still.path, path, ignore=shutil.ignore_patterns(".snapshot"))
    did = running.club.members[0].did
    enlarge(path, did, realistic(did, _RECORDS))
    try:
        with limited(BackupOptions.model_fields["memory_mib"].default) as limit:
            inside = limit.node(pds_installs[line], path.parent)
            data = replace(still, path=path, install=inside)
            data.take()
            yield Large(data=data, did=did, limit=limit)
    except NoLimitError as error:
        pytest.skip(f"memory cannot be limited on this machine: {error}")


def _ran(command: list[str], folder: Path, **env: str) -> Any:
    env = {"PATH": os.environ["PATH"]} | env
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


@one_line
def test_copies_200_000_records_whole_in_the_memory_of_a_job(large: Large) -> None:
    with closing(sqlite3.connect(large.data.snapshot / repo_path(large.did) / "store.sqlite")) as db:
        assert db.execute("select count(*) from record").fetchone()[0] > _RECORDS
    assert large.limit.kills == 0


@one_line
def test_operator_verifies_200_000_records_in_the_memory_of_a_job(large: Large) -> None:
    command = large.limit.command([sys.executable, "-c", _BY_THE_OPERATOR, str(large.data.snapshot)])
    assert _ran(command, ROOT) == []


@one_line
def test_drill_verifies_and_serves_200_000_records_in_the_memory_of_a_job(
    large: Large, directory: PlcDirectory, tmp_path: Path
) -> None:
    drill = Drill(folder=tmp_path / "alloc", live=tmp_path / "pds", install=large.data.install, directory=directory)
    shutil.copytree(large.data.snapshot, drill.fetched, copy_function=os.link)
    (drill.folder / "data" / "fetched.json").write_text('{"seconds": 3}\n')
    drill.live.mkdir()
    assert "0 faults" in drill.verify()
    assert ": 0 faults" in drill.serve()
    assert large.limit.kills == 0


@one_line
def test_restores_200_000_records_in_the_memory_of_a_job(
    large: Large, directory: PlcDirectory, program_env: Mapping[str, str], tmp_path: Path
) -> None:
    data = replace(large.data, path=tmp_path / "pds")
    fetched = data.path / ".restore" / "fetched"
    shutil.copytree(large.data.snapshot, fetched, copy_function=os.link)
    before = large.data.manifest()["repositories"][large.did]["rev"]
    known = {"PDS_HOSTNAME": program_env["PDS_HOSTNAME"], "PDS_DID_PLC_URL": directory.url}
    with restoring(data, FILES, **known) as running:
        output, _ = running.communicate(timeout=DEADLINE)
    assert running.returncode == 0, output
    with closing(sqlite3.connect(data.path / repo_path(large.did) / "store.sqlite")) as db:
        count, rev = db.execute("select (select count(*) from record), rev from repo_root").fetchone()
    assert count > _RECORDS
    assert rev > before
    assert large.limit.kills == 0


def _pages(member: Member, collection: str) -> Iterator[dict[str, Any]]:
    parameters: dict[str, str | int] = {"repo": member.did, "collection": collection, "limit": 100}
    while True:
        page = member.client.query("com.atproto.repo.listRecords", parameters)
        yield from page["records"]
        if not page.get("cursor"):
            return
        parameters["cursor"] = page["cursor"]


def _wrong(data: Data, did: str) -> list[str]:
    with closing(RepositoryStore(data.path / repo_path(did) / "store.sqlite", did)) as store:
        return [fault.text for fault in store.problems((data.path / repo_path(did) / "key").read_bytes())]


def test_server_lists_and_extends_records_that_were_written_to_its_database(
    running: Running, faulty: Data, program_env: Mapping[str, str], directory: PlcDirectory, line: str
) -> None:
    did = running.club.members[0].did
    expected = dict(realistic(did, _FEW))
    rev = enlarge(faulty.path, did, expected.items())
    assert _wrong(faulty, did) == []
    env = open_environment(program_env, faulty.path, directory, line)
    served = faulty.path.with_suffix(".car")
    with PdsProcess(faulty.install, env, faulty.path.with_suffix(".log")) as server:
        # Members who joined after the copy are not in it.
        member = running.club.logged_in(running.club.members[0], server.url)
        assert member.client.query("com.atproto.sync.getLatestCommit", {"did": did})["rev"] == rev
        listed = {
            row["uri"].partition(f"{did}/")[2]: row["value"]
            for collection in {path.split("/")[0] for path in expected}
            for row in _pages(member, collection)
        }
        assert listed.items() >= expected.items()
        record = {"$type": POSTS, "text": "one more", "createdAt": "2026-01-01T00:00:00.000Z"}
        member.client.procedure("com.atproto.repo.createRecord", {"repo": did, "collection": POSTS, "record": record})
        collection, rkey = next(path for path in expected if path.startswith(POSTS)).split("/")
        deleted_record = {"repo": did, "collection": collection, "rkey": rkey}
        newest = member.client.procedure("com.atproto.repo.deleteRecord", deleted_record)["commit"]
        served.write_bytes(member.client.http.get("/xrpc/com.atproto.sync.getRepo", params={"did": did}).content)
    assert newest["rev"] > rev
    assert _wrong(faulty, did) == []
    named = [str(FILES / "repository.cjs"), str(served), str(faulty.path / repo_path(did) / "key"), did, newest["rev"]]
    assert _ran([str(faulty.install.node), "-e", _AS_SERVED, *named], faulty.install.folder) == []
