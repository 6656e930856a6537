"""The ingresses of a cluster's hosts in process grade: each has the ports 80 and 443, on its own droplet's address.

On a droplet the ingress listens on every address. Here all droplets share this machine, so the images of the tests
listen on the address that the droplet has, which a file on the volume tells them. A reserved IP leads to the droplet
that it is assigned to by a rule of the kernel: like DigitalOcean, it keeps the client's address. An IP that is not
assigned leads nowhere.
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.environment.cluster_machines import ClusterMachines
from tests.e2e.environment.machine import Machine
from tests.e2e.environment.tools import run

_ADDRESS_FILE = "droplet-address"
"""In the ingress's folder on the volume; `images/caddy/caddy.sh` and `images/io/main.go` read it."""


class IngressMachines(ClusterMachines):
    """Servers, and workers whose ingresses are reached over the reserved IP."""

    def __init__(self, folder: Path, docker_host: str, ports: Mapping[str, int]) -> None:
        super().__init__(folder, docker_host, ports)
        self._routed: dict[int, str] = {}
        self._table = f"pds_e2e_{self._network.replace('.', '_')}"
        self._delete_table()  # of an e2e environment that was killed
        rules = f"""table ip {self._table} {{
  map hosts {{ type ipv4_addr : ipv4_addr; }}
  chain output {{
    type nat hook output priority -100;
    tcp dport {{ 80, 443 }} dnat to ip daddr map @hosts
  }}
}}"""
        run(["nft", rules])

    def assign(self, droplet_id: int, address: str | None) -> None:
        """See `ClusterMachines`. The address leads to a worker's ingress."""
        super().assign(droplet_id, address)
        if old := self._routed.pop(droplet_id, None):
            self._element("delete", old)
        if address and self._kinds.get(droplet_id) == "worker":
            self._routed[droplet_id] = address
            self._element("add", f"{address} : {self._own[droplet_id]}")

    def destroy(self, droplet_id: int) -> None:
        """See `ClusterMachines`. An address that is still assigned leads nowhere."""
        super().destroy(droplet_id)
        if old := self._routed.pop(droplet_id, None):
            self._element("delete", old)

    def stop_all(self) -> None:
        """See `ClusterMachines`."""
        super().stop_all()
        self._delete_table()

    def _write_configuration(self, machine: Machine) -> None:
        super()._write_configuration(machine)
        if own := self._own.get(machine.droplet_id):
            for kind in ("caddy", "io"):
                (machine.volume / kind / _ADDRESS_FILE).write_text(own)

    def _element(self, verb: str, element: str) -> None:
        run(["nft", verb, "element", "ip", self._table, "hosts", f"{{ {element} }}"])

    def _delete_table(self) -> None:
        subprocess.run(["nft", "delete", "table", "ip", self._table], capture_output=True, timeout=60)
