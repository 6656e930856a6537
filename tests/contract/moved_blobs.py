"""A PDS's data, its bucket and its backups, and the programs that copy blobs between them, run as the jobs run them."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from components.render.jobs.blobs import blobs_job
from offline.hcl_reader import job_of, task_of
from tests.contract.restores import FILES
from tests.contract.snapshots import DEADLINE, Data, account_store
from tests.support.programs import BACKUP, settings_of
from tests.support.s3 import LIMITED, REGION, ask, s3_server

KILLS = Path(__file__).with_name("kills_at_a_step.cjs")
BUCKETS = tuple(f"blobs-{number}" for number in range(40))
COPIES = "copies"
_PASSWORD = "a password for the tests"


@pytest.fixture(scope="session")
def blob_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Iterator[str]]]:
    """A service, and its empty buckets: each test takes one."""
    with s3_server(tmp_path_factory.mktemp("s3"), COPIES, *BUCKETS, strangers=("theirs",)) as url:
        yield url, iter(BUCKETS)


@dataclass(frozen=True, kw_only=True)
class BlobSite:
    """The data of a PDS, and its bucket."""

    data: Data
    url: str
    bucket: str
    serve: str = "disk"

    @property
    def server(self) -> dict[str, str | None]:
        """Variables of a server that uses the bucket."""
        keep = {name: value for name, value in self._env().items() if name.startswith(("PDS_BLOBSTORE_S3_", "AWS_RE"))}
        return dict.fromkeys(("PDS_BLOBSTORE_DISK_LOCATION", "PDS_BLOBSTORE_DISK_TMP_LOCATION")) | keep

    @property
    def backups(self) -> dict[str, str]:
        """restic's variables."""
        place = f"{COPIES}/{self.bucket}.test"
        return {"RESTIC_REPOSITORY": f"s3:{self.url}/{place}", "RESTIC_PASSWORD": _PASSWORD, **LIMITED}

    def _env(self) -> dict[str, str]:
        settings = settings_of(backup=BACKUP, blobs={"bucket": self.bucket, "serve": self.serve})
        task = task_of(job_of(blobs_job(settings, "dev"), "pds-blobs"), "blobs")
        env = {name: str(value) for name, value in task["env"][0].items()}
        return env | {
            "PATH": os.defpath,
            "NODE_COMPILE_CACHE": str(self.data.install.folder.parent / "compiled"),
            "PDS_DATA_DIRECTORY": str(self.data.path),
            "PDS_SNAPSHOT_RESERVE_MIB": "1",
            "PDS_BLOBSTORE_S3_ENDPOINT": self.url,
            "PDS_BLOBSTORE_S3_REGION": REGION,
            "PDS_BLOBSTORE_S3_ACCESS_KEY_ID": LIMITED["AWS_ACCESS_KEY_ID"],
            "PDS_BLOBSTORE_S3_SECRET_ACCESS_KEY": LIMITED["AWS_SECRET_ACCESS_KEY"],
            "AWS_DEFAULT_REGION": REGION,
            **self.backups,
        }

    def run(self, step: str, to: str = "", env: Mapping[str, str] | None = None, *, code: int = 0) -> str:
        """Run a step of the job to its end; return its output."""
        return self.program("blobs.cjs", {"NOMAD_META_step": step, "NOMAD_META_to": to, **(env or {})}, code=code)

    def program(self, name: str, env: Mapping[str, str], *, code: int = 0) -> str:
        """Run a program with the job's environment and this one to its end; return its output."""
        done = self._run(name, dict(env))
        assert done.returncode == code, done.stdout
        return done.stdout

    def killed_everywhere(self, step: str, to: str = "") -> int:
        """Run a step again and again, killed two steps later each time, until it succeeds; return the number of kills.
        After each of them every blob is somewhere."""
        meta = {"NOMAD_META_step": step, "NOMAD_META_to": to, "NODE_OPTIONS": f"--require={KILLS}"}
        for life in range(1, 60, 2):
            done = self._run("blobs.cjs", meta | {"KILL_AT": str(life)})
            if done.returncode == 0:
                return life // 2
            assert done.returncode == -signal.SIGKILL, done.stdout
            assert self.everywhere() == self.named(), "a kill lost a blob"
        raise AssertionError("it never came to its end")

    def started(self, program: str, change: Mapping[str, str]) -> tuple[list[str], dict[str, Any]]:
        """The command of a program with the job's environment and this one; and the folder and environment for it."""
        return (
            [str(self.data.install.node), str(FILES / program)],
            {"cwd": self.data.install.folder, "env": {**self._env(), **change}},
        )

    def _run(self, program: str, change: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command, options = self.started(program, change)
        return subprocess.run(
            command,
            **options,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The data, locked as by a server that runs on them."""
        file = self.data.path / ".run-status" / "server-lock.sqlite"
        file.parent.mkdir(mode=0o700, exist_ok=True)
        with closing(sqlite3.connect(file, isolation_level=None)) as lock:
            lock.execute("begin exclusive")
            yield

    # --- what is where, as DID/CID

    def named(self) -> set[str]:
        """The blobs that the databases name."""
        found = set()
        for store in self.data.path.glob("actors/*/did:*/store.sqlite"):
            with closing(sqlite3.connect(store)) as db:
                rows = db.execute('select cid from blob where "tempKey" is null').fetchall()
            found |= {f"{store.parent.name}/{cid}" for (cid,) in rows}
        return found

    def on_disk(self) -> set[str]:
        """The blobs on the volume whose content is theirs."""
        blocks = self.data.path / "blocks"
        files = [*blocks.glob("did:*/*"), *blocks.glob("quarantine/did:*/*")]
        return {f"{file.parent.name}/{file.name}" for file in files if not file.suffix and is_blob(file)}

    def in_bucket(self, bucket: str = "", prefix: str = "") -> set[str]:
        """The blobs in the bucket: the service checked their content."""
        return {"/".join(key.split("/")[-2:]) for key in self._keys(bucket, prefix) if "tmp/" not in key}

    def objects(self, prefix: str) -> set[str]:
        """The rest of the names of the objects in the bucket that begin so."""
        return {key.removeprefix(prefix) for key in self._keys("", prefix)}

    def _keys(self, bucket: str, prefix: str) -> list[str]:
        return re.findall("<Key>(.*?)</Key>", ask("GET", f"{self.url}/{bucket or self.bucket}?prefix={prefix}"))

    def everywhere(self) -> set[str]:
        """The named blobs that are in one of the two places."""
        return (self.on_disk() | self.in_bucket()) & self.named()

    def in_backups(self) -> set[str]:
        """The blobs with a copy beside the backups."""
        return self.in_bucket(COPIES, f"{self.bucket}.test-blobs/")

    def recorded(self) -> Any:
        """The recorded place of the blobs."""
        file = self.data.path / ".pds-blobs.json"
        return json.loads(file.read_text())["store"] if file.exists() else None

    def file(self, blob: str) -> Path:
        """The file of DID/CID on the volume."""
        return self.data.path / "blocks" / blob


def is_blob(file: Path) -> bool:
    """Whether the file's content is that of the CID that names it."""
    digest = base64.b32decode(file.name[1:].upper() + "=" * (-(len(file.name) - 1) % 8))[-32:]
    return sha256(file.read_bytes()).digest() == digest


def member_uploads(data: Path, did: str, content: bytes) -> str:
    """Store an upload that no record names yet, as the server does; return its key."""
    digest = sha256(content).digest()
    cid = "b" + base64.b32encode(b"\x01\x55\x12\x20" + digest).decode().lower().rstrip("=")
    (data / "temp" / did).mkdir(parents=True, exist_ok=True)
    (data / "temp" / did / "upload-key").write_bytes(content)
    store = account_store(data, did)
    row = (cid, "image/png", len(content), "upload-key", "2026-01-01T00:00:00.000Z")
    with closing(sqlite3.connect(store)) as db, db:
        db.execute('insert into blob (cid, "mimeType", size, "tempKey", "createdAt") values (?, ?, ?, ?, ?)', row)
    return "upload-key"
