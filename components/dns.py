"""The DNS records of the PDS's hostname. `members.py` makes members' records."""

from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean

from components.settings.handles import wildcards
from components.settings.settings import Settings


@dataclass(frozen=True, kw_only=True)
class DnsArgs:
    """Arguments of `Dns`."""

    settings: Settings
    ipv4: pulumi.Output[str]
    identity: pulumi.Resource
    """Refuses another hostname before a record changes."""


class Dns(pulumi.ComponentResource):
    """A, wildcard and CAA records, created at DigitalOcean or listed for manual creation."""

    records: pulumi.Output[list[dict[str, str]]]
    """Every record that the PDS needs: zone, name, type, value, ttl (seconds)."""
    zone: pulumi.Output[str]
    """The zone's name, once the zone exists."""

    def __init__(self, name: str, args: DnsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Dns", name, None, opts)
        dns, zone = args.settings.dns, args.settings.zone
        host = args.settings.record_name
        domains = wildcards(args.settings)

        # Role, type, name, and the value; empty means the address.
        wanted = [("a", "A", host, "")]
        for handles, covering in domains.items():
            if covering is not None:
                own = handles == f".{args.settings.hostname}"
                wanted.append(("wildcard" if own else f"wildcard{handles.replace('.', '-')}", "A", covering, ""))
        # The API returns a CAA value with a trailing dot; without it every preview would show a change.
        wanted += [(f"caa-{issuer}", "CAA", host, f"{issuer}.") for issuer in dns.caa]

        domain: pulumi.Input[str] = zone
        if dns.provider == "digitalocean":
            if dns.create_zone:
                domain = digitalocean.Domain(
                    f"{name}-zone",
                    name=zone,
                    opts=pulumi.ResourceOptions(
                        parent=self, depends_on=[args.identity], protect=True, retain_on_delete=True
                    ),
                ).name
            for role, kind, record, value in wanted:
                digitalocean.DnsRecord(
                    f"{name}-{role}",
                    domain=domain,
                    type=kind,
                    name=record,
                    value=value or args.ipv4,
                    ttl=dns.ttl,
                    flags=0 if kind == "CAA" else None,
                    tag="issue" if kind == "CAA" else None,
                    opts=pulumi.ResourceOptions(parent=self, depends_on=[args.identity]),
                )
        elsewhere = [handles.removeprefix(".") for handles, covering in domains.items() if covering is None]
        self.zone = pulumi.Output.from_input(domain)
        self.records = args.ipv4.apply(
            lambda ipv4: (
                [
                    {
                        "zone": zone,
                        "name": record,
                        "type": kind,
                        "value": f'0 issue "{value.removesuffix(".")}"' if kind == "CAA" else ipv4,
                        "ttl": str(dns.ttl),
                    }
                    for _role, kind, record, value in wanted
                ]
                + [
                    {"zone": f"({other})", "name": f"*.{other}", "type": "A", "value": ipv4, "ttl": str(dns.ttl)}
                    for other in elsewhere
                ]
            )
        )
        self.register_outputs({"records": self.records})
