"""Adds a PDS: writes its stack file, creates its stack, and previews; `./pds new`.

Everything is checked before anything is written, by the models that generate the schema. By hand it is the same: the
two files, `pulumi stack init NAME`, `pulumi preview`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from cli.cluster.placement import CLUBS, choose_host, with_hosts
from cli.errors import CommandError
from cli.lib.edit_stackfile import StackFileEdit, add_key, flow, scalar
from cli.lib.stack import Stack, StackError
from cli.stacks import selection
from cli.stacks.automation import Workspace
from components.settings.fields.errors import SettingsError, shown
from components.settings.fields.types import is_at_or_below
from components.settings.host_contract import accepted_terms, terms_for
from components.settings.sections import CADDY_ASK_PORT, OLDER_BACKUPS_MIB, BackupOptions, IngressOptions, NomadOptions
from components.settings.sections.placement import FIRST_CLUB_PORT, STACK_NAME, ClubOptions
from components.settings.sections.settings import Settings
from offline.resource_tree import resource_tree
from offline.stackfile import StackFileError, evaluate_stack, parse_settings, read_text
from policy.preflight import assess

_BACKUP_MIB = BackupOptions.model_fields["memory_mib"].default + OLDER_BACKUPS_MIB
"""Memory for the jobs of a club's backups beside its server."""

_OVER_CLUBS = "The stacks whose PDS runs on this host, and what each gets: port on loopback, quota, memory limit."


class NewStackError(CommandError):
    """The club cannot be created; the text names what to write instead."""


@dataclass(frozen=True, kw_only=True)
class NewStackRequest:
    """The values of the command line."""

    name: str
    hostname: str
    on: str | None = None
    host: str | None = None
    """Of a cluster; None for the one with the most room."""
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
class NewStackPlan:
    """The files to write and the stack to create."""

    name: str
    file: Path
    text: str
    host: StackFileEdit | None
    """None if the host's file has it already, or there is none."""
    secrets_provider: str

    def carry_out(self, workspace: Workspace) -> None:
        """Write the files and create the stack. Raises StackError after restoring the files."""
        with self.file.open("x") as file:  # never overwrites a file that was created in the meantime
            file.write(self.text)
        try:
            if self.host:
                self.host.write()
            workspace.create(self.name)
        except BaseException as error:
            self.file.unlink()
            if self.host:
                self.host.path.write_bytes(self.host.before.encode())
            if isinstance(error, StackError):
                raise StackError(f"{error}\n{self.file.name} was removed again.") from None
            raise


def create(request: NewStackRequest) -> int:
    """Write the files, create the stack and preview it; return the exit code.

    Raises NewStackError, StackFileError, StackError and DigestError.
    """
    plan = plan_new_stack(request, selection.ROOT)
    terminal, workspace = selection.console(), selection.workspace()
    refuse_existing(request, workspace.names())
    if request.on:
        Stack(request.on, workspace.root).outputs()  # decrypts its secrets, as it has to decrypt the club's
    workspace.secrets_provider = plan.secrets_provider
    plan.carry_out(workspace)
    if plan.host:
        terminal.print(plan.host.diff(f"with {request.name}"), markup=False)
    terminal.print(
        f"{plan.text}\nWrote {plan.file.name}, and created stack {request.name}. Its resources:\n", markup=False
    )
    terminal.print(resource_tree(evaluate_stack(request.name, root=workspace.root)))
    # The state of the host has the club's values, which the next `up` there writes.
    first = request.on if plan.host and request.on else request.name
    terminal.print(f"\nThe engine's preview of {first}:\n")
    assessment = assess(first, workspace.preview(first), frozenset(), root=workspace.root)
    assessment.print_to(terminal)
    if assessment.verdict.findings:
        terminal.print(
            f"\nNext: correct the above in Pulumi.{first}.yaml, then ./pds preflight {first}. Stack and file stay.",
            markup=False,
        )
        return 1
    ups = [f"pulumi up --stack {name}" for name in dict.fromkeys((first, request.name))]
    terminal.print(f"\nNext: ./pds up-all, or {' && '.join(ups)}", markup=False)
    return 0


def refuse_existing(request: NewStackRequest, existing: Collection[str]) -> None:
    """Raise NewStackError if the backend, which has the stacks `existing`, has the new stack or lacks its host's."""
    if request.name in existing:
        raise NewStackError(
            f"Stack {request.name} is in the backend, but Pulumi.{request.name}.yaml is not here. Copy its file, or "
            "choose another name. Nothing was changed."
        )
    if request.on and request.on not in existing:
        raise NewStackError(
            f"There is no stack {request.on} in this backend. First `pulumi stack init {request.on}` and `pulumi up`."
        )


