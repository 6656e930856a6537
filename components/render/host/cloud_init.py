"""The host's `user_data`: a `#cloud-config` document that turns a Debian 13 droplet into a Nomad host.

It sets the path and mode of each file, and the order of cloud-init's parts. `files/` has the content, as the scripts,
units and configurations that they become. Values reach them by `/etc/pds/host.env` or, if a format has no variables, by
`@VOLUME@`. `nomad_agent.py` fills in the agent's. This module does not decide when a host is rebuilt: only
`host.generation` does.

The document contains one secret, the private key of the Nomad endpoint. DigitalOcean serves the document to any process
on the droplet; `files/metadata.sh` stops that once cloud-init is done.
"""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from components.render.host.nomad_agent import agent_config
from components.settings.sections import STORE_GIB
from components.settings.sections.settings import Settings

MAX_BYTES = 64 * 1024
"""DigitalOcean's limit for `user_data` (digitalocean/openapi, droplet_create.yml)."""

_PEM_BYTES = 1_000
"""A certificate or key with its indentation; the real ones differ by some bytes."""

PACKAGES = (
    "apparmor", "ca-certificates", "containerd", "curl", "docker-cli", "docker.io", "e2fsprogs", "iproute2", "iptables",
    "jq", "quota", "runc", "stunnel4", "tzdata", "unattended-upgrades", "unzip",
)  # fmt: skip
"""Debian packages, without those that they only recommend; hence the listed ones that Docker recommends.

Nomad runs `ip` at its start and fails without it; `jq` is for operators.
"""

FILES = Path(__file__).with_name("files")
LIBRARY = "/usr/local/lib/pds"


@dataclass(frozen=True)
class Certificates:
    """The Nomad endpoint's certificates, as PEM. `server_key_pem` is secret."""

    ca_pem: str
    server_cert_pem: str
    server_key_pem: str


class UserDataTooLongError(ValueError):
    """The document exceeds DigitalOcean's limit. The message names what to shorten."""


@dataclass(frozen=True)
class HostFile:
    """A file on the host, owned by root."""

    path: str
    content: str
    mode: str = "0644"


def volume_name(settings: Settings, stack: str) -> str:
    """The name of the stack's volume at DigitalOcean, by which the host finds its disk."""
    return settings.volume.name or f"pds-{stack}"


def configuration_hash(settings: Settings, stack: str) -> str:
    """16 hex digits that change only with the host's configuration. Certificates are excluded.

    Raises UserDataTooLongError if the document would be too long with certificates, so that `up` ends before it creates
    a resource.
    """
    document = _without_certificates(settings, stack)
    refuse_too_long(len(document) + 3 * _PEM_BYTES)
    return _digest(document)


def user_data(settings: Settings, stack: str, certificates: Certificates) -> str:
    """The whole document. Raises UserDataTooLongError above 64 KiB."""
    document = _document(settings, stack, certificates, _digest(_without_certificates(settings, stack)))
    refuse_too_long(len(document.encode()))
    return document


def _without_certificates(settings: Settings, stack: str) -> bytes:
    return _document(settings, stack, Certificates("", "", ""), configuration="").encode()


def _digest(document: bytes) -> str:
    return hashlib.sha256(document).hexdigest()[:16]


def refuse_too_long(size: int) -> None:
    """Raises UserDataTooLongError above DigitalOcean's limit."""
    if size > MAX_BYTES:
        raise UserDataTooLongError(
            f"The host's cloud-init has {size:,} bytes. DigitalOcean's limit is {MAX_BYTES:,}. Shorten "
            "'operators.ssh_keys': name keys of your account instead of giving them as text."
        )


def _document(settings: Settings, stack: str, certificates: Certificates, configuration: str) -> str:
    return cloud_config(settings, host_files(settings, stack, certificates, configuration))


def cloud_config(settings: Settings, files: Sequence[HostFile]) -> str:
    """The document that writes `files` and runs the setup among them."""
    assert settings.operators, "only a PDS on another host has none"
    config: dict[str, Any] = {
        "timezone": settings.time_zone,
        # No account except root, and no password for it. cloud-init's default account would be uid 1000, which is the
        # server's in its container. Without a default account, only root gets the keys (DigitalOcean's and those
        # below), unrestricted once `disable_root` is off.
        "users": [{"name": "root", "lock_passwd": True}],
        "disable_root": False,
        "ssh_pwauth": False,
        "ssh_authorized_keys": list(settings.operators.text_keys),
        # Security fixes first: a restart would interrupt programs that already run.
        "package_upgrade": True,
        "write_files": [
            {"path": file.path, "owner": "root:root", "permissions": file.mode, "content": file.content}
            for file in files
        ],
        # cloud-init's last step. Nomad does not start before it: the script orders what follows.
        "runcmd": [[f"{LIBRARY}/setup"]],
    }
    if not config["ssh_authorized_keys"]:
        del config["ssh_authorized_keys"]
    return "#cloud-config\n" + yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=4096, allow_unicode=True)


