"""Checks that compare several options of a stack file.

Each check names the options it reads. If one of them is faulty by itself, only that check is skipped, so that the
operator sees every fault at once.
"""

import ipaddress
from collections.abc import Callable, Iterator

from components.settings.checks.caddyfile import caddyfile_faults
from components.settings.checks.capacity import memory_faults, processor_faults
from components.settings.checks.endpoints import backup_faults, blobs_faults, s3_faults
from components.settings.checks.handles import member_faults, removal_faults
from components.settings.checks.host import image_faults, metrics_faults, package_faults, tag_faults
from components.settings.checks.ingress import caa_faults, caddy_image_faults, ingress_kind_faults
from components.settings.checks.mail import mail_dns_faults, region_faults
from components.settings.checks.pds_env import environment_faults
from components.settings.checks.placement import cluster_faults, placement_faults
from components.settings.checks.raw_hcl import raw_hcl_faults
from components.settings.fields.errors import Fault, shown
from components.settings.fields.nomad_version import OLDEST_NOMAD, OLDEST_NOMAD_TEXT, version_numbers
from components.settings.fields.types import is_at_or_below
from components.settings.sections import CADDY_ASK_PORT, HOST_PORT, SERVER_PORT, STORE_PORT, NomadOptions
from components.settings.sections.placement import FIRST_CLUB_PORT, STACK_NAME
from components.settings.sections.settings import Settings


def stack_faults(stack: str) -> Iterator[Fault]:
    """The stack's name is part of names at DigitalOcean: a letter, then a-z, 0-9 and '-', 40 characters at most."""
    if not STACK_NAME.fullmatch(stack):
        yield Fault(
            "(stack name)",
            f"DigitalOcean refuses the names that volume and droplet would get from {shown(stack)}.",
            "Name the stack with a-z, 0-9 and '-', a letter first, at most 40 characters: `pulumi stack rename NAME`.",
        )


def cross_faults(settings: Settings, faulty: frozenset[str]) -> list[Fault]:
    """Faults between options. Skips each check that reads one of the `faulty` keys."""
    return [
        fault
        for needs, check in (_CHECKS_OF_A_CLUSTER if settings.cluster else _CHECKS)
        if not any(_overlap(need, key) for need in needs for key in faulty)
        for fault in check(settings)
    ]


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _zone(settings: Settings) -> Iterator[Fault]:
    hostname, zone = settings.hostname, settings.dns.zone
    parent = hostname.partition(".")[2]
    if zone is None and "." in parent and settings.dns.provider == "digitalocean":
        yield Fault(
            "dns.zone",
            f"the zone of {shown(hostname)} is not known.",
            f"Write the zone that you own: 'zone: {parent}' or 'zone: {hostname}'.",
        )
    if zone is not None and not is_at_or_below(hostname, zone):
        yield Fault(
            "dns.zone",
            f"{shown(hostname)} is not in the zone {shown(zone)}.",
            f"Write for example 'zone: {parent if '.' in parent else hostname}'.",
        )


def _manual_zone(settings: Settings) -> Iterator[Fault]:
    if settings.dns.provider == "manual" and settings.dns.create_zone:
        yield Fault(
            "dns.create_zone",
            "with 'provider: manual' no zone is created.",
            "Remove it, or the line 'provider: manual'.",
        )


def _handle_domains(settings: Settings) -> Iterator[Fault]:
    domains = settings.service_handle_domains
    for inner in domains:
        for outer in domains:
            if inner != outer and inner.endswith(outer):
                yield Fault(
                    "service_handle_domains",
                    f"{inner} is inside {outer}. The server distinguishes such handles only by the order of the list.",
                    f"Keep one of the two, for example '{outer}'.",
                )


_NOT_PUBLIC = tuple(
    map(
        ipaddress.IPv4Network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "100.64.0.0/10"),
    )
)
"""Ranges of private networks (RFC 1918, 6890, 6598): no packet from the Internet comes from an address in them."""


def _reachable_cidrs(settings: Settings) -> Iterator[Fault]:
    networks = [ipaddress.ip_network(cidr) for cidr in (settings.operators.cidrs if settings.operators else ())]
    ipv4 = [one for one in networks if isinstance(one, ipaddress.IPv4Network)]
    remedy = "Add your IPv4 address with '/32'; `curl -4s https://ifconfig.co` shows it."
    if networks and not ipv4:
        problem = "all of these ranges are IPv6, and the droplet has only an IPv4 address. No operator could reach it."
        yield Fault("operators.cidrs", problem, remedy)
    elif ipv4 and all(any(one.subnet_of(outer) for outer in _NOT_PUBLIC) for one in ipv4):
        problem = "all of these ranges are of private networks. The droplet sees an operator's public address."
        yield Fault("operators.cidrs", problem, remedy)


