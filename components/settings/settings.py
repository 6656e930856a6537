"""`Settings`: everything a stack file asks for. Checks that need more than one of its sections are in `checks.py`."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from components.settings import sections
from components.settings.checks import cross_faults, stack_faults
from components.settings.faults import Fault, SettingsError, dotted, from_validation, location_of, shown
from components.settings.model import Section, is_map, option, section_of
from components.settings.names import Did, Handle, HandleDomain, HandleOrDid, Hostname, TimeZone
from components.settings.placement import Club, Placement, StackName


class Settings(Section):
    """One stack file, understood. One stack is one PDS."""

    hostname: Hostname = option(
        doc="The PDS's domain name. It is for life: a later change would be another server.",
        env="PDS_HOSTNAME",
        example="noted.at",
    )
    service_handle_domains: Annotated[tuple[HandleDomain, ...], Field(strict=False)] = option(
        (),
        doc="Domains under which members get handles, each with its leading dot; `.HOSTNAME` where empty.",
        env="PDS_SERVICE_HANDLE_DOMAINS",
    )
    on: Placement = option(None, doc="Where it runs, if not on a droplet of its own: 'on: STACK', or a map.")
    time_zone: TimeZone = option("UTC", doc="Time zone of host and server, for example 'Europe/Berlin'.", env="TZ")
    host: sections.Host = option(default_factory=sections.Host, doc="The droplet.")
    volume: sections.Volume = option(default_factory=sections.Volume, doc="The volume with all that is worth keeping.")
    dns: sections.Dns = option(default_factory=sections.Dns, doc="The records of the hostname.")
    clubs: Annotated[Mapping[StackName, Club], *sections.SEALED] = option(
        default_factory=dict,
        doc="Other stacks whose PDS runs on this host, by name: what each gets.",
        example={"chess": {"port": 3101}},
    )
    operators: sections.Operators | None = option(
        None,
        doc="Who may administer the host; required for one of one's own.",
        example={"cidrs": ["203.0.113.7/32"], "ssh_keys": ["my-laptop"]},
    )
    nomad: sections.Nomad = option(default_factory=sections.Nomad, doc="The Nomad agent.")
    pds: sections.Pds = option(default_factory=sections.Pds, doc="The Personal Data Server.")
    ingress: sections.Ingress = option(default_factory=sections.Ingress, doc="The ingress.")
    mail: sections.Mail | None = option(None, doc="The mail relay.", env="PDS_EMAIL_SMTP_URL")
    s3: sections.S3 | None = option(None, doc="A bucket for blobs.")
    alerts: sections.Alerts | None = option(None, doc="Whom to tell when something is wrong.")
    backup: sections.Backup | None = option(None, doc="Backups of everything, to a bucket.")
    secrets: sections.Secrets = option(default_factory=sections.Secrets, doc="Secrets to adopt.")
    members: Annotated[tuple[sections.Member, ...], Field(strict=False)] = option(
        (), doc="Accounts, one a member. Removing one here leaves the account as it is."
    )
    invites: sections.Invites | None = option(None, doc="Invite codes; secret output `invite_codes`.")
    takedown: Annotated[tuple[HandleOrDid, ...], Field(strict=False)] = option(
        (), doc="Accounts to take down, by handle or DID; taking one off the list lifts it.", example=["did:plc:…"]
    )
    delete: Annotated[Mapping[Handle, Did], *sections.SEALED] = option(
        default_factory=dict, doc="Accounts to delete for ever: `handle: DID`, both as they are."
    )
    relay_raised: bool = option(
        False, doc="Whether the relay has raised its limit of 100 accounts for this PDS; allows more than 90 members."
    )

    @property
    def zone(self) -> str:
        """The DNS zone that the hostname is in."""
        return self.dns.zone or self.hostname

    @property
    def handle_domains(self) -> tuple[str, ...]:
        """The service handle domains, as the server has them."""
        return self.service_handle_domains or (f".{self.hostname}",)

    @property
    def fixed_port(self) -> bool:
        """Whether the PDS is found by a port that is always the same. What an ingress sees of another's namespace is
        not known, so on a shared host it is."""
        return self.ingress.fixed_port or bool(self.on and self.on.stack)

    @property
    def ingress_is_ours(self) -> bool:
        """Whether this stack runs the ingress; on a shared host it only adds its own file to the host's."""
        return self.ingress.kind != "none" and not (self.on and self.on.stack)

    @property
    def record_name(self) -> str:
        """The hostname's name inside its zone; '@' for the zone itself."""
        return "@" if self.hostname == self.zone else self.hostname.removesuffix(f".{self.zone}")


