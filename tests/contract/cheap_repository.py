"""An empty restic repository whose password costs next to nothing to check.

restic derives the key of a repository from its password with scrypt, whose cost it calibrates to the machine when it
makes the repository. Each of its commands derives the key again, and a backup is seven commands. Here restic itself
makes a repository, and its key file is encrypted again with the least cost that scrypt has. restic reads the cost in
that file, so that it opens the repository as any other (https://restic.readthedocs.io/en/stable/100_references.html,
"Keys, Encryption and MAC").
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

PASSWORD = "a password for the tests"
_CHEAPEST = {"N": 2, "r": 1, "p": 1}


def cheap_repository(folder: Path) -> Mapping[str, bytes]:
    """Make a repository in `folder` and return its files, by their paths in a repository's place."""
    env = {"PATH": os.environ["PATH"], "RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": str(folder)}
    subprocess.run(["restic", "--no-cache", "init", "--quiet"], env=env, check=True, timeout=600)
    [key] = (folder / "keys").iterdir()
    content = json.dumps(_at_cost(json.loads(key.read_bytes()), **_CHEAPEST)).encode()
    return {
        "config": (folder / "config").read_bytes(),
        f"keys/{hashlib.sha256(content).hexdigest()}": content,
    }


def _at_cost(key: Mapping[str, Any], **cost: int) -> dict[str, Any]:
    """Return the content of a key file, encrypted again under a key that is derived at another cost."""
    sealed, salt = base64.b64decode(key["data"]), base64.b64decode(key["salt"])
    nonce, encrypted, tag = sealed[:16], sealed[16:-16], sealed[-16:]
    before, after = (_derived(salt, **costs) for costs in ({name: key[name] for name in cost}, cost))
    assert _tag(before, nonce, encrypted) == tag, "the format of restic's key files has changed"
    nonce, plain = secrets.token_bytes(16), _counter(before, nonce, encrypted)
    encrypted = _counter(after, nonce, plain)
    data = nonce + encrypted + _tag(after, nonce, encrypted)
    return {**key, **cost, "data": base64.b64encode(data).decode()}


def _derived(salt: bytes, *, N: int, r: int, p: int) -> bytes:  # noqa: N803 - scrypt's names
    """32 bytes for AES-256, then the two halves of the key of Poly1305-AES."""
    return hashlib.scrypt(PASSWORD.encode(), salt=salt, n=N, r=r, p=p, maxmem=2**30, dklen=64)


def _counter(key: bytes, nonce: bytes, text: bytes) -> bytes:
    """AES-256-CTR, which encrypts and decrypts alike."""
    stream = Cipher(algorithms.AES(key[:32]), modes.CTR(nonce)).encryptor()
    return stream.update(text) + stream.finalize()


def _tag(key: bytes, nonce: bytes, encrypted: bytes) -> bytes:
    """Poly1305-AES of the encrypted text."""
    block = Cipher(algorithms.AES(key[32:48]), modes.ECB()).encryptor()  # noqa: S305 - one block, as Poly1305-AES has it
    return Poly1305.generate_tag(key[48:] + block.update(nonce), encrypted)
