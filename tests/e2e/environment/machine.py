"""A droplet as a machine, in process grade: the files of its `user_data` are real, and so are Nomad and stunnel.

A boot here puts `write_files` under a root of the droplet's own, gives a new volume the sentinel of a formatted one,
runs the host's own script that claims the volume, and starts the rendered agent and stunnel configuration as services.
Only these are mapped: paths (`/srv/nomad` is the volume's directory, everything else is under the root), Nomad's ports
and its count of processors, stunnel's address (the reserved IP, since here an interface has it) and its account if the
machine has none of that name.

Not covered: packages, users, swap, units, packet filters, formatting and mounting. The machine grade covers them.

Docker is one engine for all droplets, given by its DOCKER_HOST. A droplet's containers are those whose mounts are on
its volume. Needs root, since the volume's directories belong to several users.
"""

import fcntl
import json
import os
import shlex
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.environment.service import Service
from tests.e2e.environment.tools import E2eError, need, run, unmount_below

ENDPOINT_PORT = 4650
_NOMAD_LABEL = "com.hashicorp.nomad.alloc_id"
_STOP_PATIENCE = 60
"""Seconds after which a container is killed, as in `stop-before-shutdown.sh`."""

HOSTS = 3
"""The maximum of hosts of one e2e_env."""

_PORTS = ("http", "rpc", "serf")
_BEFORE = 'while [ -e "$0" ]; do sleep 0.2; done; exec sh "$1" check'
"""What a start of the agent begins with. A file keeps the agent stopped, for a command that a person gives."""
CPU_MHZ = 16_000
"""As of eight processors: the number of servers depends on the droplet's size, not on this machine's."""
_SHIMS = {
    # The volume's directory is no mount here; everything else in the script is as on a host.
    "mountpoint": "#!/bin/sh\nexit 0\n",
    # And so it has no quotas.
    "chattr": "#!/bin/sh\nexit 0\n",
    "setquota": "#!/bin/sh\nexit 0\n",
}


