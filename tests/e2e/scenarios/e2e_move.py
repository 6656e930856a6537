"""A club moves from one host to another while members write, with the real engine, Nomad, Docker, PDS, PLC directory
and restic: `pytest tests/e2e/scenarios/e2e_move.py -x`, as root.

One account with two droplets, each with its stack, its Nomad and its ingress (IO's stand-in); one scenario, in this
order. The bucket is an S3 server's.
"""

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cli.lib.subprocesses import child
from tests.contract.club import PASSWORD, Club, founded, whole
from tests.e2e.environment.backups import backup_section, give_keys
from tests.e2e.environment.directory import directory
from tests.e2e.environment.environment import DEADLINE, PROGRAMS, ROOT, E2eEnvironment, e2e_env
from tests.e2e.environment.ingresses import At, public_ports
from tests.e2e.environment.machine import Machine, ports_of
from tests.e2e.environment.tools import missing, run
from tests.e2e.environment.watching import meanwhile, secrets_of, steps
from tests.e2e.images.build import io_image
from tools.trial.xrpc import Client, RefusedError

NAME = "chess.test"
UP = ("up", "--yes", "--skip-preview")
OLD, NEW = 3101, 3105
"""The club's ports on the two hosts."""


@dataclass
class Scenario:
    """Two hosts, and the club's stack."""

    old: E2eEnvironment
    new: E2eEnvironment
    club: E2eEnvironment
    trust: ssl.SSLContext
    members: Club | None = None
    session: str = ""
    """The session of a member's app from before the first move."""

    def machine(self, host: E2eEnvironment) -> Machine:
        """The machine of the host."""
        address = host.outputs()["ipv4"]
        (found,) = (machine for machine in host.machines.machines() if machine.address == address)
        return found

    def config(self, stack: E2eEnvironment) -> dict[str, Any]:
        """The content of a stack's file."""
        found: dict[str, Any] = yaml.load((stack.project / f"Pulumi.{stack.name}.yaml").read_text(), yaml.CSafeLoader)[
            "config"
        ]
        return found

    def servers(self) -> dict[str, str]:
        """Running containers of the club: name to the folder of its data."""
        ids = run(["docker", "ps", "--quiet"], self.club.docker_host).split()
        shown = '{{.Name}} {{range .Mounts}}{{if eq .Destination "/pds"}}{{.Source}}{{end}}{{end}}'
        lines = [run(["docker", "inspect", "--format", shown, each], self.club.docker_host).split() for each in ids]
        return {line[0].strip("/"): line[1] for line in lines if line[1:] and "/clubs/pds-chess" in line[1]}

    def ingress(self, host: E2eEnvironment) -> int:
        """The response of a host's ingress for the club."""
        with httpx.Client(transport=At(host.outputs()["ipv4"], verify=self.trust), timeout=10) as client:
            return client.get(f"https://{NAME}/xrpc/_health").status_code

    def jobs(self, host: E2eEnvironment) -> set[str]:
        """Jobs of the club in a host's Nomad that have not ended."""
        outputs = host.outputs()
        answer = httpx.get(
            f"{host.nomad}/v1/jobs?namespace=chess",
            headers={"X-Nomad-Token": outputs["nomad_management_token"]},
            timeout=20,
            trust_env=False,
        )
        return {job["ID"] for job in answer.json() or [] if job["Status"] != "dead"}

    def moved(self, host: E2eEnvironment) -> bool:
        """Assert that the club runs on this host only, with all its data, and that no change is left."""
        port = {self.old.name: OLD, self.new.name: NEW}[host.name]
        self.whole(port)
        assert self.ingress(host) == 200
        (data,) = self.servers().values()
        assert Path(data).resolve() == self.machine(host).volume / "clubs/pds-chess"
        values = self.config(self.club)
        assert (values["pds:on"], values["pds:pds"]["port"], values["pds:pds"]["paused"]) == (host.name, port, False)
        assert {record["value"] for record in self.club.outputs()["records"]} == {host.outputs()["ipv4"]}
        for stack in (self.old, self.new, self.club):
            stack.pulumi("preview", "--expect-no-changes")
        return True

    def whole(self, port: int) -> None:
        """Assert that old passwords work and everything acknowledged has its original CID."""
        assert self.members
        client = Client(f"http://127.0.0.1:{port}", NAME)
        whole(client, self.members, time.monotonic())
        client.log_in(self.session)
        assert client.query("com.atproto.server.getSession", {})["did"] == self.members.members[0].did


