"""A volume that goes from a host of its own to a cluster and back: `volume.sh handover`, and the claim that follows."""

import subprocess
from pathlib import Path

import pytest

from tests.support.host_machine import MIB, Machine, tool

OWN = ("pds", "clubs/pds-dev")


@pytest.fixture
def home(machine: Machine) -> Path:
    """The volume of stack `dev`, with a PDS, a club, and the state of its Nomad."""
    for name in ("mountpoint", "chown", "chattr", "setquota"):
        machine.stand_in(name)
    home = machine.root / "srv/nomad"
    for path, text in (
        (".pds-volume", "dev\n"),
        ("pds/account.sqlite", "people"),
        ("clubs/pds-chess/account.sqlite", "players"),
        ("agent/server/raft", "jobs"),
    ):
        machine.file(f"srv/nomad/{path}", text)
    return home


def _handover(machine: Machine, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return machine.run("volume.sh", "handover", *arguments)


def _claim(machine: Machine, stack: str) -> "subprocess.CompletedProcess[str]":
    machine.configure(STACK=stack)
    return machine.run("volume.sh", "claim")


def _received(home: Path, owner: str) -> None:
    assert (home / ".pds-volume").read_text() == f"{owner}\n"
    assert not (home / ".pds-handover").exists()
    assert (home / "clubs/pds-dev/account.sqlite").read_text() == "people"
    assert (home / "clubs/pds-chess/account.sqlite").read_text() == "players"
    assert list((home / "pds").iterdir()) == []
    (kept,) = (home / ".trash").iterdir()
    assert (kept / "server/raft").read_text() == "jobs", "kept for a person, unknown to the other Nomad"
    assert list((home / "agent").iterdir()) == []


def test_the_next_owner_claims_the_volume_and_forgets_the_nomad_before(machine: Machine, home: Path) -> None:
    assert _handover(machine, "fleet-a", *OWN).returncode == 0
    done = _claim(machine, "fleet-a")
    assert done.returncode == 0, done.stderr
    _received(home, "fleet-a")
    project = (home / "clubs/pds-dev").stat().st_ino
    assert f"chattr -p {project} +P /srv/nomad/clubs/pds-dev" in machine.calls("chattr"), "its data count for its quota"
    assert _claim(machine, "fleet-a").returncode == 0, "a reboot claims it again"
    _received(home, "fleet-a")


def test_until_it_is_claimed_the_owner_before_starts_as_ever(machine: Machine, home: Path) -> None:
    _handover(machine, "fleet-a", *OWN)
    assert machine.run("volume.sh", "claim").returncode == 0
    assert machine.run("volume.sh", "check").returncode == 0
    assert (home / "pds/account.sqlite").read_text() == "people"
    assert (home / "agent/server/raft").exists()


def test_after_the_claim_the_owner_before_starts_no_agent(machine: Machine, home: Path) -> None:
    _handover(machine, "fleet-a", *OWN)
    _claim(machine, "fleet-a")
    machine.configure(STACK="dev")
    assert machine.run("volume.sh", "check").returncode == 1
    assert machine.run("volume.sh", "claim").returncode == 1
    _received(home, "fleet-a")


def test_another_stack_claims_nothing(machine: Machine, home: Path) -> None:
    _handover(machine, "fleet-a", *OWN)
    done = _claim(machine, "fleet-b")
    assert done.returncode == 1
    assert "belongs to stack 'dev', not to 'fleet-b'" in done.stderr
    assert (home / "pds/account.sqlite").exists()


def test_a_handover_can_be_taken_back(machine: Machine, home: Path) -> None:
    _handover(machine, "fleet-a", *OWN)
    assert _handover(machine, "dev").returncode == 0
    assert not (home / ".pds-handover").exists()
    assert _claim(machine, "fleet-a").returncode == 1


@pytest.mark.parametrize("number", range(1, 4))
def test_a_claim_that_is_killed_goes_on(machine: Machine, home: Path, number: int) -> None:
    _handover(machine, "fleet-a", *OWN)
    # Before the renames of Nomad's state, of the PDS, and of the owner's file.
    count = machine.root / "count"
    body = f"n=$(($(cat {count} 2>/dev/null || echo 0) + 1)); echo $n >{count}; [ $n = {number} ] && kill -9 $PPID"
    machine.stand_in("mv", body=f'{body}\nexec /bin/mv "$@"')
    assert _claim(machine, "fleet-a").returncode != 0
    assert _claim(machine, "fleet-a").returncode == 0
    _received(home, "fleet-a")


def test_an_owner_with_the_same_name_is_refused(machine: Machine, home: Path) -> None:
    done = _handover(machine, "dev", *OWN)
    assert done.returncode == 1
    assert "stack 'dev' has this volume already" in done.stderr


def test_the_next_owner_is_not_in_the_journal_alone(machine: Machine, home: Path) -> None:
    """`debugfs`, by which a worker reads it, replays no journal."""
    machine.stand_in("stat", f"echo {home}")
    machine.stand_in("fsfreeze", f"test -e {home}/.pds-handover || exit 1")
    assert _handover(machine, "fleet-a", *OWN).returncode == 0
    assert machine.calls("fsfreeze") == ["fsfreeze -f /srv/nomad", "fsfreeze -u /srv/nomad"]


@pytest.mark.parametrize(("mount", "frozen"), [("/", []), ("", ["fsfreeze -f /srv/nomad"])])
def test_a_handover_succeeds_without_a_freeze(machine: Machine, home: Path, mount: str, frozen: list[str]) -> None:
    machine.stand_in("stat", f"echo {mount or home}")
    machine.stand_in("fsfreeze", code=1)
    assert _handover(machine, "fleet-a", *OWN).returncode == 0
    assert machine.calls("fsfreeze") == frozen, "the file system around it is never frozen, nor is one thawed"


@pytest.mark.parametrize(("used", "code"), [("14", 0), ("15", 1), ("20", 1), ("", 1)])
def test_a_pds_that_its_quota_would_stop_is_not_handed_over(machine: Machine, home: Path, used: str, code: int) -> None:
    machine.stand_in("du", f"printf '%s\\t%s\\n' '{used}' {home}/pds")
    done = _handover(machine, "fleet-a", *OWN, "15")
    assert done.returncode == code
    assert (home / ".pds-handover").exists() is not bool(code)
    assert ("its quota will be 15 GiB" in done.stderr) is bool(code)
    assert machine.calls("du") == ["du -s --block-size=1G /srv/nomad/pds"]


def test_it_goes_back_to_a_host_of_its_own(machine: Machine, home: Path) -> None:
    _handover(machine, "fleet-a", *OWN)
    _claim(machine, "fleet-a")
    assert _handover(machine, "dev", *reversed(OWN)).returncode == 0
    done = _claim(machine, "dev")
    assert done.returncode == 0, done.stderr
    assert (home / "pds/account.sqlite").read_text() == "people"
    assert not (home / "clubs/pds-dev").exists()
    project = (home / "pds").stat().st_ino
    assert f"setquota -P {project} 0 0 0 0 /srv/nomad" in machine.calls("setquota"), "it has no quota any more"


def test_no_directory_takes_the_place_of_another(machine: Machine, home: Path) -> None:
    machine.file("srv/nomad/clubs/pds-dev/account.sqlite", "others")
    _handover(machine, "fleet-a", *OWN)
    done = _claim(machine, "fleet-a")
    assert done.returncode == 1
    assert "has a content of its own" in done.stderr
    assert (home / "pds/account.sqlite").read_text() == "people"
    assert (home / "clubs/pds-dev/account.sqlite").read_text() == "others"
    assert (home / ".pds-volume").read_text() == "dev\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("Fleet",),
        ("fleet-a", "pds"),
        ("fleet-a", "pds", "/etc"),
        ("fleet-a", "pds", "clubs/pds-../x"),
        ("a b",),
        ("fleet-a", *OWN, "x"),
    ],
)
def test_refuses_an_owner_or_a_directory_that_is_none(machine: Machine, home: Path, arguments: tuple[str, ...]) -> None:
    assert _handover(machine, *arguments).returncode == 1
    assert not (home / ".pds-handover").exists()


