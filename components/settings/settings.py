"""`Settings`: everything a stack file asks for. It is read by `read.py`; what has to go together is in `checks.py`."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from components.settings import sections
from components.settings.model import Section, option
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
