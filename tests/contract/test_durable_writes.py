"""The effect of the preload `durable.cjs` on the real server: flushed databases, blobs and keys, or no start.

`test_power_cut.py` tests a power cut, which is its purpose.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cli.snapshot.verify import repo_path
from components.render.jobs.pds import pds_job
from offline.hcl_reader import job_of, task_of
from tests.contract.club import Club
from tests.contract.restores import FILES
from tests.contract.snapshots import open_environment
from tests.support.programs import settings_of
from tools.trial.directory import PlcDirectory
from tools.trial.node import Install
from tools.trial.pds import PdsProcess
from tools.trial.process import ServerEndedError

pytestmark = pytest.mark.contract

_SERVER = "@atproto/pds"
_REPORT = Path(__file__).with_name("report.cjs")
_LOCK = FILES / "data_lock.cjs"


@dataclass(frozen=True, kw_only=True)
class HostConnection:
    """The install and data of a server of one version line, and its environment as the program renders it."""

    install: Install
    env: dict[str, str]
    data: Path

    def server(self, **change: str) -> PdsProcess:
        """The server, with `change` in its environment."""
        return PdsProcess(self.install, self.env | change, self.data.with_suffix(".log"))

    def reported(self, options: str) -> tuple[list[dict[str, Any]], str]:
        """The report of `report.cjs` on a server with these preloads and a new account with a blob; its DID."""
        report = self.data.with_suffix(".report")
        before, lock, rest = options.partition(f'--require="{_LOCK}"')  # which loads the library
        options = f'{before} --require="{_REPORT}" {lock} {rest}'
        with self.server(NODE_OPTIONS=options, REPORT=str(report)) as server:
            club = Club(server.url, self.env["PDS_HOSTNAME"])
            member = club.join()
            club.post_blob(member, b"a blob")
        return [json.loads(line) for line in report.read_text().splitlines()], member.did


@pytest.fixture
def place(
    pds_installs: dict[str, Install], program_env: dict[str, str], directory: PlcDirectory, line: str, tmp_path: Path
) -> HostConnection:
    data = tmp_path / "pds"
    data.mkdir()
    return HostConnection(
        install=pds_installs[line], env=open_environment(program_env, data, directory, line), data=data
    )


@pytest.fixture
def quick_place(place: HostConnection, quick_installs: dict[str, Install], line: str) -> HostConnection:
    """The same with the server's modules in one file, if neither its files nor what it flushes is the question."""
    return replace(place, install=quick_installs[line])


def test_every_connection_is_full_and_every_file_is_flushed_with_its_folders(place: HostConnection) -> None:
    lines, did = place.reported(place.env["NODE_OPTIONS"])
    levels = {Path(line["database"]).name: line["synchronous"] for line in lines if "database" in line}
    assert {"account.sqlite", "sequencer.sqlite", "store.sqlite"} <= levels.keys()
    assert {line["synchronous"] for line in lines if "database" in line} == {2}, f"2 is FULL: {levels}"
    flushed = {line["inode"] for line in lines if "inode" in line}
    (blob,) = (place.data / "blocks" / did).iterdir()
    key = place.data / repo_path(did) / "key"
    entries = [folder for file in (blob, key) for folder in (file, *file.parents) if folder.is_relative_to(place.data)]
    assert [name for name in entries if name.stat().st_ino not in flushed] == [], "a power cut would lose these"
    assert list((place.data / ".writing").iterdir()) == [], "no temporary file is left"


def test_without_the_option_the_server_writes_as_upstream_does(place: HostConnection) -> None:
    settings = settings_of(pds={"durable_writes": False})
    job: dict[str, Any] = job_of(pds_job(settings, "dev"), "pds")
    assert "durable.cjs" not in json.dumps(job), "neither in the environment nor among the files"
    [env] = task_of(job, "pds")["env"]
    assert env["NODE_OPTIONS"] == "--require=/local/volume_check.cjs --require=/local/data_lock.cjs"
    lines, _ = place.reported(f'--require="{FILES / "volume_check.cjs"}"')
    assert 1 in {line["synchronous"] for line in lines if "database" in line}, "NORMAL, or the preload is not needed"
    assert not [line for line in lines if "inode" in line]


# --- a server with changed internals

