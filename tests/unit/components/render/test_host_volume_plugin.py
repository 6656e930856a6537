"""The host-volume plugin, run as Nomad runs it."""

import json
import re
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.host_machine import FILES, Machine

VOLUME = "pds-chess"


def plugin(machine: Machine, operation: str, **values: str) -> "subprocess.CompletedProcess[str]":
    """Run the plugin as Nomad does: with its variables only, not even PATH."""
    return subprocess.run(
        ["/bin/sh", FILES / "host-volume-plugin.sh", operation],
        env={"PDS_ROOT": str(machine.root), "PDS_PATH": str(machine.stands), "DHV_OPERATION": operation} | values,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture
def clubs(machine: Machine) -> Path:
    for name in ("chattr", "setquota", "chown"):
        machine.stand_in(name)
    home = machine.root / "srv/nomad"
    (home / "clubs").mkdir(parents=True)
    (home / ".trash").mkdir()
    return home / "clubs"


def test_fingerprint_returns_a_version() -> None:
    run = subprocess.run(
        ["/bin/sh", FILES / "host-volume-plugin.sh", "fingerprint"],
        env={},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert re.fullmatch(r"\d+\.\d+\.\d+", json.loads(run.stdout)["version"])


def test_new_volume_is_a_directory_owned_by_the_server_with_a_quota(machine: Machine, clubs: Path) -> None:
    run = plugin(
        machine,
        "create",
        DHV_VOLUME_NAME=VOLUME,
        DHV_CAPACITY_MIN_BYTES="1000000000",
        DHV_CAPACITY_MAX_BYTES="2000000001",
    )
    assert run.returncode == 0, run.stdout
    directory = clubs / VOLUME
    assert json.loads(run.stdout) == {"path": str(directory), "bytes": 2_000_000_001}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    project = directory.stat().st_ino
    assert machine.calls() == [
        f"chown 1000:1000 /srv/nomad/clubs/{VOLUME}",
        f"chattr -p {project} +P /srv/nomad/clubs/{VOLUME}",
        f"setquota -P {project} 0 1953126 0 0 /srv/nomad",  # KiB, rounded up
    ]


@pytest.mark.parametrize(("least", "most", "kib"), [("2048", "0", 2), ("0", "0", 0), ("1", "1", 1), ("0", "1025", 2)])
def test_quota_is_the_larger_requested_bound(machine: Machine, clubs: Path, least: str, most: str, kib: int) -> None:
    plugin(machine, "create", DHV_VOLUME_NAME=VOLUME, DHV_CAPACITY_MIN_BYTES=least, DHV_CAPACITY_MAX_BYTES=most)
    assert machine.calls("setquota")[0].split()[3:5] == ["0", str(kib)]


def test_creating_a_volume_again_keeps_its_data(machine: Machine, clubs: Path) -> None:
    # Nomad creates every volume again whenever its agent starts.
    first = plugin(machine, "create", DHV_VOLUME_NAME=VOLUME)
    (clubs / VOLUME / "account.sqlite").write_text("people")
    second = plugin(machine, "create", DHV_VOLUME_NAME=VOLUME)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert (clubs / VOLUME / "account.sqlite").read_text() == "people"
    assert len(set(machine.calls("chattr"))) == 1, "another project number would start a new count"


def test_nomad_without_its_old_state_finds_the_same_data(machine: Machine, clubs: Path) -> None:
    first = plugin(machine, "create", DHV_VOLUME_NAME=VOLUME, DHV_VOLUME_ID="27a2ef32-09e4-11f1-9d4e-3b2b9f3c6a10")
    (clubs / VOLUME / "account.sqlite").write_text("people")
    second = plugin(machine, "create", DHV_VOLUME_NAME=VOLUME, DHV_VOLUME_ID="94a3c1d0-5e1f-4d6c-8f0a-0e4a3f9b7c21")
    assert second.stdout == first.stdout, "the id differs, and the club's data stays at the same path"


def test_deleted_volume_is_renamed_with_its_data(machine: Machine, clubs: Path) -> None:
    plugin(machine, "create", DHV_VOLUME_NAME=VOLUME)
    (clubs / VOLUME / "account.sqlite").write_text("people")
    for _ in range(2):  # Nomad may repeat a request whose response was lost
        run = plugin(machine, "delete", DHV_VOLUME_NAME=VOLUME, DHV_CREATED_PATH=str(clubs / VOLUME))
        assert run.returncode == 0, run.stdout
    assert list(clubs.iterdir()) == []
    [kept] = (clubs.parent / ".trash").iterdir()
    assert re.fullmatch(rf"\d{{8}}T\d{{6}}Z-{VOLUME}", kept.name)
    assert (kept / "account.sqlite").read_text() == "people"


@pytest.mark.parametrize("operation", ["create", "delete"])
@pytest.mark.parametrize(
    "name",
    [
        "../agent",
        "",
        ".",
        "a/b",
        "../../../../../../../../../../../../etc",
        "chess",
        "pds-",
        "pds-../agent",
        "pds-Chess",
        "pds-a b",
    ],
)
def test_only_a_name_of_the_program_becomes_part_of_a_path(
    machine: Machine, clubs: Path, operation: str, name: str
) -> None:
    (clubs.parent / "agent").mkdir()
    before = sorted(machine.root.rglob("*"))
    run = plugin(machine, operation, DHV_VOLUME_NAME=name, DHV_VOLUMES_DIR="/", DHV_CREATED_PATH="/etc")
    assert run.returncode != 0
    assert "not one of this program" in json.loads(run.stdout)["error"]
    assert sorted(machine.root.rglob("*")) == before
    assert machine.calls() == []


def test_volume_is_removed_if_its_quota_cannot_be_set(machine: Machine, clubs: Path) -> None:
    machine.stand_in("setquota", code=1)
    run = plugin(machine, "create", DHV_VOLUME_NAME=VOLUME)
    assert run.returncode != 0
    assert "quota" in json.loads(run.stdout)["error"]
    assert list(clubs.iterdir()) == []


def test_failed_quota_never_removes_a_directory_with_data(machine: Machine, clubs: Path) -> None:
    plugin(machine, "create", DHV_VOLUME_NAME=VOLUME)
    (clubs / VOLUME / "account.sqlite").write_text("people")
    machine.stand_in("setquota", code=1)
    assert plugin(machine, "create", DHV_VOLUME_NAME=VOLUME).returncode != 0
    assert (clubs / VOLUME / "account.sqlite").read_text() == "people"


def test_creates_nothing_if_the_volume_is_not_mounted(machine: Machine) -> None:
    run = plugin(machine, "create", DHV_VOLUME_NAME=VOLUME)
    assert run.returncode != 0
    assert "mounted" in json.loads(run.stdout)["error"]
    assert not (machine.root / "srv").exists()
