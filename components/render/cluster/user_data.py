"""The `user_data` of a cluster's droplets: servers of Nomad, and workers that wait for a host's volume.

The files are those of a host with a droplet of its own (`cloud_init.py`) as far as they are the same. A machine's
user_data holds one secret, its own TLS key: a server's is that of the operators' endpoint, too.
"""

import hashlib
from dataclasses import dataclass

from components.render.cluster.agents import server_agent, worker_agent
from components.render.host.cloud_init import (
    FILES,
    LIBRARY,
    PACKAGES,
    Certificates,
    HostFile,
    assignments,
    cloud_config,
    refuse_too_long,
    script_file,
    static_file,
)
from components.settings.sections import STORE_GIB
from components.settings.sections.settings import Settings

_UNITS = "/etc/systemd/system"
_CONTAINERS = frozenset({"apparmor", "containerd", "docker-cli", "docker.io", "e2fsprogs", "quota", "runc"})
"""Packages that a server does not need."""
SERVER_PACKAGES = (*(name for name in PACKAGES if name not in _CONTAINERS), "openssl", "python3", "restic")
_WORKER_PACKAGES = tuple(name for name in PACKAGES if name != "stunnel4")


@dataclass(frozen=True, kw_only=True)
class MachineIdentity:
    """What a droplet of the cluster gets from resources: certificate and key, as PEM, and the endpoint's address.

    `certificates.server_key_pem` is the droplet's only secret. `address` leads to one of the servers.
    """

    certificates: Certificates
    address: str


_NONE = MachineIdentity(certificates=Certificates("", "", ""), address="")


def server_tag(stack: str) -> str:
    """DigitalOcean's tag of the cluster's servers."""
    return f"pds-{stack}-server"


def server_names(stack: str) -> str:
    """The names of the servers' droplets, without the number at their end."""
    return f"pds-{stack}-server-"


def volume_prefix(stack: str) -> str:
    """The beginning of the names of the cluster's volumes, which end with the host."""
    return f"pds-{stack}-"


def worker_tag(stack: str) -> str:
    """DigitalOcean's tag of the workers, by which a takeover finds them."""
    return f"pds-{stack}-worker"


def worker_names(stack: str) -> str:
    """The names of the workers' droplets, without the number at their end."""
    return f"pds-{stack}-worker-"


def server_user_data(settings: Settings, stack: str, number: int, identity: MachineIdentity) -> str:
    """The document of a server. Raises UserDataTooLongError."""
    return _document(settings, server_files(settings, stack, number, identity, server_hash(settings, stack, number)))


def worker_user_data(settings: Settings, stack: str, identity: MachineIdentity) -> str:
    """The document of a worker; the same for each. Raises UserDataTooLongError."""
    return _document(settings, worker_files(settings, stack, identity, worker_hash(settings, stack)))


def server_hash(settings: Settings, stack: str, number: int) -> str:
    """16 hex digits that change only with the server's configuration."""
    return _digest(cloud_config(settings, server_files(settings, stack, number, _NONE, "")))


def worker_hash(settings: Settings, stack: str) -> str:
    """16 hex digits that change only with the workers' configuration."""
    return _digest(cloud_config(settings, worker_files(settings, stack, _NONE, "")))


def _document(settings: Settings, files: tuple[HostFile, ...]) -> str:
    document = cloud_config(settings, files)
    refuse_too_long(len(document.encode()))
    return document


def _digest(document: str) -> str:
    return hashlib.sha256(document.encode()).hexdigest()[:16]


def server_files(
    settings: Settings, stack: str, number: int, identity: MachineIdentity, configuration: str
) -> tuple[HostFile, ...]:
    """Every file of a server."""
    assert settings.cluster
    name = f"{stack}-server-{number}"
    agent = server_agent(settings, name, str(settings.cluster.vpc_ip_range), identity.address, configuration)
    certificates = identity.certificates
    return (
        HostFile("/etc/pds/host.env", assignments(_values(settings, SERVER_PACKAGES))),
        _setup("setup-server.part", "# Docker's package started it"),
        script_file(f"{LIBRARY}/install-nomad", "install-nomad.sh"),
        script_file(f"{LIBRARY}/metadata", "metadata.sh"),
        script_file(f"{LIBRARY}/gossip", "gossip.sh"),
        script_file(f"{LIBRARY}/updates", "updates.sh"),
        HostFile("/etc/nomad.d/agent.hcl", agent),
        static_file("/etc/stunnel/nomad.conf", "stunnel.conf"),
        HostFile("/etc/stunnel/pds/ca.pem", certificates.ca_pem),
        HostFile("/etc/stunnel/pds/server.pem", certificates.server_cert_pem),
        HostFile("/etc/stunnel/pds/server.key", certificates.server_key_pem, mode="0600"),
        *_system_files(),
        static_file(f"{_UNITS}/nomad.service", "nomad-server.service"),
        static_file(f"{_UNITS}/stunnel@nomad.service.d/pds.conf", "stunnel-pds.conf"),
    )


