"""The programs of a drill and of an upgrade trial, on a real snapshot and real servers without a network."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.snapshot.did_keys import did_key
from cli.snapshot.verify import MANIFEST, repo_path
from tests.contract.lines import one_line
from tests.contract.restores import FILES, names_the_key
from tests.contract.snapshots import DEADLINE, Data, Running
from tests.support.flawed_proxy import flawed_proxy
from tools.trial.directory import PlcDirectory
from tools.trial.node import SERVERS, Install

pytestmark = pytest.mark.contract

_WITHOUT_NETWORK = ["unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


@dataclass(frozen=True, kw_only=True)
class Drill:
    """A scratch copy as fetched from the bucket, and the live volume, on which the run status is written."""

    folder: Path
    live: Path
    install: Install
    directory: PlcDirectory
    deadline: float = DEADLINE

    @property
    def fetched(self) -> Path:
        """The scratch copy."""
        return self.folder / "data" / "fetched"

    @property
    def accounts(self) -> int:
        """The number of accounts in the copy while it exists; the club itself continues to grow."""
        return len(json.loads((self.fetched / MANIFEST).read_text())["accounts"])

    def verify(self, *, code: int = 0, **change: str) -> str:
        """Run the first half; return its output."""
        return self._run([str(self.install.node), str(FILES / "drill.cjs")], code, **change)

    def serve(self, *, code: int = 0, **change: str) -> str:
        """Run the second half, with loopback only; return its output."""
        return self._alone("serve.cjs", code, **change)

    def upgrade_trial(self, *, code: int = 0, **change: str) -> str:
        """Run the first half of an upgrade trial, with loopback only; return its output."""
        modules = " ".join(f"--require={FILES / name}" for name in ("durable.cjs", "data_lock.cjs"))
        return self._alone("upgrade_trial.cjs", code, **{"TRIAL_NODE_OPTIONS": modules} | change)

    def _alone(self, name: str, code: int, **change: str) -> str:
        assert os.geteuid() == 0, "only root can create a container without a network"
        return self._run([*_WITHOUT_NETWORK, str(self.install.node), str(FILES / name)], code, **change)

    def outcome(self) -> dict[str, str]:
        """The status that the alerts job reads."""
        found: dict[str, str] = json.loads((self.live / ".run-status" / "drill.json").read_text())
        return found

    def _run(self, command: list[str], code: int, **change: str) -> str:
        env = {
            "PATH": os.environ["PATH"],
            "NOMAD_ALLOC_DIR": str(self.folder),
            "PDS_HOSTNAME": "noted.at",
            "PDS_DATA_DIRECTORY": str(self.live),
            "PDS_DID_PLC_URL": self.directory.url,
            "TRIAL_ENTRY": str(SERVERS / "pds.mjs"),
        } | change
        done = subprocess.run(
            command,
            cwd=self.install.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=self.deadline,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout


@pytest.fixture
def drill(running: Running, still: Data, directory: PlcDirectory, tmp_path: Path) -> Drill:
    still.take()
    instance = Drill(
        folder=tmp_path / "alloc",
        live=tmp_path / "pds",
        install=still.install,
        directory=directory,
    )
    shutil.copytree(still.snapshot, instance.fetched)
    (instance.folder / "data" / "fetched.json").write_text('{"seconds": 3}\n')
    instance.live.mkdir()
    return instance


def test_closed_connection_is_not_a_fault_of_the_backup(drill: Drill) -> None:
    drill.verify()
    output = drill.serve(NODE_OPTIONS=f"--require={Path(__file__).with_name('hangs_up_once.cjs')}")
    assert "0 faults" in output


def test_good_backup_is_served_whole_by_a_server_without_a_network(drill: Drill) -> None:
    count = drill.accounts
    output = drill.verify()
    assert f"looked at {count} accounts" in output
    output = drill.serve()
    assert f"{count} repositories served by the server on the copy: 0 faults" in output
    assert "recovery point  20" in output
    assert "fetched in 3 s" in output
    assert drill.outcome().keys() == {"first", "good", "of", "findings", "checked"}
    assert not drill.fetched.exists(), "members' data must be deleted"
    assert {path.name for path in drill.live.iterdir()} == {".run-status"}


def test_names_of_damaged_copies_of_blobs_are_left_for_the_next_backup(drill: Drill) -> None:
    drill.verify()
    manifest = json.loads((drill.fetched / MANIFEST).read_text())
    (drill.fetched / MANIFEST).write_text(json.dumps(manifest | {"blobs": "bucket"}))
    damaged = ["blocks/did:plc:ann/bafkreia"]
    finding = {"did:plc:ann": {"state": "with losses", "what": "blob bafkreia is damaged in the backups"}}
    outcome = {"problems": [], "findings": finding, "damaged": damaged}
    (drill.folder / "data" / "blobs.json").write_text(json.dumps(outcome))
    drill.serve()
    assert json.loads((drill.live / ".snapshot" / "damaged-copies.json").read_text()) == damaged
    assert dict[str, object](drill.outcome())["findings"] == finding


def test_repository_of_an_unfinished_account_is_not_a_fault(running: Running, drill: Drill) -> None:
    """A server that is killed in between leaves it so."""
    drill.verify()
    did = running.club.members[0].did
    manifest = json.loads((drill.fetched / "manifest.json").read_text())
    manifest["accounts"].remove(did)
    (drill.fetched / "manifest.json").write_text(json.dumps(manifest))
    for table in ("account", "actor", "repo_root"):
        _in_accounts(drill, f"delete from {table} where did = '{did}'")  # noqa: S608
    count = drill.accounts
    output = drill.serve()
    assert f"note: {did} has a repository and no account" in output
    assert f"{count} repositories served" in output


def _accounts_cut(drill: Drill) -> None:
    os.truncate(drill.fetched / "account.sqlite", 8192)


def _another_s(drill: Drill) -> None:
    manifest = json.loads((drill.fetched / MANIFEST).read_text())
    (drill.fetched / MANIFEST).write_text(json.dumps(manifest | {"hostname": "chess.at"}))


def _no_manifest(drill: Drill) -> None:
    (drill.fetched / MANIFEST).unlink()


@one_line
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_accounts_cut, "account.sqlite is damaged"),
        (_another_s, "snapshot of another PDS"),
        (_no_manifest, "manifest.json cannot be read"),
    ],
)
def test_bad_backup_is_named_and_no_server_is_started_on_it(
    drill: Drill, damage: Callable[[Drill], None], message: str
) -> None:
    """A fault of a single account is a finding: test_damaged_accounts.py."""
    damage(drill)
    output = drill.verify(code=1)
    assert message in output
    assert "served" not in drill.serve(code=1)
    assert all(f"FAULT: {problem}\n" in output for problem in drill.outcome()["why"].split("; "))
    assert "good" not in drill.outcome()
    assert not drill.fetched.exists()


def test_unreachable_directory_is_a_fault_and_the_server_is_started_nevertheless(drill: Drill) -> None:
    """An account whose document the directory refuses would hide for weeks that the backup is not served."""
    count = drill.accounts
    output = drill.verify(PDS_DID_PLC_URL="http://localhost:1")
    assert "its DID document cannot be read" in output
    output = drill.serve(code=1)
    assert f"{count} repositories served by the server on the copy: 0 faults" in output
    assert "FAULT" not in output, "the first half printed them"
    outcome = drill.outcome()
    assert "good" not in outcome
    assert outcome["why"].count("cannot be read") == 3
    assert outcome["why"].endswith(f"; and {count - 3} more")
    assert {"findings", "checked"} <= outcome.keys(), "findings are kept"


@one_line
def test_a_drill_that_looked_at_nothing_keeps_the_findings_of_the_last_one(drill: Drill) -> None:
    finding = {"did:plc:ann": {"state": "with losses", "what": "blob bafkreia is missing"}}
    (drill.live / ".run-status").mkdir()
    (drill.live / ".run-status" / "drill.json").write_text(json.dumps({"findings": finding, "checked": "2026-11-01"}))
    _no_manifest(drill)
    drill.verify(code=1)
    drill.serve(code=1)
    assert dict[str, object](drill.outcome())["findings"] == finding


@one_line
def test_account_whose_document_names_another_key_is_a_finding(running: Running, drill: Drill) -> None:
    """The server signs with a key that relays do not accept, and the member sees no error."""
    did, other = running.club.members[0].did, did_key("5d" * 32)
    with flawed_proxy(drill.directory.url) as proxy:
        proxy.rule = names_the_key(drill.directory, did, other)
        output = drill.verify(PDS_DID_PLC_URL=proxy.url)
    assert f"FINDING: {did}: with losses: its DID document names this server and the key {other}" in output
    assert "0 faults" in output, "the backup has no fault, and the other accounts are served"
    assert "0 faults" in drill.serve()
    (finding,) = dict[str, object](drill.outcome())["findings"].items()  # type: ignore[attr-defined]
    assert finding[0] == did
    assert "docs/guide/members.md#another-signing-key" in finding[1]["what"]


def test_fault_that_only_the_server_finds_fails_the_second_half(running: Running, drill: Drill) -> None:
    drill.verify()
    did = running.club.members[2].did
    with closing(sqlite3.connect(drill.fetched / repo_path(did) / "store.sqlite")) as db:
        db.execute("delete from repo_block where cid in (select cid from record)")
        db.commit()
    blob = next((drill.fetched / "blocks" / running.club.members[3].did).iterdir())
    blob.unlink()
    output = drill.serve(code=1)
    assert did in output
    assert f"blob {blob.name} is not served" in output


@one_line
def test_server_that_does_not_start_is_a_fault(drill: Drill) -> None:
    drill.verify()
    (drill.fetched / "account.sqlite").write_bytes(b"no database")
    assert "FAULT: on the copy: the server does not start. Its output:\n" in drill.serve(code=1)
    assert "does not start. Its output: " in (why := drill.outcome()["why"]), "one line of `./pds check`"
    assert "\n" not in why


@one_line
def test_killed_first_half_is_a_failed_drill(drill: Drill) -> None:
    drill.serve(code=1)
    assert "was not checked" in drill.outcome()["why"]
    assert not drill.fetched.exists()


@one_line
def test_drill_fails_if_nothing_was_fetched(drill: Drill) -> None:
    shutil.rmtree(drill.fetched)
    assert "FAULT: nothing was fetched" in drill.verify(code=1)
    drill.serve(code=1)
    assert "nothing was fetched" in drill.outcome()["why"]


# --- the upgrade trial

_BROKEN = """
import { createRequire } from "node:module";
import { join } from "node:path";
const require = createRequire(join(process.cwd(), "package.json"));
const { PDS, envToCfg, envToSecrets, readEnv } = require("@atproto/pds");
const env = readEnv();
const pds = await PDS.create(envToCfg(env), envToSecrets(env));
pds.app.post("/xrpc/com.atproto.repo.createRecord", (request, response) => response.status(500).json({}));
const { stack } = pds.app._router;
stack.splice(2, 0, stack.pop());
await pds.start();
"""
"""A server that answers everything but `createRecord`."""


def _in_accounts(drill: Drill, statement: str) -> None:
    with closing(sqlite3.connect(drill.fetched / "account.sqlite")) as db:
        db.execute(statement)
        db.commit()


def test_working_new_version_passes_and_migrates_nothing(drill: Drill) -> None:
    count = drill.accounts
    output = drill.upgrade_trial(TRIAL="candidate")
    for done in ("2 accounts created", "on the event stream", "a blob uploaded and served", "after a restart"):
        assert done in output
    assert not (drill.folder / "data" / "throwaway").exists()
    output = drill.serve(TRIAL="candidate")
    assert f"{count} repositories served" in output
    assert "MIGRATES" not in output
    assert list(drill.live.iterdir()) == [], "a trial must leave nothing"


def test_trial_catches_a_version_that_creates_no_records(drill: Drill, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mjs"
    broken.write_text(_BROKEN)
    output = drill.upgrade_trial(code=1, TRIAL="candidate", TRIAL_ENTRY=str(broken))
    assert "answers on throw-away data" in output
    assert "FAULT: on throw-away data: repo.createRecord is answered with 500" in output
    assert "served" not in drill.serve(code=1, TRIAL="candidate"), "the copy must not be used"


def test_trial_catches_a_version_whose_writes_cannot_be_made_durable(drill: Drill, tmp_path: Path) -> None:
    """The new version would refuse to start only after the old server was stopped."""
    other = tmp_path / "other.mjs"
    other.write_text(
        'import { DatabaseSync } from "node:sqlite";\n'
        "globalThis.kept = new DatabaseSync(`${process.env.PDS_DATA_DIRECTORY}/other.sqlite`);\n"
        f"await import({json.dumps(str(SERVERS / 'pds.mjs'))});\n"
    )
    output = drill.upgrade_trial(code=1, TRIAL="candidate", TRIAL_ENTRY=str(other))
    assert "cannot be made to flush what it acknowledges: it opened" in output
    assert "served" not in drill.serve(code=1, TRIAL="candidate"), "the copy must not be used"


def test_version_that_does_not_start_is_reported_with_its_own_error(drill: Drill, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mjs"
    broken.write_text('throw new Error("no such option");')
    assert "no such option" in drill.upgrade_trial(code=1, TRIAL="candidate", TRIAL_ENTRY=str(broken))


def test_reports_a_version_that_migrates_a_database(drill: Drill) -> None:
    drill.upgrade_trial(TRIAL="candidate")
    _in_accounts(drill, "drop index lexicon_failures_idx")
    _in_accounts(drill, "delete from kysely_migration where name = '007'")  # the last one of both version lines
    assert "MIGRATES account.sqlite 007" in drill.serve(TRIAL="candidate")


_MIGRATES_A_STORE = """
import { DatabaseSync } from "node:sqlite";
const db = new DatabaseSync(STORE);
db.exec("insert into kysely_migration values ('099', '2026-01-01T00:00:00.000Z')");
db.close();
"""


@one_line
def test_reports_a_version_that_migrates_the_accounts_databases(drill: Drill, tmp_path: Path) -> None:
    """Going back is a restore then, although account.sqlite and sequencer.sqlite stay as they are."""
    drill.upgrade_trial(TRIAL="candidate")
    first = json.loads((drill.fetched / MANIFEST).read_text())["accounts"][0]
    store = json.dumps(str(drill.fetched / repo_path(first) / "store.sqlite"))
    entry = tmp_path / "migrating.mjs"
    entry.write_text(
        _MIGRATES_A_STORE.replace("STORE", store) + f"await import({json.dumps(str(SERVERS / 'pds.mjs'))});"
    )
    output = drill.serve(TRIAL="candidate", TRIAL_ENTRY=str(entry))
    assert [line for line in output.splitlines() if line.startswith("MIGRATES")] == ["MIGRATES store.sqlite 099"]


def test_version_older_than_the_data_is_reported_as_needing_a_restore(drill: Drill) -> None:
    drill.upgrade_trial(TRIAL="candidate")
    _in_accounts(drill, "insert into kysely_migration values ('099', '2026-01-01T00:00:00.000Z')")
    output = drill.serve(code=1, TRIAL="candidate")
    assert "older than the data: it does not know their migration 099. Going back is a restore" in output


@one_line
def test_trial_fails_without_a_backup(drill: Drill) -> None:
    drill.upgrade_trial(TRIAL="candidate")
    shutil.rmtree(drill.fetched)
    assert "FAULT: no backup was fetched" in drill.serve(code=1, TRIAL="candidate")
