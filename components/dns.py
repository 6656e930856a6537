"""The records of the PDS's own name. Members' records are not here."""

from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean

from components.settings.settings import Settings


@dataclass(frozen=True, kw_only=True)
class DnsArgs:
    """What `Dns` is told."""

    settings: Settings
    ipv4: pulumi.Output[str]


class Dns(pulumi.ComponentResource):
    """A, wildcard and CAA records, made at DigitalOcean or listed to be made by hand."""

    records: pulumi.Output[list[dict[str, str]]]
    """Every record the PDS needs: zone, name, type, value, ttl (seconds)."""

    def __init__(self, name: str, args: DnsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Dns", name, None, opts)
        dns, zone = args.settings.dns, args.settings.zone
        host = args.settings.record_name
        wildcard = "*" if host == "@" else f"*.{host}"

        wanted: list[tuple[str, str, str, pulumi.Input[str]]] = [("a", "A", host, args.ipv4)]
        if dns.wildcard:
            wanted.append(("wildcard", "A", wildcard, args.ipv4))
        # The API gives a CAA value back with a trailing dot; without it every preview would show a change.
        wanted += [(f"caa-{issuer}", "CAA", host, f"{issuer}.") for issuer in dns.caa]

        if dns.provider == "digitalocean":
            domain: pulumi.Input[str] = zone
            if dns.create_zone:
                domain = digitalocean.Domain(
                    f"{name}-zone",
                    name=zone,
                    opts=pulumi.ResourceOptions(parent=self, protect=True, retain_on_delete=True),
                ).name
            for role, kind, record, value in wanted:
                digitalocean.DnsRecord(
                    f"{name}-{role}",
                    domain=domain,
                    type=kind,
                    name=record,
                    value=value,
                    ttl=dns.ttl,
                    flags=0 if kind == "CAA" else None,
                    tag="issue" if kind == "CAA" else None,
                    opts=pulumi.ResourceOptions(parent=self),
                )
        self.records = pulumi.Output.all(
            *(
                pulumi.Output.all(zone=zone, name=record, type=kind, value=_shown(kind, value), ttl=str(dns.ttl))
                for _role, kind, record, value in wanted
            )
        )
        self.register_outputs({"records": self.records})


def _shown(kind: str, value: pulumi.Input[str]) -> pulumi.Output[str]:
    return pulumi.Output.from_input(value).apply(lambda text: f'0 issue "{text}"' if kind == "CAA" else text)
