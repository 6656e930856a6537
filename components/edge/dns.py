"""The DNS records of the PDS's hostname and of the sender's domain. `people/members.py` makes members' records."""

from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean

from components.dynamic.resources import DnsReady, SoleRecords
from components.render.records import DnsRecord, Value, hostname_records, mail_records, whole_name
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class DnsArgs:
    """Arguments of `Dns`."""

    settings: Settings
    ipv4: pulumi.Output[str]
    identity: pulumi.Resource
    """Refuses another hostname before a record changes."""


class Dns(pulumi.ComponentResource):
    """A, wildcard and CAA records and those of the sender's domain: created at DigitalOcean, or listed for manual
    creation."""

    records: pulumi.Output[list[dict[str, str]]]
    """Every record that the PDS needs: zone, name, type, value, ttl (seconds)."""
    zone: pulumi.Output[str]
    """The zone's name, once the zone exists."""

    def __init__(self, name: str, args: DnsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Dns", name, None, opts)
        settings = args.settings
        records = hostname_records(settings)
        of_sender = mail_records(settings)
        zone: pulumi.Input[str] = settings.zone
        if settings.dns.provider == "digitalocean":
            if settings.dns.create_zone:
                zone = digitalocean.Domain(
                    f"{name}-zone",
                    name=settings.zone,
                    opts=pulumi.ResourceOptions(
                        parent=self, depends_on=[args.identity], protect=True, retain_on_delete=True
                    ),
                ).name
            for record in records:
                if record.other_zone is None:
                    self._create(name, args, record, zone, [args.identity])
            if of_sender:
                sole = self._sole_records(name, args, of_sender, zone)
                for record in of_sender:
                    self._create(name, args, record, zone, [args.identity, sole])
        self.zone = pulumi.Output.from_input(zone)
        self.records = args.ipv4.apply(
            lambda ipv4: [
                record.row(settings, record.value_from({Value.ADDRESS: ipv4})) for record in [*records, *of_sender]
            ]
        )
        self.register_outputs({"records": self.records})

    def _sole_records(self, name: str, args: DnsArgs, records: list[DnsRecord], zone: pulumi.Input[str]) -> SoleRecords:
        """The check that no other record makes one of these invalid."""
        settings = args.settings
        inputs = {
            "zone": zone,
            "nameservers": list(settings.dns.nameservers),
            "records": [
                {
                    "role": record.role,
                    "name": whole_name(record.row(settings, "")),
                    "begins": record.sole,
                    "value": record.value,
                }
                for record in records
                if record.sole is not None
            ],
            "wait": dns_wait(settings),
            "existing_spf": (settings.mail and settings.mail.dns and settings.mail.dns.spf_existing) or "",
        }
        return SoleRecords(
            f"{name}-sole-records", inputs, pulumi.ResourceOptions(parent=self, depends_on=[args.identity])
        )

    def _create(
        self,
        name: str,
        args: DnsArgs,
        record: DnsRecord,
        zone: pulumi.Input[str],
        depends_on: list[pulumi.Resource],
    ) -> None:
        is_caa = record.type == "CAA"
        digitalocean.DnsRecord(
            f"{name}-{record.role}",
            domain=zone,
            type=record.type,
            name=record.name,
            value=record.value_from({Value.ADDRESS: args.ipv4}),
            ttl=args.settings.dns.ttl,
            priority=record.priority,
            flags=0 if is_caa else None,
            tag="issue" if is_caa else None,
            # A selector may change between TXT and CNAME, which cannot exist side by side.
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=depends_on,
                delete_before_replace=True if record.role.startswith("mail-") else None,
            ),
        )


_WAIT_SECONDS = 120
"""Seconds that `up` waits for records that it created. Records made by hand are checked once."""


def dns_wait(settings: Settings) -> int:
    """Seconds to wait for a record of the zone."""
    return _WAIT_SECONDS if settings.dns.provider == "digitalocean" else 0


def dns_ready(name: str, settings: Settings, ipv4: pulumi.Output[str], opts: pulumi.ResourceOptions) -> DnsReady:
    """The check that the hostname resolves to `ipv4`, by its zone's own name servers."""
    return DnsReady(
        name,
        {
            "hostname": settings.hostname,
            "ip": ipv4,
            "zone": settings.zone if settings.dns.provider == "digitalocean" else "",
            "nameservers": list(settings.dns.nameservers),
            "issuer": settings.ingress.issuer if settings.ingress_is_ours else "",
            "wait": dns_wait(settings),
        },
        opts,
    )
