"""The scripts of a cluster's droplets: a worker that gets a volume, and the servers' gossip key."""

import base64
import re
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
import yaml

from tests.support.host_machine import Machine, tool
from tests.support.programs import cluster

WORKER = "FLEET=fleet\nVOLUME_PREFIX=pds-fleet-\n"


@pytest.fixture
def worker(machine: Machine) -> Machine:
    machine.file("etc/pds/host.env", WORKER)
    machine.file("etc/pds/agent.hcl", 'name = "@HOST@"\npds_droplet = "@DROPLET@"\n')
    machine.file("etc/pds/srv-nomad.mount", "What=/dev/disk/by-id/scsi-0DO_Volume_@VOLUME@\n")
    machine.file("var/lib/pds/setup-done", "")
    machine.file("var/lib/cloud/data/instance-id", "4711\n")
    for host in "ab":
        machine.file(f"dev/disk/by-id/scsi-0DO_Volume_pds-fleet-{host}", "")
    machine.stand_in("systemctl")
    return machine


def test_a_volume_makes_a_worker_its_host(worker: Machine) -> None:
    assert worker.run("carry.sh", "0DO_Volume_pds-fleet-a").returncode == 0
    assert (worker.root / "run/pds/carried.env").read_text() == "VOLUME=pds-fleet-a\nSTACK=fleet-a\n"
    assert (worker.root / "etc/nomad.d/agent.hcl").read_text() == 'name = "a"\npds_droplet = "4711"\n'
    assert "0DO_Volume_pds-fleet-a\n" in (worker.root / "run/systemd/system/srv-nomad.mount").read_text()
    assert worker.calls("systemctl") == [
        "systemctl daemon-reload",
        "systemctl start pds-volume-prepare.service",
        "systemctl start pds-volume-claim.service",
        "systemctl start --no-block nomad.service pds-drain.service pds-grow.timer",
    ]


def test_a_second_volume_is_left_alone(worker: Machine) -> None:
    worker.run("carry.sh", "0DO_Volume_pds-fleet-a")
    before = worker.calls("systemctl")
    second = worker.run("carry.sh", "0DO_Volume_pds-fleet-b")
    assert second.returncode == 1
    assert "REFUSED" in second.stdout
    assert worker.calls("systemctl") == before, "two hosts on one worker would share its ports"


def test_the_same_volume_again_starts_what_is_missing(worker: Machine) -> None:
    worker.run("carry.sh", "0DO_Volume_pds-fleet-a")
    assert worker.run("carry.sh", "0DO_Volume_pds-fleet-a").returncode == 0, "udev reports a disk more than once"


def test_of_two_volumes_at_once_one_is_the_host_as_a_whole(worker: Machine) -> None:
    # While this start waits for the lock, the start that holds it makes the worker another host.
    worker.stand_in("flock", body='echo "VOLUME=pds-fleet-b" >"$PDS_ROOT/run/pds/carried.env"')
    late = worker.run("carry.sh", "0DO_Volume_pds-fleet-a")
    assert late.returncode == 1
    assert not (worker.root / "etc/nomad.d/agent.hcl").exists(), "an agent of a on the volume of b"
    assert worker.calls("systemctl") == []


@pytest.mark.parametrize(
    "disk",
    [
        "0DO_Volume_pds-other-a",
        "0DO_Volume_pds-fleet-",
        # Host a of the cluster `fleet-two`; its volume says `fleet-two-a`, too.
        "0DO_Volume_pds-fleet-two-a",
        "QEMU_HARDDISK_1",
    ],
)
def test_another_disk_is_no_host(worker: Machine, disk: str) -> None:
    assert worker.run("carry.sh", disk).returncode == 0
    assert worker.calls("systemctl") == []


def test_a_volume_waits_for_the_end_of_the_setup(worker: Machine) -> None:
    (worker.root / "var/lib/pds/setup-done").unlink()
    assert worker.run("carry.sh", "0DO_Volume_pds-fleet-a").returncode == 0
    assert worker.calls("systemctl") == [], "Nomad and Docker are not installed yet"


@pytest.fixture
def carrying(worker: Machine) -> Machine:
    """A worker that carries host a, with a container on it."""
    worker.run("carry.sh", "0DO_Volume_pds-fleet-a")
    (worker.stands / ".calls").unlink()
    worker.stand_in("docker", body=_ONE_CONTAINER)
    worker.stand_in("umount")
    worker.file("proc/self/mountinfo", _MOUNTS)
    return worker


