"""Domain types: the required form of a hostname, a handle domain, a time zone or a key.

Each type refuses a wrong value with the reason and a correct one. This module does not know which option uses it.
"""

import ipaddress
import re
import zoneinfo
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr, WithJsonSchema

from components.settings.fields.errors import nearest, shown
from components.settings.fields.option import refuse

# The AT Protocol allows no handles under these top-level domains: atproto.com/specs/handle, and `disallowedTlds` in
# @atproto/syntax. A PDS under one of them could never have a member.
HANDLELESS_TLDS = frozenset({"alt", "arpa", "example", "internal", "invalid", "local", "localhost", "onion"})

SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""The order n of secp256k1 (SEC 2, section 2.4.1). A private key is a number in [1, n-1]."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ABBREVIATIONS = {
    "PDT": "America/Los_Angeles", "PST": "America/Los_Angeles", "MDT": "America/Denver", "MST": "America/Denver",
    "CDT": "America/Chicago", "CST": "America/Chicago", "EDT": "America/New_York", "EST": "America/New_York",
    "BST": "Europe/London", "GMT": "Europe/London", "WEST": "Europe/Lisbon", "WET": "Europe/Lisbon",
    "CEST": "Europe/Berlin", "CET": "Europe/Berlin", "EEST": "Europe/Athens", "EET": "Europe/Athens",
    "IST": "Asia/Kolkata", "JST": "Asia/Tokyo", "AEST": "Australia/Sydney", "AEDT": "Australia/Sydney",
}  # fmt: skip
_SSH_TYPE = re.compile(r"(ssh-(rsa|dss|ed25519)|ecdsa-sha2-\S+|sk-(ssh|ecdsa)-\S+@openssh\.com)(\s|$)")
_PUBLIC_KEY = re.compile(rf"{_SSH_TYPE.pattern}AAAA[A-Za-z0-9+/]+={{0,2}}( [^\x00-\x1f\x7f]*)?")
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def is_at_or_below(name: str, domain: str) -> bool:
    """Whether `name` is `domain` or a name below it. Both are lower-case."""
    return name == domain or name.endswith(f".{domain}")


def is_domain(text: str) -> bool:
    """Whether `text` is a lower-case domain name of two labels or more (RFC 1123), and no IP address."""
    labels = text.split(".")
    return (
        len(labels) > 1
        and len(text) <= 253
        and all(_LABEL.fullmatch(label) for label in labels)
        and not labels[-1].isdigit()
    )


def _suggested(text: str) -> str | None:
    """The domain that a URL, an address with a port, an IDN or a name in capitals most likely means, if any."""
    bare = re.sub(r"^[a-z]+://", "", text.strip().lower()).split("/")[0].split(":")[0].rstrip(".").replace("_", "-")
    try:
        bare = bare if bare.isascii() else bare.encode("idna").decode("ascii")
    except UnicodeError:
        return None
    return bare if is_domain(bare) and bare.rpartition(".")[2] not in HANDLELESS_TLDS else None


def _hostname(text: str) -> str:
    guess = _suggested(text)
    hint = f"Write '{guess}'." if guess else "Write a domain name, for example 'pds.my-club.org'."
    if "://" in text or "/" in text:
        refuse(f"{shown(text)} is a URL, not a hostname.", hint)
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        pass
    else:
        refuse(f"{shown(text)} is an address. Identities need a name.", "Write a domain name that you own.")
    if ":" in text:
        refuse(f"{shown(text)} has a port. A PDS is always on 443.", hint)
    if text.isascii() and text != text.lower():
        refuse(f"{shown(text)} has upper-case letters.", hint)
    if "." not in text.rstrip("."):
        refuse(f"{shown(text)} has only one label. Handles need a domain.", "Write for example 'pds.my-club.org'.")
    if not is_domain(text):
        form = "Write labels of a-z, 0-9 and '-', 63 characters at most, joined by dots, 253 in all."
        refuse(f"{shown(text)} is not a domain name.", hint if guess else form)
    _refuse_handleless(text)
    return text


