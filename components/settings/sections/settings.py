"""`Settings`: all values of a stack file. `parse.py` parses them; `validation.py` checks their combinations."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from components.settings import sections
from components.settings.fields.option import READ_ONLY_MAP, Section, option
from components.settings.fields.types import Did, Handle, HandleDomain, HandleOrDid, Hostname, TimeZone
from components.settings.sections.placement import ClubOptions, Placement, StackName


class Settings(Section):
    """One parsed stack file. One stack is one PDS."""

    hostname: Hostname = option(
        doc="Domain name of the PDS. Permanent: changing it creates a different server.",
        env="PDS_HOSTNAME",
        example="noted.at",
    )
    service_handle_domains: Annotated[tuple[HandleDomain, ...], Field(strict=False)] = option(
        (),
        doc="Domains of members' handles, each with a leading dot. Default: `.HOSTNAME`.",
        env="PDS_SERVICE_HANDLE_DOMAINS",
    )
    on: Placement = option(None, doc="Where the PDS runs, if not on its own droplet: 'on: STACK', or a map.")
    time_zone: TimeZone = option("UTC", doc="Time zone of host and server, for example 'Europe/Berlin'.", env="TZ")
    host: sections.HostOptions = option(default_factory=sections.HostOptions, doc="The droplet.")
    volume: sections.VolumeOptions = option(
        default_factory=sections.VolumeOptions, doc="The volume with all persistent data."
    )
    dns: sections.DnsOptions = option(default_factory=sections.DnsOptions, doc="The DNS records of the hostname.")
    clubs: Annotated[Mapping[StackName, ClubOptions], *READ_ONLY_MAP] = option(
        default_factory=dict,
        doc="Other stacks whose PDS runs on this host, by name, with the resources of each.",
        example={"chess": {"port": 3101}},
    )
    cluster: sections.ClusterOptions | None = option(
        None, doc="A cluster for the PDSes of other stacks, instead of a PDS and its droplet."
    )
    operators: sections.OperatorsOptions | None = option(
        None,
        doc="Operators of the host. Required unless the PDS runs on another host.",
        example={"cidrs": ["203.0.113.7/32"], "ssh_keys": ["my-laptop"]},
    )
    nomad: sections.NomadOptions = option(default_factory=sections.NomadOptions, doc="The Nomad agent.")
    pds: sections.PdsOptions = option(default_factory=sections.PdsOptions, doc="The Personal Data Server.")
    ingress: sections.IngressOptions = option(default_factory=sections.IngressOptions, doc="The ingress.")
    mail: sections.MailOptions | None = option(None, doc="The mail relay.", env="PDS_EMAIL_SMTP_URL")
    s3: sections.S3Options | None = option(None, doc="An existing bucket for blobs, with your own key.")
    blobs: sections.BlobsOptions | None = option(None, doc="A bucket for blobs, made by the program.")
    alerts: sections.AlertsOptions | None = option(None, doc="Recipients of alerts.")
    backup: sections.BackupOptions | None = option(None, doc="Backups of all data, to a bucket.")
    metrics: sections.MetricsOptions | None = option(
        None, doc="Metrics of server, Nomad, host and clubs, with a dashboard."
    )
    secrets: sections.SecretsOptions = option(default_factory=sections.SecretsOptions, doc="Existing secrets to adopt.")
    members: Annotated[tuple[sections.MemberOptions, ...], Field(strict=False)] = option(
        (), doc="Accounts, one per member. Removing an entry leaves its account unchanged."
    )
    invites: sections.InvitesOptions | None = option(None, doc="Invite codes, in the secret output `invite_codes`.")
    takedown: Annotated[tuple[HandleOrDid, ...], Field(strict=False)] = option(
        (),
        doc="Accounts to take down, by handle or DID. Removing an entry restores the account.",
        example=["did:plc:…"],
    )
    delete: Annotated[Mapping[Handle, Did], *READ_ONLY_MAP] = option(
        default_factory=dict,
        doc="Accounts to delete permanently: `handle: DID`, both current. Each entry is applied once.",
    )
    relay_raised: bool = option(
        False, doc="Whether the relay raised its limit of 100 accounts for this PDS. Allows more than 90 members."
    )

    @property
    def zone(self) -> str:
        """The DNS zone of the hostname."""
        return self.dns.zone or self.hostname

    @property
    def handle_domains(self) -> tuple[str, ...]:
        """The service handle domains, with the default filled in."""
        return self.service_handle_domains or (f".{self.hostname}",)

    @property
    def fixed_port(self) -> bool:
        """Whether the ingress reaches the PDS on a fixed port. On a shared host it always does, because the ingress
        cannot read another namespace."""
        return self.ingress.fixed_port or bool(self.on and self.on.stack)

    @property
    def ingress_is_ours(self) -> bool:
        """Whether this stack runs the ingress. On a shared host it only adds its own file to the host's ingress."""
        return self.ingress.kind != "none" and not (self.on and self.on.stack)

    @property
    def blobs_in_bucket(self) -> bool:
        """Whether the server keeps blobs in the bucket of `blobs`."""
        return self.blobs is not None and self.blobs.serve == "bucket"

    @property
    def metrics_store(self) -> bool:
        """Whether this stack's host runs a store for metrics."""
        return self.metrics is not None and self.metrics.store

    @property
    def record_name(self) -> str:
        """The hostname relative to its zone; '@' for the zone itself."""
        return "@" if self.hostname == self.zone else self.hostname.removesuffix(f".{self.zone}")