_ONE_CONTAINER = """case $1 in
ps) [ -e "$PDS_ROOT/killed" ] || echo c0ffee ;;
kill) touch "$PDS_ROOT/killed" ;;
esac"""
_MOUNTS = """\
22 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw
90 22 8:0 / /srv/nomad rw,noatime - ext4 /dev/sda rw,prjquota
91 90 0:50 / /srv/nomad/agent/alloc/1/pds/secrets rw - tmpfs tmpfs rw
92 22 8:0 /agent/alloc/1 /var/lib/nomad/alloc_mounts/1 rw - ext4 /dev/sda rw
93 22 0:51 / /srv/nomadic rw - tmpfs tmpfs rw
"""


def test_all_that_ran_from_a_volume_ends_when_it_is_taken_away(carrying: Machine) -> None:
    assert carrying.run("volume-lost.sh", "0DO_Volume_pds-fleet-a").returncode == 0
    assert carrying.calls("systemctl", "docker") == [
        "systemctl stop --no-block nomad.service pds-grow.timer",
        "systemctl kill --kill-whom=all --signal=SIGKILL nomad.service",
        "docker ps --quiet --filter label=com.hashicorp.nomad.alloc_id",
        "docker kill c0ffee",
        "docker ps --quiet --filter label=com.hashicorp.nomad.alloc_id",
    ], "the agent would restart a container that is killed before it"
    assert carrying.calls("umount") == [
        "umount --lazy /var/lib/nomad/alloc_mounts/1",
        "umount --lazy /srv/nomad/agent/alloc/1/pds/secrets",
        "umount --lazy /srv/nomad",
    ]


@pytest.mark.parametrize("volume", ["pds-fleet-a", "pds-fleet-b"])
def test_a_worker_that_lost_its_volume_gets_no_host_before_a_reboot(carrying: Machine, volume: str) -> None:
    carrying.run("volume-lost.sh", "0DO_Volume_pds-fleet-a")
    before = carrying.calls("systemctl")
    again = carrying.run("carry.sh", f"0DO_Volume_{volume}")
    assert again.returncode == 1
    assert "REFUSED" in again.stdout
    assert carrying.calls("systemctl") == before


def test_a_volume_that_is_gone_before_its_start_leaves_the_worker_blank(worker: Machine) -> None:
    (worker.root / "dev/disk/by-id/scsi-0DO_Volume_pds-fleet-a").unlink()
    assert worker.run("carry.sh", "0DO_Volume_pds-fleet-a").returncode == 0
    assert worker.calls("systemctl") == []
    assert worker.run("carry.sh", "0DO_Volume_pds-fleet-b").returncode == 0, "the takeover counts it as a spare"
    assert (worker.root / "run/pds/carried.env").read_text() == "VOLUME=pds-fleet-b\nSTACK=fleet-b\n"


Beside = Callable[..., tuple[int, str]]
_END = [
    "systemctl stop --no-block nomad.service pds-grow.timer",
    "systemctl kill --kill-whom=all --signal=SIGKILL nomad.service",
]
_PAUSE = """touch "$PDS_ROOT/paused"
until [ -e "$PDS_ROOT/go-on" ]; do sleep 0.02; done"""


@pytest.fixture
def beside(worker: Machine) -> Iterator[Beside]:
    """Begins `first`, which a stand-in pauses, and then `second`; lets the first go on once the second has ended or
    waits for `lock`. Returns the exit code and the output of the start among them."""
    worker.stand_in("docker")
    worker.stand_in("flock", body='exec /usr/bin/flock "$@"')
    worker.file("proc/self/mountinfo", _MOUNTS)
    worker.stand_in("umount")
    running: list[subprocess.Popen[str]] = []

    def run(first: str, second: str, lock: int) -> tuple[int, str]:
        running.append(worker.begin(first, "0DO_Volume_pds-fleet-a"))
        _until((worker.root / "paused").exists)
        before = worker.calls("flock").count(f"flock {lock}")
        running.append(worker.begin(second, "0DO_Volume_pds-fleet-a"))
        _until(lambda: running[1].poll() is not None or worker.calls("flock").count(f"flock {lock}") > before)
        worker.file("go-on", "")
        outputs = [process.communicate(timeout=60)[0] for process in running]
        start, end = (0, 1) if first == "carry.sh" else (1, 0)
        assert running[end].returncode == 0, outputs[end]
        return running[start].returncode, outputs[start]

    yield run
    for process in running:
        process.kill()


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("what the test waits for does not happen")


