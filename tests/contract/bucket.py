"""A PDS's place in a bucket, and the tasks of the rendered jobs that use it, run by hand as on a host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.lib.subprocesses import child
from components.render.jobs.backup import backup_job
from components.render.jobs.restore import restore_job
from offline.hcl_reader import job_of, task_of
from tests.contract.cheap_repository import PASSWORD
from tests.contract.restores import FILES
from tests.contract.snapshots import DEADLINE, Data
from tests.support.programs import BACKUP, settings_of
from tests.support.s3 import BUCKET, LIMITED, ask, put

_OWN_PROCESSES = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--")
"""As in a container: a killed run leaves no process, and restic looks for none of another container."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A PDS's place in the bucket, and the tasks of the rendered jobs that use it."""

    url: str
    place: str
    folder: Path

    def _env(self, **change: str) -> dict[str, str]:
        task = task_of(job_of(backup_job(settings_of(backup=BACKUP), "dev"), "pds-backup"), "send")
        env = {name: str(value) for name, value in task["env"][0].items()}
        assert env["RESTIC_REPOSITORY"] == "s3:https://ams3.digitaloceanspaces.com/dev-noted-at-backup/noted.at"
        return (
            env
            | {
                "PATH": os.environ["PATH"],
                "NOMAD_ALLOC_DIR": str(self.folder),
                "RESTIC_REPOSITORY": f"s3:{self.url}/{BUCKET}/{self.place}",
                "RESTIC_PASSWORD": PASSWORD,
                **LIMITED,
            }
            | change
        )

    def prepare(self, repository: Mapping[str, bytes]) -> Bucket:
        """Put the files of an empty repository into this place, in which each command costs less than in one that
        restic makes; return this."""
        for name, content in repository.items():
            put(f"{self.url}/{BUCKET}/{self.place}/{name}", content)
        return self

    def send(self, data: Data, *, code: int = 0, **change: str) -> str:
        """Run the send task on the finished snapshot of `data`; return its output."""
        return self._run(self._sending(), code, PDS_DATA_DIRECTORY=str(data.path), **change)

    def fetch(self, volume: Path, *, code: int = 0, **change: str) -> str:
        """Run the restore job's fetch task for a data directory; return its output."""
        return self._run(self._fetching(), code, **_of(volume) | change)

    def send_killed(self, data: Data, seconds: float) -> bool:
        """Start sending and kill it with its children after `seconds`; return whether it was still running."""
        return self._killed(self._sending(), seconds, PDS_DATA_DIRECTORY=str(data.path))

    def fetch_killed(self, volume: Path, seconds: float) -> bool:
        """The same with fetching."""
        return self._killed(self._fetching(), seconds, **_of(volume))

    def run_status(self, data: Data) -> dict[str, str]:
        """Run the last task; return the run status that it writes."""
        env = {"PDS_DATA_DIRECTORY": str(data.path), "NOMAD_ALLOC_DIR": str(self.folder)}
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        subprocess.run([data.install.node, FILES / "run_status.cjs"], env=env, check=True, timeout=DEADLINE)
        found: dict[str, str] = json.loads((data.path / ".run-status" / "backup.json").read_text())
        return found

    def leave_a_lock(self, host: str = "") -> None:
        """Kill a run, here or on a `host` of that name, while it holds an exclusive lock."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        named = f"hostname {host};" if host else ""
        command = ["unshare", "--uts", *_OWN_PROCESSES, "sh", "-c", f"{named} restic --no-cache check --read-data; :"]
        with child(command, DEADLINE, env=self._env(), **quiet) as running:
            while "<Key>" not in ask("GET", f"{self.url}/{BUCKET}?prefix={self.place}/locks/"):
                assert running.poll() is None, "it was over before it was seen"

    def _sending(self) -> list[str]:
        task = task_of(job_of(backup_job(settings_of(backup=BACKUP), "dev"), "pds-backup"), "send")
        return self._script(task, "send.sh")

    def _fetching(self) -> list[str]:
        task = task_of(job_of(restore_job(settings_of(backup=BACKUP), "dev"), "pds-restore"), "fetch")
        assert task["env"][0]["TARGET"] == "/pds/.restore"
        return self._script(task, "fetch.sh")

    def _killed(self, command: list[str], seconds: float, **change: str) -> bool:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with child(command, DEADLINE, env=self._env(**change), start_new_session=True, **quiet) as running:
            time.sleep(seconds)
            return running.poll() is None

    def _script(self, task: dict[str, Any], name: str) -> list[str]:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        for item in task["template"]:
            if item["destination"].startswith("local/"):
                (self.folder / Path(item["destination"]).name).write_text(item["data"])
        return [*_OWN_PROCESSES, "/bin/sh", str(self.folder / name)]

    def restic(self, *arguments: str, code: int = 0, **change: str) -> str:
        """Run restic on this place; return its output."""
        return self._run(["restic", "--no-cache", *arguments], code, **change)

    def _run(self, command: list[str], code: int, **change: str) -> str:
        assert shutil.which("restic"), "restic is missing: `apt-get install restic`"
        done = subprocess.run(
            command,
            env=self._env(**change),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout


def _of(volume: Path) -> dict[str, str]:
    return {"TARGET": str(volume / ".restore"), "PDS_SNAPSHOT_RESERVE_MIB": "1"}