def read(document: Mapping[str, Any], file: str, stack: str) -> Settings:
    """Settings from a stack file's `pds:` keys (without the prefix), parsed and decrypted.

    Raises SettingsError with every fault found, before anything is made.
    """
    faults = list(stack_faults(stack))
    settings: Settings | None = None
    if not isinstance(document, Mapping):
        whole = Fault("(the whole file)", f"{shown(document)} is not a map.", "Write 'pds:option: value' lines.")
        raise SettingsError(file, [*faults, whole])
    document = _readable(document, [], faults)
    try:
        settings = Settings.model_validate(document)
        faults += cross_faults(settings, faulty=frozenset())
    except ValidationError as error:
        faults += from_validation(error, Settings)
        sound, faulty = _sound_part(document, error)
        faults += cross_faults(Settings.model_validate(sound), faulty)
    if faults or settings is None:
        raise SettingsError(file, faults)
    return settings


_DEPTH = 3
"""How deep keys are looked at: an option that is a map, in a section."""


def _readable(values: Mapping[Any, Any], path: list[str | int], faults: list[Fault]) -> dict[str, Any]:
    """The document without keys that are no text: half a surrogate pair in one makes Pydantic give up on all."""
    readable: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, str) or (not key.isascii() and key != key.encode(errors="ignore").decode()):
            where = dotted([*path, key if isinstance(key, str) else shown(key)])
            faults.append(Fault(where, "this key is not text.", "Write a key of a-z, 0-9 and '_'."))
        elif isinstance(value, Mapping) and len(path) + 1 < _DEPTH:
            readable[key] = _readable(value, [*path, key], faults)
        elif isinstance(value, list) and not path:
            readable[key] = [
                _readable(item, [key, index], faults) if isinstance(item, Mapping) else item
                for index, item in enumerate(value)
            ]
        else:
            readable[key] = value
    return readable


_STAND_INS: Mapping[str, Any] = {
    "hostname": "pds.stand-in.test",
    "operators": {"cidrs": ["192.0.2.1/32"], "ssh_keys": ["stand-in"]},
}
"""What is put for a faulty option that has no default; no check that looks at it is made."""


def _sound_part(document: Mapping[str, Any], error: ValidationError) -> tuple[dict[str, Any], frozenset[str]]:
    """The document without its faulty options, and their keys, so that one fault does not hide another.

    Findings are independent of each other (no validator looks at two options), so what remains is valid.
    """
    known = Settings.model_fields
    sound = {key: dict(value) if isinstance(value, dict) else value for key, value in document.items() if key in known}
    faulty: set[str] = set()
    for details in error.errors(include_url=False):
        top, option_key, entry = [*location_of(details), None, None][:3]
        section = sound.get(str(top))
        if option_key is None or not isinstance(section, dict):
            faulty.add(str(top))
            sound.pop(str(top), None)
            continue
        faulty.add(f"{top}.{option_key}")
        if is_map(known[str(top)]):
            section.pop(option_key, None)
            continue
        inner = section.get(str(option_key))
        if isinstance(inner, Mapping) and entry is not None:
            section[str(option_key)] = {key: value for key, value in inner.items() if key != entry}
        else:
            section.pop(option_key, None)
    for key in known:
        stand_in = _STAND_INS.get(key)
        if key not in sound and stand_in is not None and (key in document or known[key].is_required()):
            sound[key] = stand_in
        elif isinstance(stand_in, dict) and isinstance(sound.get(key), dict):
            sound[key] = stand_in | sound[key]
        elif section_of(known[key]) and known[key].default is None and any(f.startswith(f"{key}.") for f in faulty):
            # An optional section with a fault in it may lack what it needs: left out as a whole.
            faulty.add(key)
            sound.pop(key, None)
    return sound, frozenset(faulty)
