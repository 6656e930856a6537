"""Checks that compare several options of a stack file, and warnings about allowed but risky values.

Each check names the options it reads. If one of them is faulty by itself, only that check is skipped, so that the
operator sees every fault at once.
"""

import ipaddress
from collections.abc import Callable, Iterator

from components.settings.caddyfile import ASK_PORT, caddyfile_faults
from components.settings.capacity import allocatable_mib, processor_faults
from components.settings.endpoints import SPACES_REGION, backup_faults, s3_faults
from components.settings.environment import environment_faults
from components.settings.faults import Fault, shown
from components.settings.given import given_warnings
from components.settings.handles import member_faults, removal_faults
from components.settings.host_checks import image_faults, package_faults, tag_faults
from components.settings.ingress_checks import caa_faults, caddy_image_faults, ingress_kind_faults
from components.settings.placement import FIRST_CLUB_PORT, STACK_NAME
from components.settings.placement_checks import placement_faults
from components.settings.raw_hcl import raw_hcl_faults
from components.settings.sections import Nomad
from components.settings.settings import Settings

WATCH_MIB = 128
"""Memory limit of the job that checks the volume, in MiB."""

OLDER_BACKUPS_MIB = 128
"""Memory limit of the task that fetches single accounts of older backups during a restore, in MiB."""

SYSTEM_RESERVE_MIB = 512
"""Memory reserved for Debian, Docker and the Nomad agent, in MiB; Nomad's `reserved.memory`."""

CADDY_ASK_PORT = ASK_PORT
CONFIRM_MIB = 128
"""Memory limit of the job that marks addresses as confirmed, in MiB. It briefly runs beside the others."""

BLOCKED_SMTP_PORTS = frozenset({25, 465, 587})
"""Ports that DigitalOcean blocks towards the Internet (docs.digitalocean.com/support/why-is-smtp-blocked)."""

_USUAL_TLS = {25: "starttls", 587: "starttls", 2525: "starttls", 2587: "starttls", 465: "implicit", 2465: "implicit"}
"""TLS mode of relays by port. nodemailer uses implicit TLS on 465 only unless told; the program always sets it."""

_SIZES = {1: "s-1vcpu-1gb", 2: "s-1vcpu-2gb", 4: "s-2vcpu-4gb", 8: "s-4vcpu-8gb", 16: "s-8vcpu-16gb"}
"""Basic droplets by their GiB, to suggest one that is large enough."""

_OLDEST_NOMAD = (2, 0, 4)
"""Nomad's Docker driver has known vulnerabilities before this version."""


def stack_faults(stack: str) -> Iterator[Fault]:
    """The stack's name is part of names at DigitalOcean: a letter, then a-z, 0-9 and '-', 40 characters at most."""
    if not STACK_NAME.fullmatch(stack):
        yield Fault(
            "(stack name)",
            f"{shown(stack)} gives names for volume and droplet that DigitalOcean refuses.",
            "Name the stack with a-z, 0-9 and '-', a letter first, at most 40 characters: `pulumi stack rename NAME`.",
        )


def cross_faults(settings: Settings, faulty: frozenset[str]) -> list[Fault]:
    """Faults between options. Skips each check that reads one of the `faulty` keys."""
    return [
        fault
        for needs, check in _CHECKS
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
    if zone is not None and hostname != zone and not hostname.endswith(f".{zone}"):
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
                    f"{inner} lies inside {outer}; the server tells such handles apart by the list's order alone.",
                    f"Keep one of the two, for example '{outer}'.",
                )


def _ipv4_cidrs(settings: Settings) -> Iterator[Fault]:
    cidrs = settings.operators.cidrs if settings.operators else ()
    if cidrs and not any(ipaddress.ip_network(cidr).version == 4 for cidr in cidrs):
        yield Fault(
            "operators.cidrs",
            "all of these ranges are IPv6, and the droplet has an IPv4 address alone: nothing could reach it.",
            "Add your IPv4 address with '/32'; `curl -4 https://icanhazip.com` shows it.",
        )


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
                "Write your own address with '/32'; for Nomad alone there is 'nomad_anywhere: true'.",
            )


def _account_key(settings: Settings) -> Iterator[Fault]:
    if settings.operators and not settings.operators.account_keys:
        yield Fault(
            "operators.ssh_keys",
            "all keys are given as text; without a key of the account DigitalOcean mails a root password.",
            "Add the name or fingerprint of one key of your account: `doctl compute ssh-key list` shows them.",
        )


def _nomad_release(settings: Settings) -> Iterator[Fault]:
    nomad = settings.nomad
    defaults = {name: field.default for name, field in Nomad.model_fields.items()}
    if tuple(map(int, nomad.version.split("."))) < _OLDEST_NOMAD:
        yield Fault("nomad.version", f"{nomad.version} has known holes in its Docker driver.", "Write 2.0.4 or newer.")
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
            "'false' opens sign-up to everyone: XRPC sign-up has no captcha, and the relay throttles a host at 100 "
            "accounts.",
            "Keep invites, or say it twice with 'open_registration: true'.",
        )


