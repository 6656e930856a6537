"""Relays by name: the settings of each that work on DigitalOcean, with their sources.

DigitalOcean blocks the ports 25, 465 and 587, so each preset uses another port of the relay.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

TlsMode = Literal["implicit", "starttls"]

BLOCKED_SMTP_PORTS = frozenset({25, 465, 587})
"""Ports that DigitalOcean blocks towards the Internet (docs.digitalocean.com/support/why-is-smtp-blocked)."""

USUAL_TLS: Mapping[int, TlsMode] = {
    25: "starttls",
    587: "starttls",
    2525: "starttls",
    2587: "starttls",
    465: "implicit",
    2465: "implicit",
    8465: "implicit",
}
"""TLS mode of relays by port. nodemailer uses implicit TLS on 465 only unless told; the program always sets it."""


@dataclass(frozen=True, kw_only=True)
class MailPreset:
    """The settings of one relay."""

    title: str
    host: str | None
    """Host name without a region; None if each region has its own."""
    regional_host: str | None = None
    """Host name with `{region}` in it; None if there are no regions."""
    regions: str = ""
    """Pattern of the regions."""
    example_region: str = ""
    port: int
    tls: TlsMode
    user: str | None = None
    """The user name, if it is the same for everyone."""
    credentials: str
    """User name and password at the relay."""
    records: str
    """The options of `mail.dns` that the relay needs."""
    sources: tuple[str, ...]

    def defaults(self, region: object) -> dict[str, Any]:
        """Options of `mail` that the preset fills in. If `region_faults` refuses the region, a stand-in is used."""
        host = self.host
        if self.regional_host and (host is None or region):
            host = self.regional_host.format(region=region if self.has_region(region) else self.example_region)
        filled = {"host": host, "port": self.port, "tls": self.tls, "user": self.user}
        return {key: value for key, value in filled.items() if value is not None}

    def has_region(self, region: object) -> bool:
        """Whether the relay has a host name for `region`."""
        return isinstance(region, str) and bool(self.regions) and bool(re.fullmatch(self.regions, region))


PRESETS: Mapping[str, MailPreset] = {
    "resend": MailPreset(
        title="Resend",
        host="smtp.resend.com",
        port=2465,
        tls="implicit",
        user="resend",
        credentials="`password` is an API key with sending access.",
        records="`dkim: {resend: p=…}`; `return_path: {name: send, mx: feedback-smtp.REGION.amazonses.com, spf: "
        "[include:amazonses.com]}`.",
        sources=(
            "https://resend.com/docs/send-with-smtp",
            "https://github.com/Domain-Connect/Templates/blob/master/resend.com.mail.json",
        ),
    ),
    "postmark": MailPreset(
        title="Postmark",
        host="smtp.postmarkapp.com",
        port=2525,
        tls="starttls",
        credentials="`user` and `password` are access key and secret key of an SMTP token; enable SMTP for the server.",
        records="`dkim: {SELECTORpm: k=rsa;p=…}`; `return_path: {name: pm-bounces, cname: pm.mtasv.net}`. No `spf`.",
        sources=(
            "https://postmarkapp.com/developer/user-guide/send-email-with-smtp",
            "https://postmarkapp.com/support/article/811-what-are-the-smtp-details-credentials-i-should-be-using",
        ),
    ),
    "mailgun": MailPreset(
        title="Mailgun",
        host="smtp.mailgun.org",
        regional_host="smtp.{region}.mailgun.org",
        regions="eu",
        example_region="eu",
        port=2525,
        tls="starttls",
        credentials="`user` and `password` are SMTP credentials of the domain, not the API key. Domains in the EU need "
        "`region: eu`.",
        records="`domain`, if the sending domain is a subdomain such as `mg.`; `spf: [include:mailgun.org]`; `dkim` "
        "with the TXT or CNAME records of the domain's page.",
        sources=(
            "https://documentation.mailgun.com/en/latest/user_manual.html",
            "https://help.mailgun.com/hc/en-us/articles/203380100-Where-can-I-find-my-API-keys-and-SMTP-credentials",
        ),
    ),
    "ses": MailPreset(
        title="Amazon SES",
        host=None,
        regional_host="email-smtp.{region}.amazonaws.com",
        regions=r"[a-z]{2}(-[a-z]+)+-[0-9]",
        example_region="eu-west-1",
        port=2465,
        tls="implicit",
        credentials="`user` and `password` are SMTP credentials of the region, not an access key. `region` is "
        "required. An account in the sandbox sends to verified addresses only.",
        records="`dkim` with three `TOKEN: TOKEN.dkim.amazonses.com`; with a custom MAIL FROM domain `return_path: "
        "{name: …, mx: feedback-smtp.REGION.amazonses.com, spf: [include:amazonses.com]}`.",
        sources=(
            "https://docs.aws.amazon.com/ses/latest/dg/smtp-connect.html",
            "https://docs.aws.amazon.com/ses/latest/dg/mail-from.html",
        ),
    ),
    "brevo": MailPreset(
        title="Brevo",
        host="smtp-relay.brevo.com",
        port=2525,
        tls="starttls",
        credentials="`user` is the SMTP login, `password` an SMTP key, not an API key.",
        records="`verification: ['brevo-code:…']`; `dkim` with the CNAME or TXT records of the domain's page; `dmarc`, "
        "which Brevo requires. No `spf` without a dedicated IP address.",
        sources=(
            "https://developers.brevo.com/docs/smtp-integration",
            "https://developers.brevo.com/docs/domain-authentication-and-verification",
        ),
    ),
    "smtp2go": MailPreset(
        title="SMTP2GO",
        host="mail.smtp2go.com",
        regional_host="mail-{region}.smtp2go.com",
        regions="us|eu|au",
        example_region="eu",
        port=8465,
        tls="implicit",
        credentials="`user` and `password` are those of an SMTP user.",
        records="`dkim` and `return_path` with the CNAME records of the domain's page. No `spf`.",
        sources=(
            "https://developers.smtp2go.com/docs/smtp-relay",
            "https://support.smtp2go.com/hc/en-gb/articles/28543815517209-SPF-DKIM-and-DMARC",
        ),
    ),
}
