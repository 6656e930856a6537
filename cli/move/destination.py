"""Checks whether a club can move to another host before anything is changed, and names what to write in which file.

Changes nothing; `move.py` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from cli.cluster.placement import choose_host
from cli.lib import nomad_jobs
from cli.lib.nomad_exec import nomad_access, nomad_api, running_allocation
from cli.lib.stack import Stack, StackError
from cli.move.progress import StackHost
from cli.stacks.inspect_stack import GIB, MIB, usage
from cli.stacks.new_stack import club_line, free_port
from components.clients.errors import ServiceError
from components.clients.nomad import NomadApi
from components.settings.fields.errors import SettingsError
from components.settings.host_contract import accepted_terms, terms_at, terms_for
from components.settings.sections.placement import ClubOptions
from components.settings.sections.settings import Settings
from offline.stackfile import parse_settings, read_settings, read_text

_RESERVE = 256 * MIB
"""Free space that a restore leaves (`render/scripts/restore.cjs`)."""


_VOLUME = "/srv/nomad"
"""The volume of a host, with the data of all its clubs."""


class MoveError(StackError):
    """The club cannot move there, and nothing was changed; the text names what to write."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A host with a place for the club."""

    host: StackHost
    options: Mapping[str, str]
    """The club's stack file after the move, by keys as in "pds:pds.port"; its host comes first, since the rest can be
    determined from it."""
    ipv4: str
    api: NomadApi
    """Nomad there, with the club's own token."""


def destination(club: Stack, place: StackHost, present: ClubOptions | None = None) -> Destination:
    """Return the place of `club` there; `present` is its present one, for a proposal.

    Raises MoveError, StackFileError, and ServiceError if Nomad does not answer.
    """
    to = place.stack
    file = f"Pulumi.{to}.yaml"
    host = read_settings(to, club.root)
    if host.on:
        theirs = f"Write '--to {host.on.stack}'." if host.on.stack else "It is in a Nomad that hosts no other stack."
        raise MoveError(f"{to} has no host of its own. {theirs}")
    grant = host.clubs.get(club.name)
    if grant is None:
        wish = (present or ClubOptions(port=free_port(host))).model_copy(
            update={"port": free_port(host), "leaving": None}
        )
        there = (place.host or choose_host(to, host, club.name, wish)) if host.cluster else None
        proposal = wish.model_copy(update={"host": there})
        raise MoveError(
            f"{file} does not list {club.name} as a club. Add below its 'config:',\n\n  pds:clubs:\n"
            f"    {club_line(club.name, proposal)}\n\n"
            f"(if 'pds:clubs' exists, add the second line to it). Then run `pulumi up --stack {to}` and "
            "repeat the command."
        )
    outputs = host_outputs(Stack(to, club.root))
    applied = (outputs.get("clubs") or {}).get(club.name)
    expected = terms_for(host, grant)
    if applied is None or not is_applied(expected, applied):
        raise MoveError(
            f"{file} grants {club.name} a place that stack {to} has not applied yet. Run `pulumi up --stack {to}`, "
            "then repeat the command."
        )
    granted = {applied["datacenter"], (applied.get("leaving") or {}).get("datacenter")}
    if place.host and place.host not in granted:
        raise MoveError(
            f"{file} gives {club.name} host {grant.host}, and not {place.host}. Write 'host: {place.host}' there, run "
            f"`pulumi up --stack {to}`, then repeat the command. Or leave '--host' out."
        )
    there_applied = terms_at(applied, place.host or applied["datacenter"])
    options = _options(read_settings(club.name, club.root), to, there_applied)
    settings = parse_settings(club.name, _with(read_text(club.name, club.root), options))
    access = outputs["club_access"][club.name]
    try:
        accepted_terms(settings, club.name, {club.name: applied}, secret_readable=True)
    except SettingsError as error:
        raise MoveError(str(error)) from None
    return Destination(host=place, options=options, ipv4=there_applied["ipv4"], api=club_nomad_api(access))


def is_applied(expected: Mapping[str, Any], applied: Mapping[str, Any]) -> bool:
    """Return whether an `up` of the host has granted these terms."""
    second = {key: value for key, value in (applied.get("leaving") or {}).items() if key != "ipv4"}
    plain = {key: value for key, value in expected.items() if key != "leaving"}
    return second == (expected.get("leaving") or {}) and all(applied.get(key) == plain[key] for key in plain)


def host_outputs(stack: Stack) -> Mapping[str, Any]:
    """Return the outputs of a host's stack, secrets in clear text. Raises MoveError."""
    try:
        outputs = stack.outputs()
    except StackError as error:
        if "passphrase" in str(error):
            raise MoveError(
                f"The secrets of stack {stack.name} cannot be decrypted with this passphrase. Stacks that share a host "
                f"share it. To change it, run `pulumi stack change-secrets-provider passphrase --stack {stack.name}` "
                f"with the old one in PULUMI_CONFIG_PASSPHRASE.\n{error}"
            ) from None
        raise MoveError(f"Stack {stack.name} cannot be read. Does it exist, and is it up?\n{error}") from None
    if "ipv4" not in outputs:
        raise MoveError(f"Stack {stack.name} is not up. Complete `pulumi up --stack {stack.name}` first.")
    return outputs