def _open_cidrs(settings: Settings) -> Iterator[Fault]:
    networks = [ipaddress.ip_network(cidr) for cidr in (settings.operators.cidrs if settings.operators else ())]
    merged: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    merged += ipaddress.collapse_addresses(one for one in networks if isinstance(one, ipaddress.IPv4Network))
    merged += ipaddress.collapse_addresses(one for one in networks if isinstance(one, ipaddress.IPv6Network))
    for network in merged:
        if network.prefixlen == 0:
            yield Fault(
                "operators.cidrs",
                f"these ranges open SSH and IO's console to every IPv{network.version} address.",
                "Write your own address with '/32'. To open only Nomad, write 'nomad_anywhere: true'.",
            )


def _account_key(settings: Settings) -> Iterator[Fault]:
    if settings.operators and not settings.operators.account_keys:
        yield Fault(
            "operators.ssh_keys",
            "all keys are given as text. Without a key of the account, DigitalOcean mails a root password.",
            "Add the name or fingerprint of one key of your account: `doctl compute ssh-key list` shows them.",
        )


def _nomad_release(settings: Settings) -> Iterator[Fault]:
    nomad = settings.nomad
    defaults = {name: field.default for name, field in NomadOptions.model_fields.items()}
    if version_numbers(nomad.version) < OLDEST_NOMAD:
        yield Fault(
            "nomad.version",
            f"the Docker driver of {nomad.version} has known vulnerabilities.",
            f"Write {OLDEST_NOMAD_TEXT} or newer.",
        )
    elif nomad.version != defaults["version"] and nomad.sha256 == defaults["sha256"]:
        yield Fault(
            "nomad.sha256",
            f"this is the sum of release {defaults['version']}, not of {nomad.version}.",
            f"Copy that of linux_amd64 from {nomad.mirror}/{nomad.version}/nomad_{nomad.version}_SHA256SUMS.",
        )


def _invites(settings: Settings) -> Iterator[Fault]:
    if not settings.pds.invite_required and not settings.pds.open_registration:
        yield Fault(
            "pds.invite_required",
            "'false' opens sign-up to everyone. Sign-up over XRPC has no captcha, and the relay throttles a host at "
            "100 accounts.",
            "Keep invites, or confirm with 'open_registration: true'.",
        )


def _blobs(settings: Settings) -> Iterator[Fault]:
    disk = sorted(name for name in settings.pds.extra_env if name.startswith("PDS_BLOBSTORE_DISK_"))
    section = "s3" if settings.s3 else "blobs"
    if (settings.s3 or settings.blobs) and disk:
        yield Fault(
            section,
            f"'pds.extra_env' also asks for blobs on disk ({disk[0]}). The server accepts one of the two.",
            f"Remove '{section}' for blobs on the volume, or those lines of 'extra_env' for blobs in the bucket.",
        )


def _backup(settings: Settings) -> Iterator[Fault]:
    backup = settings.backup
    if backup is None:
        return
    for name in ("access_key_id", "secret_access_key"):
        if not backup.volume and getattr(backup, name) is None:
            yield Fault(
                f"backup.{name}", "is required.", "Create a key at DigitalOcean → API → Spaces Keys: full access."
            )
    for name in ("bucket", "adopt", "endpoint", "region", "access_key_id", "secret_access_key"):
        if backup.volume and getattr(backup, name):
            yield Fault(f"backup.{name}", "with 'volume' there is no bucket.", "Remove it, or 'volume'.")
    if backup.endpoint and not backup.bucket:
        yield Fault("backup.bucket", "with 'endpoint' no bucket is created.", "Write the name of your bucket.")
    if backup.endpoint and backup.adopt:
        yield Fault("backup.adopt", "with 'endpoint' the bucket always exists already.", "Remove it.")
    if backup.adopt and not backup.endpoint and not backup.bucket:
        yield Fault("backup.adopt", "the bucket's name is missing.", "Write it as 'bucket'.")
    for name in sorted({"PDS_ACCOUNT_DB_LOCATION", "PDS_SEQUENCER_DB_LOCATION", "PDS_ACTOR_STORE_DIRECTORY"}):
        if name in settings.pds.extra_env:
            yield Fault(
                f"pds.extra_env.{name}",
                "a backup reads the server's files at their default paths.",
                "Remove it, or 'backup'.",
            )


def _ports(settings: Settings) -> Iterator[Fault]:
    owners = {4646: "Nomad", 4647: "Nomad", 4648: "Nomad", 4650: "the Nomad endpoint"}
    configured = [("pds.port", settings.pds.port)]
    if settings.ingress.kind == "io":
        configured.append(("ingress.ssh_port", settings.ingress.ssh_port))
    if settings.ingress.kind == "caddy":
        owners[CADDY_ASK_PORT] = "Caddy"
    if settings.metrics_store:
        owners |= dict.fromkeys((STORE_PORT, SERVER_PORT, HOST_PORT), "'metrics'")
    configured += [(f"clubs.{name}.port", club.port) for name, club in settings.clubs.items()]
    used = {*owners, *(port for _key, port in configured)}
    free = (port for port in range(FIRST_CLUB_PORT, 65536) if port not in used)
    for key, port in configured:
        if port in owners:
            another = next(free) if key.startswith("clubs.") else "another port, for example 3000 or 2200"
            yield Fault(key, f"{port} belongs to {owners[port]}.", f"Write {another}.")
        owners.setdefault(port, f"'{key}'")