def _refuse_handleless(text: str) -> None:
    tld = text.rsplit(".", 1)[-1]
    if tld in HANDLELESS_TLDS:
        refuse(f"no handle can exist under '.{tld}'.", "Use a domain that you own, or '.test' for a trial.")


def _handle_domain(text: str) -> str:
    guess = _suggested(text.removeprefix("."))
    hint = f"Write '.{guess}': members become 'name.{guess}'." if guess else "Write for example '.my-club.org'."
    if not text.startswith("."):
        refuse(f"{shown(text)} does not start with a dot.", hint)
    if not is_domain(text[1:]):
        refuse(f"{shown(text)} is not a dot and a lower-case domain.", hint)
    _refuse_handleless(text)
    return text


def _handle(text: str) -> str:
    # `ensureValidHandle` of @atproto/syntax (handle.js), which also requires a letter first in the last label.
    guess = _suggested(text.removeprefix("@"))
    hint = f"Write '{guess}'." if guess else "Write for example 'ann.my-club.org'."
    if not is_domain(text) or not text.rpartition(".")[2][0].isalpha():
        refuse(f"{shown(text)} is not a handle: a lower-case domain name.", hint)
    _refuse_handleless(text)
    return text


def _handle_or_did(text: str) -> str:
    return _did(text) if text.startswith("did:") else _handle(text)


def _domain(text: str) -> str:
    if not is_domain(text):
        guess = _suggested(text) or "my-club.org"
        refuse(f"{shown(text)} is not a domain name.", f"Write a lower-case domain, for example '{guess}'.")
    return text


def _time_zone(text: str) -> str:
    if text == "UTC" or ("/" in text and text in zoneinfo.available_timezones()):
        return text
    place = _ABBREVIATIONS.get(text.upper()) or nearest(text, zoneinfo.available_timezones()) or "Europe/Berlin"
    refuse(
        f"{shown(text)} is not a time zone name that follows summer time.",
        f"Write 'UTC', or a place such as '{place}'.",
    )


def _cidr(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=True))
    except ValueError:
        pass
    try:
        network = str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        refuse(f"{shown(text)} is not an address range.", "Write your address and '/32', for example '203.0.113.7/32'.")
    refuse(f"{shown(text)} is an address inside a range.", f"Write '{network}', or the one address with '/32'.")


def _https_url(text: str) -> str:
    # No user and password: the job spec shows the URL. No '{' (Nomad would interpolate it) and no comma (the server
    # splits its lists there).
    if re.match(r"https?://[^/]*@", text):
        refuse("this URL has a user or password in it, and the job spec is readable.", "Write it without them.")
    form = r"https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~!$&'()*+;=:@%/-]*)?"
    if not re.fullmatch(form, text) or not has_host(text):
        refuse(f"{shown(text)} is not a URL.", "Write 'https://' and a host name, for example 'https://my-club.org'.")
    return text.rstrip("/")


