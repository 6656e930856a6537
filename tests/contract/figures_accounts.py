"""`make bench`, the part about many accounts: the duration of a backup and a restore, by the number of accounts.

A real server creates one account; the others are copies of it below the XRPC layer, each with its own DID and signing
key. Nothing is asserted. The counts can be given: `python -m tests.contract.figures_accounts 200 2000`.
"""

import json
import os
import secrets
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import libipld
from rich.console import Console
from rich.table import Table

from cli.snapshot.did_keys import did_key
from cli.snapshot.verify import repo_path
from offline.mock_engine import ROOT
from offline.stackfile import evaluate_stack
from tests.contract.club import founded
from tests.contract.figures import _run as timed_run
from tests.contract.figures import _timed as timed
from tests.contract.large import _commit, bytes_of
from tests.contract.restores import FILES
from tests.contract.snapshots import Data, open_environment
from tests.support.serving import LOOPBACK, served
from tools.trial.directory import PlcDirectory
from tools.trial.node import PDS_LINES, install
from tools.trial.pds import PdsProcess
from tools.trial.trial import task_environment

_COUNTS = (200, 2000)
_CHANGED = 20
_ROUNDS = 3
_SETTLED = 3.0
"""Seconds until no file was written recently."""


def main(counts: tuple[int, ...]) -> int:
    """Print the table."""
    cache = ROOT / "build" / "cache"
    pds, plc = install(f"pds-{PDS_LINES[-1]}", cache), install("plc", cache)
    table = Table(
        "accounts", "first backup, s", f"{_CHANGED} changed, s", "`cp -a`, s", "restore, s", "ratio",
        title="Accounts with 10 posts and a blob of 50 kB each; sending and fetching left out",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="pds-figures-") as name:
        folder = Path(name)
        path = folder / "club" / "pds"
        path.mkdir(parents=True)
        with PlcDirectory(plc, data=folder / "plc", log=folder / "plc.log") as directory:
            env = dict(task_environment(evaluate_stack("dev"))[0])
            env = open_environment(env, path, directory, PDS_LINES[-1])
            with PdsProcess(pds, env, folder / "pds.log") as server:
                club = founded(server.url, env["PDS_HOSTNAME"], members=1, posts=10)
                club.post_blob(club.members[0], bytes(50_000))
        data = Data(path=path, install=pds, document_key=lambda did: None, deadline=3600.0)
        for count in counts:
            grown = replace(data, path=folder / str(count) / "pds")
            shutil.copytree(path, grown.path)
            keys = _copies(grown.path, club.members[0].did, count)
            table.add_row(f"{count:,}", *_row(grown, keys, folder))
            shutil.rmtree(grown.path.parent)
    Console().print(table)
    return 0


def _copies(data: Path, did: str, count: int) -> dict[str, str]:
    """Create so many accounts from one; return DID to did:key."""
    keys = {}
    with closing(sqlite3.connect(data / "account.sqlite")) as db:
        rows = {table: db.execute(f"select * from {table} where did = ?", (did,)).fetchone() for table in _TABLES}  # noqa: S608
        for number in range(count):
            other = f"did:plc:{''.join(secrets.choice('abcdefghijklmnopqrstuvwxyz234567') for _ in range(24))}"
            keys[other], root = _copy(data, did, other)
            for table, row in rows.items():
                names = [column[1] for column in db.execute(f"pragma table_info({table})")]
                change = {"did": other, "handle": f"member-{number}.noted.at", "email": f"{number}@club.test"} | root
                values = [change.get(name, value) for name, value in zip(names, row, strict=True)]
                db.execute(f"insert into {table} values ({','.join('?' * len(values))})", values)  # noqa: S608
            db.commit()
        for table in _TABLES:
            db.execute(f"delete from {table} where did = ?", (did,))  # noqa: S608
        db.commit()
    with closing(sqlite3.connect(data / "sequencer.sqlite")) as db:
        db.execute("delete from repo_seq where did = ?", (did,))
        db.commit()
    shutil.rmtree(data / repo_path(did))
    shutil.rmtree(data / "blocks" / did)
    return keys


_TABLES = ("actor", "account", "repo_root")


def _copy(data: Path, did: str, other: str) -> tuple[str, dict[str, str]]:
    folder = data / repo_path(other)
    shutil.copytree(data / repo_path(did), folder)
    shutil.copytree(data / "blocks" / did, data / "blocks" / other, copy_function=os.link)
    private = secrets.token_bytes(32)
    (folder / "key").write_bytes(private)
    with closing(sqlite3.connect(folder / "store.sqlite")) as db:
        for table, column in (("record", "uri"), ("record_blob", "recordUri"), ("backlink", "uri")):
            db.execute(f"update {table} set {column} = replace({column}, ?, ?)", (did, other))  # noqa: S608
        db.execute("update repo_root set did = ?", (other,))
        cid, rev = db.execute("select cid, rev from repo_root").fetchone()
        (commit,) = db.execute("select content from repo_block where cid = ?", (cid,)).fetchone()
        top = bytes_of(libipld.encode_cid(libipld.decode_dag_cbor(commit)["data"]))
        _commit(db, other, top, rev, folder / "key")
        db.commit()
        (cid,) = db.execute("select cid from repo_root").fetchone()
    return did_key(private.hex()), {"cid": cid, "rev": rev}


def _row(data: Data, keys: dict[str, str], folder: Path) -> list[str]:
    time.sleep(_SETTLED)
    _, first = timed(data.take)
    time.sleep(_SETTLED)
    data.take()  # now all have their stamps
    for did in list(keys)[:_CHANGED]:
        with closing(sqlite3.connect(data.path / repo_path(did) / "store.sqlite")) as db:
            db.execute("insert into account_pref (name, valueJson) values ('a', '{}')")
            db.commit()
    time.sleep(_SETTLED)
    _, again = timed(data.take)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            did = self.path.split("/")[1]
            service = {"atproto_pds": {"type": "AtprotoPersonalDataServer", "endpoint": "https://noted.at"}}
            known = {"verificationMethods": {"atproto": keys[did]}, "services": service, "alsoKnownAs": []}
            body = json.dumps(known).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    plain, ours = [], []
    with served(Answers) as port:
        for number in range(_ROUNDS):
            copied, volume = folder / f"copied-{number}", folder / f"volume-{number}"
            plain.append(timed_run(["cp", "-a", str(data.snapshot), str(copied)]))
            (volume / ".restore").mkdir(parents=True)
            copied.rename(volume / ".restore" / "fetched")
            env = {
                "PATH": os.defpath,
                "PDS_HOSTNAME": "noted.at",
                "PDS_DATA_DIRECTORY": str(volume),
                "PDS_DID_PLC_URL": f"http://{LOOPBACK}:{port}",
                "PDS_SNAPSHOT_RESERVE_MIB": "1",
            }
            command = [str(data.install.node), str(FILES / "restore.cjs")]
            ours.append(timed_run(command, cwd=data.install.folder, env=env))
            shutil.rmtree(volume)
    least, most = statistics.median(plain), statistics.median(ours)
    return [f"{first:.1f}", f"{again:.1f}", f"{least:.2f}", f"{most:.1f}", f"{most / least:.1f}"]


if __name__ == "__main__":
    raise SystemExit(main(tuple(map(int, sys.argv[1:])) or _COUNTS))
