"""Finds resources of a stack that only its account or only its state has; `./pds orphans`. Changes nothing.

Each is listed with the next command: one that adopts it, one that removes it.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from cli.drift.claims import Claims
from cli.drift.cluster_orphans import cluster_orphans
from cli.drift.firewall import FirewallGap, firewall_gaps, tag_of
from cli.drift.missing_resources import MissingResource, missing_resources
from cli.drift.orphan import Orphan, unknown_droplet, volume_deletion
from cli.drift.service_orphans import service_orphans
from cli.lib.digitalocean import DigitalOceanAccount, Json
from cli.lib.stack import Stack, State
from cli.lib.temporary_firewall import port_name, temporary_firewalls
from components.render.host.cloud_init import volume_name
from components.render.records import hostname_records, mail_records, member_records
from components.settings.sections.settings import Settings
from offline.stackfile import read_settings


@dataclass(frozen=True)
class OrphanReport:
    """The whole report. `gaps` are differences of the firewall. `empty` is a state without a resource: the account's
    resources are left over, or the state is lost."""

    orphans: list[Orphan] = field(default_factory=list)
    missing: list[MissingResource] = field(default_factory=list)
    gaps: list[FirewallGap] = field(default_factory=list)
    empty: bool = False

    def json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self), indent=1)


def find_orphans(stack: Stack, account: DigitalOceanAccount) -> OrphanReport:
    """Compare state and account. Raises StackError, StackFileError and DigitalOceanError."""
    settings = read_settings(stack.name, stack.root)
    state = stack.state()
    return OrphanReport(
        orphans=_all(stack.name, settings, state, account, Claims(stack)),
        missing=missing_resources(stack.name, state, account),
        gaps=firewall_gaps(stack.name, state, account),
        empty=not state.resources,
    )


def _all(stack: str, settings: Settings, state: State, account: DigitalOceanAccount, claims: Claims) -> list[Orphan]:
    if settings.cluster:
        return list(cluster_orphans(stack, settings, state, account, claims))
    return [
        *_Search(stack, settings, state, account, claims).all(),
        *service_orphans(stack, settings, state, account),
    ]


_DATA = "It may hold the members' data, whose only other copy is a backup: check before you delete it."


class _Search:
    """One search of one account."""

    def __init__(
        self, stack: str, settings: Settings, state: State, account: DigitalOceanAccount, claims: Claims
    ) -> None:
        self._stack, self._settings, self._state, self._account = stack, settings, state, account
        self._claims = claims
        self._name, self._tag = f"pds-{stack}", tag_of(stack, state)

    def all(self) -> list[Orphan]:
        """Return everything beyond the state; first what blocks others."""
        if self._settings.on:  # no resource of the host is this stack's
            return [*self._zone(), *self._records(self._own_records())]
        volumes, droplets, records = self._own_volumes(), self._own_droplets(), self._own_records()
        return [
            *self._droplets(droplets, {item["id"] for item in volumes}),
            *self._volumes(volumes, {str(item["id"]) for item in droplets}),
            *self._reserved_ips({str(item["id"]) for item in droplets}, records),
            *self._firewalls(),
            *self._temporary_firewalls(),
            *self._zone(),
            *self._records(records),
            *self._vpcs(),
            *self._projects(),
            *self._tags(),
        ]

    def _urn(self, name: str) -> str:
        item = self._state.named(name)
        return item.urn if item else name

    def _configure(self, key: str, value: str) -> tuple[str, ...]:
        return ("pulumi", "config", "set", "--stack", self._stack, "--path", f"pds:{key}", value)

    def _own_droplets(self) -> list[Json]:
        by_tag = self._account.list_all("droplets", tag_name=self._tag)
        by_name = self._account.list_all("droplets", name=self._name)
        return list({item["id"]: item for item in [*by_tag, *by_name]}.values())

    def _droplets(self, own: Sequence[Json], volumes: set[str]) -> Iterator[Orphan]:
        known = self._state.ids("Droplet")
        for item in own:
            if str(item["id"]) in known or self._claims.in_a_state(str(item["id"])):
                continue
            held = sorted(volumes & set(item["volume_ids"]))
            holds = (
                f"It holds volume {', '.join(held)}, so no other droplet can be created. Deleting it keeps the volume."
                if held
                else "It holds no volume of this stack, and therefore no data."
            )
            yield unknown_droplet(item, volumes, holds, blocks=bool(held))

    def _own_volumes(self) -> list[Json]:
        named = self._account.list_all("volumes", name=volume_name(self._settings, self._stack))
        known = {item["id"] for item in named}
        others = (self._state.ids("Volume") | {self._settings.volume.adopt or ""}) - known - {""}
        return [*named, *(found for number in sorted(others) if (found := self._account.get(f"volumes/{number}")))]

    def _volumes(self, own: Sequence[Json], own_droplets: set[str]) -> Iterator[Orphan]:
        known = self._state.ids("Volume")
        file = f"Pulumi.{self._stack}.yaml"
        for item in own:
            number = item["id"]
            if number in known:
                continue
            adopted = self._settings.volume.adopt == number
            droplets = [str(held) for held in item["droplet_ids"]]
            where = f"attached to droplet {', '.join(droplets)}" if droplets else "attached to nothing"
            here = item["region"]["slug"] == self._settings.host.region
            blocks = not known and not adopted and here
            mine = own_droplets | self._state.ids("Droplet")
            other = self._claims.on_a_volume(number, item["name"], droplets, mine)
            if other and not (blocks or adopted):
                continue
            note = "The stack file adopts it: the next `up` takes it. " if adopted else ""
            yield Orphan(
                kind="volume",
                id=number,
                about=(
                    f"{item['name']}, {item['size_gigabytes']} GiB in {item['region']['slug']}, created "
                    f"{item['created_at']}, {where}. {note}{other or _DATA}"
                ),
                adopt=() if adopted or known or not here or other else self._configure("volume.adopt", number),
                delete=() if other else volume_deletion(number, droplets),
                instead=f"Is {file} that of an older checkout? If not, write another 'volume.name' there."
                if other and not adopted
                else "",
                taken=adopted and not known,
                data=True,
                blocks=blocks,
            )

    def _reserved_ips(self, droplets: set[str], records: Sequence[Json]) -> Iterator[Orphan]:
        known = self._state.ids("ReservedIp")
        own = droplets | self._state.ids("Droplet")
        pointed = {item["data"] for item in records if item["type"] == "A"}
        for item in self._account.list_all("reserved_ips"):
            ip, droplet = item["ip"], item["droplet"]
            if ip in known or (droplet and str(droplet["id"]) not in own):
                continue
            if not droplet and item["region"]["slug"] != self._settings.host.region:
                continue
            adopted = str(self._settings.host.reserved_ip_adopt) == ip
            other = self._claims.of(ip)
            if other and not adopted:
                continue
            if droplet:
                whose = f"Assigned to droplet {droplet['id']}."
            elif ip in pointed:
                whose = f"Assigned to nothing; a record of {self._settings.hostname} points to it."
            else:
                whose = "Assigned to nothing. A reserved IP has no name: this may belong to another project."
            note = " The stack file adopts it: the next `up` takes it." if adopted else ""
            if known and not adopted:
                note = (
                    f" This stack has {', '.join(sorted(known))}, created by an `up` that did not adopt this one. To "
                    f"return to it: set 'host.reserved_ip_adopt' to {ip} and raise 'host.generation' in Pulumi."
                    f"{self._stack}.yaml, `pulumi state unprotect --stack {self._stack} "
                    f"'{self._urn('pds-host-network-ip')}'`, `pulumi up`; the address is in the host's certificate, "
                    f"so it needs a new host."
                )
            yield Orphan(
                kind="reserved-ip",
                id=ip,
                about=f"{whose}{note} It is billed while it is assigned to nothing.",
                adopt=() if adopted or known else self._configure("host.reserved_ip_adopt", ip),
                delete=() if other else (("doctl", "compute", "reserved-ip", "delete", ip),),
                taken=adopted and not known,
            )

    def _firewalls(self) -> Iterator[Orphan]:
        known = self._state.ids("Firewall")
        for item in self._account.list_all("firewalls"):
            if item["name"] == self._name and item["id"] not in known:
                yield Orphan(
                    kind="firewall",
                    id=item["id"],
                    about=f"{item['name']}, for droplets with the tag {', '.join(item['tags'] or ['(none)'])}. "
                    "The next `up` creates another one, which needs the name.",
                    delete=(("doctl", "compute", "firewall", "delete", item["id"]),),
                    blocks=not known,
                )

    def _temporary_firewalls(self) -> Iterator[Orphan]:
        for item in temporary_firewalls(self._account, self._stack, self._tag):
            (rule,) = item["inbound_rules"]
            yield Orphan(
                kind="temporary firewall",
                id=item["id"],
                about=f"{item['name']} opens {port_name(int(rule['ports']))} to "
                f"{', '.join(rule['sources']['addresses'])} since {item['created_at']}. `./pds allow-ip`, or "
                "`--allow-ip` of another command, created it. A run may still need it.",
                delete=(("doctl", "compute", "firewall", "delete", item["id"]),),
            )

    def _own_records(self) -> list[Json]:
        """Return the records of the zone that the program would create."""
        settings = self._settings
        if settings.dns.provider != "digitalocean":
            return []
        records = hostname_records(settings) + mail_records(settings)
        records += [record for member in settings.members for record in member_records(settings, member)]
        in_zone = self._account.list_all(f"domains/{settings.zone}/records")
        return [item for item in in_zone if any(record.matches(item) for record in records)]

    def _zone(self) -> Iterator[Orphan]:
        zone, known = self._settings.zone, self._state.ids("Domain")
        made_here = self._settings.dns.provider == "digitalocean" and self._settings.dns.create_zone
        if made_here and zone not in known and self._account.get(f"domains/{zone}"):
            count = len(self._account.list_all(f"domains/{zone}/records"))
            yield Orphan(
                kind="zone",
                id=zone,
                about=f"The zone with {count} records, of this PDS or of anything else under {zone}.",
                adopt=self._configure("dns.create_zone", "false"),
                delete=(("doctl", "compute", "domain", "delete", zone),),
                data=True,
                blocks=True,
            )

    def _records(self, own: Sequence[Json]) -> Iterator[Orphan]:
        zone, known = self._settings.zone, self._state.ids("DnsRecord")
        sole = [record for record in mail_records(self._settings) if record.sole is not None]
        for item in own:
            if str(item["id"]) not in known:
                effect = "creates its own in addition, and name servers return both"
                if any(record.matches(item) for record in sole):
                    effect = "refuses to create its own in addition, because receivers would apply neither"
                yield Orphan(
                    kind="record",
                    id=str(item["id"]),
                    about=f"{item['name']} {item['type']} {item['data']} in zone {zone}. The next `up` {effect}.",
                    delete=(("doctl", "compute", "domain", "records", "delete", zone, str(item["id"])),),
                )

    def _vpcs(self) -> Iterator[Orphan]:
        known = self._state.ids("Vpc")
        for item in self._account.list_all("vpcs"):
            if item["name"] == self._name and item["id"] not in known:
                yield Orphan(
                    kind="vpc",
                    id=item["id"],
                    about=f"{item['name']}, {item['ip_range']}. It can be deleted once no droplet is in it.",
                    delete=(("doctl", "vpcs", "delete", item["id"]),),
                    blocks=bool(self._settings.host.vpc_ip_range) and not known,
                )

    def _projects(self) -> Iterator[Orphan]:
        project, known = self._settings.host.project, self._state.ids("Project")
        for item in self._account.list_all("projects") if project else []:
            if item["name"] == project and item["id"] not in known:
                yield Orphan(
                    kind="project",
                    id=item["id"],
                    about=f"{project}. It can be deleted once it is empty; or keep it, and remove `host.project`.",
                    delete=(("doctl", "projects", "delete", item["id"]),),
                    blocks=not known,
                )

    def _tags(self) -> Iterator[Orphan]:
        if self._name not in self._state.ids("Tag") and self._account.get(f"tags/{self._name}"):
            yield Orphan(
                kind="tag",
                id=self._name,
                about="It costs nothing, and the next `up` takes it over.",
                delete=(("doctl", "compute", "tag", "delete", self._name),),
            )


def text(stack: str, report: OrphanReport) -> str:
    """Return the report as text."""
    lines: list[str] = []
    if report.orphans:
        lines.append(f"Resources of stack {stack} in the account that are not in its state:")
        if report.empty:
            lines.append(
                "(The state is empty. If this PDS is in use, its state was lost: see "
                "docs/guide/troubleshooting.md#a-lost-state.)"
            )
    for item in report.orphans:
        lines += ["", f"  {item.kind} {item.id}", f"    {item.about}"]
        if item.blocks:
            lines.append("    The next `pulumi up` fails while it exists.")
        if item.instead:
            lines.append(f"    {item.instead}")
        if item.adopt:
            lines.append(f"    to adopt it:  {shlex.join(item.adopt)}")
        if item.delete:
            label = "to delete it permanently, with its content:" if item.data else "to delete it:"
            lines.append(f"    {label:13} {' && '.join(shlex.join(command) for command in item.delete)}")
    if report.gaps:
        lines += ["", f"The firewall of stack {stack} (`./pds repair {stack}`):"]
        lines += [f"  {gap.text}" for gap in report.gaps]
    if report.missing:
        lines += [
            "",
            f"Resources of stack {stack} that the account lacks or has switched off (`./pds repair {stack}`):",
        ]
    for gone in report.missing:
        lines += ["", f"  {gone.kind} {gone.id} ({gone.name}) {gone.fault}", f"    {gone.about}"]
        lines.append(f"    to remove it from the state: {shlex.join(gone.command)}")
        if gone.kind == "Droplet":
            lines.append(f"    before `pulumi destroy`: {shlex.join(gone.leave)}")
    return (
        "\n".join(lines).lstrip("\n") or f"State and account agree: nothing of stack {stack} is left over or missing."
    )