def test_a_disk_that_vanishes_while_its_owner_is_read_is_no_host(worker: Machine, beside: Beside) -> None:
    disk = worker.root / "dev/disk/by-id/scsi-0DO_Volume_pds-fleet-a"
    worker.stand_in("debugfs", body=f'[ -e "$PDS_ROOT/paused" ] || {{ rm {disk}\n{_PAUSE}\n}}')
    assert beside("carry.sh", "volume-lost.sh", lock=9)[0] == 0
    assert worker.calls("systemctl") == []
    assert worker.run("carry.sh", "0DO_Volume_pds-fleet-b").returncode == 0, "the takeover counts it as a spare"


def test_a_disk_that_vanishes_while_its_host_is_noted_is_lost(worker: Machine, beside: Beside) -> None:
    pause = f'[ "$*" != 8 ] || [ -e "$PDS_ROOT/paused" ] || {{\n{_PAUSE}\n}}'
    worker.stand_in("flock", body=f'/usr/bin/flock "$@"\n{pause}')
    beside("carry.sh", "volume-lost.sh", lock=8)
    assert worker.calls("systemctl")[-2:] == _END, "an end that is too early finds no host, and ends nothing"
    assert (worker.root / "run/pds/volume-lost").exists()


@pytest.mark.parametrize("step", ["pds-volume-prepare", "pds-volume-claim"])
def test_a_disk_that_vanishes_while_it_is_prepared_starts_no_agent(worker: Machine, beside: Beside, step: str) -> None:
    worker.stand_in("systemctl", body=f'[ "$*" != "start {step}.service" ] || {{\n{_PAUSE}\n}}')
    code, output = beside("carry.sh", "volume-lost.sh", lock=9)
    assert (code, "REFUSED: this worker lost the volume" in output) == (1, True)
    calls = worker.calls("systemctl")
    after = calls[calls.index(f"systemctl start {step}.service") + 1 :]
    assert after == _END, "the disk may be back by now, and a PDS that starts from it would be killed at once"


def test_a_disk_that_is_back_while_its_host_still_ends_is_left_alone(carrying: Machine, beside: Beside) -> None:
    carrying.stand_in("docker", body=_ONE_CONTAINER.replace("kill) ", f"kill)\n{_PAUSE}\n"))
    code, output = beside("volume-lost.sh", "carry.sh", lock=9)
    assert (code, "REFUSED: this worker lost the volume" in output) == (1, True)
    assert carrying.calls("systemctl") == _END, "the old mounts and processes may still be there"


def test_another_volume_that_is_taken_away_ends_nothing(carrying: Machine) -> None:
    assert carrying.run("volume-lost.sh", "0DO_Volume_pds-fleet-b").returncode == 0
    assert carrying.calls() == []
    assert not (carrying.root / "run/pds/volume-lost").exists()


def test_a_disk_that_leaves_a_blank_worker_ends_nothing(worker: Machine) -> None:
    assert worker.run("volume-lost.sh", "0DO_Volume_pds-fleet-a").returncode == 0
    assert worker.calls() == []


def test_a_container_that_cannot_be_killed_is_reported(carrying: Machine) -> None:
    carrying.stand_in("docker", body='[ "$1" != ps ] || echo c0ffee')
    carrying.stand_in("sleep")
    run = carrying.run("volume-lost.sh", "0DO_Volume_pds-fleet-a")
    assert run.returncode == 1
    assert "Power this droplet off" in run.stderr


def test_servers_derive_the_same_gossip_key_from_the_same_tls_key(machine: Machine) -> None:
    def key(text: str) -> str:
        machine.file("etc/stunnel/pds/server.key", text)
        machine.file("etc/nomad.d/agent.hcl", "")
        assert machine.run("gossip.sh").returncode == 0
        file = machine.root / "etc/nomad.d/gossip.hcl"
        assert file.stat().st_mode & 0o777 == 0o600
        found = re.search(r'encrypt = "([^"]+)"', file.read_text())
        assert found
        return found[1]

    assert key("one") == key("one") != key("two")
    assert len(base64.b64decode(key("one"))) == 32, "Nomad wants 32 bytes"


@pytest.mark.parametrize("role", ["server", "worker"])
def test_shellcheck_reports_nothing_in_the_setup_of_a_droplet(role: str) -> None:
    droplet = cluster().one(f"pds-cluster-droplets-{role}-1")
    files = yaml.load(str(droplet.inputs["userData"]), yaml.CSafeLoader)["write_files"]
    (setup,) = (file["content"] for file in files if file["path"].endswith("/setup"))
    done = subprocess.run(
        [tool("shellcheck", "shellcheck"), "-"], input=setup, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout
