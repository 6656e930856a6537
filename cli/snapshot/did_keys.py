"""The public name (did:key) of the key that may change the identities on a server.

Owns: private secp256k1 scalar in hex to did:key text. Does not own: the source of a key, keeping or checking it.
"""

from __future__ import annotations

import libipld
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_SECP256K1_PUBLIC = bytes([0xE7, 0x01])
"""Multicodec's prefix of a compressed secp256k1 public key (did:key method, section 2)."""


def did_key(private_hex: str) -> str:
    """Return the did:key of a secp256k1 private key. Raises ValueError if the scalar is not in 1 to n - 1."""
    public = ec.derive_private_key(int(private_hex, 16), ec.SECP256K1()).public_key()
    compressed = public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return "did:key:" + str(libipld.encode_multibase("z", _SECP256K1_PUBLIC + compressed))
