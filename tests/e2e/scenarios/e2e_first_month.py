"""The first month of a club: blobs in a bucket, moved and backed up, uploads without a record, the metrics store and
its dashboard, with the real engine, Nomad, Docker, PDS, restic and VictoriaMetrics:
`pytest tests/e2e/scenarios/e2e_first_month.py -x`, as root.

One scenario, in this order. An S3 service stands in for Spaces (`buckets.py`). The droplet is a folder: it has no
systemd, so no page of the host's metrics, and ssh's way to the dashboard is a stand-in (`unix_tunnel.py`).
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.club import Club, founded
from tests.e2e.environment.buckets import SpacesService, spaces
from tests.e2e.environment.directory import directory
from tests.e2e.environment.environment import HOSTNAME, PROGRAMS, ROOT, E2eEnvironment, Run, e2e_env
from tests.e2e.environment.ingresses import INGRESSES
from tests.e2e.environment.restores import UP
from tests.e2e.environment.tools import missing
from tests.e2e.images.build import metrics_image
from tests.support.s3 import KEYS, ask

BLOBS, COPIES = "bench-blobs", "bench-copies"
_PATIENCE = 300.0
_MEMBERS = 2


@dataclass
class Month:
    """The environment, its Spaces and its members."""

    e2e_env: E2eEnvironment
    service: SpacesService
    club: Club | None = None

    @property
    def data(self) -> Path:
        """The server's files."""
        [machine] = self.e2e_env.machines.machines()
        return machine.volume / "pds"

    def objects(self, bucket: str, prefix: str) -> list[str]:
        """The names of the objects in a bucket."""
        return re.findall("<Key>([^<]+)</Key>", ask("GET", f"{self.service.url}/{bucket}?list-type=2&prefix={prefix}"))

    def served(self) -> None:
        """Assert that the server sends each member's blobs."""
        assert self.club
        for member in self.club.at(self.e2e_env.health_url()).members:
            cids = member.client.query("com.atproto.sync.listBlobs", {"did": member.did})["cids"]
            assert cids
            for cid in cids:
                assert b"".join(member.client.stream_blob(member.did, cid))

    def run(self, *arguments: str) -> Run:
        """A command of the operator; its output is shown."""
        done = self.e2e_env.pds(*arguments)
        print(f"$ {done.command}\n{done.output}")
        return done


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Month]:
    if lines := missing(*PROGRAMS, "go", "restic", "victoria-metrics", "busybox"):
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with ExitStack() as stack:
        made = stack.enter_context(e2e_env(tmp_path_factory.mktemp("bench"), cache))
        plc = stack.enter_context(directory(made.folder / "plc", cache, made.docker_host, made.authority))
        INGRESSES["io"](made, stack)
        service = stack.enter_context(spaces(made, plc, BLOBS, COPIES))
        image = metrics_image(made.folder / "metrics", made.docker_host)
        made = service.made
        made.configure(
            pds={
                "plc_url": plc.url,
                "image": service.pds_image,
                "invite_required": False,
                "open_registration": True,
                "unreferenced_blob_days": 7,
                # Else the server queries no directory at a private address, which `check` needs.
                "extra_env": {"PDS_DISABLE_SSRF_PROTECTION": "true"},
            },
            host={"size": "s-4vcpu-8gb"},
            backup={"bucket": COPIES, "image": service.restic_image, "interval_minutes": 1440},
            blobs={"bucket": BLOBS, "region": "ams3"},
            metrics={"store": True, "image": image},
        )
        for name, value in zip(("access_key_id", "secret_access_key"), KEYS.values(), strict=True):
            made.pulumi("config", "set", "--secret", "--path", f"pds:backup.{name}", value)
        yield Month(made, service)


def test_up_makes_bucket_and_key_and_uploads_land_in_the_bucket(month: Month) -> None:
    month.e2e_env.pulumi(*UP)
    month.e2e_env.configure(pds={"new": False})
    month.e2e_env.pulumi(*UP)
    keys = {key["name"]: key["grants"] for key in month.e2e_env.api.dump()["spaces_keys"].values()}
    assert keys["pds-bench-blobs"] == [{"bucket": BLOBS, "permission": "readwrite"}]
    month.club = founded(month.e2e_env.health_url(), HOSTNAME, members=_MEMBERS, posts=1, mail=f"{HOSTNAME}.com")
    assert len(month.objects(BLOBS, "blocks/")) == _MEMBERS
    assert not list((month.data / "blocks").glob("did:*/*"))
    month.served()
    month.e2e_env.pulumi(*UP)  # the warnings name new accounts
    month.e2e_env.pulumi("preview", "--expect-no-changes")


