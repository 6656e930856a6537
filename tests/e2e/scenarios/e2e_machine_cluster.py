"""A cluster's workers on machines: a blank one, a volume that is plugged in, and one that is taken away under a program
that writes to it: `pytest -x -s tests/e2e/scenarios/e2e_machine_cluster.py`, as root.

The exact `user_data` of workers, as the program renders it, under systemd, udev and cloud-init (`virtual_cluster.py`),
one machine at a time, with certificates of a CA made here. Their server is a process of this machine with the rendered
configuration; `e2e_machine_server.py` boots one. Neither Pulumi nor a double of DigitalOcean takes part: the test plugs
and unplugs. One scenario: each test continues from the end of the previous one. Times are printed, never asserted,
since they depend on the emulation.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from components.render.cluster.user_data import worker_user_data
from components.render.host.cloud_init import MAX_BYTES
from tests.e2e.environment.tools import missing
from tests.e2e.environment.virtual import free_port
from tests.e2e.environment.virtual_cluster import ClusterVirtualMachines, identity, until, virtual_cluster
from tests.e2e.environment.virtual_nomad import Nomad, Writer, nomad_server, writer_job
from tests.e2e.environment.watching import meanwhile
from tests.e2e.images.row_writer import TAG, row_writer_image
from tests.support.certificates import Authority

PROGRAMS = (
    *("nomad", "qemu-system-x86_64", "debootstrap", "mke2fs", "debugfs", "ssh", "ssh-keygen"),
    *("npm", "g++", "make"),
)
STACK = "fleet"
FIRST, SECOND = 2, 3
"""Droplets: the worker that loses the volume, and the spare."""
A, B = f"pds-{STACK}-a", f"pds-{STACK}-b"
"""The volumes of the hosts."""
_MEMORY_MIB, _VOLUME_GIB = 2048, 2


@dataclass
class Cluster:
    """The droplets, the server's API, and what the writer acknowledged."""

    machines: ClusterVirtualMachines
    worker_data: str
    nomad: Nomad
    node: str = ""
    """Id of the node of host a."""
    writer: Writer = field(default_factory=Writer)

    def ask(self, droplet: int, script: str) -> str:
        """The output of a shell script on a droplet. Raises E2eError."""
        return self.machines.ask(droplet, script, patience=600)

    def is_blank(self, droplet: int) -> bool:
        """Whether no host is on a worker: no agent, no container, no mount of a volume."""
        return self.ask(droplet, _BLANK).split() == ["0", "0", "0"]

    def plug(self, droplet: int, name: str) -> None:
        """Plug a volume, which has its name as its ID here, into a droplet."""
        self.machines.attach(droplet, name, name)

    def log_of_carry(self, droplet: int, name: str) -> str:
        """What the script that makes a worker a host has said of a volume since the boot."""
        return self.ask(droplet, f"journalctl --boot --quiet --output=cat --unit={_unit(name)}")


def _unit(name: str) -> str:
    return f"pds-carry@0DO_Volume_{name}.service"


_BLANK = """
systemctl show --property=MainPID --value nomad.service
docker ps --quiet | wc --lines
grep --count -E ' /(srv/nomad|var/lib/nomad/alloc_mounts|mnt)' /proc/self/mountinfo || true
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if lines := missing(*PROGRAMS):
        pytest.fail("\n".join(lines), pytrace=False)
    folder, rpc = tmp_path_factory.mktemp("machine"), free_port()
    machines, settings, cache = virtual_cluster(folder, STACK, rpc, _MEMORY_MIB)
    row_writer_image(cache, machines.outside)
    authority = Authority("PDS operators")
    data = worker_user_data(settings, STACK, identity(authority, "client.global.nomad"))
    for name in (A, B):
        machines.make_volume(name, _VOLUME_GIB)
    try:
        with nomad_server(folder / "server", settings, STACK, authority, rpc) as nomad:
            until("a leader", lambda: bool(nomad.get("/v1/status/leader")), patience=60)
            nomad.bootstrap()
            yield Cluster(machines, data, nomad)
    finally:
        machines.stop_all()


def test_exact_user_data_creates_a_worker_that_waits(cluster: Cluster) -> None:
    assert len(cluster.worker_data.encode()) <= MAX_BYTES
    cluster.machines.make(FIRST, cluster.worker_data, {})
    assert cluster.is_blank(FIRST)
    assert cluster.ask(FIRST, "ls /etc/nomad.d 2>&1 || true; systemctl is-active docker.service").endswith("active\n")
    assert cluster.nomad.get("/v1/nodes") == [], "a blank worker is no node"


def test_a_disk_that_is_no_host_s_volume_is_left_alone(cluster: Cluster) -> None:
    """Blank, so that it would be formatted; and the one of a cluster whose name begins with this one's."""
    for name in ("pds-other-a", f"pds-{STACK}-two-a"):
        is_left_alone(cluster, name)
    assert cluster.ask(FIRST, "systemctl --failed --plain --no-legend") == ""