def has_host(url: str) -> bool:
    """Whether the URL names a host, and a port that exists or none."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _did(text: str) -> str:
    # `isValidDid` of @atproto/syntax (did.js): no ':' and no '%' at the end.
    if not re.fullmatch(r"did:[a-z]+:[A-Za-z0-9._:%-]*[A-Za-z0-9._-]", text):
        refuse(f"{shown(text)} is not a DID.", "Write for example 'did:web:api.bsky.app'.")
    return text


def _base58_bytes(text: str) -> bytes | None:
    number = 0
    for character in text:
        if (digit := _BASE58.find(character)) < 0:
            return None
        number = number * 58 + digit
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _did_key(text: str) -> str:
    # A did:key is multibase base58btc ('z') over a multicodec prefix and a compressed point:
    # e7 01 = secp256k1, 80 24 = P-256 (w3c-ccg.github.io/did-method-key; did:plc accepts both).
    raw = _base58_bytes(text.removeprefix("did:key:z")) if text.startswith("did:key:z") and len(text) < 100 else None
    point = raw[2:] if raw and raw[:2] in (b"\xe7\x01", b"\x80\x24") else b""
    if len(point) != 33 or point[0] not in (2, 3):
        refuse(
            "this is not the did:key of a secp256k1 or P-256 public key. The server would report it only at the first "
            "account.",
            "Write the whole key, beginning with 'did:key:zQ3s' or 'did:key:zDn'.",
        )
    return text


def _rotation_key(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not re.fullmatch(r"[0-9a-f]{64}", text) or not 0 < int(text, 16) < SECP256K1_ORDER:
        refuse(
            "this is not a secp256k1 private key: a number in [1, n-1] as 64 lower-case hex digits.",
            "Copy PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX of the running PDS, or omit it to have one generated.",
        )
    return secret


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        refuse("this is not a SHA-256 sum.", "Copy the 64 hex digits from the release's SHA256SUMS file.")
    return text


def _email(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.!#&'*+/=?^_`|~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", text):
        refuse(f"{shown(text)} is not an e-mail address.", "Write for example 'admin@my-club.org'.")
    return text


def _ssh_key(text: str) -> str:
    if "PRIVATE KEY" in text:
        refuse(
            "this is a private key. It must never leave your machine.", "Write the public key, from the '.pub' file."
        )
    if _SSH_TYPE.match(text) and not is_public_key(text):
        refuse(
            f"{shown(text)} is not a complete public key.",
            "Copy the one line of the '.pub' file: 'ssh-ed25519 AAAA… comment', or write a key's name or fingerprint.",
        )
    if not text.strip() or not text.isprintable():
        refuse(f"{shown(text)} is not the name of a key.", "Write a name, a fingerprint or a public key in one line.")
    # digitalocean/openapi, ssh_key_fingerprint.yml: the API knows only MD5 fingerprints of 16 bytes. `ssh-keygen -E
    # md5` writes 'MD5:' before it.
    if re.match(r"([0-9]{3,5} )?SHA256:", text):
        refuse(
            f"{shown(text)} is a SHA-256 fingerprint, and DigitalOcean identifies keys only by their MD5 fingerprint.",
            "Write what `ssh-keygen -E md5 -lf KEY.pub` shows after 'MD5:', the key's name in the account, or the line "
            "of its '.pub' file.",
        )
    printed = re.fullmatch(r"(?:[0-9]{3,5} )?(?:MD5:)?([0-9A-Fa-f:]{47})(?: .*)?", text)
    return printed[1].lower() if printed and is_fingerprint(printed[1].lower()) else text


def is_fingerprint(text: str) -> bool:
    """Whether an SSH key is given as DigitalOcean's fingerprint of it."""
    return bool(re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){15}", text))


def _mail_user(text: str) -> str:
    # nodemailer/lib/shared/index.js, parseConnectionUrl: it decodes user and password, then splits them at a colon.
    if ":" in text:
        refuse(
            "this user name has a colon, and the server reads what follows it as the password.",
            "Ask the relay for a user name without ':'.",
        )
    return text


def is_public_key(text: str) -> bool:
    """Whether an SSH key is given as text (OpenSSH's one-line form), not by name or fingerprint."""
    return bool(_PUBLIC_KEY.fullmatch(text))


