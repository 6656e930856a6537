"""A PDS of upstream's installer is moved into a stack, with the real engine, Nomad, Docker, PDS, PLC directory and
restic: `pytest tests/e2e/scenarios/e2e_import.py -x`, as root.

The old machine is a folder laid out as installer.sh does it, a container of the server as in compose.yaml, and a
stand-in for systemctl, whose unit's `down` removes the container. One scenario, in the order of docs/guide/import.md.
"""

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from components.clients.wait import until
from tests.contract.club import PASSWORD, Club, founded, whole
from tests.e2e.environment.backups import backup_section, give_keys
from tests.e2e.environment.directory import directory
from tests.e2e.environment.environment import HOSTNAME, PROGRAMS, ROOT, E2eEnvironment, e2e_env
from tests.e2e.environment.ingresses import INGRESSES
from tests.e2e.environment.tools import missing, run
from tests.e2e.images.build import SERVER
from tools.trial.process import free_port
from tools.trial.xrpc import Client

_SYSTEMCTL = """#!/bin/sh
echo "$*" >>"$(dirname "$0")/asked"
case $1 in disable) docker stop pds && docker rm pds ;; esac >/dev/null 2>&1 || true
"""


@dataclass
class Scenario:
    """The stack, and the machine from which its PDS is moved."""

    e2e_env: E2eEnvironment
    old: Path
    port: int
    image: str
    env: dict[str, str]
    club: Club | None = None
    session: str = ""
    """The session of a member's app."""

    def containers(self) -> str:
        """The containers that use the old machine's data."""
        return run(["docker", "ps", "--quiet", "--filter", f"volume={self.old}/pds"], self.e2e_env.docker_host)

    def leave(self) -> str:
        """Run the script on the old machine; return its output."""
        tools = self.old / "tools"
        path = {"PATH": f"{tools}:{os.environ['PATH']}", "DOCKER_HOST": self.e2e_env.docker_host}
        script = self.e2e_env.project / "build/import-pds.sh"
        with script.open() as text:
            done = subprocess.run(
                ["sh", "-s", str(self.old / "pds")],
                stdin=text,
                env=path,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
            )
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    if lines := missing(*PROGRAMS, "go", "restic"):
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with ExitStack() as stack:
        made = stack.enter_context(e2e_env(tmp_path_factory.mktemp("bench"), cache))
        plc = stack.enter_context(directory(made.folder / "plc", cache, made.docker_host, made.authority))
        INGRESSES["io"](made, stack)
        made.configure(
            pds={"plc_url": plc.url, "image": plc.pds_image, "invite_required": False, "open_registration": True},
            backup=backup_section(made, cache, stack),
        )
        give_keys(made)
        env = {
            "PDS_HOSTNAME": HOSTNAME,
            "PDS_JWT_SECRET": secrets.token_hex(16),
            "PDS_ADMIN_PASSWORD": secrets.token_hex(16),
            "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": secrets.token_hex(32),
            "PDS_DATA_DIRECTORY": "/pds",
            "PDS_BLOBSTORE_DISK_LOCATION": "/pds/blocks",
            "PDS_BLOB_UPLOAD_LIMIT": "52428800",
            "PDS_DID_PLC_URL": plc.url,
            "PDS_INVITE_REQUIRED": "false",
            "LOG_ENABLED": "true",
        }
        found = Scenario(made, made.folder / "old", free_port(), plc.pds_image, env)
        stack.callback(run, ["docker", "rm", "--force", "pds"], made.docker_host, check=False)
        yield found


