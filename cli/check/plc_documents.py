"""The PLC directory's data of an account, compared with the data that an account of ours has to have.

Owns: the comparison, and the request to the directory. Does not own: which accounts exist.
"""

from __future__ import annotations

from typing import Any

import httpx

from cli.snapshot.did_keys import did_key


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