def _management_token(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", secret.get_secret_value()):
        refuse(
            "this is not a Nomad token: hex digits in the form of a UUID.",
            "Copy 'nomad_management_token' from the escrow file, or omit it to have one generated.",
        )
    return secret


def _secret_url(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not re.fullmatch(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/[^\s?#]*[^\s?#/]", text) or not has_host(text):
        refuse(
            "this is not an https URL with a path and without '?' or '#'.",
            "Copy the whole URL from the service, for example 'https://hc-ping.com/…'.",
        )
    return secret


def _vpc_range(text: str) -> str:
    # docs.digitalocean.com/products/networking/vpc/how-to/create: private ranges (RFC 1918), /16 to /28.
    network = ipaddress.ip_network(_cidr(text))
    private = any(
        network.version == 4 and network.subnet_of(outer)  # type: ignore[arg-type]
        for outer in (ipaddress.ip_network(known) for known in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
    )
    if not private or not 16 <= network.prefixlen <= 28:
        refuse(
            f"{shown(text)} is not a range that DigitalOcean accepts.",
            "Write a private one, /16 to /28: '10.77.0.0/24'.",
        )
    return str(network)


def _address(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        refuse(f"{shown(text)} is not an IPv4 address.", "Write for example '203.0.113.7'.")


def _name_server(text: str) -> str:
    host, _, port = text.rpartition(":") if text.count(":") == 1 else (text, "", "53")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        refuse(
            f"{shown(text)} is not an address.", "Write an IP address, for example '192.0.2.53' or '192.0.2.53:5353'."
        )
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        refuse(f"{shown(text)} has no port that exists.", f"Write '{host}:53'.")
    return text


def _pattern(pattern: str) -> WithJsonSchema:
    """The pattern of a type that an editor can check; the validator checks more."""
    return WithJsonSchema({"type": "string", "pattern": pattern})


_NO_HANDLES = "|".join(sorted(HANDLELESS_TLDS))
_DOMAIN = r"(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+(?![0-9]+$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"
_HANDLES_DOMAIN = rf"(?!.*\.(?:{_NO_HANDLES})$){_DOMAIN}"

Hostname = Annotated[str, AfterValidator(_hostname), _pattern(f"^{_HANDLES_DOMAIN}")]
HandleDomain = Annotated[str, AfterValidator(_handle_domain), _pattern(rf"^\.{_HANDLES_DOMAIN}")]
Handle = Annotated[str, AfterValidator(_handle), _pattern(f"^{_HANDLES_DOMAIN}")]
HandleOrDid = Annotated[str, AfterValidator(_handle_or_did), _pattern(f"^(did:[a-z]+:.+$|{_HANDLES_DOMAIN})")]
Domain = Annotated[str, AfterValidator(_domain), _pattern(f"^{_DOMAIN}")]
TimeZone = Annotated[str, AfterValidator(_time_zone), _pattern("^(UTC|[A-Za-z_]+/.+)$")]
Cidr = Annotated[str, AfterValidator(_cidr), _pattern("^[0-9a-fA-F.:]+(/[0-9]{1,3})?$")]
VpcRange = Annotated[str, AfterValidator(_vpc_range), _pattern("^[0-9.]+/(1[6-9]|2[0-8])$")]
Address = Annotated[str, AfterValidator(_address), _pattern(r"^[0-9]{1,3}(\.[0-9]{1,3}){3}$")]
NameServer = Annotated[str, AfterValidator(_name_server)]
SshKey = Annotated[str, AfterValidator(_ssh_key)]
MailUser = Annotated[str, AfterValidator(_mail_user)]
HttpsUrl = Annotated[str, AfterValidator(_https_url), _pattern("^https?://[^@]+$")]
Did = Annotated[str, AfterValidator(_did), _pattern("^did:[a-z]+:.+$")]
DidKey = Annotated[str, AfterValidator(_did_key), _pattern("^did:key:z[1-9A-HJ-NP-Za-km-z]+$")]
ManagementToken = Annotated[SecretStr, AfterValidator(_management_token)]
RotationKey = Annotated[SecretStr, AfterValidator(_rotation_key)]
SecretUrl = Annotated[SecretStr, AfterValidator(_secret_url)]
Sha256 = Annotated[str, AfterValidator(_sha256), _pattern("^[0-9a-f]{64}$")]
Email = Annotated[str, AfterValidator(_email), _pattern("^[^@ ]+@[^@ ]+$")]
