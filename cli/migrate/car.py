"""CAR files, as servers export repositories (https://ipld.io/specs/transport/car/carv1, atproto.com/specs/repository).

Owns: reading one in constant memory, with the hash of each block. Does not own: the tree in it, which the server that
imports it checks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import libipld

from cli.snapshot.repository import is_hash_of
from components.clients.errors import ServiceError

_LONGEST = 8 * 1024 * 1024
"""Bytes of a block. A record has at most 1 MiB (atproto.com/specs/data-model)."""
_CID = 36
"""Bytes of a CID of version 1 with a SHA-256."""


class CarError(ServiceError):
    """The file is no whole export of the account's repository."""


@dataclass(frozen=True)
class Exported:
    """A repository in a file: its owner, its revision, the CID of the root of its tree of records, and its blocks."""

    did: str
    rev: str
    data: str
    blocks: int
    size: int


def read_export(path: Path, did: str) -> Exported:
    """Read an export of the account `did` and check each block. Raises CarError."""
    with path.open("rb") as file:
        try:
            root = _root(file)
            commit, count = None, 0
            for cid, content in blocks(file):
                if not is_hash_of(cid, content):
                    raise CarError(f"block {cid} does not hash to its name")
                count += 1
                if cid == root:
                    commit = content
            if commit is None:
                raise CarError(f"the commit {root} is missing")
            fields = libipld.decode_dag_cbor(commit)
            owner, rev, data = str(fields["did"]), str(fields["rev"]), libipld.encode_cid(fields["data"])
        except CarError as error:
            raise CarError(f"The exported repository is damaged: {error}. Run the command again.") from None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise CarError(f"The export is not a repository ({error}). Run the command again.") from None
        if owner != did:
            raise CarError(f"The export is the repository of {owner}, not of {did}. Nothing was imported.")
        return Exported(did, rev, str(data), count, file.tell())


def commit_of(content: bytes, cid: str) -> tuple[str, str]:
    """Return the root of the tree that the commit `cid` names, and its revision; `content` is the commit. Raises
    ValueError."""
    if not is_hash_of(cid, content):
        raise ValueError(f"block {cid} does not hash to its name")
    fields = libipld.decode_dag_cbor(content)
    return str(libipld.encode_cid(fields["data"])), str(fields["rev"])


def blocks(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Return the CID and content of each block that follows the header. Raises CarError, ValueError."""
    while section := _section(file):
        yield libipld.encode_cid(section[:_CID]), section[_CID:]


def header(file: IO[bytes]) -> dict[str, Any]:
    """Read the header. Raises CarError, ValueError."""
    fields = libipld.decode_dag_cbor(_section(file) or b"")
    if not isinstance(fields, dict):
        raise CarError("it has no header")
    return fields


def _root(file: IO[bytes]) -> str:
    roots = header(file).get("roots")
    if not isinstance(roots, list) or len(roots) != 1:
        raise CarError("it does not have one root")
    return str(libipld.encode_cid(roots[0]))


def _section(file: IO[bytes]) -> bytes | None:
    """Return the next section; None at the end. Raises CarError if the file ends within one."""
    length = shift = 0
    while byte := file.read(1):
        length |= (byte[0] & 127) << shift
        shift += 7
        if not byte[0] & 128:
            break
        if shift > 28:
            raise CarError("a block has no length")
    else:
        if shift:
            raise CarError("it ends within a block")
        return None
    if not 0 < length <= _LONGEST:
        raise CarError(f"a block has {length:,} bytes")
    content = file.read(length)
    if len(content) < length:
        raise CarError("it ends within a block")
    return content