def _alerts(settings: Settings) -> Iterator[Fault]:
    alerts = settings.alerts
    if alerts and not (alerts.email or alerts.slack or alerts.ping_url):
        yield Fault(
            "alerts",
            "it has no recipient.",
            "Write 'email: [you@…]', 'slack' or 'ping_url', or remove 'alerts' altogether.",
        )


_CHECKS: tuple[tuple[frozenset[str], Callable[[Settings], Iterator[Fault]]], ...] = (
    (frozenset({"on", "operators", "clubs"}), placement_faults),
    (frozenset({"cluster", "clubs"}), cluster_faults),
    (frozenset({"hostname", "dns.zone", "dns.provider"}), _zone),
    (frozenset({"dns.provider", "dns.create_zone"}), _manual_zone),
    (frozenset({"service_handle_domains"}), _handle_domains),
    (frozenset({"operators.cidrs"}), _open_cidrs),
    (frozenset({"operators.cidrs"}), _reachable_cidrs),
    (frozenset({"operators.ssh_keys"}), _account_key),
    (frozenset({"host.tags"}), tag_faults),
    (frozenset({"nomad.version", "nomad.sha256", "nomad.mirror"}), _nomad_release),
    (frozenset({"pds.image", "backup"}), image_faults),
    (frozenset({"pds.image", "pds.package_version"}), package_faults),
    (frozenset({"pds.invite_required", "pds.open_registration"}), _invites),
    (frozenset({"mail"}), region_faults),
    (frozenset({"mail", "dns", "hostname", "members", "service_handle_domains"}), mail_dns_faults),
    (frozenset({"s3", "blobs"}), _blobs),
    (frozenset({"blobs", "s3", "backup", "host.region", "on"}), blobs_faults),
    (frozenset({"s3"}), s3_faults),
    (frozenset({"backup"}), _backup),
    (frozenset({"backup"}), backup_faults),
    (frozenset({"pds.port", "ingress.ssh_port", "ingress.kind", "clubs", "metrics"}), _ports),
    (frozenset({"ingress.kind"}), ingress_kind_faults),
    (
        frozenset(
            {
                "ingress.kind",
                "ingress.extra_caddyfile",
                "ingress.site_caddyfile",
                "hostname",
                "service_handle_domains",
                "members",
            }
        ),
        caddyfile_faults,
    ),
    (frozenset({"ingress.kind", "ingress.extra_hcl", "ingress.license_hcl", "hostname"}), raw_hcl_faults),
    (frozenset({"ingress.kind", "ingress.image"}), caddy_image_faults),
    (frozenset({"ingress.kind", "ingress.acme_ca", "dns.caa"}), caa_faults),
    (
        frozenset(
            {
                "host.size",
                "pds.memory_mib",
                "ingress.memory_mib",
                "ingress.kind",
                "alerts.ping_url",
                "members",
                "metrics",
                "backup",
                "blobs",
                "clubs",
                "on",
            }
        ),
        memory_faults,
    ),
    (
        frozenset(
            {"host.size", "ingress.kind", "alerts.ping_url", "members", "metrics", "backup", "blobs", "clubs", "on"}
        ),
        processor_faults,
    ),
    (frozenset({"alerts"}), _alerts),
    (frozenset({"metrics", "on", "clubs", "volume.size_gib", "pds.image", "pds.package_version"}), metrics_faults),
    (frozenset({"pds.package_version"}), environment_faults),
    (frozenset({"members", "service_handle_domains", "hostname", "relay_raised"}), member_faults),
    (frozenset({"members", "takedown", "delete"}), removal_faults),
)

_CHECKS_OF_A_CLUSTER: tuple[tuple[frozenset[str], Callable[[Settings], Iterator[Fault]]], ...] = (
    (frozenset({"cluster", "clubs", "ingress", "operators", "nomad.datacenter"}), cluster_faults),
    (frozenset({"operators.cidrs"}), _open_cidrs),
    (frozenset({"operators.cidrs"}), _reachable_cidrs),
    (frozenset({"operators.ssh_keys"}), _account_key),
    (frozenset({"nomad.version", "nomad.sha256", "nomad.mirror"}), _nomad_release),
    (frozenset({"ingress.kind", "ingress.image"}), caddy_image_faults),
)
"""The checks of a stack with `cluster`, which has no PDS."""