def _blobs(settings: Settings) -> Iterator[Fault]:
    disk = sorted(name for name in settings.pds.extra_env if name.startswith("PDS_BLOBSTORE_DISK_"))
    if settings.s3 and disk:
        yield Fault(
            "s3",
            f"'pds.extra_env' asks for blobs on disk ({disk[0]}) beside it; the server takes one of the two.",
            "Remove 's3' for blobs on the volume, or those lines of 'extra_env' for blobs in the bucket.",
        )


def _backup(settings: Settings) -> Iterator[Fault]:
    backup = settings.backup
    if backup is None:
        return
    for name in ("access_key_id", "secret_access_key"):
        if not backup.volume and getattr(backup, name) is None:
            yield Fault(
                f"backup.{name}", "is required.", "Make a key at DigitalOcean → API → Spaces Keys: full access."
            )
    for name in ("bucket", "adopt", "endpoint", "region", "access_key_id", "secret_access_key"):
        if backup.volume and getattr(backup, name):
            yield Fault(f"backup.{name}", "with 'volume' there is no bucket.", "Remove it, or 'volume'.")
    if backup.endpoint and not backup.bucket:
        yield Fault("backup.bucket", "with 'endpoint' no bucket is created.", "Write the name of the one you have.")
    if backup.endpoint and backup.adopt:
        yield Fault("backup.adopt", "with 'endpoint' the bucket is always one that you have.", "Remove it.")
    if backup.adopt and not backup.endpoint and not backup.bucket:
        yield Fault("backup.adopt", "it does not say which bucket.", "Write its name as 'bucket'.")
    for name in sorted({"PDS_ACCOUNT_DB_LOCATION", "PDS_SEQUENCER_DB_LOCATION", "PDS_ACTOR_STORE_DIRECTORY"}):
        if name in settings.pds.extra_env:
            yield Fault(
                f"pds.extra_env.{name}",
                "a backup looks for the server's files where they are by default.",
                "Remove it, or 'backup'.",
            )


def memory_asked(settings: Settings) -> dict[str, int]:
    """Memory that this stack's jobs may use on its host at once, by section, in MiB."""
    ingress = settings.ingress.memory_mib if settings.ingress_is_ours else 0
    watch = WATCH_MIB if settings.alerts and settings.alerts.ping_url else 0
    confirm = CONFIRM_MIB if any(member.email_verified for member in settings.members) else 0
    backup = settings.backup.memory_mib + OLDER_BACKUPS_MIB if settings.backup else 0
    return {
        "pds": settings.pds.memory_mib,
        "ingress": ingress,
        "alerts": watch,
        "members": confirm,
        "backup": backup,
        "clubs": sum(club.memory_mib for club in settings.clubs.values()),
    }


def _memory(settings: Settings) -> Iterator[Fault]:
    if settings.on:
        return  # the operator knows the capacity of an existing host
    room = allocatable_mib(settings.host.memory_mib, SYSTEM_RESERVE_MIB)
    asked = memory_asked(settings)
    wanted = sum(asked.values())
    if wanted > room:
        fitting = [size for gib, size in _SIZES.items() if wanted <= allocatable_mib(gib * 1024, SYSTEM_RESERVE_MIB)]
        larger = f"Write a larger size, for example '{fitting[0]}', or lower" if fitting else "Lower"
        yield Fault(
            "host.size",
            f"{settings.host.size} has {room} MiB for jobs, beside what kernel and system keep; "
            f"they ask for {wanted} MiB ({', '.join(f'{part} {mib}' for part, mib in asked.items() if mib)}).",
            f"{larger} 'pds.memory_mib'.",
        )