_OTHER_DRIVER = """
class OTHER {
  constructor(name) { this.db = new (process.getBuiltinModule("node:sqlite").DatabaseSync)(name); }
  pragma(text) { this.db.exec(`PRAGMA ${text}`); }
  close() { this.db.close(); }
  prepare(sql) {
    const made = this.db.prepare(sql);
    const reader = made.columns().length > 0;
    return { reader, all: (given) => made.all(...given), run: (given) => made.run(...given) };
  }
}
"""
_PAST_THE_LIBRARY = """
const { DatabaseSync } = process.getBuiltinModule("node:sqlite");
globalThis.kept = new DatabaseSync(`${process.env.PDS_DATA_DIRECTORY}/other.sqlite`);
"""
_DEAF = """
const { dlopen } = process;
process.dlopen = function (module, ...rest) {
  dlopen.call(this, module, ...rest);
  const native = module.exports?.Database?.prototype;
  const exec = native?.exec;
  if (exec) native.exec = function (sql) { if (!/synchronous/.test(sql)) exec.call(this, sql); };
};
"""
_OTHER_WRITE = 'const OTHER = async (...rest) => process.getBuiltinModule("node:fs").writeFileSync(...rest);'


def _copied(install: Install, folder: Path) -> Install:
    """An install of links to the real one, with a copy of the server's package."""
    for path in (install.folder / "node_modules").iterdir():
        scope = path.name == _SERVER.split("/")[0]
        for inner in path.iterdir() if scope else (path,):
            link = folder / inner.relative_to(install.folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(inner)
    shutil.copy(install.folder / "package.json", folder)
    (folder / "node_modules" / _SERVER).unlink()
    shutil.copytree(install.folder / "node_modules" / _SERVER, folder / "node_modules" / _SERVER)
    return replace(install, folder=folder.resolve())


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change that a later version might make in one of its files, and the error of the server."""

    file: str
    old: str
    new: str
    message: str
    more: str = ""

    def plant(self, server: Path) -> None:
        """Apply it to the package at `server`. `old` matches the code of both version lines."""
        file = server / "dist" / self.file
        text, count = re.subn(self.old, self.new, file.read_text())
        assert count, f"{file} has changed; nothing is planted"
        file.write_text(f"{text}\n{self.more}\n")  # the last line is a comment without an end


_CHANGES = {
    "blobs written in another way": Change(
        file="disk-blobstore.js",
        old=r"(promises_1\.default|fs)\.writeFile\(",
        new="OTHER(",
        more=_OTHER_WRITE,
        message="its stores wrote blocks/did:plc:trial/",
    ),
    "keys written in another way": Change(
        file="actor-store/actor-store.js",
        old=r"(promises_1\.default|fs)\.writeFile\(",
        new="OTHER(",
        more=_OTHER_WRITE,
        message="its stores wrote actors/",
    ),
    "another database library": Change(
        file="db/db.js",
        old=r"new (better_sqlite3_1\.default|SqliteDB)\(",
        new="new OTHER(",
        more=_OTHER_DRIVER,
        message="store.sqlite by means that are not known here",
    ),
    "a blob store with other methods": Change(
        file="disk-blobstore.js", old=r"async putTemp\(", new="async keepTemp(", message="putTemp is not a function"
    ),
}


def _refusal(server: PdsProcess) -> str:
    with pytest.raises(ServerEndedError) as refused, server:
        pass
    return refused.value.last_lines


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES.keys())
def test_refuses_a_server_with_changed_internals_before_it_listens(
    place: HostConnection, change: Change, tmp_path: Path
) -> None:
    changed = _copied(place.install, tmp_path / "changed")
    change.plant(changed.folder / "node_modules" / _SERVER)
    error = _refusal(replace(place, install=changed).server())
    assert "REFUSED: this version of the server cannot be made to flush what it acknowledges: " in error
    assert change.message in error, "the error must name the fault"
    assert "'durable_writes: false'" in error, "the error must name the remedy"


def test_refuses_a_connection_that_stays_normal(quick_place: HostConnection, tmp_path: Path) -> None:
    """As with a library that accepts the pragma and ignores it."""
    deaf = tmp_path / "deaf.cjs"
    deaf.write_text(_DEAF)
    error = _refusal(quick_place.server(NODE_OPTIONS=f'--require="{deaf}" {quick_place.env["NODE_OPTIONS"]}'))
    assert "REFUSED: " in error
    assert "answers 'PRAGMA synchronous' with 1, not 2" in error


def test_refuses_a_database_opened_without_the_library(quick_place: HostConnection, tmp_path: Path) -> None:
    """As a worker thread of a later version might do."""
    other = tmp_path / "other.cjs"
    other.write_text(_PAST_THE_LIBRARY)
    error = _refusal(quick_place.server(NODE_OPTIONS=f'{quick_place.env["NODE_OPTIONS"]} --require="{other}"'))
    assert f"it opened {quick_place.data}/other.sqlite by other means than better-sqlite3" in error
