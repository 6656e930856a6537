"""Mail options and keys for tests."""

import base64
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


def dkim_key(bits: int = 1024) -> str:
    """A new public key as a relay shows it."""
    key = rsa.generate_private_key(65537, bits).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return f"p={base64.b64encode(key.public_bytes(serialization.Encoding.DER, form)).decode()}"


KEY = dkim_key()
LONG_KEY = f"v=DKIM1; k=rsa; {dkim_key(2048)}"
"""Longer than one string of a TXT record."""

SPF = "include:amazonses.com"
RETURN_PATH: dict[str, Any] = {"name": "send", "mx": "feedback-smtp.eu-west-1.amazonses.com", "spf": [SPF]}
RESEND: dict[str, Any] = {"preset": "resend", "password": "re_123", "from": "pds@noted.at"}
"""The minimum for a preset with a fixed user."""

ALL_PARTS: dict[str, Any] = {
    "spf": ["include:spf.my-mail.org"],
    "dkim": {"resend": KEY, "tok.en-1": "tok.dkim.amazonses.com"},
    "dmarc": {"policy": "quarantine", "subdomain_policy": "none", "reports": ["a@noted.at", "b!c@noted.at"]},
    "return_path": RETURN_PATH,
    "verification": ["brevo-code:123"],
}
