"""Options that conflict with the placement of a PDS, or with a cluster, which has none of its own."""

from collections.abc import Iterator

from components.settings.checks.capacity import RESERVE_GIB, allocatable_mib, host_room, roomiest_host
from components.settings.checks.endpoints import snapshot_faults
from components.settings.fields.errors import Fault
from components.settings.fields.option import Section
from components.settings.sections import CADDY_ASK_PORT, ClusterOptions
from components.settings.sections.placement import FIRST_CLUB_PORT, ClubOptions, OnOptions
from components.settings.sections.settings import Settings

_OWN_HOST = {
    "host": None,
    "volume": None,
    "operators": None,
    "clubs": None,
    "nomad": ("version", "sha256", "mirror"),
    "secrets": ("nomad_management_token",),
}
"""Options of the stack's own droplet: section, and its options (None: all)."""

OF_THE_HOSTS_INGRESS = ("image", "memory_mib", "license_hcl", "ssh_port", "backend", "acme_ca", "acme_email")


def placement_faults(settings: Settings) -> Iterator[Fault]:
    """Options that conflict with the placement of the PDS."""
    on = settings.on
    if on is None:
        if settings.operators is None:
            yield Fault(
                "operators",
                "this option is required.",
                "Write 'operators: {cidrs: [203.0.113.7/32], ssh_keys: [my-laptop]}': who may administer the host. "
                "Or 'on: STACK' for a PDS on another stack's host.",
            )
        return
    for section, names in _OWN_HOST.items():
        value = getattr(settings, section)
        configured = value.model_fields_set if isinstance(value, Section) else set(value or ())
        for name in sorted(configured if names is None else configured & set(names)):
            yield Fault(
                f"{section}.{name}",
                "it is an option of the stack's own droplet, and with 'on' there is none.",
                "Remove it, or 'on'.",
            )
    if (on.stack is None) == (on.nomad_address is None):
        yield Fault(
            "on",
            "it needs exactly one of a stack's name and a Nomad's address.",
            "Write 'on: STACK', or 'on: {nomad_address: https://…}'.",
        )
    elif on.stack:
        yield from _on_a_host(settings, on)
    else:
        yield from _on_a_nomad(settings, on)


def _on_a_host(settings: Settings, on: OnOptions) -> Iterator[Fault]:
    for name in sorted(on.model_fields_set - {"stack"}):
        yield Fault(f"on.{name}", "the host's stack determines it.", "Remove it.")
    for name in OF_THE_HOSTS_INGRESS:
        if name in settings.ingress.model_fields_set:
            yield Fault(
                f"ingress.{name}", "the ingress is the host's.", "Remove it, or write it in the host's stack file."
            )
    if "port" not in settings.pds.model_fields_set:
        yield Fault(
            "pds.port",
            "on a shared host every PDS has its own port, which the host's stack assigns.",
            "Write the 'port' that 'clubs' in the host's stack file gives to this stack.",
        )


def _on_a_nomad(settings: Settings, on: OnOptions) -> Iterator[Fault]:
    if on.ipv4 is None:
        yield Fault("on.ipv4", "the address of the hostname is missing.", "Write the host's public address.")
    if on.nomad_token is None:
        yield Fault(
            "on.nomad_token",
            "this option is required.",
            "Run `pulumi config set --secret --path on.nomad_token`. Without ACLs every client of that Nomad "
            "can read the rotation key: run `nomad acl bootstrap` there first.",
        )
    if (on.nomad_client_cert_pem is None) != (on.nomad_client_key_pem is None):
        missing = "key" if on.nomad_client_key_pem is None else "cert"
        yield Fault(f"on.nomad_client_{missing}_pem", "certificate and key belong together.", "Write both, or neither.")


NO_HOSTNAME = "pds.cluster.test"
"""Stands in for the hostname of a cluster, which no name resolves to. No rendered file contains it."""

_SECTIONS = frozenset({"cluster", "clubs", "host", "hostname", "ingress", "nomad", "operators", "secrets", "time_zone"})
_OF_A_SECTION = {
    "host": frozenset({"region", "image", "swap_gib"}),
    "ingress": frozenset({"kind", "image", "memory_mib", "acme_ca", "acme_email", "access_log", "ssh_port"}),
    "secrets": frozenset({"nomad_management_token"}),
}
"""Options that a cluster has of the sections that it shares with a PDS."""


def cluster_faults(settings: Settings) -> Iterator[Fault]:
    """Faults of a cluster, and clubs on a host of no cluster."""
    cluster = settings.cluster
    if cluster is None:
        for name, club in settings.clubs.items():
            if club.host is not None:
                yield Fault(f"clubs.{name}.host", "this stack is not a cluster.", "Remove it: there is one host.")
            if club.leaving is not None:
                yield Fault(f"clubs.{name}.leaving", "this stack is not a cluster.", "Remove it: there is one host.")
        return
    yield from _foreign_options(settings)
    yield from _numbers(settings, cluster)
    yield from snapshot_faults(settings)
    if settings.operators is None:
        yield Fault(
            "operators",
            "this option is required.",
            "Write 'operators: {cidrs: [203.0.113.7/32], ssh_keys: [my-laptop]}': who may administer the cluster.",
        )
    for name, club in settings.clubs.items():
        if club.host not in cluster.hosts:
            yield _no_host(settings, cluster, name, club)
        if club.leaving and club.leaving.host not in cluster.hosts:
            problem = f"the cluster has no host '{club.leaving.host}'."
            yield Fault(
                f"clubs.{name}.leaving.host", problem, "`./pds move` writes and removes it: write its value back."
            )
    for host in cluster.hosts:
        clubs = {name: club for name, club in settings.clubs.items() if club.host == host}
        yield from _ports(settings, host, clubs)
        yield from _room(settings, cluster, host, clubs)


