"""A cluster's droplets in process grade: servers of Nomad, and workers that become a host when a volume is attached.

As in `machine.py`, the files of `user_data` and Nomad are real. A worker runs the rendered script that udev would run
(`carry`), the volume's own script, and the agent that they leave. Each droplet has a loopback address of its own in
place of its private one, and a rebuilt one has another. The reserved address of the servers leads to the server that it
is assigned to: stunnel listens there as on a host, and Nomad's ports are forwarded.

A droplet that boots with a volume is a host of its own, for a stack beside the cluster.

A volume that is taken from a running worker ends its containers and its agent at once, as I/O errors would: slower and
less orderly on a real droplet. A power cut is `ProcessMachines.stop` without grace.
"""

import os
import re
import shutil
import signal
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.e2e.environment.forwarding import forwarded
from tests.e2e.environment.machine import CPU_MHZ, Machine, ProcessMachines, lay_out, shell_values
from tests.e2e.environment.service import Service
from tests.e2e.environment.tools import E2eError, run, unmount_below

_FIRST = 200
"""Last number of the first droplet's loopback address; reserved ones begin at 1."""


_SHIMS = {
    "systemctl": "#!/bin/sh\nexit 0\n",
    "udevadm": "#!/bin/sh\nexit 0\n",
    # A disk is its file system's directory here: debugfs -R "cat /FILE" DISK
    "debugfs": '#!/bin/sh\nexec cat "$3/${2#cat /}"\n',
}