def test_pds_of_the_installer_has_members_and_posts(scenario: Scenario) -> None:
    folder = scenario.old / "pds"
    (folder / "caddy/etc/caddy").mkdir(parents=True)
    (folder / "caddy/etc/caddy/Caddyfile").write_text("{}\n")
    (folder / "compose.yaml").write_text("services: {}\n")
    (folder / "pds.env").write_text("".join(f"{name}={value}\n" for name, value in scenario.env.items()))
    (folder / "pds.env").chmod(0o600)
    (scenario.old / "tools").mkdir()
    (scenario.old / "tools/systemctl").write_text(_SYSTEMCTL)
    (scenario.old / "tools/systemctl").chmod(0o755)
    container = ["--name", "pds", "--network", "host", "--restart", "unless-stopped", "--volume", f"{folder}:/pds"]
    environment = ["--env-file", str(folder / "pds.env"), "--env", f"PDS_PORT={scenario.port}"]
    run(["docker", "run", "--detach", *container, *environment, scenario.image], scenario.e2e_env.docker_host)
    url = f"http://127.0.0.1:{scenario.port}"
    until(lambda: _health(url), 120, "The old server")
    assert scenario.containers() != ""
    scenario.club = founded(url, HOSTNAME, members=3, posts=3, mail=f"{HOSTNAME}.com")
    body = {"identifier": scenario.club.members[0].did, "password": PASSWORD}
    scenario.session = Client(url, HOSTNAME).procedure("com.atproto.server.createSession", body)["accessJwt"]
    files = {path.name for path in folder.iterdir()}
    assert {"account.sqlite", "sequencer.sqlite", "did_cache.sqlite", "actors", "blocks", "pds.env"} <= files


def _health(url: str) -> str | None:
    try:
        return None if httpx.get(f"{url}/xrpc/_health", trust_env=False, timeout=5).is_success else "it refuses"
    except httpx.HTTPError as error:
        return str(error)


def test_import_uses_restore_and_keeps_the_secrets(scenario: Scenario) -> None:
    """docs/guide/import.md, "A PDS of upstream's installer", word for word except for `ssh`."""
    assert scenario.club
    imported = scenario.e2e_env.pds("import", "--env", str(scenario.old / "pds/pds.env"))
    assert "PDS_BLOB_UPLOAD_LIMIT is 52428800 there" in imported.output
    scenario.e2e_env.pulumi("up", "--yes", "--skip-preview")
    assert scenario.e2e_env.outputs()["state"] == "paused"
    scenario.club.post(scenario.club.members[0], "a last word on the old machine")
    output = scenario.leave()
    assert "snapshot of noted.test: 3 accounts" in output
    assert f"checked; it is of @atproto/pds {SERVER.package}" in output
    assert "disable --now pds.service" in (scenario.old / "tools/asked").read_text(), (
        "the old server must not start after a reboot"
    )
    assert "checked" in scenario.leave(), "the script can run again without the container"
    (machine,) = scenario.e2e_env.machines.machines()
    pipe = f"tar -C '{scenario.old}/pds' --owner=1000 --group=1000 -c .snapshot | tar -C '{machine.volume}/pds' -x"
    run(["sh", "-c", pipe])
    done = scenario.e2e_env.pds("restore", "--snapshot", "volume", "--sequence", "1", "--yes")
    assert "ready                        3 accounts in use, 0 not" in done.output
    scenario.e2e_env.pulumi("up", "--yes", "--skip-preview")  # the warnings name new accounts
    scenario.e2e_env.pulumi("preview", "--expect-no-changes")
    for text in (imported.output, output, done.output):
        assert [name for name, value in scenario.env.items() if len(value) >= 32 and value in text] == []


def test_members_keep_sessions_and_data(scenario: Scenario) -> None:
    assert scenario.club
    url = scenario.e2e_env.health_url()
    client = Client(url, HOSTNAME)
    whole(client, scenario.club, float("inf"))
    client.log_in(scenario.session)
    mine = client.query("com.atproto.server.getSession", {})
    assert mine["did"] == scenario.club.members[0].did, "sessions must stay valid, since their key was imported"
    assert scenario.e2e_env.outputs()["admin_password"] == scenario.env["PDS_ADMIN_PASSWORD"]
    assert scenario.containers() == ""


def test_backups_of_the_stack_continue_after_the_import(scenario: Scenario) -> None:
    done = scenario.e2e_env.pds("backup")
    assert "snapshot of noted.test: 3 accounts" in done.output
    drilled = scenario.e2e_env.pds("drill")
    assert "3 repositories served by the server on the copy: 0 faults" in drilled.output
