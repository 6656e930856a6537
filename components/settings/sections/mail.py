"""Options of the mail relay, and of the DNS records by which receivers accept its messages."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, SecretStr, model_validator

from components.settings.fields import spf
from components.settings.fields.errors import shown
from components.settings.fields.option import READ_ONLY_MAP, Section, option, refuse
from components.settings.fields.types import Domain, Email, MailUser
from components.settings.sections.mail_presets import PRESETS

_SELECTOR = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_TARGET = re.compile(r"(?=.{3,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
"""A host name that a CNAME record may lead to. Labels such as `_domainkey` have an underscore."""

_LONGEST_TEXT = 255
"""Bytes of one string of a TXT record (RFC 1035, section 3.3)."""


def _selector(text: str) -> str:
    bare = text.strip().lower().partition("._domainkey")[0]
    if not _SELECTOR.fullmatch(text) or "_domainkey" in text:
        hint = f"Write '{bare}'." if _SELECTOR.fullmatch(bare) else "Write for example 'resend'."
        refuse(f"{shown(text)} is not a DKIM selector: the lower-case part before '._domainkey'.", hint)
    return text


def _dkim_value(text: str) -> str:
    bare = text.strip().rstrip(".").lower()
    if "=" not in text:
        if not _TARGET.fullmatch(bare):
            refuse(
                f"{shown(text)} is neither a public key nor a host name.",
                "Copy the value of the relay's TXT record, with 'p=' before the key, or its CNAME record's target.",
            )
        return _target(text)
    if fault := dkim_fault(text):
        refuse(f"{fault}.", "Copy the whole value of the relay's TXT record, without quotation marks.")
    return text


def is_dkim_key(value: str) -> bool:
    """Whether the value of a selector is a public key, for a TXT record, and not the target of a CNAME record."""
    return "=" in value


def dkim_fault(text: str) -> str | None:
    """What is wrong with a DKIM key record (RFC 6376, section 3.6.1); None if nothing is."""
    if not text.isascii() or not text.isprintable() or '"' in text:
        return "this key record has quotation marks, line breaks or other characters that no key record has"
    pairs = [part.partition("=") for part in text.split(";") if part.strip()]
    tags = {name.strip(): re.sub(r"\s", "", value) for name, _, value in pairs}
    if "v" in tags and (tags["v"] != "DKIM1" or pairs[0][0].strip() != "v"):
        return "the version of this key record is not 'v=DKIM1', as its first tag"
    if "p" not in tags:
        return "this key record has no key: the tag 'p=' is missing"
    if not tags["p"]:
        return "the key is revoked: the tag 'p=' is empty"
    try:
        key = base64.b64decode(tags["p"], validate=True)
    except binascii.Error:
        return "the key after 'p=' is not Base64; a part of it may be missing"
    kind = tags.get("k", "rsa")
    if kind == "ed25519":
        return None if len(key) == 32 else "the key after 'p=' is not an Ed25519 key of 32 bytes"
    if kind != "rsa":
        return f"the key type {shown(kind)} is neither 'rsa' nor 'ed25519'"
    return None if _der_length(key) == len(key) else "the key after 'p=' is incomplete"


def _der_length(key: bytes) -> int | None:
    """The length that a DER sequence states, with its header (X.690, section 8.1.3); None if it is not a sequence."""
    if len(key) < 4 or key[0] != 0x30:
        return None
    if key[1] < 0x80:
        return 2 + key[1]
    count = key[1] & 0x7F
    return 2 + count + int.from_bytes(key[2 : 2 + count], "big") if 0 < count < 4 else None


def _spf_term(term: str) -> str:
    if spf.is_spf(term) or term.lower().lstrip("+?~-") == "all" or " " in term:
        inside = [each for each in term.split() if each.lower() != spf.VERSION and not each.lower().endswith("all")]
        hint = f"Write {', '.join(repr(each) for each in inside[:3])}." if inside else "Remove it."
        refuse(f"{shown(term)} is more than one term. The program writes the version and the end.", hint)
    if fault := spf.term_fault(term):
        refuse(f"{shown(term)} {fault}.", "Write for example 'include:amazonses.com'.")
    return term


def _spf_record(text: str) -> str:
    if fault := spf.record_fault(text):
        refuse(
            f"this is not a valid SPF record: {fault}.",
            "Copy the text that `dig +short TXT DOMAIN` shows, without its quotation marks.",
        )
    return text


def _ownership_text(text: str) -> str:
    if not text.isascii() or not text.isprintable() or '"' in text or not text.strip() or len(text) > _LONGEST_TEXT:
        refuse(
            f"{shown(text)} is not the text of a TXT record: printable ASCII without quotation marks, at most "
            f"{_LONGEST_TEXT} characters.",
            "Copy the value that the relay shows.",
        )
    for beginning, key in (("v=spf1", "spf"), ("v=DMARC1", "dmarc"), ("v=DKIM1", "dkim")):
        if text.lower().startswith(beginning.lower()):
            refuse(f"{shown(text)} has an option of its own.", f"Write it as 'mail.dns.{key}'.")
    return text


def _target(text: str) -> str:
    if placeholder := re.search(r"(?:^|[.-])([A-Z]{5,})(?:$|[.-])", text):
        refuse(f"{shown(text)} has the placeholder '{placeholder[1]}'.", "Copy the value that the relay shows.")
    bare = text.strip().rstrip(".").lower()
    if not _TARGET.fullmatch(bare):
        refuse(f"{shown(text)} is not a host name.", "Write for example 'pm.mtasv.net'.")
    return bare


Selector = Annotated[str, AfterValidator(_selector)]
DkimValue = Annotated[str, AfterValidator(_dkim_value)]
SpfTerm = Annotated[str, AfterValidator(_spf_term)]
SpfTerms = Annotated[tuple[SpfTerm, ...], Field(strict=False)]
Target = Annotated[str, AfterValidator(_target)]


class DmarcOptions(Section):
    """The DMARC record of the sender's domain."""

    policy: Literal["none", "quarantine", "reject"] = option(
        doc="What receivers do with messages that pass neither SPF nor DKIM. Begin with 'none'.", example="none"
    )
    subdomain_policy: Literal["none", "quarantine", "reject"] | None = option(
        None, doc="The same for subdomains. Default: `policy`."
    )
    reports: Annotated[tuple[Email, ...], Field(strict=False)] = option(
        (), doc="Addresses that receivers send daily reports to.", example=["postmaster@my-club.org"]
    )

    @property
    def text(self) -> str:
        """The record (RFC 7489, section 6.3). Commas and exclamation marks of an address are percent-encoded."""
        addresses = [f"mailto:{address.replace('!', '%21')}" for address in self.reports]
        parts = ["v=DMARC1", f"p={self.policy}"]
        parts += [f"sp={self.subdomain_policy}"] if self.subdomain_policy else []
        parts += [f"rua={','.join(addresses)}"] if addresses else []
        return "; ".join(parts)