class ClusterMachines(ProcessMachines):
    """Servers and workers."""

    def __init__(self, folder: Path, docker_host: str, ports: Mapping[str, int]) -> None:
        super().__init__(folder, docker_host, ports)
        # As `lot` numbers them.
        self._network = f"127.0.{10 + (ports['http'] - 4646) // 10}"
        self._kinds: dict[int, str] = {}
        self._own: dict[int, str] = {}
        self._carried: dict[int, str] = {}
        self._forwards: dict[int, ExitStack] = {}
        self.trusted: Path | None = None
        """A file of certificate authorities for the jobs on the servers, in place of the system's."""
        for name, text in _SHIMS.items():
            (self._shims / name).write_text(text)
            (self._shims / name).chmod(0o755)

    def boot(self, droplet_id: int, user_data: str, volumes: Mapping[str, str]) -> None:
        """A server's agent starts; a worker waits."""
        if volumes:
            super().boot(droplet_id, user_data, volumes)
            return
        root = self._folder / "machines" / str(droplet_id) / "root"
        lay_out(user_data, root)
        if not (root / "etc/pds/agent.hcl").exists() and not (root / "usr/local/lib/pds/gossip").exists():
            raise E2eError(f"droplet {droplet_id} is neither a server nor a worker of a cluster")
        (root / "srv").mkdir()
        self._own[droplet_id] = f"{self._network}.{_FIRST + len(self._own)}"
        machine = Machine(droplet_id, root, root / "no-volume", self._ports)
        self._machines[droplet_id] = machine
        if (root / "usr/local/lib/pds/gossip").exists():
            self._kinds[droplet_id] = "server"
            run(["sh", str(root / "usr/local/lib/pds/gossip")], env=self._script_environment(machine))
            self._write_server(machine)
            self.start(droplet_id)
        else:
            self._kinds[droplet_id] = "worker"
            (root / "var/lib/pds").mkdir(parents=True)
            (root / "var/lib/pds/setup-done").touch()
            (root / "var/lib/cloud/data").mkdir(parents=True)
            (root / "var/lib/cloud/data/instance-id").write_text(f"{droplet_id}\n")

    def start(self, droplet_id: int) -> None:
        """Power on: a server, or a worker that has a volume; a worker without one waits."""
        if droplet_id not in self._kinds:
            super().start(droplet_id)
            return
        machine = self._machines[droplet_id]
        is_server = self._kinds[droplet_id] == "server"
        with machine.lock:
            if machine.agent is None and (is_server or droplet_id in self._carried):
                machine.agent = self._start_server(machine) if is_server else self._start_agent(machine)
            if is_server and machine.address and machine.endpoint is None:
                machine.endpoint = self._start_endpoint(machine)

    def assign(self, droplet_id: int, address: str | None) -> None:
        """The endpoint answers there if it is a server; a worker only has the address."""
        if forward := self._forwards.pop(droplet_id, None):
            forward.close()
        if self._kinds.get(droplet_id) != "worker":
            super().assign(droplet_id, address)
            if address and self._kinds.get(droplet_id) == "server" and droplet_id in self._machines:
                self._forwards[droplet_id] = self._forwarding(address, self._own[droplet_id])
        elif machine := self._machines.get(droplet_id):
            machine.address = address

    def _forwarding(self, address: str, own: str) -> ExitStack:
        stack = ExitStack()
        for name in ("rpc", "serf"):
            stack.enter_context(forwarded((address, self._ports[name]), (own, self._ports[name])))
        return stack

    def attach(self, droplet_id: int, name: str, volume_id: str) -> None:
        """What udev starts on a worker that is on."""
        machine, volume = self._machines[droplet_id], self.volume_folder(volume_id)
        if droplet_id in self._carried:
            raise E2eError(f"droplet {droplet_id} has a volume already")
        self._carried[droplet_id] = volume_id
        disks = machine.root / "dev/disk/by-id"
        disks.mkdir(parents=True, exist_ok=True)
        (disks / f"scsi-0DO_Volume_{name}").unlink(missing_ok=True)
        (disks / f"scsi-0DO_Volume_{name}").symlink_to(self._disk(volume_id))
        run(
            ["sh", str(machine.root / "usr/local/lib/pds/carry"), f"0DO_Volume_{name}"],
            env=self._script_environment(machine),
        )
        carried = shell_values(machine.root / "run/pds/carried.env")
        if carried["VOLUME"] != name:
            raise E2eError(f"droplet {droplet_id} carries {carried['VOLUME']}, not {name}")
        self._mount(volume_id, carried["STACK"])
        (machine.root / "srv/nomad").symlink_to(volume)
        machine.volume = volume
        self._claim(machine)
        self._write_configuration(machine)
        self.start(droplet_id)

    def _disk(self, volume_id: str) -> Path:
        """What a worker finds under the name of the volume's disk."""
        return self.volume_folder(volume_id)

    def _mount(self, volume_id: str, owner: str) -> None:
        """A new volume gets its owner's name, as `volume.sh` formats it."""
        folder = self.volume_folder(volume_id)
        if not any(folder.iterdir()):
            (folder / ".pds-volume").write_text(f"{owner}\n")

    def detach(self, droplet_id: int, volume_id: str) -> None:
        """All that used the volume ends. The machine stays, without a host until it is rebuilt."""
        machine = self._machines[droplet_id]
        self.stop(droplet_id, graceful=False)
        self._remove_containers(machine)
        self._carried.pop(droplet_id, None)
        (machine.root / "srv/nomad").unlink(missing_ok=True)
        (machine.root / "run/pds/carried.env").unlink(missing_ok=True)
        machine.volume = machine.root / "no-volume"

    def hosts(self) -> dict[str, Machine]:
        """The workers that carry a host now, by host. One that has the volume and no host yet is left out."""
        found = {}
        for droplet in list(self._carried):
            machine = self._machines[droplet]
            with suppress(FileNotFoundError):
                name = shell_values(machine.root / "run/pds/carried.env")["STACK"]
                found[name.rpartition("-")[2]] = machine
        return found

    def destroy(self, droplet_id: int) -> None:
        """See `ProcessMachines`. A worker's volume is free."""
        super().destroy(droplet_id)
        self._carried.pop(droplet_id, None)
        if forward := self._forwards.pop(droplet_id, None):
            forward.close()

    def stop_all(self) -> None:
        """See `ProcessMachines`."""
        super().stop_all()
        for forward in self._forwards.values():
            forward.close()
        self._forwards.clear()

    def servers(self) -> dict[str, Machine]:
        """The servers by their own address, whether they are on or not."""
        return {self._own[machine.droplet_id]: machine for machine in self._of_kind("server")}

    def workers(self) -> list[Machine]:
        """The workers, with a host or without."""
        return self._of_kind("worker")

    def _of_kind(self, kind: str) -> list[Machine]:
        return [machine for number, machine in self._machines.items() if self._kinds.get(number) == kind]

    def api_url(self, own: str) -> str:
        """Nomad's API at a server's own address."""
        return f"http://{own}:{self._ports['http']}"

    @property
    def rpc_port(self) -> int:
        """Nomad's RPC port at each server's own address."""
        return self._ports["rpc"]

    def _write_server(self, machine: Machine) -> None:
        home, root, own = machine.root.parent, machine.root, self._own[machine.droplet_id]
        text = (root / "etc/nomad.d/agent.hcl").read_text()
        text = text.replace('"/var/lib/nomad"', f'"{root}/var/lib/nomad"').replace('"/etc/', f'"{root}/etc/')
        text = text.replace('"0.0.0.0"', f'"{own}"').replace('"127.0.0.1"', f'"{own}"')
        text = text.replace(f'retry_join = ["{own}"]', f'retry_join = ["{own}:{self._ports["rpc"]}"]')
        lines = []
        for line in text.splitlines():
            if "GetPrivateInterfaces" in line:
                line = f'{line.partition("=")[0]}= "{own}"'
            # The reserved address, whose port is Nomad's usual one on a droplet.
            line = re.sub(r'(retry_join     = \["[0-9.]+)"', rf'\1:{self._ports["serf"]}"', line)
            lines.append(line)
        (home / "agent.hcl").write_text("\n".join(lines) + "\n")
        self._write_ports(home)

    def _write_ports(self, home: Path) -> None:
        lines = "\n".join(f"  {name} = {port}" for name, port in self._ports.items())
        (home / "ports.hcl").write_text(f"ports {{\n{lines}\n}}\nclient {{\n  cpu_total_compute = {CPU_MHZ}\n}}\n")

    def _write_configuration(self, machine: Machine) -> None:
        super()._write_configuration(machine)
        if machine.droplet_id not in self._kinds:
            return
        home, root, own = machine.root.parent, machine.root, self._own[machine.droplet_id]
        text = (home / "agent.hcl").read_text().replace('"/etc/', f'"{root}/etc/')
        lines = []
        for line in text.splitlines():
            if line.startswith("bind_addr") or line.strip().startswith(("http =", "rpc  =", "serf =")):
                line = f'{line.partition("=")[0]}= "{own}"'
            line = re.sub(r'^(  servers = \["[0-9.]+)"', rf'\1:{self._ports["rpc"]}"', line)
            lines.append(line)
        (home / "agent.hcl").write_text("\n".join(lines) + "\n")

    def _start_server(self, machine: Machine) -> Service:
        home = machine.root.parent
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        program = shutil.which("nomad")
        assert program
        if self.trusted:
            keep["SSL_CERT_FILE"] = str(self.trusted)  # Nomad gives its environment to `raw_exec`
        files = [home / "agent.hcl", home / "ports.hcl", machine.root / "etc/nomad.d/gossip.hcl"]
        return Service([program, "agent", *[f"-config={file}" for file in files]], home / "nomad.log", keep)

    def _api_address(self, machine: Machine) -> str:
        return self._own.get(machine.droplet_id, super()._api_address(machine))

    def cut_power(self, machine: Machine) -> None:
        """All at once, and the API knows nothing of it."""
        self.stop(machine.droplet_id, graceful=False)

    def stop(self, droplet_id: int, graceful: bool) -> None:
        """See `ProcessMachines`. A server's own client may have left a takeover's process."""
        super().stop(droplet_id, graceful)
        if self._kinds.get(droplet_id) == "server":
            _end_tasks(self._machines[droplet_id].root)
            unmount_below(self._machines[droplet_id].root)


def _end_tasks(root: Path) -> None:
    """End the processes that the agent below `root` left: they run in its allocations' folders."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            folder = str(link.readlink())
        except OSError:
            continue  # it ended meanwhile
        if folder.startswith(f"{root}/"):
            os.kill(int(link.parent.name), signal.SIGKILL)
