"""`./pds club`: writes a stack file for one more PDS, creates its stack, and previews.

With `--on HOST` it also adds the club to the host's file: the lowest free port, a quota, a memory limit; `edit.py` adds
the lines. Values that have to agree with the host are copied from its file. Everything is checked before anything is
written, by the models that generate the schema, and nothing is overwritten. If the engine does not create the stack,
the files are restored.

By hand it is the same: the two files, `pulumi stack init NAME`, `pulumi preview`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from components.settings.checks import CADDY_ASK_PORT, OLDER_BACKUPS_MIB
from components.settings.faults import SettingsError
from components.settings.offer import accepted, offer
from components.settings.placement import FIRST_CLUB_PORT, Club
from components.settings.sections import Backup, Ingress, Nomad
from components.settings.settings import Settings
from tools.clubs.engine import Workspace
from tools.edit import Edit, flow, scalar, with_key
from tools.stackfile import StackFileError, parse_settings, read_text

_BACKUP_MIB = Backup.model_fields["memory_mib"].default + OLDER_BACKUPS_MIB
"""Memory for the jobs of a club's backups beside its server."""

_CLUBS = ("pds:clubs", "clubs")
_OVER_CLUBS = "The stacks whose PDS runs on this host, and what each gets: port on loopback, quota, memory limit."


class ClubError(Exception):
    """The club cannot be created; the text names what to write instead."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The values of the command line."""

    name: str
    hostname: str
    on: str | None = None
    memory_mib: int | None = None
    """Of the server."""
    disk_gib: int | None = None
    """Quota on a host, or size of its own volume."""
    zone: str | None = None
    create_zone: bool = False
    manual_dns: bool = False
    cidrs: tuple[str, ...] = ()
    ssh_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The files to write and the stack to create."""

    name: str
    file: Path
    text: str
    host: Edit | None
    """None if the host's file has it already, or there is none."""
    secrets_provider: str

    def carry_out(self, workspace: Workspace) -> None:
        """Write the files and create the stack. Raises StackError after restoring the files."""
        with self.file.open("x") as file:  # never overwrites a file that was created in the meantime
            file.write(self.text)
        try:
            if self.host:
                self.host.write()
            workspace.make(self.name)
        except BaseException:
            self.file.unlink()
            if self.host:
                self.host.path.write_bytes(self.host.before.encode())
            raise


def plan(wish: Wish, root: Path, made: list[str]) -> Plan:
    """Return the plan for the wish; `made` are the stacks of the backend. Raises ClubError and StackFileError."""
    file = root / f"Pulumi.{wish.name}.yaml"
    if file.exists():
        raise ClubError(f"{file.name} is there already. Choose another name; nothing was changed.")
    if wish.name in made:
        raise ClubError(f"There is a stack {wish.name} already, made elsewhere: its file is not here. Nothing changed.")
    if not wish.on:
        text = _file(wish, _own(wish))
        parse_settings(wish.name, text)
        return Plan(wish.name, file, text, None, "passphrase")
    return _on_a_host(wish, wish.on, file, made)


def _on_a_host(wish: Wish, on: str, file: Path, made: list[str]) -> Plan:
    if wish.cidrs or wish.ssh_keys:
        raise ClubError(f"'--cidr' and '--ssh-key' are for a host of its own: who administers {on} its file says.")
    before = read_text(on, file.parent)
    host = parse_settings(on, before)
    if host.on:
        raise ClubError(
            f"{on} has no host of its own. Write '--on {host.on.stack}'." if host.on.stack else _foreign(on)
        )
    if on not in made:
        raise ClubError(f"There is no stack {on} in this backend. First `pulumi stack init {on}` and `pulumi up`.")
    after, gets = before, host.clubs.get(wish.name)
    if gets is None:
        memory = Club.model_fields["memory_mib"].default
        gets = Club(
            port=free_port(host),
            disk_gib=wish.disk_gib or Club.model_fields["disk_gib"].default,
            memory_mib=wish.memory_mib + _BACKUP_MIB if wish.memory_mib else memory,
        )
        after = with_key(f"Pulumi.{on}.yaml", before, _CLUBS, wish.name, gets.model_dump(), _OVER_CLUBS)
        host = parse_settings(on, after)
    elif wish.disk_gib:
        raise ClubError(f"Pulumi.{on}.yaml gives {wish.name} {gets.disk_gib} GiB already. Leave '--disk-gib' out.")
    text = _file(wish, _shared(wish, host, gets))
    settings = parse_settings(wish.name, text)
    try:
        accepted(settings, wish.name, {wish.name: offer(host, gets)}, opens=True)
    except SettingsError as error:
        raise StackFileError(str(error)) from None
    edit = None if after == before else Edit(file.parent / f"Pulumi.{on}.yaml", before, after)
    return Plan(wish.name, file, text, edit, _secrets_provider(before))


def _foreign(on: str) -> str:
    return f"{on} has no host of its own: it is in an existing Nomad, where no stack can host another."


def free_port(host: Settings) -> int:
    """Return the lowest free port on the host's loopback."""
    taken = {host.pds.port, host.ingress.ssh_port, CADDY_ASK_PORT, *(club.port for club in host.clubs.values())}
    return next(port for port in range(FIRST_CLUB_PORT, 65536) if port not in taken)