def _ports(settings: Settings) -> Iterator[Fault]:
    taken = {4646: "Nomad", 4647: "Nomad", 4648: "Nomad", 4650: "the Nomad endpoint"}
    asked = [("pds.port", settings.pds.port)]
    if settings.ingress.kind == "io":
        asked.append(("ingress.ssh_port", settings.ingress.ssh_port))
    if settings.ingress.kind == "caddy":
        taken[CADDY_ASK_PORT] = "Caddy"
    asked += [(f"clubs.{name}.port", club.port) for name, club in settings.clubs.items()]
    free = (port for port in range(FIRST_CLUB_PORT, 65536) if port not in {*taken, *(port for _key, port in asked)})
    for key, port in asked:
        if port in taken:
            another = next(free) if key.startswith("clubs.") else "another port, for example 3000 or 2200"
            yield Fault(key, f"{port} belongs to {taken[port]}.", f"Write {another}.")
        taken.setdefault(port, f"'{key}'")


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
    (frozenset({"hostname", "dns.zone", "dns.provider"}), _zone),
    (frozenset({"dns.provider", "dns.create_zone"}), _manual_zone),
    (frozenset({"service_handle_domains"}), _handle_domains),
    (frozenset({"operators.cidrs"}), _open_cidrs),
    (frozenset({"operators.cidrs"}), _ipv4_cidrs),
    (frozenset({"operators.ssh_keys"}), _account_key),
    (frozenset({"host.tags"}), tag_faults),
    (frozenset({"nomad.version", "nomad.sha256", "nomad.mirror"}), _nomad_release),
    (frozenset({"pds.image"}), image_faults),
    (frozenset({"pds.image", "pds.package_version"}), package_faults),
    (frozenset({"pds.invite_required", "pds.open_registration"}), _invites),
    (frozenset({"s3"}), _blobs),
    (frozenset({"s3"}), s3_faults),
    (frozenset({"backup"}), _backup),
    (frozenset({"backup"}), backup_faults),
    (frozenset({"pds.port", "ingress.ssh_port", "ingress.kind", "clubs"}), _ports),
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
    (frozenset({"ingress.extra_hcl", "ingress.license_hcl", "hostname"}), raw_hcl_faults),
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
                "backup",
                "clubs",
                "on",
            }
        ),
        _memory,
    ),
    (frozenset({"host.size", "ingress.kind", "alerts.ping_url", "members", "backup", "clubs", "on"}), processor_faults),
    (frozenset({"alerts"}), _alerts),
    (frozenset({"pds.package_version"}), environment_faults),
    (frozenset({"members", "service_handle_domains", "hostname", "relay_raised"}), member_faults),
    (frozenset({"members", "takedown", "delete"}), removal_faults),
)


def warnings(settings: Settings) -> Iterator[str]:
    """Warnings about allowed but probably harmful values, shown at each preview and `up`."""
    if settings.mail and settings.mail.port in BLOCKED_SMTP_PORTS:
        yield (
            f"pds:mail.port: DigitalOcean blocks {settings.mail.port}; mail will not leave the droplet. "
            "Write the relay's other port: 2465 (implicit TLS), 2525 or 2587 (STARTTLS)."
        )
    if settings.mail and settings.mail.port in _USUAL_TLS and settings.mail.tls != _USUAL_TLS[settings.mail.port]:
        usual = _USUAL_TLS[settings.mail.port]
        yield f"pds:mail.tls: relays speak {usual} TLS on {settings.mail.port}. Write 'tls: {usual}' if yours does."
    if settings.mail is None:
        yield (
            "pds:mail: without a mail relay members receive no password resets and no token to move away. "
            "Add 'mail', or keep it in mind."
        )
    if settings.alerts and not settings.alerts.ping_url:
        yield (
            "pds:alerts.ping_url: without it there is no alert for a full volume, too many accounts, or backups that "
            "fail: DigitalOcean sees none of them. Add the ping URL of a dead man's switch, for example a check of "
            "healthchecks.io."
        )
    if settings.backup and not settings.alerts:
        yield "pds:alerts: no alert reports a failed backup or drill. Add 'alerts', with a 'ping_url'."
    if settings.backup is None:
        yield "pds:backup: NO BACKUP. What happens to the volume happens to every member's posts. Add 'backup'."
    elif settings.backup.volume:
        yield (
            f"pds:backup.volume: the disk {settings.backup.volume} is on the droplet, or beside it; what takes the one "
            "takes the other. A bucket in another region outlives both."
        )
    elif settings.on is None and (near := same_region(settings, settings.host.region)):
        yield near
    if settings.backup and settings.s3:
        yield "pds:backup: blobs are in the bucket of 's3', and no backup of this program copies them."
    yield from given_warnings(settings)
    if settings.pds.escrow == "pending":
        yield (
            "pds:pds.escrow: NO ESCROW YET. The rotation key exists only in this stack's state. Losing it "
            "loses every identity on this server. Run `./pds escrow STACK`, put the file away, then set "
            "'pds: {escrow: made}'."
        )
    if (
        settings.ingress_is_ours
        and settings.ingress.kind == "io"
        and "@sha256:" not in (image := settings.ingress.container_image)
    ):
        yield (
            f"pds:ingress.image: {image} is not pinned. `docker buildx imagetools inspect {image}` prints its digest."
        )
    if settings.pds.new:
        yield "pds:pds.new: an empty volume is accepted. Remove it after the first `up`; nothing restarts by that."


def same_region(settings: Settings, droplet: str | None) -> str | None:
    """A warning if the bucket is in the droplet's region. The regions of other S3 services cannot be compared."""
    backup = settings.backup
    if backup is None or backup.endpoint or backup.volume or (region := backup.region or SPACES_REGION) != droplet:
        return None
    return (
        f"pds:backup.region: {region} is the droplet's region too; what takes the one takes the other. Write "
        "another Spaces region."
    )