class ReturnPathOptions(Section):
    """The subdomain that receives bounces: an MX record with an SPF record, or a CNAME record."""

    name: str = option(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        doc="Label of the subdomain, below the domain that the relay verified.",
        example="send",
    )
    cname: Target | None = option(None, doc="Target of the CNAME record, such as `pm.mtasv.net`.")
    mx: Target | None = option(
        None, doc="Mail server of the MX record, such as `feedback-smtp.eu-west-1.amazonses.com`."
    )
    mx_priority: int = option(10, ge=0, le=65535, doc="Priority of the MX record.")
    spf: SpfTerms = option(
        (), doc="SPF terms of the subdomain, such as `include:amazonses.com`.", example=["include:amazonses.com"]
    )


class MailDnsOptions(Section):
    """DNS records of the sender's domain. Each part is optional."""

    domain: Domain | None = option(
        None, doc="Domain that the relay verified, if it is not that of `from`: an ancestor or a subdomain of it."
    )
    spf: SpfTerms = option(
        (),
        doc="SPF terms of the relay. The domain gets one SPF record with them.",
        example=["include:amazonses.com"],
    )
    spf_existing: Annotated[str, AfterValidator(_spf_record)] | None = option(
        None,
        doc="Text of the SPF record that the domain had before. Its terms are kept; delete that record, because a "
        "domain can have only one.",
        example="v=spf1 include:_spf.my-mail.org ~all",
    )
    dkim: Annotated[Mapping[Selector, DkimValue], *READ_ONLY_MAP] = option(
        default_factory=dict,
        doc="DKIM records: `selector: value`. A value with `p=` is a public key for a TXT record, any other is the "
        "target of a CNAME record.",
        example={"resend": "p=MIGf…"},
    )
    dmarc: DmarcOptions | None = option(None, doc="The DMARC record.")
    return_path: ReturnPathOptions | None = option(None, doc="The subdomain that receives bounces.")
    verification: Annotated[tuple[Annotated[str, AfterValidator(_ownership_text)], ...], Field(strict=False)] = option(
        (), doc="TXT records by which the relay verifies the domain.", example=["brevo-code:…"]
    )


