"""The exact `user_data` on a machine, and the faults that the machine survives: `pytest -x -s
tests/e2e/scenarios/e2e_machine.py`, as root.

The program with the real engine, on a virtual machine as droplet (`virtual.py`). One scenario: each test continues from
the end of the previous one. No workflow runs this: under software emulation a boot takes minutes. Times are printed,
never asserted, since they depend on the emulation.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from components.render.host.cloud_init import MAX_BYTES
from tests.e2e.digitalocean import World
from tests.e2e.environment.docker import engine
from tests.e2e.environment.environment import ROOT, Stack, settings, stack
from tests.e2e.environment.machine import lot
from tests.e2e.environment.outside import lay_out_image, lay_out_nomad
from tests.e2e.environment.tools import E2eError, missing, run
from tests.e2e.environment.virtual import METADATA, REACHABLE, VirtualMachines
from tests.e2e.images.build import PDS_TAG, pds_image
from tests.e2e.images.droplet import droplet_image

PROGRAMS = (
    *("pulumi", "pulumi-language-python", "nomad", "dockerd", "docker", "ip"),
    *("qemu-system-x86_64", "debootstrap", "mke2fs", "debugfs", "ssh", "ssh-keygen"),
)
_PATIENCE = 900.0
"""Seconds after which a fault that should be repaired without help counts as permanent."""
_TRIES = 3
_EVERYBODY = {"0.0.0.0/0", "::/0"}
_STATE = """
set -eu
where=$(curl -sf --max-time 10 http://127.0.0.1:4646/v1/service/pds | jq -er '.[0] | "\\(.Address):\\(.Port)"')
curl -sf --max-time 10 "http://$where/xrpc/_health" >/dev/null
container=$(docker ps --quiet --filter label=com.hashicorp.nomad.alloc_id)
docker inspect --format '{{.Id}} {{.State.StartedAt}} {{.State.Pid}}' $container
systemctl show --property=MainPID --value nomad.service docker.service
cat /proc/sys/kernel/random/boot_id
"""


@dataclass(frozen=True)
class State:
    """The state of a droplet with a healthy server, to compare it with the state before an event."""

    container: str
    """Its id and start time."""
    pid: int
    nomad: int
    docker: int
    boot: str


@dataclass(frozen=True)
class Ended:
    """An end of the server: the time by Nomad's clock, and the exit code. The server's own handler exits with 0 after
    closing its databases; an unhandled signal gives 128 or more."""

    when: int
    code: int


@dataclass(frozen=True)
class Droplet:
    """The one droplet of a stack, as its operator sees it."""

    stack: Stack
    machines: VirtualMachines

    @property
    def number(self) -> int:
        """Its id. Raises ValueError unless there is exactly one."""
        [number] = self.machines.droplets()
        return number

    def ask(self, script: str) -> str:
        """The output of a shell script on the droplet. Raises E2eError."""
        return self.machines.ask(self.number, script)

    def state(self) -> State | None:
        """Its state; None while the server doesn't answer."""
        try:
            lines = self.ask(_STATE).split("\n")
        except E2eError:
            return None
        identity, started, pid = lines[0].split()
        nomad, docker = (int(line) for line in lines[1:] if line.isdigit())
        return State(f"{identity[:12]} {started}", int(pid), nomad, docker, lines[-2])

    def healthy(self, what: str, happened: Callable[[State], bool], since: float) -> State:
        """Wait until it happened and the server answers; print how long that took. Raises E2eError."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            state = self.state()
            if state is not None and happened(state):
                print(f"\n== {what}: healthy after {time.monotonic() - since:.0f} s")
                return state
            time.sleep(1)
        raise E2eError(f"{what}: not healthy after {_PATIENCE:.0f} s")

    def now(self) -> State:
        """The present state. Raises E2eError if the server doesn't answer."""
        return self.healthy("before", lambda _: True, time.monotonic())

    def action(self, kind: str) -> None:
        """Run an action of DigitalOcean's API on the droplet to its end."""
        self.stack.act(f"/v2/droplets/{self.number}/actions", {"type": kind})

    def ended(self) -> Ended:
        """The last end of the server. Raises IndexError if it has not ended yet.

        Its last output need not be in Nomad's log: the log collector does not outlive every agent.
        """
        query = '[.[].TaskStates.pds.Events[] | select(.Type == "Terminated") | [.Time, .Details.exit_code]]'
        query_command = f"curl -sf --max-time 10 http://127.0.0.1:4646/v1/job/pds/allocations | jq -c '{query}'"
        when, code = sorted(json.loads(self.ask(query_command)))[-1]
        return Ended(when, int(code))

    def went_down_cleanly(self) -> None:
        """Assert that the shutdown before this boot had no ordering cycle and unmounted the volume."""
        journal = self.ask("journalctl --boot=-1 --output=cat --quiet _PID=1")
        faults = ("ordering cycle", "Failed unmounting srv-nomad")
        assert [line for line in journal.splitlines() if any(fault in line for fault in faults)] == []

    def metadata_requests(self) -> int:
        """Number of requests that the metadata service has answered."""
        return len((self.machines.droplets()[self.number].machine.home / "metadata.log").read_text().splitlines())


@pytest.fixture(scope="module")
def droplet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Droplet]:
    lines = missing(*PROGRAMS)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e")).resolve()
    folder = tmp_path_factory.mktemp("machine")
    cache.mkdir(parents=True, exist_ok=True)
    machines = VirtualMachines(folder, droplet_image(cache))
    with lot() as mine:
        with engine(cache / "docker", mine.number) as docker_host:
            lay_out_image(machines.outside, pds_image(cache, docker_host), docker_host)
        program = shutil.which("nomad")
        version = re.search(r"v([0-9.]+)", run(["nomad", "version"]))
        assert program
        assert version
        sha256 = lay_out_nomad(machines.outside, Path(program), version[1])
        nomad = {"version": version[1], "sha256": sha256, "mirror": "https://releases.test/nomad"}
        world = World(machines=machines, network=mine.network)
        try:
            with stack(folder, world, lambda names: {**settings(PDS_TAG, names), "pds:nomad": nomad}) as made:
                yield Droplet(made, machines)
        finally:
            machines.stop_all()