def is_left_alone(cluster: Cluster, name: str) -> None:
    """Assert that a blank worker stays blank when a new volume of this name is plugged in for a moment."""
    cluster.machines.make_volume(name, 1)
    cluster.plug(FIRST, name)
    until("a decision", lambda: "is left alone" in cluster.log_of_carry(FIRST, name))
    assert cluster.is_blank(FIRST)
    assert cluster.machines.volume_file(name).stat().st_blocks == 0, f"{name} was written to"
    cluster.machines.detach(FIRST, name)


def test_a_plugged_volume_makes_the_worker_its_host(cluster: Cluster) -> None:
    cluster.plug(FIRST, A)
    print(f"\n== plugged into a waiting worker: ready after {ready_on(cluster, FIRST):.0f} s")
    options = cluster.ask(FIRST, "findmnt --noheadings --output OPTIONS /srv/nomad").strip().split(",")
    assert {"prjquota", "noatime", "nodev", "nosuid"} <= set(options)
    assert cluster.ask(FIRST, "cat /srv/nomad/.pds-volume") == f"{STACK}-a\n"
    assert cluster.ask(FIRST, "cat /srv/nomad/agent/client/client-id").strip() == cluster.node
    assert cluster.ask(FIRST, "systemctl --failed --plain --no-legend") == ""


def ready_on(cluster: Cluster, droplet: int) -> float:
    """Wait until host a is ready on a droplet; the seconds. Its node is always the same one."""

    def node() -> dict[str, str] | None:
        found = [node for node in cluster.nomad.get("/v1/nodes") if node["Datacenter"] == "a"]
        assert len(found) <= 1, "host a must stay the same node"
        return found[0] if found else None

    def ready() -> bool:
        now = node()
        if now is None or now["Status"] != "ready":
            return False
        return bool(cluster.nomad.get(f"/v1/node/{now['ID']}")["Meta"].get("pds_droplet") == str(droplet))

    seconds = until(f"host a on droplet {droplet}", ready)
    known = node()
    assert known
    assert known["Name"] == "a"
    assert cluster.node in ("", known["ID"]), "the node id is on the volume"
    cluster.node = known["ID"]
    return seconds


def test_a_second_volume_is_left_alone(cluster: Cluster) -> None:
    cluster.plug(FIRST, B)
    until("a refusal", lambda: "REFUSED: this worker is a host already" in cluster.log_of_carry(FIRST, B))
    assert cluster.machines.volume_file(B).stat().st_blocks == 0, "the second volume was written to"
    cluster.machines.detach(FIRST, B)
    assert cluster.ask(FIRST, f"systemctl reset-failed {_unit(B)}; systemctl is-active nomad.service") == "active\n"


def test_a_disk_taken_away_under_a_writer_ends_all_that_ran_from_it(cluster: Cluster) -> None:
    cluster.nomad.post("/v1/jobs", {"Job": writer_job(TAG)})
    cluster.writer.url = "http://{}:{}".format(*cluster.machines.reach(FIRST, 3101))
    print(f"\n== the writer answers after {until('the writer', cluster.writer.answers):.0f} s")
    with meanwhile(cluster.writer.write):
        until("rows", lambda: len(cluster.writer.acknowledged) >= 50)
        before = len(cluster.writer.acknowledged)
        cluster.machines.detach(FIRST, A)
        print(f"== the first refused write after {until('a refusal', lambda: bool(cluster.writer.refused)):.1f} s")
        print(f"== all ended after {until('the end', lambda: cluster.is_blank(FIRST)):.0f} s")
    print(
        f"{before} rows acknowledged before, {len(cluster.writer.acknowledged)} in all; then {cluster.writer.refused}"
    )
    assert any("SQLITE_IOERR" in reason for reason in cluster.writer.refused), "the kernel refuses what is written"
    assert not cluster.writer.answers(), "an answer from memory is one of a second server, too"
    print(cluster.ask(FIRST, "journalctl --boot --quiet --output=short-monotonic --lines=60 --no-hostname"))
    seconds = until("the node down", lambda: cluster.nomad.get(f"/v1/node/{cluster.node}")["Status"] == "down")
    print(f"== the servers count the node as down after {seconds:.0f} s more")


