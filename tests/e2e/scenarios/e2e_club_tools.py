"""Three clubs on one host from the command line, with the real engine, providers, Nomad, Docker and PDS: `pytest
tests/e2e/scenarios/e2e_club_tools.py -x`, as root. One scenario, whose tests build on each other.

`e2e_clubs.py` tests the clubs themselves; this tests `./pds new`, `list`, `preview-all`, `up-all`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cli.lib.subprocesses import child
from tests.e2e.environment.environment import DEADLINE, HOSTNAME, PROGRAMS, ROOT, STACK, E2eEnvironment, Run, e2e_env
from tests.e2e.environment.ingresses import INGRESSES
from tests.e2e.environment.tools import missing, run
from tests.e2e.environment.watching import hits, secrets_of
from tests.e2e.images.build import SERVER

CLUBS = ("chess", "pawns", "rooks")


@dataclass(frozen=True, kw_only=True)
class HostConnection:
    """The host's stack and its clubs' stacks."""

    stack: E2eEnvironment
    clubs: Mapping[str, E2eEnvironment]

    def file(self, name: str) -> Path:
        """The file of a stack."""
        return self.stack.project / f"Pulumi.{name}.yaml"

    def servers(self) -> dict[str, str]:
        """Every running server: its namespace, and its container's id."""
        command = ["docker", "ps", "--no-trunc", "--filter", "name=^pds-", "--format", "{{.ID}}"]
        found = {}
        for container in run(command, self.stack.docker_host).split():
            shown = ["docker", "inspect", "--format", "{{range .Config.Env}}{{println .}}{{end}}", container]
            values = dict(item.partition("=")[::2] for item in run(shown, self.stack.docker_host).splitlines())
            found[values["NOMAD_NAMESPACE"]] = container
        return found

    def clubs_table(self) -> dict[str, Any]:
        """`./pds list --json`, its rows by stack."""
        found: dict[str, Any] = json.loads(self.stack.pds_command("list", "--json").output)
        return found | {"stacks": {row["stack"]: row for row in found["stacks"]}}

    def logs(self) -> str:
        """The logs of the tools."""
        return "\n".join(file.read_text() for file in (self.stack.project / "build/logs").iterdir())


def outcomes(done: Run) -> dict[str, str]:
    """The summary: stack to outcome."""
    table = done.output.rpartition("\nstack")[2].partition("\n")[2].partition("\n\n")[0]
    return {row[0]: row[1] for row in (re.split(r" {2,}", line.strip()) for line in table.splitlines())}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostConnection]:
    if lines := missing(*PROGRAMS):
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with ExitStack() as stack:
        made = stack.enter_context(e2e_env(tmp_path_factory.mktemp("bench"), cache))
        INGRESSES["io"](made, stack)
        made.configure(host={"size": "s-4vcpu-8gb"})
        yield HostConnection(stack=made, clubs={name: replace(made, name=name) for name in CLUBS})


def test_club_is_written_created_and_previewed_from_the_command_line(place: HostConnection) -> None:
    file = place.file(STACK)
    file.write_text(f"# The host's own file.\n{file.read_text()}")
    for number, name in enumerate(CLUBS):
        arguments = ("--hostname", f"{name}.test", "--on", STACK, "--create-zone", "--memory-mib", "256")
        done = place.stack.pds_command("new", name, *arguments)
        assert f"+    {name}: {{port: {3101 + number}, disk_gib: 5, memory_mib: 640}}" in done.output, done.output
        assert "PdsServer pds-server" in done.output, "the preview must list resources of the club"
        assert f"+ ClubNamespace pds-host-clubs-{name}-namespace" in done.output
        assert done.output.count("Preflight passed.") == 1
        text = place.file(name).read_text()
        assert "# The server's domain name." in text, "the engine must keep the comments when it adds its salt"
        assert "encryptionsalt:" in text
    assert file.read_text().startswith("# The host's own file.\n")