def plan_new_stack(request: NewStackRequest, root: Path) -> NewStackPlan:
    """Return the plan for the request, without a query of the backend.

    Raises NewStackError and StackFileError.
    """
    if not STACK_NAME.fullmatch(request.name):
        raise NewStackError(
            f"{shown(request.name)} is not a name for a stack: volume and droplet are named after it. Choose a name of "
            "a-z, 0-9 and '-', a letter first, at most 40 characters. Nothing was changed."
        )
    file = root / f"Pulumi.{request.name}.yaml"
    if file.exists():
        raise NewStackError(f"{file.name} exists already. Choose another name. Nothing was changed.")
    if not request.on:
        if request.host:
            raise NewStackError("'--host' is a host of a cluster, which '--on' names. Write both.")
        text = _file(request, _own(request))
        parse_settings(request.name, text)
        return NewStackPlan(request.name, file, text, None, "passphrase")
    return _on_a_host(request, request.on, file)


def _on_a_host(request: NewStackRequest, on: str, file: Path) -> NewStackPlan:
    if request.cidrs or request.ssh_keys:
        raise NewStackError(
            f"'--cidr' and '--ssh-key' are for a host of its own. The file of {on} names its operators."
        )
    before = read_text(on, file.parent)
    after = with_hosts(on, before)
    host = parse_settings(on, after)
    if host.on:
        raise NewStackError(
            f"{on} has no host of its own. Write '--on {host.on.stack}'." if host.on.stack else _foreign(on)
        )
    if request.host:
        _refuse_host(request.host, on, host)
    grant = host.clubs.get(request.name)
    if grant is None:
        grant = _grant(request, on, host)
        after = add_key(
            f"Pulumi.{on}.yaml", after, CLUBS, request.name, grant.model_dump(exclude_none=True), _OVER_CLUBS
        )
        host = parse_settings(on, after)
    elif request.disk_gib:
        raise NewStackError(
            f"Pulumi.{on}.yaml gives {request.name} {grant.disk_gib} GiB already. Leave '--disk-gib' out."
        )
    elif request.host and request.host != grant.host:
        raise NewStackError(f"Pulumi.{on}.yaml gives {request.name} host {grant.host} already. Leave '--host' out.")
    text = _file(request, _shared(request, host, grant), grant.host)
    settings = parse_settings(request.name, text)
    try:
        accepted_terms(settings, request.name, {request.name: terms_for(host, grant)}, secret_readable=True)
    except SettingsError as error:
        raise StackFileError(str(error)) from None
    edit = None if after == before else StackFileEdit(file.parent / f"Pulumi.{on}.yaml", before, after)
    return NewStackPlan(request.name, file, text, edit, _secrets_provider(before))


def _grant(request: NewStackRequest, on: str, host: Settings) -> ClubOptions:
    """Return what the club gets there: on a cluster on the requested host, or the one with the most room."""
    memory = ClubOptions.model_fields["memory_mib"].default
    grant = ClubOptions(
        port=free_port(host),
        disk_gib=request.disk_gib or ClubOptions.model_fields["disk_gib"].default,
        memory_mib=request.memory_mib + _BACKUP_MIB if request.memory_mib else memory,
    )
    if not host.cluster:
        return grant
    return grant.model_copy(update={"host": request.host or choose_host(on, host, request.name, grant)})


def _refuse_host(name: str, on: str, host: Settings) -> None:
    if not host.cluster:
        raise NewStackError(f"{on} is not a cluster: it has one host. Leave '--host' out.")
    if name not in host.cluster.hosts:
        raise NewStackError(f"Cluster {on} has no host {name}. Write one of: {', '.join(host.cluster.hosts)}.")


def _foreign(on: str) -> str:
    return f"{on} has no host of its own: it is in an existing Nomad, in which no stack can host another."


def free_port(host: Settings) -> int:
    """Return the lowest free port on the host's loopback. On a cluster no club on any host has it, so that the club
    keeps its port when it moves."""
    taken = {host.pds.port, host.ingress.ssh_port, CADDY_ASK_PORT, *(club.port for club in host.clubs.values())}
    return next(port for port in range(FIRST_CLUB_PORT, 65536) if port not in taken)


def club_line(name: str, grant: ClubOptions) -> str:
    """Return a club's line among the 'clubs' of its host's file."""
    return f"{scalar(name)}: {flow(grant.model_dump(exclude_none=True))}"


def _secrets_provider(text: str) -> str:
    """Return that of the stack with this file: stacks that share a host share it."""
    document = yaml.load(text, yaml.CSafeLoader)
    # Pulumi Cloud's own leaves no entry in the file.
    return str(document.get("secretsprovider") or ("passphrase" if document.get("encryptionsalt") else "default"))