def _schema_without_preset(schema: dict[str, Any]) -> None:
    """A preset supplies host and some users: an editor requires them only without one."""
    filled = ["host", "user"]
    schema["required"] = [name for name in schema["required"] if name not in filled]
    schema["anyOf"] = [{"required": ["preset"]}, {"required": filled}]


class MailOptions(Section):
    """A mail relay. Without one, members receive no password resets and no tokens for moving to another server."""

    model_config = ConfigDict(json_schema_extra=_schema_without_preset)

    preset: Literal["resend", "postmark", "mailgun", "ses", "brevo", "smtp2go"] | None = option(
        None, doc="Known relay, which sets host, port, TLS mode and, if it is fixed, the user name."
    )
    region: str | None = option(
        None, min_length=2, max_length=30, doc="Region of the relay, for 'ses', 'mailgun' and 'smtp2go'."
    )
    host: Domain = option(doc="Host name of the relay. A preset sets it.", example="smtp.my-relay.org")
    port: int = option(2465, ge=1, le=65535, doc="Port of the relay. DigitalOcean blocks 25, 465 and 587.")
    tls: Literal["implicit", "starttls"] = option(
        "implicit", doc="TLS mode: 'implicit' for ports like 465, 'starttls' for ports like 587."
    )
    user: MailUser = option(
        min_length=1, doc="User name at the relay, unencoded; the program percent-encodes it.", example="postmaster"
    )
    password: SecretStr = option(
        min_length=1, doc="Password at the relay (`pulumi config set --secret --path mail.password`)."
    )
    sender: Email = option(
        alias="from", doc="Sender of the PDS's messages.", env="PDS_EMAIL_FROM_ADDRESS", example="pds@my-club.org"
    )
    dns: MailDnsOptions | None = option(None, doc="DNS records of the sender's domain.")

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, given: Any) -> Any:
        """Fill in the options that the preset sets and the stack file does not."""
        if isinstance(given, Mapping) and isinstance(name := given.get("preset"), str):
            if name in PRESETS:
                return PRESETS[name].defaults(given.get("region")) | dict(given)
            # The preset is refused. The options that it would set are not reported as missing.
            return {"host": "relay.my-club.org", "user": "-"} | dict(given)
        return given

    @property
    def sender_domain(self) -> str:
        """The domain of the sender's address, in lower case."""
        return self.sender.rpartition("@")[2].lower()

    @property
    def verified_domain(self) -> str:
        """The domain that the relay signs for."""
        return (self.dns.domain if self.dns else None) or self.sender_domain

    @property
    def return_path_domain(self) -> str | None:
        """The domain of the bounce address, if the stack file states one."""
        path = self.dns.return_path if self.dns else None
        return f"{path.name}.{self.verified_domain}" if path else None