def test_new_overwrites_nothing(place: HostConnection) -> None:
    before = {file: file.read_bytes() for file in place.stack.project.glob("Pulumi.*.yaml")}
    again = place.stack.pds_command("new", "chess", "--hostname", "chess.test", "--on", STACK, check=False)
    assert (again.code, "Pulumi.chess.yaml exists already" in again.output) == (2, True)
    place.file("chess").rename(place.stack.project / "aside")
    again = place.stack.pds_command("new", "chess", "--hostname", "chess.test", "--on", STACK, check=False)
    (place.stack.project / "aside").rename(place.file("chess"))
    assert (again.code, "There is a stack chess already" in again.output) == (2, True)
    assert {file: file.read_bytes() for file in place.stack.project.glob("Pulumi.*.yaml")} == before


def test_up_all_updates_the_host_and_then_its_clubs(place: HostConnection) -> None:
    # Not the first ports of clubs, which another e2e_env on this machine may use.
    ports = {name: 3121 + number for number, name in enumerate(CLUBS)}
    for name, club in place.clubs.items():
        club.configure(pds={"crawlers": [], "escrow": "declined", "port": ports[name]})
    place.stack.configure(clubs={name: {"port": ports[name], "disk_gib": 5, "memory_mib": 384} for name in CLUBS})
    done = place.stack.pds_command("up-all")
    assert outcomes(done) == dict.fromkeys((STACK, *CLUBS), "up"), done.output
    begun = [line.partition(":")[0] for line in done.output.splitlines() if line.endswith(": up")]
    assert begun == [STACK, *CLUBS], "stacks of one host are updated one after the other"
    assert set(place.servers()) == {"default", *CLUBS}


def test_up_all_without_changes_sends_no_changing_request(place: HostConnection) -> None:
    before = len(place.stack.api.requests())
    assert outcomes(place.stack.pds_command("up-all")) == dict.fromkeys((STACK, *CLUBS), "unchanged")
    methods = [item["method"] for item in place.stack.api.requests()[before:]]
    assert set(methods) <= {"GET"}


def test_list_shows_the_state_of_every_stack(place: HostConnection) -> None:
    found = place.clubs_table()
    assert found["notes"] == []
    [machine] = place.stack.machines.machines()
    servers = place.servers()
    for name in CLUBS:
        row = found["stacks"][name]
        assert (row["host"], row["state"], row["version"], row["accounts"]) == (STACK, "serving", SERVER.package, 0)
        assert (row["backup"], row["drill"]) == ("none", "none"), "no backups are configured"
        stats = ["docker", "stats", "--no-stream", "--format", "{{.MemPerc}}", servers[name]]
        share = float(run(stats, place.stack.docker_host).strip().rstrip("%")) / 100
        assert row["memory"]["limit"] == 256 * 1024**2
        assert row["memory"]["used"] == pytest.approx(share * 256 * 1024**2, rel=0.5), "as Docker reports it"
        folder = machine.volume / f"clubs/pds-{name}"
        files = [file.lstat() for file in folder.rglob("*")]
        counted = sum({item.st_ino: item.st_blocks * 512 for item in files}.values())
        assert row["disk"]["limit"] == 5 * 1024**3
        assert row["disk"]["used"] == pytest.approx(counted, rel=0.2)
        assert row["usd_per_month"] == (48 + 2.5) / 4, "a quarter of droplet and volume, by the account's price"
    [free_capacity] = found["free_capacity"]
    # 94 % of 8192 MiB are there, as a real droplet reports them; 512 MiB are the system's.
    left = 7700 - 512 - 512 - 256 - 3 * 384
    assert free_capacity == {"host": STACK, "memory_mib": left, "disk_gib": 5, "fits": True}
    assert "$12.62" in place.stack.pds_command("list").output, "the table must show the price, too"


