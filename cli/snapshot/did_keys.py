"""The public names (did:key) of keys.

Owns: private secp256k1 scalar in hex to did:key text, and that text to a public key. Does not own: the source of a key,
keeping or checking it.
"""

from __future__ import annotations

import libipld
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_SECP256K1_PUBLIC = bytes([0xE7, 0x01])
"""Multicodec's prefix of a compressed secp256k1 public key (did:key method, section 2)."""
_P256_PUBLIC = bytes([0x80, 0x24])
_CURVES: dict[bytes, ec.EllipticCurve] = {_SECP256K1_PUBLIC: ec.SECP256K1(), _P256_PUBLIC: ec.SECP256R1()}
"""The curves of the AT Protocol (atproto.com/specs/cryptography)."""


def did_key(private_hex: str) -> str:
    """Return the did:key of a secp256k1 private key. Raises ValueError if the scalar is not in 1 to n - 1."""
    public = ec.derive_private_key(int(private_hex, 16), ec.SECP256K1()).public_key()
    compressed = public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return "did:key:" + str(libipld.encode_multibase("z", _SECP256K1_PUBLIC + compressed))


def public_key(name: str) -> ec.EllipticCurvePublicKey:
    """Return the key of a did:key. Raises ValueError if it is of neither of the protocol's curves."""
    prefix = "did:key:"
    if not name.startswith(prefix):
        raise ValueError(f"{name} is not a did:key")
    encoded = libipld.decode_multibase(name.removeprefix(prefix))[1]
    curve = _CURVES.get(encoded[:2])
    if curve is None:
        raise ValueError(f"{name} is a key of another curve than the protocol's")
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, encoded[2:])