@dataclass
class Machine:
    """One droplet: its root, its volume's directory and what runs."""

    droplet_id: int
    root: Path
    volume: Path
    ports: Mapping[str, int]
    address: str | None = None
    agent: Service | None = None
    endpoint: Service | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class ProcessMachines:
    """Machines made of processes; the `Machines` of a `World`.

    `folder` gets `machines/ID/` (root and logs) and `volumes/ID/`. `ports` are those of Nomad on the first volume that
    a droplet boots with; see `ports_of`. Raises E2eError if a program is missing.
    """

    def __init__(self, folder: Path, docker_host: str, ports: Mapping[str, int]) -> None:
        need("nomad", "docker", "stunnel")
        if os.geteuid() != 0:
            raise E2eError("A machine's volume has directories of several users: run the e2e environment as root.")
        self._folder, self._docker, self._ports = folder.resolve(), docker_host, ports
        self._machines: dict[int, Machine] = {}
        self._volumes: list[str] = []
        self._shims = self._folder / "shims"
        self._shims.mkdir(parents=True, exist_ok=True)
        for name, text in _SHIMS.items():
            (self._shims / name).write_text(text)
            (self._shims / name).chmod(0o755)

    def boot(self, droplet_id: int, user_data: str, volumes: Mapping[str, str]) -> None:
        """See the module. Raises E2eError for `user_data` that a host would not boot from."""
        home = self._folder / "machines" / str(droplet_id)
        root = home / "root"
        lay_out(user_data, root)
        host_env = shell_values(root / "etc/pds/host.env")
        if host_env["VOLUME"] not in volumes:
            raise E2eError(f"droplet {droplet_id} waits for the volume {host_env['VOLUME']}, and has {list(volumes)}")
        number = volumes[host_env["VOLUME"]]
        volume = self.volume_folder(number)
        if not any(volume.iterdir()):
            (volume / ".pds-volume").write_text(f"{host_env['STACK']}\n")  # as `volume.sh` formats it
        (root / "srv").mkdir(exist_ok=True)
        (root / "srv/nomad").symlink_to(volume)
        ports = ports_of(self._host_of(number), self._ports)
        machine = Machine(droplet_id, root, volume, ports)
        self._machines[droplet_id] = machine
        self._claim(machine)
        self._write_configuration(machine)
        self.start(droplet_id)

    def start(self, droplet_id: int) -> None:
        """Power on: start the host's services, which restart the containers."""
        machine = self._machines[droplet_id]
        with machine.lock:
            if machine.agent is None:
                machine.agent = self._start_agent(machine)
            if machine.address and machine.endpoint is None:
                machine.endpoint = self._start_endpoint(machine)

    def stop(self, droplet_id: int, graceful: bool) -> None:
        """Power off: agent first, then its containers, as the host's drain unit does; or all at once."""
        machine = self._machines.get(droplet_id)
        if machine is None:
            return
        with machine.lock:
            if machine.endpoint is not None:
                machine.endpoint.stop()
            if machine.agent is not None:
                machine.agent.stop(signal.SIGINT if graceful else signal.SIGKILL)
            containers = self.containers(machine)
            if containers:
                stop = ["stop", "--time", str(_STOP_PATIENCE)] if graceful else ["kill"]
                run(["docker", *stop, *containers], self._docker, check=False)
            machine.agent = machine.endpoint = None
            unmount_below(machine.volume)

    def destroy(self, droplet_id: int) -> None:
        """Off, and its disk gone: containers and root. The volume stays."""
        self.stop(droplet_id, graceful=False)
        machine = self._machines.pop(droplet_id, None)
        if machine is not None:
            self._remove_containers(machine)
            shutil.rmtree(machine.root, ignore_errors=True)

    def assign(self, droplet_id: int, address: str | None) -> None:
        """The endpoint answers at the reserved address from now on."""
        machine = self._machines.get(droplet_id)
        if machine is None:
            return
        with machine.lock:
            if machine.endpoint is not None:
                machine.endpoint.stop()
                machine.endpoint = None
            machine.address = address
            if address and machine.agent is not None:
                machine.endpoint = self._start_endpoint(machine)

    def attach(self, droplet_id: int, name: str, volume_id: str) -> None:
        """A host has its volume at birth; `cluster_machines.py` has workers that get one later."""
        raise E2eError(f"droplet {droplet_id} has no use for the volume {name}")

    def detach(self, droplet_id: int, volume_id: str) -> None:
        """A host is lost with its only volume: all of it stops at once."""
        self.stop(droplet_id, graceful=False)

    def make_volume(self, volume_id: str, gib: int) -> None:
        """An empty directory."""
        self.volume_folder(volume_id).mkdir(parents=True)

    def grow_volume(self, volume_id: str, gib: int) -> None:
        """A directory has no size."""

    def drop_volume(self, volume_id: str) -> None:
        """The directory is removed."""
        shutil.rmtree(self.volume_folder(volume_id), ignore_errors=True)

    def volume_folder(self, volume_id: str) -> Path:
        """Where the volume's files are."""
        return self._folder / "volumes" / volume_id

    def _host_of(self, volume_id: str) -> int:
        """The number of the host with this volume; that of one whose volume is deleted is given again."""
        if volume_id not in self._volumes:
            gone = [at for at, known in enumerate(self._volumes) if not self.volume_folder(known).exists()]
            if not gone:
                self._volumes.append(volume_id)
            else:
                self._volumes[gone[0]] = volume_id
        return self._volumes.index(volume_id)

    def stop_all(self) -> None:
        """Everything off, by process id, and no container left; for the end of an e2e environment. Roots and volumes
        stay."""
        for number, machine in list(self._machines.items()):
            self.stop(number, graceful=True)
            self._remove_containers(machine)

    def machines(self) -> list[Machine]:
        """The existing machines."""
        return list(self._machines.values())

    def deaths(self) -> list[str]:
        """Services that ended unexpectedly."""
        services = [service for item in self._machines.values() for service in (item.agent, item.endpoint) if service]
        return [death for service in services for death in service.deaths]

    def containers(self, machine: Machine) -> list[str]:
        """Ids of the containers whose mounts are on the machine's volume."""
        ids = run(["docker", "ps", "--all", "--quiet", "--filter", f"label={_NOMAD_LABEL}"], self._docker).split()
        if not ids:
            return []
        text = run(["docker", "inspect", *ids], self._docker, check=False)
        inspected: list[dict[str, Any]] = json.loads(text or "[]")
        volume = str(machine.volume)
        return [
            item["Id"] for item in inspected if any(str(mount["Source"]).startswith(volume) for mount in item["Mounts"])
        ]

    def _remove_containers(self, machine: Machine) -> None:
        containers = self.containers(machine)
        if containers:
            run(["docker", "rm", "--force", *containers], self._docker, check=False)

    def _claim(self, machine: Machine) -> None:
        run(["sh", str(machine.root / "usr/local/lib/pds/volume"), "claim"], env=self._script_environment(machine))

    def _script_environment(self, machine: Machine) -> dict[str, str]:
        return {
            "PDS_ROOT": str(machine.root),
            "PDS_PATH": str(self._shims),
            "PATH": f"{self._shims}:{os.environ['PATH']}",
        }

    def _write_configuration(self, machine: Machine) -> None:
        """The rendered files with paths and ports mapped, beside the root."""
        home, root = machine.root.parent, machine.root
        agent = (root / "etc/nomad.d/agent.hcl").read_text()
        agent = agent.replace('"/srv/nomad', f'"{machine.volume}').replace('"/usr/local', f'"{root}/usr/local')
        # On the one engine it would treat another host's containers as its own lost ones.
        reaper = "container   = true\n"
        if reaper not in agent:
            raise E2eError(f"the rendered agent configuration has no {reaper!r} to map")
        agent = agent.replace(reaper, f"{reaper}dangling_containers {{ enabled = false }}\n")
        (home / "agent.hcl").write_text(agent)
        # Nomad gives a plugin no environment, so what its tests set there is written into it.
        plugin = root / "usr/local/lib/nomad/host-volume-plugins/pds-dir"
        values = [f"{name}={shlex.quote(value)}\n" for name, value in self._script_environment(machine).items()]
        plugin.write_text(plugin.read_text().replace("set -eu\n", f"set -eu\n{''.join(values)}", 1))
        lines = "\n".join(f"  {name} = {port}" for name, port in machine.ports.items())
        mapped = f"ports {{\n{lines}\n}}\nclient {{\n  cpu_total_compute = {CPU_MHZ}\n}}\n"
        (home / "ports.hcl").write_text(mapped)

    def _start_agent(self, machine: Machine) -> Service:
        home = machine.root.parent
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        program = shutil.which("nomad")
        assert program
        values = ["env", *[f"{name}={text}" for name, text in self._script_environment(machine).items()]]
        return Service(
            [
                *self._before_agent(machine),
                program,
                "agent",
                f"-config={home / 'agent.hcl'}",
                f"-config={home / 'ports.hcl'}",
            ],
            home / "nomad.log",
            {**keep, "DOCKER_HOST": self._docker},
            before=[*values, "sh", "-c", _BEFORE, str(home / "stopped"), f"{machine.root}/usr/local/lib/pds/volume"],
        )

    def _before_agent(self, machine: Machine) -> list[str]:
        """A command that ends by running the agent, whose command follows it."""
        return []

    def _api_address(self, machine: Machine) -> str:
        """Where the agent's API listens."""
        return "127.0.0.1"

    def _start_endpoint(self, machine: Machine) -> Service:
        assert machine.address
        home, root = machine.root.parent, machine.root
        text = (root / "etc/stunnel/nomad.conf").read_text()
        for old, new in (
            (f"0.0.0.0:{ENDPOINT_PORT}", f"{machine.address}:{ENDPOINT_PORT}"),
            ("127.0.0.1:4646", f"{self._api_address(machine)}:{machine.ports['http']}"),
            (" /etc/", f" {root}/etc/"),
        ):
            if old not in text:
                raise E2eError(f"the rendered stunnel configuration has no {old.strip()!r} to map")
            text = text.replace(old, new)
        if shutil.which("getent") and not run(["getent", "passwd", "stunnel4"], check=False):
            text = "".join(line for line in text.splitlines(True) if not line.startswith(("setuid", "setgid")))
        (home / "stunnel.conf").write_text(text)
        program = shutil.which("stunnel")
        assert program
        return Service([program, str(home / "stunnel.conf")], home / "stunnel.log", {"PATH": os.environ["PATH"]})