def _file(request: NewStackRequest, lines: Iterator[str], host: str | None = None) -> str:
    """Return the whole file, as the engine would leave it: no empty lines, and one blank before a comment. `host` is
    that of a cluster."""
    where = f"on the host of stack {request.on}" if request.on else "on a droplet of its own"
    where = f"on host {host} of cluster {request.on}" if host else where
    head = (
        "# yaml-language-server: $schema=docs/stack.schema.json",
        f"# Stack {request.name}: a PDS {where}. docs/options.md lists every option.",
        "config:",
        "  # The server's domain name. It is part of every member's identity: choose it once.",
        f"  pds:hostname: {scalar(request.hostname)}",
    )
    return "".join(f"{line}\n" for line in (*head, *lines))


def _dns(request: NewStackRequest, host: Settings | None) -> Iterator[str]:
    if request.manual_dns:
        if request.zone or request.create_zone:
            raise NewStackError(
                "'--manual-dns' means that the zone is elsewhere. Leave '--zone' and '--create-zone' out."
            )
        yield "  # The records are made by hand: `pulumi stack output records` is the table."
        yield "  pds:dns: {provider: manual}"
        return
    zone = request.zone or _zone(request.hostname, host)
    # A name of two labels is its own zone.
    options: dict[str, str | bool] = {"zone": zone} if request.hostname.count(".") > 1 else {}
    if request.create_zone:
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
    if host and is_at_or_below(hostname, host.zone):
        return host.zone
    parent = hostname.partition(".")[2]
    return parent if "." in parent else hostname


def _own(request: NewStackRequest) -> Iterator[str]:
    if not (request.cidrs and request.ssh_keys):
        raise NewStackError(
            "A host of its own needs '--cidr' (who may administer it, for example 203.0.113.7/32) and '--ssh-key' (a "
            "key of the account, by name). Or write '--on STACK' to use another stack's host."
        )
    yield "  pds:operators:"
    yield "    # The addresses from which SSH, IO's console and Nomad can be reached."
    yield f"    cidrs: [{', '.join(scalar(cidr) for cidr in request.cidrs)}]"
    yield "    # SSH keys of the DigitalOcean account by name or fingerprint; further ones may be given as text."
    yield f"    ssh_keys: [{', '.join(scalar(key) for key in request.ssh_keys)}]"
    if request.disk_gib:
        yield "  # It can grow, never shrink."
        yield f"  pds:volume: {{size_gib: {request.disk_gib}}}"
    yield from _dns(request, None)
    yield from _pds(request, {})


def _shared(request: NewStackRequest, host: Settings, grant: ClubOptions) -> Iterator[str]:
    yield f"  # Whose host it shares. Pulumi.{request.on}.yaml names it among its 'clubs', with quota and memory limit."
    yield f"  pds:on: {scalar(str(request.on))}"
    yield from _dns(request, host)
    ingress: dict[str, str] = (
        {"kind": host.ingress.kind} if host.ingress.kind != IngressOptions.model_fields["kind"].default else {}
    )
    if host.ingress.kind == "io" and host.ingress.dialect != IngressOptions.model_fields["dialect"].default:
        ingress["dialect"] = host.ingress.dialect
    if ingress:
        yield "  # What the host has: its ingress reads this stack's file."
        yield f"  pds:ingress: {{{', '.join(f'{key}: {value}' for key, value in ingress.items())}}}"
    terms = terms_for(host, grant)
    nomad = {key: str(terms[key]) for key in ("datacenter", "region")}
    if any(value != NomadOptions.model_fields[key].default for key, value in nomad.items()):
        yield "  # As the host's Nomad has it." + (" Each host of a cluster is a datacenter." if host.cluster else "")
        yield f"  pds:nomad: {{{', '.join(f'{key}: {scalar(value)}' for key, value in nomad.items())}}}"
    set_fields = host.pds.model_fields_set
    image: dict[str, str] = {key: getattr(host.pds, key) for key in ("image", "package_version") if key in set_fields}
    yield from _pds(request, image, grant.port)


def _pds(request: NewStackRequest, image: Mapping[str, str], port: int | None = None) -> Iterator[str]:
    yield "  pds:pds:"
    if image:
        yield "    # The host's image: all PDSes of a host are upgraded together."
        yield from (f"    {key}: {scalar(value)}" for key, value in image.items())
    if port:
        yield "    # The port that the host gives to this stack."
        yield f"    port: {port}"
    if request.memory_mib:
        yield f"    memory_mib: {request.memory_mib}"
    yield "    # A first start finds an empty volume, and only this allows it. Remove it once the server answers."
    yield "    new: true"
