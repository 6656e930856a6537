"""A PDS in an existing Nomad, as in the post: `pytest tests/e2e/scenarios/e2e_existing.py -x`, as root.

The agent has exactly the post's configuration. The program reports the missing requirements, and the test adds them as
the messages say. One scenario, whose tests build on each other.
"""

import os
import secrets
import shutil
import signal
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from components.clients.wait import until
from tests.e2e.digitalocean import World
from tests.e2e.environment.docker import engine
from tests.e2e.environment.environment import PROGRAMS, ROOT, Run, Stack, settings, stack
from tests.e2e.environment.machine import Lot, lot
from tests.e2e.environment.service import Service
from tests.e2e.environment.tools import BUILD_PROGRAMS, missing
from tests.e2e.environment.watching import hits, state_text
from tests.e2e.images.build import pds_image

# As in the post, with the paths and ports of the e2e environment.
POST = """\
data_dir = "{folder}/data"
bind_addr = "127.0.0.1"
advertise {{
  http = "127.0.0.1"
  rpc = "127.0.0.1"
  serf = "127.0.0.1"
}}
ports {{
  http = {http}
  rpc = {rpc}
  serf = {serf}
}}
server {{
  enabled = true
  bootstrap_expect = 1
}}
client {{
  enabled = true
  {client}
}}
{more}
"""
NETWORK = 'host_network "loopback" {{ cidr = "127.0.0.1/32" }}'
VOLUME = 'host_volume "pds" {{ path = "{folder}/pds" }}'


@dataclass
class ExistingNomad:
    """The existing Nomad, and the stack whose PDS will run in it."""

    folder: Path
    lot: Lot
    docker_host: str
    stack: Stack
    token: str
    agent: Service | None = None

    @property
    def address(self) -> str:
        """The URL of its API."""
        return f"http://127.0.0.1:{self.lot.ports['http']}"

    def run(self, client: str = "", more: str = "") -> None:
        """Start the agent, or restart it, with these lines in its configuration."""
        self.stop()
        file = self.folder / "nomad.hcl"
        places = {"folder": self.folder, **self.lot.ports}
        file.write_text(POST.format(client=client.format(**places), more=more, **places))
        keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        program = shutil.which("nomad")
        assert program
        command = [program, "agent", f"-config={file}"]
        self.agent = Service(command, self.folder / "nomad.log", {**keep, "DOCKER_HOST": self.docker_host})

        def ready() -> str | None:
            answer = httpx.get(f"{self.address}/v1/nodes", trust_env=False, headers={"X-Nomad-Token": self.token})
            if answer.status_code == 403:
                body = {"BootstrapSecret": self.token}
                httpx.post(f"{self.address}/v1/acl/bootstrap", json=body, trust_env=False)
                return "its ACLs were just bootstrapped"
            return None if answer.status_code == 200 and answer.json() else f"no node yet ({answer.status_code})"

        def reached() -> str | None:
            try:
                return ready()
            except httpx.HTTPError as error:
                return str(error)

        until(reached, 60, "The agent")

    def stop(self) -> None:
        """Stop the agent; its Docker containers keep running."""
        if self.agent:
            self.agent.stop(signal.SIGINT)
            self.agent = None

    def up(self, check: bool = True) -> Run:
        """`pulumi up`."""
        return self.stack.pulumi("up", "--yes", "--skip-preview", show=True, check=check)


@contextmanager
def existing_host(folder: Path) -> Iterator[ExistingNomad]:
    """A machine with Docker and the existing Nomad."""
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e")).resolve()
    with ExitStack() as all_of_it:
        mine = all_of_it.enter_context(lot())
        docker_host = all_of_it.enter_context(engine(cache / "docker", mine.number))
        image = pds_image(cache, docker_host)
        made = all_of_it.enter_context(stack(folder, World(), lambda names: settings(image, names)))
        existing = ExistingNomad(folder, mine, docker_host, made, str(uuid.UUID(bytes=secrets.token_bytes(16))))
        made.configure(operators=None, dns={"caa": []})
        made.configure(on={"nomad_address": existing.address, "ipv4": "203.0.113.99"})
        made.pulumi("config", "set", "--secret", "--path", "pds:on.nomad_token", existing.token)
        try:
            yield existing
        finally:
            existing.stop()


@pytest.fixture(scope="module")
def existing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExistingNomad]:
    lines = missing(*PROGRAMS, *BUILD_PROGRAMS)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
    with existing_host(tmp_path_factory.mktemp("existing")) as made:
        yield made


def test_nomad_without_acls_is_refused(existing: ExistingNomad) -> None:
    existing.run()
    refused = existing.up(check=False)
    assert refused.code != 0
    assert "lacks the following. Nothing was created in it" in refused.output
    assert "every client of this Nomad can read the rotation key" in refused.output
    assert "components/dynamic/base.py" not in refused.output, "the error must have no traceback"


def test_missing_requirements_are_listed_at_once(existing: ExistingNomad) -> None:
    existing.run(more="acl { enabled = true }")
    refused = existing.up(check=False)
    assert refused.code != 0
    assert "host volume pds on " in refused.output
    assert 'host_network "loopback"' in refused.output
    jobs = httpx.get(f"{existing.address}/v1/jobs", headers={"X-Nomad-Token": existing.token}, trust_env=False).json()
    assert jobs == [], "nothing may be created in it"


def test_pds_starts_in_a_nomad_that_meets_the_requirements(existing: ExistingNomad) -> None:
    (existing.folder / "pds").mkdir()
    shutil.chown(existing.folder / "pds", 1000, 1000)
    existing.run(client=f"{NETWORK}\n  {VOLUME}", more="acl { enabled = true }")
    existing.up()
    outputs = existing.stack.outputs()
    assert outputs["state"] == "serving"
    service = httpx.get(
        f"{existing.address}/v1/service/pds", headers={"X-Nomad-Token": existing.token}, trust_env=False
    ).json()[0]
    health = httpx.get(f"http://{service['Address']}:{service['Port']}/xrpc/_health", trust_env=False)
    assert (service["Address"], health.status_code) == ("127.0.0.1", 200)
    assert "droplets" not in {path.split("/")[2] for path in _requested_paths(existing)}, (
        "only DNS records are created at DigitalOcean"
    )
    existing.stack.pulumi("preview", "--expect-no-changes")
    existing.stack.pulumi("preview", "--refresh", "--expect-no-changes")


def test_state_contains_no_token_in_plain_text(existing: ExistingNomad) -> None:
    assert hits({"token": existing.token}, state_text(existing.stack)) == []


def test_destroy_removes_the_jobs_and_keeps_the_data(existing: ExistingNomad) -> None:
    existing.stack.pulumi("state", "unprotect", "--all", "--yes")
    existing.stack.pulumi("destroy", "--yes", "--skip-preview")
    jobs = httpx.get(f"{existing.address}/v1/jobs", headers={"X-Nomad-Token": existing.token}, trust_env=False).json()
    assert [job["ID"] for job in jobs if job["Status"] != "dead"] == []
    assert (existing.folder / "pds/account.sqlite").exists()


def _requested_paths(existing: ExistingNomad) -> list[str]:
    import json

    return [json.loads(line)["path"] for line in existing.stack.api.log_file.read_text().splitlines()]