def ports_of(host: int, first: Mapping[str, int]) -> Mapping[str, int]:
    """Nomad's ports on the host of this number, from 0; `first` are the first one's. Raft remembers them, so they are
    the volume's."""
    if host >= HOSTS:
        raise E2eError(f"an e2e environment has ports for {HOSTS} hosts")
    return {name: port + host * len(_PORTS) for name, port in first.items()}


def lay_out(user_data: str, root: Path) -> dict[str, Any]:
    """Write the files of a cloud-config document under `root`; the document. Raises E2eError."""
    # cloud-init checks only the first line, and ignores a document without it.
    if not user_data.startswith("#cloud-config\n"):
        raise E2eError("user_data does not begin with the line #cloud-config, so cloud-init would ignore it")
    document = yaml.load(user_data, yaml.CSafeLoader)
    for file in document.get("write_files", []):
        path = root / file["path"].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(file["content"])
        path.chmod(int(file.get("permissions", "0644"), 8))
    found: dict[str, Any] = document
    return found


def shell_values(file: Path) -> dict[str, str]:
    """The assignments in a file that shells read."""
    lines = (line for line in file.read_text().splitlines() if line and not line.startswith("#"))
    return {name: "".join(shlex.split(value)) for name, _, value in (line.partition("=") for line in lines)}


@dataclass(frozen=True)
class Lot:
    """The resources of one e2e_env on this machine: a network for endpoints, Nomad's ports, and a number.

    Free ports would not be enough: another e2e environment's Nomad may be off for a moment.
    """

    number: int
    network: str
    """The first three parts of the reserved addresses."""
    ports: Mapping[str, int]


@contextmanager
def lot() -> Iterator[Lot]:
    """A free lot; the first has Nomad's usual ports. Raises E2eError if there is none."""
    for number in range(200):
        ports = {name: 4646 + 10 * number + at for at, name in enumerate(_PORTS)}
        with (Path(tempfile.gettempdir()) / f"pds-e2e-lot-{number}").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if all(_free(port) for host in range(HOSTS) for port in ports_of(host, ports).values()):
                yield Lot(number, f"127.0.{10 + number}", ports)
                return
    raise E2eError("no free ports for Nomad")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