def test_the_same_disk_makes_it_no_host_again(cluster: Cluster) -> None:
    """Something on it may still be what the volume's loss left. A person who wants it as a host reboots it."""
    digest = content(cluster)
    cluster.plug(FIRST, A)
    until("a refusal", lambda: "REFUSED: this worker lost the volume" in cluster.log_of_carry(FIRST, A))
    assert cluster.is_blank(FIRST)
    cluster.machines.detach(FIRST, A)
    assert content(cluster) == digest, "the volume was written to"
    began = time.monotonic()
    cluster.machines.stop(FIRST, graceful=True)
    print(f"\n== off after {time.monotonic() - began:.0f} s")


def content(cluster: Cluster) -> str:
    with cluster.machines.volume_file(A).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_spare_that_still_boots_becomes_the_same_host_with_every_row(cluster: Cluster) -> None:
    """A takeover may choose a worker whose setup is not over. The disk is there before udev's rules are."""
    cluster.machines.make(SECOND, cluster.worker_data, {A: A})
    print(f"== host a is ready {ready_on(cluster, SECOND):.0f} s later")
    all_rows_on(cluster, SECOND)


def all_rows_on(cluster: Cluster, droplet: int) -> None:
    """Assert that the writer answers there, with every acknowledged row."""
    cluster.writer.url = "http://{}:{}".format(*cluster.machines.reach(droplet, 3101))
    print(f"== the writer answers {until('the writer', cluster.writer.answers):.0f} s later")
    missing_rows = set(cluster.writer.acknowledged) - set(cluster.writer.rows())
    assert missing_rows == set()
    assert len(cluster.ask(droplet, "docker ps --quiet").split()) == 1, "one writer"


def test_a_reboot_with_the_disk_stops_and_starts_the_host_in_order(cluster: Cluster) -> None:
    with meanwhile(cluster.writer.write):
        time.sleep(5)
        boot = cluster.ask(SECOND, "cat /proc/sys/kernel/random/boot_id")
        began = time.monotonic()
        cluster.machines.stop(SECOND, graceful=True)
        cluster.machines.start(SECOND)
    cluster.machines.finish_boot(SECOND, began)
    assert cluster.ask(SECOND, "cat /proc/sys/kernel/random/boot_id") != boot
    print(f"== host a is ready {ready_on(cluster, SECOND):.0f} s later")
    all_rows_on(cluster, SECOND)
    journal = cluster.ask(SECOND, "journalctl --boot=-1 --output=cat --quiet _PID=1").splitlines()
    faults = ("ordering cycle", "Failed unmounting srv-nomad")
    assert [line for line in journal if any(fault in line for fault in faults)] == []


def test_of_two_disks_at_boot_one_is_the_host_as_a_whole(cluster: Cluster) -> None:
    """Which one is left to chance. The other host counts as down, and is moved away by a takeover."""
    cluster.machines.stop(SECOND, graceful=True)
    cluster.plug(SECOND, B)
    cluster.machines.start(SECOND)
    until("an agent", lambda: "active" in cluster.ask(SECOND, "systemctl is-active nomad.service").split())
    volume = cluster.ask(SECOND, ". /run/pds/carried.env; echo $VOLUME").strip()
    assert volume in (A, B)
    host = volume.rpartition("-")[2]
    assert cluster.ask(SECOND, "cat /srv/nomad/.pds-volume") == f"{STACK}-{host}\n"
    assert f'datacenter = "{host}"' in cluster.ask(SECOND, "cat /etc/nomad.d/agent.hcl")
    if host == "a":
        assert cluster.machines.volume_file(B).stat().st_blocks == 0, "the second volume was written to"
    cluster.machines.stop(SECOND, graceful=False)


def test_the_worker_that_lost_its_disk_is_blank_after_a_reboot(cluster: Cluster) -> None:
    began = time.monotonic()
    cluster.machines.start(FIRST)
    cluster.machines.finish_boot(FIRST, began)
    assert cluster.is_blank(FIRST)
    until("the node down", lambda: cluster.nomad.get(f"/v1/node/{cluster.node}")["Status"] == "down")
