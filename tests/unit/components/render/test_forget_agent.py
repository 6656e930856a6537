"""A host of a cluster whose servers lost their state: `forget-agent.sh`."""

import subprocess
from pathlib import Path

import pytest

from tests.support.host_machine import Machine

_SECRETS = "/srv/nomad/agent/alloc/1/pds/secrets"


@pytest.fixture
def home(machine: Machine) -> Path:
    """The volume of host `a`, with a club and the state of Nomad's agent; two containers run."""
    for name in ("mountpoint", "chown", "systemctl", "umount"):
        machine.stand_in(name)
    machine.stand_in("docker", '[ "$1" != ps ] || printf "c1\\nc2\\n"')
    machine.configure(STACK="fleet-a", FLEET="fleet")
    machine.file("proc/self/mountinfo", f"36 35 0:40 / {_SECRETS} rw\n37 35 0:41 / /srv/nomad rw\n")
    for path, text in (
        (".pds-volume", "fleet-a\n"),
        ("clubs/pds-chess/account.sqlite", "players"),
        ("agent/client/state.db", "volumes"),
    ):
        machine.file(f"srv/nomad/{path}", text)
    return machine.root / "srv/nomad"


def _forget(machine: Machine) -> "subprocess.CompletedProcess[str]":
    return machine.run("forget-agent.sh")


def _kept(home: Path) -> Path:
    (kept,) = (home / ".trash").iterdir()
    return kept


def test_the_agent_starts_without_state_and_no_data_are_touched(machine: Machine, home: Path) -> None:
    done = _forget(machine)
    assert done.returncode == 0, done.stderr
    assert (_kept(home) / "client/state.db").read_text() == "volumes", "it is never deleted"
    assert list((home / "agent").iterdir()) == []
    assert (home / "clubs/pds-chess/account.sqlite").read_text() == "players"


def test_no_container_outlives_the_agent_that_knew_it(machine: Machine, home: Path) -> None:
    """A second server on the same data would wait for the first one's lock for ever."""
    machine.stand_in("mv", 'exec /bin/mv "$@"')
    _forget(machine)
    calls = machine.calls("systemctl", "docker", "umount", "mv")
    assert [call.partition(" /srv/nomad/.trash")[0] for call in calls] == [
        "systemctl stop nomad.service",
        "docker ps --quiet --filter label=com.hashicorp.nomad.alloc_id",
        "docker stop --time 60 c1 c2",
        "systemctl kill --kill-whom=all --signal=SIGTERM nomad.service",
        f"umount --lazy {_SECRETS}",
        "mv -T /srv/nomad/agent",
        "systemctl start nomad.service",
    ]


def test_a_failure_leaves_the_agent_running_with_its_state(machine: Machine, home: Path) -> None:
    machine.stand_in("docker", '[ "$1" != ps ] || echo c1', code=1)
    assert _forget(machine).returncode != 0
    assert machine.calls("systemctl")[-1] == "systemctl start nomad.service"
    assert (home / "agent/client/state.db").exists()


def test_it_can_be_repeated(machine: Machine, home: Path) -> None:
    machine.stand_in("date", "cat /proc/sys/kernel/random/uuid")
    assert [_forget(machine).returncode for _ in range(2)] == [0, 0]
    assert len(list((home / ".trash").iterdir())) == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [({"STACK": "fleet-a"}, "no host of a cluster"), ({"STACK": "fleet-b", "FLEET": "fleet"}, "belongs to stack")],
    ids=["a host of its own, whose Nomad has its server's state there", "the volume of another host"],
)
def test_another_agent_is_not_forgotten(machine: Machine, home: Path, values: dict[str, str], words: str) -> None:
    machine.configure(**values)
    done = _forget(machine)
    assert done.returncode == 1
    assert words in done.stderr
    assert machine.calls("systemctl", "docker") == []
    assert (home / "agent/client/state.db").exists()