@contextmanager
def written_to(club: Club, pause: float = 0) -> Iterator[list[str]]:
    """Let a member write until the block ends, with so many seconds between two posts; yield the URIs of acknowledged
    writes."""
    acknowledged: list[str] = []

    def write(ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                acknowledged.append(club.post(club.members[0], f"post {len(acknowledged)}"))
                ended.wait(pause)
            except (httpx.HTTPError, RefusedError):
                ended.wait(0.2)  # the server is unreachable, and may return

    with meanwhile(write):
        yield acknowledged


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    if lines := missing(*PROGRAMS, "go", "restic"):
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with ExitStack() as stack:
        old = stack.enter_context(e2e_env(tmp_path_factory.mktemp("bench"), cache))
        plc = stack.enter_context(directory(old.folder / "plc", cache, old.docker_host, old.authority))
        stack.enter_context(public_ports(whole=False))
        first = yaml.load((old.project / f"Pulumi.{old.name}.yaml").read_text(), yaml.CSafeLoader)["config"]
        second_config = {
            **first,
            "pds:hostname": "ground.test",
            "pds:dns": {**first["pds:dns"], "zone": "ground.test"},
        }
        second = int(old.nomad.rpartition(":")[2])
        port = ports_of(1, {"http": second, "rpc": second + 1, "serf": second + 2})["http"]
        new = replace(old.beside("ground", second_config), nomad=f"http://127.0.0.1:{port}")
        # Reserved addresses are assigned in this order; each host's ingress listens at its own.
        for number, host in enumerate((old, new), 1):
            address = f"{old.network.rpartition('.')[0]}.{number}/32"
            image = io_image(
                old.folder / f"io-{number}",
                old.docker_host,
                old.authority.pair(),
                address,
                host.nomad,
                f"io.local/io-stand-in:host-{number}",
            )
            host.configure(ingress={"kind": "io", "image": image}, host={"size": "s-2vcpu-4gb"})
        server_options = {key: first["pds:pds"][key] for key in ("escrow", "crawlers")}
        club = old.beside(
            "chess",
            {
                "pds:hostname": NAME,
                "pds:on": old.name,
                "pds:dns": {"zone": NAME, "create_zone": True, "nameservers": [old.nameserver], "ttl": 60},
                "pds:pds": {
                    **server_options,
                    "image": plc.pds_image,
                    "plc_url": plc.url,
                    "new": True,
                    "port": OLD,
                    "memory_mib": 256,
                    "invite_required": False,
                    "open_registration": True,
                },
                "pds:backup": backup_section(old, cache, stack),
            },
        )
        give_keys(club)
        yield Scenario(old, new, club, old.authority.trusted())


def test_club_and_two_hosts_are_created(scenario: Scenario) -> None:
    scenario.old.configure(clubs={"chess": {"port": OLD, "memory_mib": 768}})
    for stack in (scenario.old, scenario.new, scenario.club):
        stack.pulumi(*UP)
    assert scenario.ingress(scenario.old) == 200
    scenario.members = founded(f"http://127.0.0.1:{OLD}", NAME, members=3, posts=3, mail=f"{NAME}.com")
    body = {"identifier": scenario.members.members[0].did, "password": PASSWORD}
    client = Client(f"http://127.0.0.1:{OLD}", NAME)
    scenario.session = client.procedure("com.atproto.server.createSession", body)["accessJwt"]
    scenario.club.pulumi(*UP)  # the warnings name new accounts
    assert len(scenario.servers()) == 1


def test_older_provider_name_is_replaced_and_nothing_else(scenario: Scenario) -> None:
    """In earlier versions the name of the provider did not include the host."""
    shown = json.loads(scenario.club.pulumi("stack", "export").output)["deployment"]["resources"]
    (urn,) = (item["urn"] for item in shown if item["urn"].endswith("::pds-host-provider-bench"))
    scenario.club.pulumi("state", "rename", urn, "pds-host-provider", "--yes")
    done = scenario.club.pulumi(*UP)
    assert set(steps(done)) <= {
        "pds",
        "pds-host-provider",
        "pds-host-provider-bench",
        "pds-people-unlisted-accounts",
    }, done.output


def test_refuses_a_host_without_a_place_and_prints_what_to_write(scenario: Scenario) -> None:
    before = scenario.config(scenario.club)
    refused = scenario.club.pds("move", "--to", "ground", "--yes", check=False)
    assert refused.code == 2
    assert "Pulumi.ground.yaml does not list chess as a club" in refused.output
    assert "chess: {port: 3101, disk_gib: 5, memory_mib: 768}" in refused.output
    scenario.new.configure(clubs={"chess": {"port": NEW, "memory_mib": 768}})
    refused = scenario.club.pds("move", "--to", "ground", "--yes", check=False)
    assert "Run `pulumi up --stack ground`" in refused.output
    scenario.new.pulumi(*UP)
    assert scenario.config(scenario.club) == before
    scenario.whole(OLD)


def test_club_moves_under_writes(scenario: Scenario) -> None:
    assert scenario.members
    with written_to(scenario.members) as acknowledged:
        done = scenario.club.pds("move", "--to", "ground", "--yes", check=False)
    assert done.code == 0, done.output
    assert len(acknowledged) > 10
    assert scenario.moved(scenario.new)
    for name, secret in secrets_of(scenario.club).items():
        assert secret not in done.output, name


def test_old_host_keeps_the_data_and_runs_nothing(scenario: Scenario) -> None:
    assert scenario.jobs(scenario.old) == set()
    (kept,) = (scenario.machine(scenario.old).volume / ".trash").glob("*-pds-chess")
    assert (kept / "account.sqlite").exists(), "the data must be renamed, not deleted"
    assert not (scenario.machine(scenario.old).volume / "clubs/pds-chess").exists()
    with pytest.raises(httpx.HTTPError):
        scenario.ingress(scenario.old)
    assert "move:note" not in scenario.config(scenario.club)
    assert "chess" not in scenario.config(scenario.old).get("pds:clubs", {})


def test_move_resumes_after_its_engine_was_killed_between_the_hosts(scenario: Scenario) -> None:
    """All processes are killed at once, as in a power failure, between the deletion of the old job and the creation of
    the new one."""
    assert scenario.members
    scenario.old.configure(clubs={"chess": {"port": OLD, "memory_mib": 768}})
    scenario.old.pulumi(*UP)
    scenario.members = scenario.members.at(f"http://127.0.0.1:{NEW}")
    with written_to(scenario.members) as acknowledged:
        output = killed(scenario.club, ("--to", "bench"), "pds-server-job deleted original", whole=True)
    assert len(acknowledged) > 10
    assert scenario.servers() == {}
    assert "created replacement" not in output.partition("pds-server-job deleted original")[2]
    scenario.club.pds("repair", "--yes")
    done = scenario.club.pds("move", "--to", "bench", "--yes")
    assert "Can chess go" not in done.output, "the prompt was already answered"
    assert scenario.moved(scenario.old)
    assert scenario.jobs(scenario.new) == set()


def test_move_can_be_reversed_before_the_new_server_has_run(scenario: Scenario) -> None:
    assert scenario.members
    scenario.new.configure(clubs={"chess": {"port": NEW, "memory_mib": 768}})
    scenario.new.pulumi(*UP)
    scenario.members = scenario.members.at(f"http://127.0.0.1:{OLD}")
    killed(scenario.club, ("--to", "ground"), "4  Restore backup", whole=True)
    refused = scenario.club.pds("move", "--to", "elsewhere", "--yes", check=False)
    assert "is being moved from bench to ground" in refused.output
    done = scenario.club.pds("move", "--to", "bench", "--yes")
    assert "as before" in done.output
    assert scenario.moved(scenario.old)
    assert scenario.jobs(scenario.new) == set()
    assert "chess" in scenario.config(scenario.old)["pds:clubs"]
    assert "chess" not in (scenario.config(scenario.new).get("pds:clubs") or {})
    assert not (scenario.machine(scenario.new).volume / "clubs/pds-chess").exists(), "jobs would use restored data"


def test_move_resumes_after_the_command_was_killed(scenario: Scenario) -> None:
    """The engine continues."""
    assert scenario.members
    scenario.new.configure(clubs={"chess": {"port": NEW, "memory_mib": 768}})
    scenario.new.pulumi(*UP)
    scenario.members = scenario.members.at(f"http://127.0.0.1:{OLD}")
    with written_to(scenario.members):
        killed(scenario.club, ("--to", "ground"), "2  Pause the PDS", whole=False)
    done = scenario.club.pds("move", "--to", "ground", "--yes")
    assert "Can chess go" not in done.output
    assert scenario.moved(scenario.new)
    assert scenario.jobs(scenario.old) == set()
    assert len(list((scenario.machine(scenario.old).volume / ".trash").glob("*-pds-chess"))) == 2


def killed(club: E2eEnvironment, to: Sequence[str], after: str, *, whole: bool) -> str:
    """Start a move to the host that the options `to` name, and kill the command (or with `whole` its engine too) after
    the output `after`; return the whole output."""
    command = [sys.executable, "-m", "cli.app", "move", club.name, *to, "--yes"]
    output: list[str] = []
    with child(
        command,
        DEADLINE,
        cwd=club.project,
        env=dict(club.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            output.append(line)
            if after in line:
                if whole:
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    time.sleep(2)  # until the engine runs
                    process.kill()
                break
        output.extend(process.stdout)  # its engine may still print
        process.wait(60)
    assert process.returncode == -signal.SIGKILL, "".join(output)
    return "".join(output)