def host_files(settings: Settings, stack: str, certificates: Certificates, configuration: str) -> tuple[HostFile, ...]:
    """Every file that cloud-init writes, in this order."""
    volume = volume_name(settings, stack)
    units = "/etc/systemd/system"
    return (
        HostFile("/etc/pds/host.env", _environment(settings, stack)),
        script_file(f"{LIBRARY}/setup", "setup.sh"),
        script_file(f"{LIBRARY}/install-nomad", "install-nomad.sh"),
        script_file(f"{LIBRARY}/volume", "volume.sh"),
        script_file(f"{LIBRARY}/metadata", "metadata.sh"),
        script_file(f"{LIBRARY}/drain", "stop-before-shutdown.sh"),
        script_file(f"{LIBRARY}/updates", "updates.sh"),
        script_file("/usr/local/lib/nomad/host-volume-plugins/pds-dir", "host-volume-plugin.sh"),
        HostFile("/etc/nomad.d/agent.hcl", agent_config(settings, configuration)),
        # JSON has no comments, so its reasons are here. live-restore: Docker can be upgraded under running containers.
        # ip: a port published without an address is on loopback, not on the Internet past every firewall of the host.
        # userland-proxy stays on: without it Docker reaches loopback ports by making 127.0.0.0/8 routable on its
        # bridges. icc: containers of two clubs cannot reach each other. log-opts: for containers other than Nomad's,
        # which set their own. cgroup-parent is not set: Nomad expects containers in system.slice.
        static_file("/etc/docker/daemon.json", "daemon.json"),
        static_file("/etc/stunnel/nomad.conf", "stunnel.conf"),
        HostFile("/etc/stunnel/pds/ca.pem", certificates.ca_pem),
        HostFile("/etc/stunnel/pds/server.pem", certificates.server_cert_pem),
        HostFile("/etc/stunnel/pds/server.key", certificates.server_key_pem, mode="0600"),
        static_file("/etc/ssh/sshd_config.d/10-pds.conf", "sshd.conf"),
        static_file("/etc/systemd/journald.conf.d/10-pds.conf", "journald.conf"),
        static_file("/etc/sysctl.d/90-pds.conf", "sysctl.conf"),
        static_file("/etc/apt/apt.conf.d/52pds-unattended-upgrades", "unattended-upgrades"),
        static_file("/etc/udev/rules.d/90-pds-volume.rules", "volume.rules", volume),
        static_file(f"{units}/srv-nomad.mount", "srv-nomad.mount", volume),
        static_file(f"{units}/pds-volume-prepare.service", "pds-volume-prepare.service"),
        static_file(f"{units}/pds-volume-claim.service", "pds-volume-claim.service"),
        static_file(f"{units}/pds-grow.service", "pds-grow.service"),
        static_file(f"{units}/pds-grow.timer", "pds-grow.timer"),
        static_file(f"{units}/pds-updates.service", "pds-updates.service"),
        static_file(f"{units}/pds-updates.timer", "pds-updates.timer"),
        static_file(f"{units}/pds-metadata.service", "pds-metadata.service"),
        static_file(f"{units}/docker.service.d/pds.conf", "docker-pds.conf"),
        static_file(f"{units}/do-agent.service.d/pds.conf", "do-agent-pds.conf"),
        static_file(f"{units}/nomad.service", "nomad.service"),
        static_file(f"{units}/pds-drain.service", "pds-drain.service"),
        static_file(f"{units}/stunnel@nomad.service.d/pds.conf", "stunnel-pds.conf"),
        *(_metrics_files(units) if settings.metrics_store else ()),
    )


def _metrics_files(units: str) -> tuple[HostFile, ...]:
    """What the metrics store reads of the host."""
    return (
        script_file(f"{LIBRARY}/metrics", "metrics.sh"),
        static_file(f"{units}/pds-metrics.socket", "pds-metrics.socket"),
        static_file(f"{units}/pds-metrics@.service", "pds-metrics.service"),
    )


def _environment(settings: Settings, stack: str) -> str:
    """The scripts' parameters, as shell assignments."""
    values = {
        "STACK": stack,
        "VOLUME": volume_name(settings, stack),
        "ADOPT": "1" if settings.volume.adopt else "0",
        "SWAP_GIB": str(settings.host.swap_gib),
        "NOMAD_VERSION": settings.nomad.version,
        "NOMAD_SHA256": settings.nomad.sha256,
        "NOMAD_MIRROR": settings.nomad.mirror,
        "PACKAGES": " ".join(PACKAGES),
        "METRICS_GIB": str(STORE_GIB),
    }
    return assignments(values)


def assignments(values: Mapping[str, str]) -> str:
    """The scripts' parameters as a file that they source."""
    lines = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
    return "\n".join(["# Parameters of the scripts in /usr/local/lib/pds. Written by the stack's program.", *lines, ""])


def static_file(path: str, source: str, volume: str = "") -> HostFile:
    """A file of `files/`, with the volume's name in place of `@VOLUME@`."""
    return HostFile(path, _source(source).replace("@VOLUME@", volume))


def script_file(path: str, source: str) -> HostFile:
    """A program of `files/`."""
    return HostFile(path, _source(source), mode="0755")


@cache
def _source(name: str) -> str:
    """The text of a file of `files/`, of which each document of an evaluation has a copy."""
    return (FILES / name).read_text()


class _Dumper(yaml.CSafeDumper):
    """Writes multi-line texts as blocks, so that a diff of the document reads like a diff of the files."""


def _text(dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