def _foreign_options(settings: Settings) -> Iterator[Fault]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        # The engine fills in the defaults of Pulumi.yaml, and `{}` for a section.
        default = field.get_default(call_default_factory=True, validated_data={})
        written = bool(value.model_fields_set) if isinstance(value, Section) else bool(value) and value != default
        if name not in _SECTIONS and written:
            yield Fault(name, "it is an option of a PDS, and a cluster has none.", "Remove it, or 'cluster'.")
    for name, allowed in _OF_A_SECTION.items():
        section = getattr(settings, name)
        assert isinstance(section, Section)
        for key in sorted(section.model_fields_set - allowed):
            yield Fault(f"{name}.{key}", "a cluster does not use this option.", "Remove it.")


def _numbers(settings: Settings, cluster: ClusterOptions) -> Iterator[Fault]:
    if not cluster.hosts and not cluster.workers.spares:
        yield Fault(
            "cluster.hosts",
            "a cluster without hosts and spares has no place for a PDS.",
            "Write for example '{a: {}}'.",
        )
    if settings.nomad.datacenter in cluster.hosts:
        yield Fault(
            f"cluster.hosts.{settings.nomad.datacenter}",
            "this is the datacenter of the servers, and each host is a datacenter of its own.",
            "Give the host another name.",
        )
    if cluster.takeover and not cluster.workers.spares:
        yield Fault(
            "cluster.workers.spares",
            "with 'takeover' a dead host needs a spare to come back on.",
            "Write 1 or more, or remove 'takeover'.",
        )
    servers = cluster.servers
    if servers.endpoint > servers.count:
        yield Fault("cluster.servers.endpoint", f"there is no server {servers.endpoint}.", "Write 1.")
    for key, count in (("servers", servers.count), ("workers", cluster.worker_count)):
        for number in getattr(cluster, key).generations:
            if int(number) > count:
                yield Fault(f"cluster.{key}.generations.{number}", f"there are {count} {key}.", "Remove it.")


def _ports(settings: Settings, host: str, clubs: dict[str, ClubOptions]) -> Iterator[Fault]:
    owners = {4646: "Nomad", 4647: "Nomad", 4648: "Nomad", 4650: "the Nomad endpoint"}
    if settings.ingress.kind == "caddy":
        owners[CADDY_ASK_PORT] = "Caddy"
    if settings.ingress.kind == "io":
        owners[settings.ingress.ssh_port] = "'ingress.ssh_port'"
    used = {*owners, *(club.port for club in clubs.values())}
    free = (port for port in range(FIRST_CLUB_PORT, 65536) if port not in used)
    for name, club in clubs.items():
        if club.port in owners:
            where = f" on host {host}" if owners[club.port].startswith("'clubs") else ""
            yield Fault(
                f"clubs.{name}.port", f"{club.port} belongs to {owners[club.port]}{where}.", f"Write {next(free)}."
            )
        owners.setdefault(club.port, f"'clubs.{name}.port'")
    for name, club in settings.clubs.items():
        left = club.leaving
        if left and left.host == host != club.host and owners.get(left.port, "'clubs").startswith("'clubs."):
            yield Fault(
                f"clubs.{name}.leaving.port",
                f"{left.port} belongs to {owners[left.port]} on host {host}, and {name} has it until its move is over.",
                f"Give the other club {next(free)}.",
            )


def _no_host(settings: Settings, cluster: ClusterOptions, name: str, club: ClubOptions) -> Fault:
    """`up` does not choose a host: a later `up` could choose another one, where the club's data are not."""
    hosts = ", ".join(cluster.hosts)
    if club.host:
        return Fault(f"clubs.{name}.host", f"the cluster has no host '{club.host}'.", f"Write one of: {hosts}.")
    roomiest = roomiest_host(settings, club)
    now = f", now '{roomiest}'" if roomiest else ""
    return Fault(
        f"clubs.{name}.host",
        "a cluster has several hosts.",
        f"Run `./pds assign-hosts`, which writes the one with the most free memory{now}, or write one of: {hosts}.",
    )


def _room(settings: Settings, cluster: ClusterOptions, host: str, clubs: dict[str, ClubOptions]) -> Iterator[Fault]:
    room, volume = host_room(settings, host), cluster.hosts[host].volume_gib
    if room.disk_gib < 0:
        granted = volume - RESERVE_GIB - room.disk_gib
        yield Fault(
            f"cluster.hosts.{host}.volume_gib",
            f"the volume has {volume} GiB, and the clubs on the host have {granted} GiB, plus {RESERVE_GIB} GiB for "
            "Nomad and the ingress.",
            f"Write {granted + RESERVE_GIB} or more.",
        )
    available = allocatable_mib(cluster.workers.memory_mib)
    if room.memory_mib < 0:
        yield Fault(
            "cluster.workers.size",
            f"{cluster.workers.size} has {available} MiB for jobs, after what kernel and system keep. The clubs on "
            f"host {host} and its ingress reserve {available - room.memory_mib} MiB.",
            "Write a larger size, or give a club another host.",
        )
    elif room.mhz is not None and room.mhz < 0 and clubs:
        yield Fault(
            "cluster.workers.size",
            f"{cluster.workers.size} lacks {-room.mhz} MHz for the {len(clubs)} clubs on host {host}, its ingress and "
            "a backup.",
            "Write a size with more processors, or give a club another host.",
        )
