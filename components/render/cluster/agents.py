"""The Nomad agents of a cluster: servers from `files/agent-server.hcl`, workers from the agent of a host with its own.

A worker's agent is that of a host with a droplet of its own (`files/agent.hcl`), less the server, and with the values
that only the volume knows left open: `carry.sh` fills in `@HOST@` and `@DROPLET@`.
"""

from string import Template

from components.render.host.cloud_init import FILES
from components.render.host.nomad_agent import agent_config
from components.settings.sections.settings import Settings
from components.takeover.services import SERVERS_POOL as SERVERS_POOL

_SERVER_RESERVE_MIB = 384
"""For Debian, stunnel and the Nomad server: an agent took 153 MiB with little state."""


def server_agent(settings: Settings, name: str, network: str, address: str, configuration: str) -> str:
    """HCL for a server. `network` is the cluster's range, `address` the reserved one that leads to a server."""
    assert settings.cluster
    return Template((FILES / "agent-server.hcl").read_text()).substitute(
        name=name,
        network=network,
        address=address,
        count=settings.cluster.servers.count,
        nomad_region=settings.nomad.region,
        nomad_datacenter=settings.nomad.datacenter,
        system_reserve_mib=_SERVER_RESERVE_MIB,
        configuration=configuration,
    )


def worker_agent(settings: Settings, address: str, configuration: str) -> str:
    """HCL for a worker, without its host. `address` is the reserved one that leads to a server."""
    text = agent_config(settings, configuration)
    for old, new in (
        (
            '''# The same name on every rebuilt host: Raft and Serf store it, and their state is on the volume.
name       = "pds"''',
            'name       = "@HOST@"',
        ),
        (f'datacenter = "{settings.nomad.datacenter}"', 'datacenter = "@HOST@"'),
        (
            """server {
  enabled          = true
  bootstrap_expect = 1
}""",
            """tls {
  rpc                    = true
  ca_file                = "/etc/pds/tls/ca.pem"
  cert_file              = "/etc/pds/tls/worker.pem"
  key_file               = "/etc/pds/tls/worker.key"
  verify_server_hostname = true
}""",
        ),
        (
            "client {\n  enabled = true\n",
            "client {\n  enabled = true\n\n  # It leads to one of the servers, whose answers name the others.\n"
            f'  servers = ["{address}"]\n',
        ),
        ('reserved_ports = "22,4650"', 'reserved_ports = "22"'),
        ("  meta {\n", '  meta {\n    pds_droplet       = "@DROPLET@"\n'),
    ):
        assert text.count(old) == 1, f"files/agent.hcl has no {old!r}"
        text = text.replace(old, new)
    return text