def test_only_the_changed_club_is_updated(place: HostConnection) -> None:
    before = place.servers()
    place.clubs["chess"].configure(pds={"log_enabled": False})
    previewed = place.stack.pds_command("preview-all", "chess", "rooks")
    assert outcomes(previewed) == {"chess": "would change", "rooks": "unchanged"}
    done = place.stack.pds_command("up-all")
    assert outcomes(done) == dict.fromkeys((STACK, *CLUBS), "unchanged") | {"chess": "up"}
    after = place.servers()
    assert {name for name in after if after[name] != before[name]} == {"chess"}


def test_up_all_starts_nothing_if_preflight_fails(place: HostConnection) -> None:
    before = place.servers()
    place.stack.configure(host={"generation": 2})
    place.clubs["rooks"].configure(pds={"log_enabled": False})
    done = place.stack.pds_command("up-all", check=False)
    assert done.code == 1
    assert outcomes(done) == {STACK: "preflight failed", "chess": "unchanged", "pawns": "unchanged", "rooks": "not run"}
    assert "lost state: Droplet pds-host-droplet would be replaced" in done.output
    assert place.servers() == before
    place.stack.configure(host={"generation": 1})
    place.clubs["rooks"].configure(pds={"log_enabled": True})


def test_failing_stack_stops_later_ones_and_harms_no_other(place: HostConnection) -> None:
    before = place.servers()
    [machine] = place.stack.machines.machines()
    identity = machine.volume / "clubs/pds-pawns/.pds-identity.json"
    content = identity.read_text()
    identity.write_text(content.replace("pawns.test", "another-pds.test"))
    for name in CLUBS:
        place.clubs[name].configure(pds={"blob_upload_limit": 1_000_000})
    done = place.stack.pds_command("up-all", check=False)
    assert done.code == 1
    assert outcomes(done) == {STACK: "unchanged", "chess": "up", "pawns": "up failed", "rooks": "not run"}
    assert "this volume belongs to a PDS with hostname" in done.output
    after = place.servers()
    assert {name: after[name] for name in ("default", "rooks")} == {name: before[name] for name in ("default", "rooks")}
    row = place.clubs_table()["stacks"]["pawns"]
    assert row["memory"]["used"] is None
    identity.write_text(content)
    assert outcomes(place.stack.pds_command("up-all")) == {
        STACK: "unchanged",
        "chess": "unchanged",
        "pawns": "up",
        "rooks": "up",
    }
    assert set(place.servers()) == {"default", *CLUBS}


def test_interrupted_up_all_ends_its_engines_in_order(place: HostConnection) -> None:
    for name in ("chess", "rooks"):
        place.clubs[name].configure(pds={"log_enabled": name == "chess"})
    command = [sys.executable, "-m", "cli.app", "up-all"]
    place_of = {"cwd": place.stack.project, "env": dict(place.stack.env)}
    with child(command, DEADLINE, stdout=subprocess.PIPE, **place_of) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("chess: up"):
                break
        time.sleep(3)  # until the engine runs
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        process.wait(60)
    assert process.returncode in (0, 1), rest
    assert "rooks" in rest
    assert re.search(r"^rooks +not run", rest, re.M), "no further stack may be started"
    assert engines(place) == [], "no engine may be left"
    assert outcomes(place.stack.pds_command("up-all", "chess")) in ({"chess": "up"}, {"chess": "unchanged"}), (
        "no lock may be left"
    )


def engines(place: HostConnection) -> list[str]:
    """Command lines of engines in the project's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == place.stack.project:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # the process ended meanwhile
    return [line for line in found if "pulumi" in line]


def test_output_and_logs_contain_no_secret(place: HostConnection) -> None:
    output = place.logs() + place.stack.pds_command("list").output + place.stack.pds_command("list", "--json").output
    assert HOSTNAME in output, "the output must not be empty"
    for stack in (place.stack, *place.clubs.values()):
        assert hits(secrets_of(stack), output) == []
    for hidden in ("DIGITALOCEAN_TOKEN", "PULUMI_CONFIG_PASSPHRASE"):
        assert place.stack.env[hidden] not in output
    modes = {file.stat().st_mode & 0o777 for file in (place.stack.project / "build/logs").iterdir()}
    assert modes == {0o600}