def worker_files(settings: Settings, stack: str, identity: MachineIdentity, configuration: str) -> tuple[HostFile, ...]:
    """Every file of a worker."""
    certificates, prefix = identity.certificates, volume_prefix(stack)
    values = _values(settings, _WORKER_PACKAGES) | {
        "FLEET": stack,
        "VOLUME_PREFIX": prefix,
        "ADOPT": "0",
        "METRICS_GIB": str(STORE_GIB),
    }
    carried = "${PDS_ROOT:-}/run/pds/carried.env"
    known = f'# The host that this worker carries: VOLUME and STACK.\n[ ! -e "{carried}" ] || . "{carried}"\n'
    return (
        HostFile("/etc/pds/host.env", assignments(values) + known),
        _setup("setup-worker.part", "# Docker's package started it"),
        script_file(f"{LIBRARY}/install-nomad", "install-nomad.sh"),
        script_file(f"{LIBRARY}/volume", "volume.sh"),
        script_file(f"{LIBRARY}/carry", "carry.sh"),
        script_file(f"{LIBRARY}/forget-agent", "forget-agent.sh"),
        script_file(f"{LIBRARY}/volume-lost", "volume-lost.sh"),
        script_file(f"{LIBRARY}/metadata", "metadata.sh"),
        script_file(f"{LIBRARY}/drain", "stop-before-shutdown.sh"),
        script_file(f"{LIBRARY}/updates", "updates.sh"),
        script_file("/usr/local/lib/nomad/host-volume-plugins/pds-dir", "host-volume-plugin.sh"),
        HostFile("/etc/pds/agent.hcl", worker_agent(settings, identity.address, configuration)),
        static_file("/etc/pds/srv-nomad.mount", "srv-nomad.mount", "@VOLUME@"),
        static_file("/etc/docker/daemon.json", "daemon.json"),
        HostFile("/etc/pds/tls/ca.pem", certificates.ca_pem),
        HostFile("/etc/pds/tls/worker.pem", certificates.server_cert_pem),
        HostFile("/etc/pds/tls/worker.key", certificates.server_key_pem, mode="0600"),
        *_system_files(),
        static_file("/etc/udev/rules.d/90-pds-volume.rules", "volume.rules", "*"),
        static_file("/etc/udev/rules.d/91-pds-carry.rules", "carry.rules", "*"),
        static_file(f"{_UNITS}/pds-carry@.service", "pds-carry.service"),
        static_file(f"{_UNITS}/pds-volume-lost@.service", "pds-volume-lost.service"),
        static_file(f"{_UNITS}/pds-volume-prepare.service", "pds-volume-prepare.service"),
        static_file(f"{_UNITS}/pds-volume-claim.service", "pds-volume-claim.service"),
        static_file(f"{_UNITS}/pds-grow.service", "pds-grow.service"),
        static_file(f"{_UNITS}/pds-grow.timer", "pds-grow.timer"),
        static_file(f"{_UNITS}/docker.service.d/pds.conf", "docker-pds.conf"),
        static_file(f"{_UNITS}/nomad.service", "nomad.service"),
        static_file(f"{_UNITS}/pds-drain.service", "pds-drain.service"),
    )


def _system_files() -> tuple[HostFile, ...]:
    """What servers and workers have in common."""
    return (
        static_file("/etc/ssh/sshd_config.d/10-pds.conf", "sshd.conf"),
        static_file("/etc/systemd/journald.conf.d/10-pds.conf", "journald.conf"),
        static_file("/etc/sysctl.d/90-pds.conf", "sysctl.conf"),
        static_file("/etc/apt/apt.conf.d/52pds-unattended-upgrades", "unattended-upgrades"),
        static_file(f"{_UNITS}/pds-updates.service", "pds-updates.service"),
        static_file(f"{_UNITS}/pds-updates.timer", "pds-updates.timer"),
        static_file(f"{_UNITS}/pds-metadata.service", "pds-metadata.service"),
        static_file(f"{_UNITS}/do-agent.service.d/pds.conf", "do-agent-pds.conf"),
    )


def _setup(tail: str, end: str) -> HostFile:
    """The setup of a host up to the line that begins with `end`, then `tail`."""
    head, found, _rest = (FILES / "setup.sh").read_text().partition(f"\n{end}")
    assert found, f"files/setup.sh has no line {end!r}"
    return HostFile(f"{LIBRARY}/setup", head + (FILES / tail).read_text(), mode="0755")


def _values(settings: Settings, packages: tuple[str, ...]) -> dict[str, str]:
    return {
        "SWAP_GIB": str(settings.host.swap_gib),
        "NOMAD_VERSION": settings.nomad.version,
        "NOMAD_SHA256": settings.nomad.sha256,
        "NOMAD_MIRROR": settings.nomad.mirror,
        "PACKAGES": " ".join(packages),
    }
