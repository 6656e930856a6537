"""Snapshots of Nomad's state with the real Nomad and restic: the rendered job saves it, an emptied Nomad gets it."""

import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.cluster import restore
from components.clients.errors import PendingError, ServiceError
from components.clients.nomad import NomadApi
from components.dynamic.nomad import BootstrapProvider
from components.render.acl_policies import SNAPSHOTS
from components.render.cluster.snapshots import JOB, RECORD, VARIABLE, snapshots_job
from components.settings.parse import read
from tests.e2e.environment.machine import lot
from tests.e2e.environment.service import Service
from tests.e2e.environment.tools import unmount_below
from tests.support.programs import CLUSTER
from tests.support.s3 import BUCKET, KEYS, ask, s3_server

TOKEN = str(uuid.UUID(int=7))
PASSWORD = "the repository's"
AGENT = """
data_dir   = "{folder}/state"
bind_addr  = "127.0.0.1"
datacenter = "dc1"
disable_update_check = true
advertise {{
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}}
ports {{
  http = {http}
  rpc  = {rpc}
  serf = {serf}
}}
acl {{ enabled = true }}
server {{
  enabled          = true
  bootstrap_expect = 1
}}
client {{
  enabled   = true
  node_pool = "servers"
  cpu_total_compute = 16000
  options = {{ "driver.allowlist" = "raw_exec" }}
}}
plugin "raw_exec" {{
  config {{ enabled = true }}
}}
"""


@dataclass(frozen=True)
class Bench:
    """A folder, ports for one Nomad at a time, and a bucket."""

    folder: Path
    ports: dict[str, int]
    bucket: str

    @property
    def props(self) -> dict[str, str]:
        """Inputs of the bootstrap."""
        address = f"http://127.0.0.1:{self.ports['http']}"
        return {"address": address, "ca_pem": "", "cert_pem": "", "key_pem": "", "token": TOKEN}

    @property
    def api(self) -> NomadApi:
        return NomadApi(self.props["address"], "", "", "", TOKEN)

    @property
    def restic(self) -> dict[str, str]:
        repository = f"s3:{self.bucket}/{BUCKET}/nomad-fleet"
        return {**KEYS, "RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": repository}

    @contextmanager
    def nomad(self, name: str) -> Iterator[None]:
        """An agent with a state of its own."""
        home = self.folder / name
        home.mkdir(mode=0o711)
        (home / "agent.hcl").write_text(AGENT.format(folder=home, **self.ports))
        keep = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        service = Service([str(shutil.which("nomad")), "agent", f"-config={home}/agent.hcl"], home / "nomad.log", keep)
        try:
            yield
        finally:
            service.stop()


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    for name in ("nomad", "restic", "curl"):
        if not shutil.which(name):
            pytest.skip(f"{name} is not on PATH, so snapshots of a real Nomad cannot be tested")
    if os.geteuid():
        pytest.skip("Nomad starts a program as another user for root only")
    with ExitStack() as stack:
        # Not pytest's folder, which only root may enter: the job runs as `daemon`.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pds-snapshots-")))
        folder.chmod(0o711)
        stack.callback(unmount_below, folder)
        (folder / "s3").mkdir()
        mine = stack.enter_context(lot())
        yield Bench(folder, dict(mine.ports), stack.enter_context(s3_server(folder / "s3", BUCKET)))