def test_backup_and_drill_cover_the_bucket(month: Month) -> None:
    month.run("backup")
    assert len(month.objects(COPIES, f"{HOSTNAME}-blobs/blocks/")) == _MEMBERS
    drilled = month.run("drill").output
    assert "0 faults" in drilled


def test_blobs_move_to_the_disk_and_back(month: Month) -> None:
    moved = month.run("blobs", "--to", "disk", "--yes").output
    assert "Moved." in moved
    assert len(list((month.data / "blocks").glob("did:*/*"))) == _MEMBERS
    month.served()
    month.run("blobs", "--to", "bucket", "--yes")
    month.served()
    month.run("blobs", "--forget-old")
    assert not list((month.data / "blocks").glob("did:*/*"))
    assert f"blobs are served from the bucket {BLOBS}" in month.run("blobs").output
    month.e2e_env.pulumi("preview", "--expect-no-changes")


def test_usage_and_the_removal_of_unreferenced_blobs_run(month: Month) -> None:
    assert month.club
    month.club = month.club.at(month.e2e_env.health_url())
    member = month.club.members[0]
    member.client.upload_blob([b"never named"], 11)
    assert member.did in month.run("usage", "--blobs").output
    month.run("nomad", "--", "job", "periodic", "force", "pds-unreferenced-blobs")
    status = month.data / ".run-status/unreferenced-blobs.json"
    until(lambda: status.exists() and "good" in json.loads(status.read_text()), "the run of the removal")
    assert len(month.objects(BLOBS, "tmp/")) == 1, "it is younger than a week"


def test_metrics_store_runs_and_the_dashboard_answers(month: Month, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    ssh = programs / "ssh"
    ssh.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tests.support.unix_tunnel "$@"\n')
    ssh.chmod(0o755)
    env = {**month.e2e_env.env, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    with socket.create_server((str(month.e2e_env.outputs()["ipv4"]), 22)):
        command = [sys.executable, "-m", "cli.app", "dashboard", month.e2e_env.name, "--port", "0"]
        process = subprocess.Popen(
            command,
            cwd=month.e2e_env.project,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            assert process.stdout
            url = next(line for line in process.stdout if "The dashboard: " in line).split()[2].partition("/vmui")[0]
            until(lambda: "pds" in up(url), "an answer of the server's metrics")
            assert httpx.get(f"{url}/vmui/custom-dashboards", trust_env=False).json()["dashboardsSettings"]
            print("targets that answer:", sorted(up(url)))
            requests = query(url, "sum(http_server_request_duration_count)")
            assert float(requests[0]["value"][1]) > 0
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # ssh as well, as the end of a terminal would
            process.wait(600)


def test_check_names_the_targets_that_do_not_answer(month: Month) -> None:
    done = month.e2e_env.pds("check", check=False)
    print(done.output)
    (line,) = (text for text in done.output.splitlines() if "metrics:" in text)
    assert re.search(r"no answer from (nomad, )?host:", line), "a folder has no page of the host"
    assert re.search(r"^ok +account:", done.output, re.M), "the keys of both buckets exist"
    month.e2e_env.pulumi("preview", "--expect-no-changes")


def up(url: str) -> set[str]:
    """The targets that answer the store."""
    return {item["metric"]["job"] for item in query(url, "up == 1")}


def query(url: str, expression: str) -> list[dict[str, Any]]:
    """The result of a query."""
    data = {"query": expression, "nocache": "1"}
    answer = httpx.post(f"{url}/api/v1/query", data=data, trust_env=False, timeout=60)
    return list(answer.json()["data"]["result"]) if answer.status_code == 200 else []


def until(done: Any, what: str) -> None:
    """Wait until `done` returns true."""
    end = time.monotonic() + _PATIENCE
    while not done():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(1)