def room_line(name: str, gets: Club) -> str:
    """Return a club's line among the 'clubs' of its host's file."""
    return f"{scalar(name)}: {flow(gets.model_dump())}"


def _secrets_provider(text: str) -> str:
    """Return that of the stack with this file: stacks that share a host share it."""
    document = yaml.safe_load(text)
    # Pulumi Cloud's own leaves no entry in the file.
    return str(document.get("secretsprovider") or ("passphrase" if document.get("encryptionsalt") else "default"))


def _file(wish: Wish, lines: Iterator[str]) -> str:
    """Return the whole file, as the engine would leave it: no empty lines, and one blank before a comment."""
    where = f"on the host of stack {wish.on}" if wish.on else "on a droplet of its own"
    head = (
        "# yaml-language-server: $schema=docs/stack.schema.json",
        f"# Stack {wish.name}: a PDS {where}. docs/options.md lists every option.",
        "config:",
        "  # The server's domain name. It is part of every member's identity: choose it once.",
        f"  pds:hostname: {scalar(wish.hostname)}",
    )
    return "".join(f"{line}\n" for line in (*head, *lines))


def _dns(wish: Wish, host: Settings | None) -> Iterator[str]:
    if wish.manual_dns:
        if wish.zone or wish.create_zone:
            raise ClubError("'--manual-dns' means that the zone is elsewhere. Leave '--zone' and '--create-zone' out.")
        yield "  # The records are made by hand: `pulumi stack output records` is the table."
        yield "  pds:dns: {provider: manual}"
        return
    zone = wish.zone or _zone(wish.hostname, host)
    # A name of two labels is its own zone.
    options: dict[str, str | bool] = {"zone": zone} if wish.hostname.count(".") > 1 else {}
    if wish.create_zone:
        options["create_zone"] = True
    if not options and not (host and host.dns.nameservers):
        return
    yield "  # The zone at DigitalOcean that the hostname is in. It is there, unless 'create_zone: true' makes it."
    yield "  pds:dns:"
    yield from (f"    {key}: {scalar(value)}" for key, value in options.items())
    if host and host.dns.nameservers:
        yield f"    nameservers: [{', '.join(scalar(server) for server in host.dns.nameservers)}]"


def _zone(hostname: str, host: Settings | None) -> str:
    """Return the host's, if the name is in it, else the part behind the name's first label."""
    if host and (hostname == host.zone or hostname.endswith(f".{host.zone}")):
        return host.zone
    parent = hostname.partition(".")[2]
    return parent if "." in parent else hostname


def _own(wish: Wish) -> Iterator[str]:
    if not (wish.cidrs and wish.ssh_keys):
        raise ClubError(
            "A host of its own needs '--cidr' (who may administer it, for example 203.0.113.7/32) and '--ssh-key' (a "
            "key of the account, by name). Or write '--on STACK' to use another stack's host."
        )
    yield "  pds:operators:"
    yield "    # The addresses from which SSH, IO's console and Nomad can be reached."
    yield f"    cidrs: [{', '.join(scalar(cidr) for cidr in wish.cidrs)}]"
    yield "    # SSH keys of the DigitalOcean account by name or fingerprint; further ones may be given as text."
    yield f"    ssh_keys: [{', '.join(scalar(key) for key in wish.ssh_keys)}]"
    if wish.disk_gib:
        yield "  # It can grow, never shrink."
        yield f"  pds:volume: {{size_gib: {wish.disk_gib}}}"
    yield from _dns(wish, None)
    yield from _pds(wish, {})


def _shared(wish: Wish, host: Settings, gets: Club) -> Iterator[str]:
    yield f"  # Whose host it shares. Pulumi.{wish.on}.yaml names it among its 'clubs', with quota and memory limit."
    yield f"  pds:on: {scalar(str(wish.on))}"
    yield from _dns(wish, host)
    ingress: dict[str, str] = (
        {"kind": host.ingress.kind} if host.ingress.kind != Ingress.model_fields["kind"].default else {}
    )
    if host.ingress.kind == "io" and host.ingress.dialect != Ingress.model_fields["dialect"].default:
        ingress["dialect"] = host.ingress.dialect
    if ingress:
        yield "  # What the host has: its ingress reads this stack's file."
        yield f"  pds:ingress: {{{', '.join(f'{key}: {value}' for key, value in ingress.items())}}}"
    nomad = {key: getattr(host.nomad, key) for key in ("datacenter", "region")}
    if any(value != Nomad.model_fields[key].default for key, value in nomad.items()):
        yield "  # As the host's Nomad has it."
        yield f"  pds:nomad: {{{', '.join(f'{key}: {scalar(value)}' for key, value in nomad.items())}}}"
    given = host.pds.model_fields_set
    image: dict[str, str] = {key: getattr(host.pds, key) for key in ("image", "package_version") if key in given}
    yield from _pds(wish, image, gets.port)


def _pds(wish: Wish, image: Mapping[str, str], port: int | None = None) -> Iterator[str]:
    yield "  pds:pds:"
    if image:
        yield "    # As on the host: one image there, to keep up to date in one go."
        yield from (f"    {key}: {scalar(value)}" for key, value in image.items())
    if port:
        yield "    # The port that the host gives to this stack."
        yield f"    port: {port}"
    if wish.memory_mib:
        yield f"    memory_mib: {wish.memory_mib}"
    yield "    # A first start finds an empty volume, and only this allows it. Remove it once the server answers."
    yield "    new: true"