def test_refuses_to_give_away_what_belongs_to_another_stack(machine: Machine, home: Path) -> None:
    (home / ".pds-volume").write_text("prod\n")
    assert _handover(machine, "fleet-a").returncode == 1
    assert not (home / ".pds-handover").exists()


# A worker finds the host in the volume itself


@pytest.fixture
def worker(machine: Machine) -> Machine:
    """A worker of cluster `fleet`, with a real file system on the volume of stack `dev`."""
    machine.file("etc/pds/host.env", "FLEET=fleet\nVOLUME_PREFIX=pds-fleet-\n")
    for name in ("etc/pds/agent.hcl", "etc/pds/srv-nomad.mount", "var/lib/pds/setup-done"):
        machine.file(name, "")
    machine.stand_in("systemctl")
    return machine


def _disk(machine: Machine, tmp_path: Path, **files: str) -> None:
    content = tmp_path / "content"
    content.mkdir()
    for name, text in files.items():
        (content / f".pds-{name}").write_text(text)
    device = machine.root / "dev/disk/by-id/scsi-0DO_Volume_pds-dev"
    device.parent.mkdir(parents=True)
    with device.open("wb") as file:
        file.truncate(16 * MIB)
    make = tool("mkfs.ext4", "e2fsprogs")
    subprocess.run([make, "-q", "-d", content, device], check=True, stdin=subprocess.DEVNULL, timeout=600)


@pytest.mark.parametrize(
    "files",
    [{"volume": "dev\n", "handover": "fleet-a\npds\nclubs/pds-dev\n"}, {"volume": "fleet-a\n"}],
    ids=["given away", "claimed"],
)
def test_an_adopted_volume_makes_a_worker_its_host(worker: Machine, tmp_path: Path, files: dict[str, str]) -> None:
    _disk(worker, tmp_path, **files)
    done = worker.run("carry.sh", "0DO_Volume_pds-dev")
    assert done.returncode == 0, done.stdout
    assert (worker.root / "run/pds/carried.env").read_text() == "VOLUME=pds-dev\nSTACK=fleet-a\n"


@pytest.mark.parametrize(
    "files", [{"volume": "dev\n"}, {"volume": "dev\n", "handover": "other-a\n\n\n"}], ids=["not given", "to another"]
)
def test_a_volume_that_was_not_given_away_is_left_alone(worker: Machine, tmp_path: Path, files: dict[str, str]) -> None:
    _disk(worker, tmp_path, **files)
    assert worker.run("carry.sh", "0DO_Volume_pds-dev").returncode == 0
    assert worker.calls("systemctl") == []
