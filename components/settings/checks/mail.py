"""Checks of `mail` that compare several options: the preset's region, and the records of the sender's domain."""

from collections.abc import Iterator

from components.settings.checks.handles import wildcards
from components.settings.fields import spf
from components.settings.fields.errors import Fault
from components.settings.fields.types import is_at_or_below
from components.settings.sections.mail import MailDnsOptions, MailOptions, ReturnPathOptions
from components.settings.sections.mail_presets import PRESETS
from components.settings.sections.settings import Settings


def region_faults(settings: Settings) -> Iterator[Fault]:
    """A region without a preset that has regions, an unknown one, or a missing one."""
    mail = settings.mail
    if mail is None:
        return
    preset = PRESETS[mail.preset] if mail.preset else None
    if preset is None or not preset.regions:
        if mail.region:
            owner = f"the preset '{mail.preset}'" if mail.preset else "a relay without a preset"
            yield Fault("mail.region", f"{owner} has no regions.", "Remove it.")
        return
    if mail.region and not preset.has_region(mail.region):
        yield Fault(
            "mail.region",
            f"'{mail.region}' is not a region of {preset.title}.",
            f"Write for example 'region: {preset.example_region}'{', or remove it' if preset.host else ''}.",
        )
    elif mail.region and mail.host != preset.defaults(mail.region)["host"]:
        yield Fault(
            "mail.region",
            f"'mail.host' is {mail.host}, and the region {mail.region} of {preset.title} has another host name.",
            "Remove one of the two.",
        )
    stand_in = preset.defaults(None).get("host")
    if preset.host is None and not mail.region and mail.host == stand_in:
        yield Fault(
            "mail.region",
            f"{preset.title} has a host name for each region.",
            f"Write for example 'region: {preset.example_region}'.",
        )


def mail_dns_faults(settings: Settings) -> Iterator[Fault]:
    """Faults of the records of the sender's domain."""
    mail = settings.mail
    if mail is None or mail.dns is None:
        return
    if not mail.dns.model_fields_set - {"domain"}:
        yield Fault(
            "mail.dns", "it asks for no record.", "Write 'spf', 'dkim', 'dmarc' or 'return_path', or remove it."
        )
    yield from _domain_faults(settings, mail)
    yield from _spf_faults(mail.dns)
    if mail.dns.return_path:
        yield from _return_path_faults(settings, mail, mail.dns.return_path)


def _domain_faults(settings: Settings, mail: MailOptions) -> Iterator[Fault]:
    sender, verified = mail.sender_domain, mail.verified_domain
    if not is_at_or_below(sender, verified) and not is_at_or_below(verified, sender):
        yield Fault(
            "mail.dns.domain",
            f"'{verified}' is not aligned with the sender's domain '{sender}': neither is below the other, so DMARC "
            "ignores its SPF and DKIM.",
            f"Verify '{sender}' or a subdomain of it at the relay, and write that domain.",
        )
        return
    if settings.dns.provider != "digitalocean":
        return
    needed = {"mail.dns.domain" if mail.dns and mail.dns.domain else "mail.from": verified}
    if mail.dns and mail.dns.dmarc:
        needed["mail.from"] = sender  # receivers look for the DMARC record at the sender's own domain
    for key, domain in needed.items():
        if not is_at_or_below(domain, settings.zone):
            example = f"pds@{settings.zone}" if key == "mail.from" else settings.zone
            yield Fault(
                key,
                f"the domain '{domain}' is not in the zone '{settings.zone}', the only one that this stack writes to.",
                f"Write one in it, for example '{example}', or remove 'mail.dns' and create the records at the DNS "
                f"host of '{domain}'.",
            )


def _spf_faults(dns: MailDnsOptions) -> Iterator[Fault]:
    if dns.spf_existing and not dns.spf:
        yield Fault(
            "mail.dns.spf_existing",
            "there are no terms to merge into it, so the record needs no change.",
            "Write the relay's terms as 'spf', or remove it.",
        )
    count = spf.lookups(spf.merged(dns.spf_existing, dns.spf))
    if count > spf.MOST_LOOKUPS:
        yield Fault(
            "mail.dns.spf",
            f"the record has {count} terms that need a DNS query. Receivers stop at {spf.MOST_LOOKUPS} and treat it as "
            "invalid.",
            "Remove terms of services that no longer send, or replace 'a' and 'mx' by 'ip4:'.",
        )


def _return_path_faults(settings: Settings, mail: MailOptions, path: ReturnPathOptions) -> Iterator[Fault]:
    key = "mail.dns.return_path"
    if (path.cname is None) == (path.mx is None):
        yield Fault(
            key,
            "it has both 'cname' and 'mx'." if path.cname else "it has no target.",
            "Write 'cname', or 'mx' and 'spf': whichever the relay shows.",
        )
    elif path.cname and path.spf:
        yield Fault(
            f"{key}.spf", "a name with a CNAME record has no other record.", "Remove it: the target has the SPF record."
        )
    elif path.mx and not path.spf:
        yield Fault(
            f"{key}.spf",
            "receivers check SPF at this subdomain, and it would have no SPF record.",
            "Write the relay's terms, for example 'spf: [include:amazonses.com]'.",
        )
    if path.cname and mail.return_path_domain in _names_with_address(settings):
        yield Fault(
            f"{key}.name",
            f"{mail.return_path_domain} has an address record, and a name with a CNAME record has no other record.",
            "Use another label at the relay.",
        )


def _names_with_address(settings: Settings) -> set[str]:
    """The names of this stack that have records of their own."""
    handles = {member.handle for member in settings.members}
    return {settings.hostname, *handles, *(domain.removeprefix(".") for domain in wildcards(settings))}
