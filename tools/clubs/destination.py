"""Checks whether a club can move to another host before anything is changed, and names what to write in which file.

Changes nothing; `move.py` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from components.probes import NomadApi, ProbeError
from components.settings.faults import SettingsError
from components.settings.offer import accepted, offer
from components.settings.placement import Club
from components.settings.settings import Settings
from tools import runs
from tools.clubs.look import GIB, MIB, usage
from tools.clubs.new import free_port, room_line
from tools.inside import nomad_of, running
from tools.stack import Stack, StackError
from tools.stackfile import parse_settings, read_settings, read_text

_RESERVE = 256 * MIB
"""Free space that a restore leaves (`render/files/restore.cjs`)."""


class MoveError(StackError):
    """The club cannot move there, and nothing was changed; the text names what to write."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A host with a place for the club."""

    host: str
    options: Mapping[str, str]
    """The club's stack file after the move, by keys as in "pds:pds.port"; its host comes first, since the rest can be
    determined from it."""
    ipv4: str
    api: NomadApi
    """Nomad there, with the club's own token."""


def destination(club: Stack, to: str, room: Club | None = None) -> Destination:
    """Return the place of `club` on the host of stack `to`; `room` is its present one, for a proposal.

    Raises MoveError, StackFileError, and ProbeError if Nomad does not answer.
    """
    file = f"Pulumi.{to}.yaml"
    host = read_settings(to, club.root)
    if host.on:
        theirs = f"Write '--to {host.on.stack}'." if host.on.stack else "It is in a Nomad that gives no room to others."
        raise MoveError(f"{to} has no host of its own. {theirs}")
    gets = host.clubs.get(club.name)
    if gets is None:
        wanted = (room or Club(port=free_port(host))).model_copy(update={"port": free_port(host)})
        raise MoveError(
            f"{file} gives {club.name} no room. Write there, below 'config:',\n\n  pds:clubs:\n"
            f"    {room_line(club.name, wanted)}\n\n"
            f"(where there are 'pds:clubs' already, the second line among them). Then `pulumi up --stack {to}`, and "
            "this again."
        )
    outputs = opened(Stack(to, club.root))
    told = (outputs.get("clubs") or {}).get(club.name)
    promised = offer(host, gets)
    if told is None or any(told.get(key) != value for key, value in promised.items()):
        raise MoveError(
            f"Stack {to} does not have for {club.name} yet what {file} says. Run `pulumi up --stack {to}`, and this "
            "again."
        )
    options = _options(read_settings(club.name, club.root), to, told)
    settings = parse_settings(club.name, _with(read_text(club.name, club.root), options))
    access = outputs["club_access"][club.name]
    try:
        accepted(settings, club.name, {club.name: told}, opens=True)
    except SettingsError as error:
        raise MoveError(str(error)) from None
    return Destination(host=to, options=options, ipv4=told["ipv4"], api=api_of(access))


def opened(stack: Stack) -> Mapping[str, Any]:
    """Return the outputs of a host's stack, secrets in clear text. Raises MoveError."""
    try:
        outputs = stack.outputs()
    except StackError as error:
        if "passphrase" in str(error):
            raise MoveError(
                f"The secrets of stack {stack.name} do not open with this passphrase: stacks that share a host share "
                f"it. `pulumi stack change-secrets-provider passphrase --stack {stack.name}`, with the old one in "
                f"PULUMI_CONFIG_PASSPHRASE, gives it another.\n{error}"
            ) from None
        raise MoveError(f"Stack {stack.name} cannot be read. Is it made and up?\n{error}") from None
    if "ipv4" not in outputs:
        raise MoveError(f"Stack {stack.name} is not up. Run `pulumi up --stack {stack.name}` to its end first.")
    return outputs


def api_of(access: Mapping[str, str]) -> NomadApi:
    """Return Nomad with a club's access (`components/clubs.py`)."""
    names = ("address", "ca_pem", "cert_pem", "key_pem", "token", "namespace")
    address, ca_pem, cert_pem, key_pem, token, namespace = (access[name] for name in names)
    return NomadApi(address, ca_pem, cert_pem, key_pem, token, namespace)


def refuse_what_is_there(place: Destination, club: str) -> None:
    """Raise MoveError if a resource of the club runs there already, ProbeError if Nomad does not answer."""
    there = [job["ID"] for job in place.api.get("/v1/jobs") if job["Status"] != "dead"]
    if there:
        raise MoveError(
            f"On the host of {place.host} there is something of {club} already: {', '.join(there)}. Two servers of one "
            "PDS must not run. `nomad job stop -purge` each of them there if no stack of this project has made them."
        )


def how_it_fits(club: Stack, outputs: Mapping[str, Any], has: Club | None, gets: Club, to: str) -> str:
    """Raise MoveError if the club's present use does not fit into its new place; else return a sentence about it."""
    try:
        nomad = nomad_of(outputs)
        allocation = running(runs.api_of(club))
        used = usage(nomad, allocation, has.disk_gib * GIB if has else None)["disk"] if allocation else None
    except ProbeError:
        used = None
    if used is None:
        return "How much its data are cannot be asked now; the restore looks once more."
    if used + _RESERVE > gets.disk_gib * GIB:
        needed = -(-(used + _RESERVE) // GIB)
        raise MoveError(
            f"{club.name} has {used / GIB:.1f} GiB, and Pulumi.{to}.yaml gives it {gets.disk_gib}. Write 'disk_gib: "
            f"{needed}' or more for it there, and run `pulumi up --stack {to}` first."
        )
    return f"Its {used / MIB:.0f} MiB fit into {gets.disk_gib} GiB."


def _options(settings: Settings, to: str, told: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that differ there, as `settings/offer.py` requires them."""
    options = {"pds:on": to, "pds:pds.port": str(told["port"])}
    asked = {
        "pds:ingress.kind": (settings.ingress.kind, told["ingress"]),
        "pds:nomad.datacenter": (settings.nomad.datacenter, told["datacenter"]),
        "pds:nomad.region": (settings.nomad.region, told["region"]),
    }
    if told["ingress"] == "io":
        asked["pds:ingress.dialect"] = (settings.ingress.dialect, told["dialect"])
    return options | {key: str(theirs) for key, (ours, theirs) in asked.items() if ours != theirs}


def _with(text: str, options: Mapping[str, str]) -> str:
    """Return the stack file as `pulumi config set --path` will leave it, as far as its meaning is concerned."""
    document = yaml.safe_load(text)
    config = {key if ":" in key else f"pds:{key}": value for key, value in document["config"].items()}
    for key, value in options.items():
        section, _, option = key.partition(".")
        if option:
            config[section] = {**(config.get(section) or {}), option: yaml.safe_load(value)}
        else:
            config[section] = value
    return yaml.safe_dump({**document, "config": config})