def test_exact_user_data_creates_a_serving_droplet(droplet: Droplet) -> None:
    began = time.monotonic()
    for left in reversed(range(_TRIES)):
        # Under emulation, on a busy machine, a first boot can outlast the waits of `up`; the next one continues.
        done = droplet.stack.pulumi("up", "--yes", "--skip-preview", show=True, check=False)
        print(f"`up` ended with {done.code} after {done.seconds:.0f} s")
        if not done.code:
            break
        if not left:
            console = droplet.machines.droplets()[droplet.number].machine.home / "console.log"
            raise E2eError(f"`up` failed; the console's end:\n{console.read_text()[-6000:]}")
    droplet.healthy("from nothing", lambda _: True, began)
    assert droplet.stack.outputs()["state"] == "serving"
    status = json.loads(droplet.ask("cloud-init status --wait --format json || true"))
    print(f"cloud-init: {status['status']}, {status['errors']}, {status['recoverable_errors']}")
    print(
        droplet.ask("systemd-analyze; cat /proc/uptime; uname -r; cloud-init --version; systemctl --version | head -1")
    )
    # cloud-init reports DEPRECATED: this way of reading metadata will be removed.
    assert (status["status"], status["errors"], set(status["recoverable_errors"])) == ("done", [], {"DEPRECATED"})
    assert droplet.ask("systemctl --failed --plain --no-legend") == ""
    assert droplet.stack.world.failures == []
    given = droplet.ask("cat /var/lib/cloud/instance/user-data.txt")
    assert given.startswith("#cloud-config\n")
    assert len(given.encode()) <= MAX_BYTES
    droplet.stack.pulumi("preview", "--expect-no-changes")


def test_second_run_of_the_setup_changes_nothing(droplet: Droplet) -> None:
    """It also completes an interrupted first boot."""
    before = droplet.now()
    droplet.machines.ask(droplet.number, "/usr/local/lib/pds/setup", patience=_PATIENCE)
    after = droplet.healthy("setup run again", lambda state: state.docker != before.docker, time.monotonic())
    assert after.container == before.container


def test_only_ports_of_the_firewall_rules_listen_beyond_loopback(droplet: Droplet) -> None:
    """Listeners on the droplet compared with the rules of DigitalOcean's firewall, which does not filter here."""
    [firewall] = droplet.stack.api.dump()["firewalls"].values()
    rules = {int(rule["ports"]): set(rule["sources"]["addresses"]) for rule in firewall["inbound_rules"]}
    assert {port for port, sources in rules.items() if sources & _EVERYBODY} == {80, 443}
    assert {port for port, sources in rules.items() if not sources & _EVERYBODY} <= {22, 2200, 4650}
    listening = droplet.ask("ss --no-header --listening --numeric --tcp --udp --processes")
    print(f"\n{listening}")
    open_to_all = {tuple(line.split()[0:1] + line.split()[4:5]) for line in listening.splitlines()}
    beyond = {
        (protocol, int(address.rpartition(":")[2]))
        for protocol, address in open_to_all
        if not re.match(r"127\.|\[::1\]|\[::ffff:127\.", address)
    }
    # Even without the firewall no other port would be open.
    assert beyond <= {("tcp", port) for port in rules}
    assert ("tcp", 4650) in beyond


def test_endpoint_is_reachable_from_outside_and_other_ports_are_not(droplet: Droplet) -> None:
    outputs = droplet.stack.outputs()
    address = str(outputs["ipv4"])
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"https://{address}:{REACHABLE[4650]}/v1/status/leader", verify=False, trust_env=False, timeout=30)  # noqa: S501
    machine = droplet.machines.droplets()[droplet.number].machine
    for port in (4646, 4647, 4648, 2375):
        machine.forward(f"{address}:{port}", str(port))
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://{address}:{port}/", trust_env=False, timeout=30)
        machine.forget(f"{address}:{port}")


