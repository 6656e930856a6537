"""A PDS's place in a bucket, and the tasks of the rendered jobs that use it, run by hand as on a host."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.render.backup_job import backup_job
from components.render.restore_job import restore_job
from tests.programs import BACKUP, settings_of
from tests.s3 import BUCKET, KEYS
from tools.hcl_text import job_of, task_of

from .snapshots import Data

_DEADLINE = 120.0


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
                "RESTIC_PASSWORD": "a password for the tests",
                **KEYS,
            }
            | change
        )

    def send(self, data: Data, *, code: int = 0, **change: str) -> str:
        """Run the send task on the finished snapshot of `data`; what it says."""
        task = task_of(job_of(backup_job(settings_of(backup=BACKUP), "dev"), "pds-backup"), "send")
        return self._run(self._script(task, "send.sh"), code, PDS_DATA_DIRECTORY=str(data.path), **change)

    def fetch(self, volume: Path, *, code: int = 0, **change: str) -> str:
        """Run the restore job's fetch task for a data directory; what it says."""
        task = task_of(job_of(restore_job(settings_of(backup=BACKUP), "dev"), "pds-restore"), "fetch")
        assert task["env"][0]["TARGET"] == "/pds/.restore"
        change = {"TARGET": str(volume / ".restore"), "PDS_SNAPSHOT_RESERVE_MIB": "1"} | change
        return self._run(self._script(task, "fetch.sh"), code, **change)

    def _script(self, task: dict[str, Any], name: str) -> list[str]:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        for item in task["template"]:
            if item["destination"].startswith("local/"):
                (self.folder / Path(item["destination"]).name).write_text(item["data"])
        return ["/bin/sh", str(self.folder / name)]

    def restic(self, *arguments: str, code: int = 0, **change: str) -> str:
        """Run restic on this place; what it says."""
        return self._run(["restic", "--no-cache", *arguments], code, **change)

    def _run(self, command: list[str], code: int, **change: str) -> str:
        assert shutil.which("restic"), "restic is missing: `apt-get install restic`"
        done = subprocess.run(
            command,
            env=self._env(**change),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_DEADLINE,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout
