"""`./pds orphans`: lists resources of a stack that the account has and the state lacks, and the reverse.

A lost response or a killed engine leaves unrecorded resources. `pulumi destroy` leaves those that are retained on
purpose. Each is listed with the next command: one that adopts it, one that removes it. The command also reports whether
the firewall covers the droplet. It changes nothing.

DigitalOcean identifies a stack's resources only by names: tag, droplet, firewall and volume are called `pds-STACK`.
Another stack of that name in the same account has the same names. A reserved IP has no name at all.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from components.render.cloud_init import volume_name
from components.settings.handles import wildcards
from components.settings.settings import Settings
from tools.account import Account, Json
from tools.firewall import Hole, holes, tag_of
from tools.let_in import doors
from tools.missing import Missing, missing
from tools.stack import Stack, State
from tools.stackfile import read_settings


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """A resource of the account that the state lacks."""

    kind: str
    id: str
    about: str
    """Its kind, its content, and its effect on the next `up`."""
    adopt: tuple[str, ...] = ()
    """The command that adopts it; empty if there is none."""
    delete: tuple[tuple[str, ...], ...] = ()
    """The commands that remove it, in order."""
    taken: bool = False
    """Whether the stack file adopts it already."""
    data: bool = False
    """Whether it may hold the only copy of something."""
    blocks: bool = False
    """Whether the next `up` fails while it exists."""


@dataclass(frozen=True)
class Report:
    """The whole report. `holes` are differences of the firewall. `empty` is a state without a resource: the account's
    resources are left over, or the state is lost."""

    orphans: list[Orphan] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    empty: bool = False

    def json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self), indent=1)


def look(stack: Stack, account: Account) -> Report:
    """Compare state and account. Raises StackError, StackFileError and AccountError."""
    settings = read_settings(stack.name, stack.root)
    state = stack.state()
    return Report(
        orphans=_Search(stack.name, settings, state, account).all(),
        missing=missing(stack.name, state, account),
        holes=holes(stack.name, state, account),
        empty=not state.resources,
    )


class _Search:
    """One search of one account."""

    def __init__(self, stack: str, settings: Settings, state: State, account: Account) -> None:
        self._stack, self._settings, self._state, self._account = stack, settings, state, account
        self._name, self._tag = f"pds-{stack}", tag_of(stack, state)

    def all(self) -> list[Orphan]:
        """Return everything beyond the state; first what blocks others."""
        if self._settings.on:  # no resource of the host is this stack's
            return [*self._zone(), *self._records(self._own_records())]
        volumes, droplets, records = self._own_volumes(), self._own_droplets(), self._own_records()
        return [
            *self._droplets(droplets, {item["id"] for item in volumes}),
            *self._volumes(volumes),
            *self._reserved_ips({str(item["id"]) for item in droplets}, records),
            *self._firewalls(),
            *self._doors(),
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
        by_tag = self._account.every("droplets", tag_name=self._tag)
        by_name = self._account.every("droplets", name=self._name)
        return list({item["id"]: item for item in [*by_tag, *by_name]}.values())

    def _droplets(self, own: Sequence[Json], volumes: set[str]) -> Iterator[Orphan]:
        known = self._state.ids("Droplet")
        for item in own:
            number = str(item["id"])
            if number in known:
                continue
            held = sorted(volumes & set(item["volume_ids"]))
            holds = (
                f"It holds volume {', '.join(held)}, so no other droplet can be made; the volume stays when it goes"
                if held
                else "It holds no volume of this stack, and so no data"
            )
            yield Orphan(
                kind="droplet",
                id=number,
                about=f"{item['name']}, {item['status']}, made {item['created_at']}. {holds}.",
                # In order: a server on it may be writing to the volume.
                delete=(
                    *(
                        [("doctl", "compute", "droplet-action", "shutdown", number, "--wait")]
                        if item["status"] == "active"
                        else []
                    ),
                    ("doctl", "compute", "droplet", "delete", number),
                ),
                blocks=bool(held),
            )

    def _own_volumes(self) -> list[Json]:
        named = self._account.every("volumes", name=volume_name(self._settings, self._stack))
        known = {item["id"] for item in named}
        others = (self._state.ids("Volume") | {self._settings.volume.adopt or ""}) - known - {""}
        return [*named, *(found for number in sorted(others) if (found := self._account.one(f"volumes/{number}")))]

    def _volumes(self, own: Sequence[Json]) -> Iterator[Orphan]:
        known = self._state.ids("Volume")
        for item in own:
            number = item["id"]
            if number in known:
                continue
            asked = self._settings.volume.adopt == number
            droplets = [str(held) for held in item["droplet_ids"]]
            where = f"attached to droplet {', '.join(droplets)}" if droplets else "attached to nothing"
            here = item["region"]["slug"] == self._settings.host.region
            told = "The stack file adopts it: the next `up` takes it. " if asked else ""
            yield Orphan(
                kind="volume",
                id=number,
                about=(
                    f"{item['name']}, {item['size_gigabytes']} GiB in {item['region']['slug']}, made "
                    f"{item['created_at']}, {where}. {told}"
                    "It may hold the members' data, whose only other copy is a backup: check before you delete it."
                ),
                adopt=() if asked or known or not here else self._configure("volume.adopt", number),
                delete=(
                    *(("doctl", "compute", "volume-action", "detach", number, held, "--wait") for held in droplets),
                    ("doctl", "compute", "volume", "delete", number),
                ),
                taken=asked and not known,
                data=True,
                blocks=not known and not asked and here,
            )

    def _reserved_ips(self, droplets: set[str], records: Sequence[Json]) -> Iterator[Orphan]:
        known = self._state.ids("ReservedIp")
        own = droplets | self._state.ids("Droplet")
        pointed = {item["data"] for item in records if item["type"] == "A"}
        for item in self._account.every("reserved_ips"):
            ip, droplet = item["ip"], item["droplet"]
            if ip in known or (droplet and str(droplet["id"]) not in own):
                continue
            if not droplet and item["region"]["slug"] != self._settings.host.region:
                continue
            asked = str(self._settings.host.reserved_ip_adopt) == ip
            if droplet:
                whose = f"Assigned to droplet {droplet['id']}."
            elif ip in pointed:
                whose = f"Assigned to nothing; a record of {self._settings.hostname} points to it."
            else:
                whose = "Assigned to nothing. A reserved IP has no name: this may belong to another project."
            told = " The stack file adopts it: the next `up` takes it." if asked else ""
            if known and not asked:
                told = (
                    f" This stack has {', '.join(sorted(known))}, made by an `up` that did not adopt this one. To go "
                    f"back to it: 'host: {{reserved_ip_adopt: {ip}}}' and a raised 'host.generation' in Pulumi."
                    f"{self._stack}.yaml, `pulumi state unprotect --stack {self._stack} "
                    f"'{self._urn('pds-ground-ip')}'`, `pulumi up`; the address is in the host's certificate, so it "
                    f"takes a new host."
                )
            yield Orphan(
                kind="reserved-ip",
                id=ip,
                about=f"{whose}{told} It is billed while it is assigned to nothing.",
                adopt=() if asked or known else self._configure("host.reserved_ip_adopt", ip),
                delete=(("doctl", "compute", "reserved-ip", "delete", ip),),
                taken=asked and not known,
            )

    def _firewalls(self) -> Iterator[Orphan]:
        known = self._state.ids("Firewall")
        for item in self._account.every("firewalls"):
            if item["name"] == self._name and item["id"] not in known:
                yield Orphan(
                    kind="firewall",
                    id=item["id"],
                    about=f"{item['name']}, for droplets with the tag {', '.join(item['tags'] or ['(none)'])}. "
                    "The next `up` makes another, which needs the name.",
                    delete=(("doctl", "compute", "firewall", "delete", item["id"]),),
                    blocks=not known,
                )

    def _doors(self) -> Iterator[Orphan]:
        for item in doors(self._account, self._stack, self._tag):
            (rule,) = item["inbound_rules"]
            yield Orphan(
                kind="door",
                id=item["id"],
                about=f"{item['name']} lets {', '.join(rule['sources']['addresses'])} in to Nomad since "
                f"{item['created_at']}. `./pds let-in` made it; a run may still need it.",
                delete=(("doctl", "compute", "firewall", "delete", item["id"]),),
            )

    def _own_records(self) -> list[Json]:
        """Return the records of the hostname, as far as the program creates such."""
        if self._settings.dns.provider != "digitalocean":
            return []
        host = self._settings.record_name
        names = {host, *wildcards(self._settings).values()}
        return [
            item
            for item in self._account.every(f"domains/{self._settings.zone}/records")
            if (item["type"] == "A" and item["name"] in names)
            or (item["type"] == "CAA" and item["name"] == host and item["data"].rstrip(".") in self._settings.dns.caa)
        ]

    def _zone(self) -> Iterator[Orphan]:
        zone, known = self._settings.zone, self._state.ids("Domain")
        made_here = self._settings.dns.provider == "digitalocean" and self._settings.dns.create_zone
        if made_here and zone not in known and self._account.one(f"domains/{zone}"):
            count = len(self._account.every(f"domains/{zone}/records"))
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
        for item in own:
            if str(item["id"]) not in known:
                yield Orphan(
                    kind="record",
                    id=str(item["id"]),
                    about=f"{item['name']} {item['type']} {item['data']} in zone {zone}. "
                    "The next `up` makes its own beside it, and both are answered with.",
                    delete=(("doctl", "compute", "domain", "records", "delete", zone, str(item["id"])),),
                )

    def _vpcs(self) -> Iterator[Orphan]:
        known = self._state.ids("Vpc")
        for item in self._account.every("vpcs"):
            if item["name"] == self._name and item["id"] not in known:
                yield Orphan(
                    kind="vpc",
                    id=item["id"],
                    about=f"{item['name']}, {item['ip_range']}. It goes once no droplet is in it.",
                    delete=(("doctl", "vpcs", "delete", item["id"]),),
                    blocks=bool(self._settings.host.vpc_ip_range) and not known,
                )

    def _projects(self) -> Iterator[Orphan]:
        wanted, known = self._settings.host.project, self._state.ids("Project")
        for item in self._account.every("projects") if wanted else []:
            if item["name"] == wanted and item["id"] not in known:
                yield Orphan(
                    kind="project",
                    id=item["id"],
                    about=f"{wanted}. It can be deleted once it is empty; or keep it, and remove `host.project`.",
                    delete=(("doctl", "projects", "delete", item["id"]),),
                    blocks=not known,
                )

    def _tags(self) -> Iterator[Orphan]:
        if self._name not in self._state.ids("Tag") and self._account.one(f"tags/{self._name}"):
            yield Orphan(
                kind="tag",
                id=self._name,
                about="It costs nothing, and the next `up` takes it over.",
                delete=(("doctl", "compute", "tag", "delete", self._name),),
            )


def text(stack: str, report: Report) -> str:
    """Return the report as text."""
    lines: list[str] = []
    if report.orphans:
        lines.append(f"The account holds of stack {stack} beyond its state:")
        if report.empty:
            lines.append("(The state is empty. If this PDS is to live, the state was lost: read docs/operating.md.)")
    for item in report.orphans:
        lines += ["", f"  {item.kind} {item.id}", f"    {item.about}"]
        if item.blocks:
            lines.append("    The next `pulumi up` fails while it is there.")
        if item.adopt:
            lines.append(f"    to adopt it:  {shlex.join(item.adopt)}")
        if item.delete:
            label = "to delete it for good, with all it holds:" if item.data else "to delete it:"
            lines.append(f"    {label:13} {' && '.join(shlex.join(command) for command in item.delete)}")
    if report.holes:
        lines += ["", f"The firewall of stack {stack} (`./pds rescue {stack}`):"]
        lines += [f"  {hole.text}" for hole in report.holes]
    if report.missing:
        lines += ["", f"The state of stack {stack} names what the account does not have (`./pds rescue {stack}`):"]
    for gone in report.missing:
        lines += ["", f"  {gone.kind} {gone.id} ({gone.name})", f"    {gone.about}"]
        lines.append(f"    to forget it: {shlex.join(gone.command)}")
        if gone.kind == "Droplet":
            lines.append(f"    to leave, before `pulumi destroy`: {shlex.join(gone.leave)}")
    return (
        "\n".join(lines).lstrip("\n") or f"State and account agree: nothing of stack {stack} is left over or missing."
    )