def _until(done: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + 120
    while not (found := done()):
        assert time.monotonic() < end, what
        time.sleep(0.2)
    return found


def _kept(api: NomadApi) -> bool:
    """Whether a variable could be written: a new leader makes its keyring first."""
    try:
        api.put("/v1/var/kept", {"Path": "kept", "Items": {"secret": "in the keyring's care"}})
    except PendingError:
        return False
    return True


def _save(bench: Bench) -> None:
    """Register what the program makes, and run the job once."""
    section = {**CLUSTER["cluster"], "snapshots": {"endpoint": bench.bucket, "bucket": BUCKET}}
    section["snapshots"] |= {"access_key_id": KEYS["AWS_ACCESS_KEY_ID"], "secret_access_key": "x"}
    settings = read({**CLUSTER, "cluster": section}, "Pulumi.fleet.yaml", "fleet")
    api = bench.api
    job_acl = {"Namespace": "default", "JobID": JOB}
    api.post(f"/v1/acl/policy/{JOB}", {"Name": JOB, "Rules": SNAPSHOTS, "JobACL": job_acl})
    items = {name: text for name, text in bench.restic.items() if name != "RESTIC_REPOSITORY"}
    api.put(f"/v1/var/{VARIABLE}", {"Path": VARIABLE, "Items": items})
    # The pool `servers` comes into being with its first node.
    _until(lambda: [n for n in api.get("/v1/nodes") if n["Status"] == "ready" and n["Drivers"]], "the node")
    job = api.post("/v1/jobs/parse", {"JobHCL": snapshots_job(settings, "fleet"), "Canonicalize": True})
    api.post("/v1/jobs", {"Job": job})
    status, error = _run(bench)
    assert status == "complete", error


def _run(bench: Bench) -> tuple[str, str]:
    """Run the job once; returns the status of the allocation, and what it printed as an error."""
    before = {item["ID"] for item in bench.api.get("/v1/allocations")}
    bench.api.put(f"/v1/job/{JOB}/periodic/force", {})

    def ended() -> Any:
        """A failed task is started once more, after a pause."""
        for item in bench.api.get("/v1/allocations"):
            if item["ID"] in before:
                continue
            failed = any(state["Failed"] or state["Restarts"] for state in (item["TaskStates"] or {}).values())
            if failed or item["ClientStatus"] in ("complete", "failed"):
                return item["ID"], "failed" if failed else item["ClientStatus"]
        return None

    allocation, status = _until(ended, "the job's run")
    log = bench.folder / f"first/state/alloc/{allocation}/alloc/logs/snapshot.stderr.0"
    assert not (log.parent.parent / "data/nomad.snap").exists(), "a secret"
    return status, log.read_text()


def _emptied_bucket_is_refused(bench: Bench) -> None:
    """A new repository in it would hide that all earlier snapshots are gone."""
    address = f"{bench.bucket}/{BUCKET}"
    for name in re.findall("<Key>(.*?)</Key>", ask("GET", f"{address}?prefix=nomad-fleet")):
        ask("DELETE", f"{address}/{name}")
    status, error = _run(bench)
    assert (status, "no longer holds the snapshots" in error) == ("failed", True), error
    bench.api.request("DELETE", f"/v1/var/{RECORD}")
    assert _run(bench)[0] == "complete"


def test_an_emptied_nomad_gets_its_state_from_the_job_s_snapshot(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = BootstrapProvider()
    with bench.nomad("first"):
        before = provider.create(bench.props).outs
        assert before
        _until(lambda: _kept(bench.api), "a keyring")
        _save(bench)
        _emptied_bucket_is_refused(bench)
    snapshot = restore._restic(bench.restic, "dump", "--no-lock", "--tag", "nomad", "latest", "/nomad.snap")
    (bench.folder / "nomad.snap").write_bytes(snapshot)
    monkeypatch.setenv("PDS_NOMAD_SNAPSHOT", str(bench.folder / "nomad.snap"))
    with bench.nomad("second"):
        after = provider.update("id", dict(before), bench.props).outs
        assert after
        assert after["cluster_id"] == before["cluster_id"], "nothing of the stack is created again"
        assert bench.api.get("/v1/var/kept")["Items"] == {"secret": "in the keyring's care"}
        # A repeated `up` leaves it as it is.
        bench.api.put("/v1/var/new", {"Path": "new", "Items": {"written": "after the restore"}})
        assert provider.update("id", dict(before), bench.props).outs == after
        assert bench.api.get("/v1/var/new")["Items"] == {"written": "after the restore"}


def test_a_file_that_is_no_snapshot_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.folder / "no.snap").write_text(json.dumps({}))
    monkeypatch.setenv("PDS_NOMAD_SNAPSHOT", str(bench.folder / "no.snap"))
    with bench.nomad("third"), pytest.raises(ServiceError, match="/v1/operator/snapshot"):
        BootstrapProvider().update("id", {"cluster_id": "old"}, bench.props)