def club_nomad_api(access: Mapping[str, str]) -> NomadApi:
    """Return Nomad with a club's access (`components/host/clubs.py`)."""
    names = ("address", "ca_pem", "cert_pem", "key_pem", "token", "namespace")
    address, ca_pem, cert_pem, key_pem, token, namespace = (access[name] for name in names)
    return NomadApi(address, ca_pem, cert_pem, key_pem, token, namespace)


def refuse_existing_jobs(target: Destination, club: str) -> None:
    """Raise MoveError if a resource of the club runs there already, ServiceError if Nomad does not answer."""
    jobs = [job["ID"] for job in target.api.get("/v1/jobs") if job["Status"] != "dead"]
    if jobs:
        raise MoveError(
            f"Jobs of {club} exist on {target.host.described} already: {', '.join(jobs)}. Two servers of one PDS "
            "must not run. If no stack of this project created them, run `nomad job stop -purge` for each."
        )


def used_bytes(club: Stack, outputs: Mapping[str, Any], present: ClubOptions | None) -> int | None:
    """Return the size of the club's data; None if it is unknown. `outputs` are those of its present host."""
    try:
        allocation = running_allocation(nomad_jobs.stack_nomad_api(club))
        if allocation is None:
            return None
        used: int | None = usage(nomad_access(outputs), allocation, present.disk_gib * GIB if present else None)["disk"]
    except ServiceError:
        return None
    return used


def check_disk_quota(club: str, used: int | None, grant: ClubOptions, to: str) -> str:
    """Raise MoveError if the club's present use does not fit into its new place; else return a sentence about it."""
    if used is None:
        return "The size of its data is unknown now. The restore checks it again."
    if used + _RESERVE > grant.disk_gib * GIB:
        needed = -(-(used + _RESERVE) // GIB)
        raise MoveError(
            f"{club} uses {used / GIB:.1f} GiB, and Pulumi.{to}.yaml grants it {grant.disk_gib} GiB. Write "
            f"'disk_gib: {needed}' or more for it there, and run `pulumi up --stack {to}` first."
        )
    return f"Its {used / MIB:.0f} MiB fit into {grant.disk_gib} GiB."


def check_free_space(club: str, used: int | None, to: StackHost, outputs: Mapping[str, Any]) -> None:
    """Raise MoveError if the volume of the new host, whose stack has these `outputs`, has too little free space for the
    club's present use. Quotas do not count old data there, and a host can grant more than it has."""
    free = _free_bytes(outputs, to.host)
    if used is None or free is None or free >= used + _RESERVE:
        return
    option = f"cluster.hosts.{to.host}.volume_gib" if to.host else "volume.size_gib"
    raise MoveError(
        f"{club} uses {used / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free in {_VOLUME} on {to.described}. Nothing "
        f"was changed. Data of clubs that left are kept there in {_VOLUME}/.trash: {to.listing} lists them. Remove "
        f"those that are not needed any more, or raise '{option}' in Pulumi.{to.stack}.yaml and run `pulumi up --stack "
        f"{to.stack}`."
    )


def _free_bytes(outputs: Mapping[str, Any], host: str | None) -> int | None:
    """Return the free space as the host's Nomad client measures it; None if it does not report it."""
    try:
        api = nomad_api(nomad_access(outputs))
        nodes = [node for node in api.get("/v1/nodes") if node["Status"] == "ready"]
        there = next(node["ID"] for node in nodes if host is None or node["Datacenter"] == host)
        disks = api.get(f"/v1/client/stats?node_id={there}").get("DiskStats") or []
        return next(int(disk["Available"]) for disk in disks if disk["Mountpoint"] == _VOLUME)
    except (KeyError, ServiceError, StopIteration):
        return None


def _options(settings: Settings, to: str, applied: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that differ there, as `settings/host_contract.py` requires them."""
    options = {"pds:on": to, "pds:pds.port": str(applied["port"])}
    compared = {
        "pds:ingress.kind": (settings.ingress.kind, applied["ingress"]),
        "pds:nomad.datacenter": (settings.nomad.datacenter, applied["datacenter"]),
        "pds:nomad.region": (settings.nomad.region, applied["region"]),
    }
    if applied["ingress"] == "io":
        compared["pds:ingress.dialect"] = (settings.ingress.dialect, applied["dialect"])
    return options | {key: str(theirs) for key, (ours, theirs) in compared.items() if ours != theirs}


def _with(text: str, options: Mapping[str, str]) -> str:
    """Return the stack file as `pulumi config set --path` will leave it, as far as its meaning is concerned."""
    document = yaml.load(text, yaml.CSafeLoader)
    config = {key if ":" in key else f"pds:{key}": value for key, value in document["config"].items()}
    for key, value in options.items():
        section, _, option = key.partition(".")
        if option:
            config[section] = {**(config.get(section) or {}), option: yaml.load(value, yaml.CSafeLoader)}
        else:
            config[section] = value
    return yaml.safe_dump({**document, "config": config})