def no_container_reads_metadata(droplet: Droplet) -> None:
    """Assert that no container can, bridged or in the host's network, and that the monitoring agent can."""
    fetch = f"fetch('http://{METADATA}/metadata/v1.json',{{signal:AbortSignal.timeout(20000)}})"
    script = f"{fetch}.then(r=>console.log('reached',r.status),e=>console.log('refused',e.cause?.code??e.name))"
    before = droplet.metadata_requests()
    for network in ("bridge", "host"):
        command = f'docker run --rm --network {network} --entrypoint node {PDS_TAG} -e "{script}"'
        assert droplet.ask(command) == "refused ECONNREFUSED\n", network
    assert droplet.metadata_requests() == before
    curl = f"curl --silent --output /dev/null --max-time 20 http://{METADATA}/metadata/v1.json"
    agent = f"systemd-run --quiet --wait --collect --unit=do-agent.service {curl}"
    assert droplet.ask(f"{agent} && echo reached; {curl} || echo refused") == "reached\nrefused\n"
    assert droplet.metadata_requests() == before + 1


def test_no_container_reads_the_metadata(droplet: Droplet) -> None:
    no_container_reads_metadata(droplet)


def test_killed_server_is_restarted(droplet: Droplet) -> None:
    before, began = droplet.now(), time.monotonic()
    droplet.ask(f"kill -9 {before.pid}")
    droplet.healthy("PDS killed", lambda state: state.container != before.container, began)
    assert droplet.ended().code == 137


def test_removed_container_is_replaced(droplet: Droplet) -> None:
    before, began = droplet.now(), time.monotonic()
    droplet.ask(f"docker rm --force {before.container.split()[0]}")
    droplet.healthy("container removed", lambda state: state.container != before.container, began)


def test_restarted_docker_leaves_the_server_running(droplet: Droplet) -> None:
    before, began = droplet.now(), time.monotonic()
    droplet.ask("systemctl restart docker.service")
    after = droplet.healthy("Docker restarted", lambda state: state.docker != before.docker, began)
    print(f"the container is {'the same' if after.container == before.container else 'another'}")
    assert after.container == before.container
    no_container_reads_metadata(droplet)


def test_killed_nomad_is_restarted_and_leaves_the_server_running(droplet: Droplet) -> None:
    before, began = droplet.now(), time.monotonic()
    droplet.ask("systemctl kill --kill-whom=main --signal=KILL nomad.service")
    after = droplet.healthy("Nomad killed", lambda state: state.nomad not in (0, before.nomad), began)
    assert after.container == before.container


def test_reboot_stops_the_server_in_order_and_starts_it_again(droplet: Droplet) -> None:
    before, ended, began = droplet.now(), droplet.ended(), time.monotonic()
    droplet.action("reboot")
    print(f"\nrestarted after {time.monotonic() - began:.0f} s")
    droplet.healthy("machine rebooted", lambda state: state.boot != before.boot, began)
    stopped = droplet.ended()
    assert (stopped.when > ended.when, stopped.code) == (True, 0)
    droplet.went_down_cleanly()
    assert droplet.ask("systemctl --failed --plain --no-legend") == ""
    no_container_reads_metadata(droplet)


def test_reboot_from_within_stops_and_starts_the_server_in_order(droplet: Droplet) -> None:
    before, ended, began = droplet.now(), droplet.ended(), time.monotonic()
    droplet.ask("systemctl reboot --no-block")
    droplet.healthy("machine rebooted from within", lambda state: state.boot != before.boot, began)
    stopped = droplet.ended()
    assert (stopped.when > ended.when, stopped.code) == (True, 0)
    droplet.went_down_cleanly()


def test_machine_serves_again_after_a_power_cut(droplet: Droplet) -> None:
    before, began = droplet.now(), time.monotonic()
    droplet.action("power_cycle")
    droplet.healthy("power cut", lambda state: state.boot != before.boot, began)


def test_grown_volume_is_used_while_the_server_runs(droplet: Droplet) -> None:
    size = "df --output=size --block-size=1M /srv/nomad | tail -1"
    before, mib = droplet.now(), int(droplet.ask(size))
    droplet.stack.configure(volume={"size_gib": 30})
    began = time.monotonic()
    droplet.stack.pulumi("up", "--yes", "--skip-preview")
    while int(droplet.ask(size)) <= mib:
        assert time.monotonic() - began < _PATIENCE, "the file system did not follow the volume"
        time.sleep(1)
    after = droplet.healthy("disk grown", lambda _: True, began)
    assert after.container == before.container
    print(f"{mib} MiB, now {int(droplet.ask(size))} MiB")
    droplet.stack.pulumi("preview", "--expect-no-changes")
