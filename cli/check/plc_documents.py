"""The PLC directory's data of an account, compared with the data that an account of ours has to have.

Owns: the comparison, and the request to the directory. Does not own: which accounts exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import httpx
import libipld

from cli.snapshot.did_keys import did_key, public_key
from cli.snapshot.repository import is_signed

_GUIDE = "docs/guide/members.md#another-signing-key"


def directory_data(plc_url: str, did: str) -> dict[str, Any]:
    """Return the directory's present data of `did`. Raises httpx.HTTPError."""
    answer = httpx.get(f"{plc_url}/{did}/data", timeout=10.0, trust_env=False)
    answer.raise_for_status()
    data: dict[str, Any] = answer.json()
    return data


def wrong_in(data: dict[str, Any], *, handle: str, hostname: str, rotation_key_hex: str) -> str | None:
    """Return the fault in the directory's data of one of our accounts, or None."""
    ours = did_key(rotation_key_hex)
    if ours not in data["rotationKeys"]:
        return f"our rotation key {ours} is not among {data['rotationKeys']}"
    if f"at://{handle}" not in data["alsoKnownAs"]:
        return f"the document names {data['alsoKnownAs']}, not at://{handle}"
    endpoint = data["services"].get("atproto_pds", {}).get("endpoint")
    if endpoint != f"https://{hostname}":
        return f"the document points at {endpoint}, not at https://{hostname}"
    return None


def missing_keys(data: Mapping[str, Any], wanted: Iterable[str | None]) -> list[str]:
    """Return the recovery keys among `wanted` that the directory's data lack."""
    return [key for key in wanted if key and key not in data["rotationKeys"]]


def signature_fault(data: Mapping[str, Any], did: str, car: bytes, revision: Callable[[], str]) -> str | None:
    """Return why relays drop what an account of ours writes, or None.

    `car` has the newest commit of its repository as its root, and `revision` returns the repository's. A commit at
    another revision was imported from the account's old server, and proves nothing (`commitProblems` in
    repository.cjs).
    """
    key = data["verificationMethods"].get("atproto")
    if key is None:
        return "the document names no signing key, so relays drop what the account writes"
    try:
        named = public_key(key)
    except ValueError as error:
        return f"the document names a signing key that relays cannot use ({error}). See {_GUIDE}"
    header, blocks = libipld.decode_car(car)
    commit = blocks[header["roots"][0]]
    if commit["did"] != did:
        return f"its repository is of {commit['did']}"
    if is_signed(commit, named) or commit["rev"] != revision():
        return None
    return (
        f"the document names the key {key}, which did not sign the newest commit here, so relays drop what the account "
        f"writes. See {_GUIDE}"
    )
