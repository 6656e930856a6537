"""One member's repository, read out of the server's database by libraries that are not the server's.

Owns: the format of atproto repositories (https://atproto.com/specs/repository): content-addressed blocks, the tree of
records (MST), the signed commit on top. Does not own: which repositories there have to be, or where a key comes from.
"""

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import libipld
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

_SHA2_256 = 0x12  # multicodec's number of the hash


class Store:
    """A member's database, opened so that nothing is ever written beside it; a context manager through `closing`."""

    def __init__(self, path: Path, did: str) -> None:
        self.did = did
        self._db = open_unchanged(path)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def root(self) -> tuple[str, str]:
        """CID and revision of the newest commit. Raises LookupError when there is none."""
        found = self._db.execute("select cid, rev from repo_root").fetchone()
        if found is None:
            raise LookupError("no repository has been made in it")
        return str(found[0]), str(found[1])

    def blobs(self) -> set[str]:
        """CIDs of the blobs that the server says it keeps; uploads without a record yet are not among them."""
        return {row[0] for row in self._db.execute('select cid from blob where "tempKey" is null')}

    def problems(self, key: bytes) -> Iterator[str]:
        """What is wrong with the repository, whose commits the private key `key` signs."""
        blocks = dict(self._db.execute("select cid, content from repo_block"))
        for cid, content in blocks.items():
            if not is_hash_of(cid, content):
                yield f"block {cid} does not hash to its name"
        try:
            top, revision = self.root()
            commit = _decoded(blocks, top)
            if commit["rev"] != revision or commit["did"] != self.did:
                yield f"commit {top} is of {commit['did']} at {commit['rev']}, not of {self.did} at {revision}"
            if not _is_signed(commit, key):
                yield f"commit {top} is not signed with the account's key"
            tree = dict(_records(blocks, libipld.encode_cid(commit["data"])))
        except (LookupError, ValueError, TypeError) as error:
            yield f"the blocks do not link up from the root: {error}"
            return
        index = {
            f"{collection}/{rkey}": cid
            for collection, rkey, cid in self._db.execute("select collection, rkey, cid from record")
        }
        for path in sorted(tree.keys() | index.keys()):
            if tree.get(path) != index.get(path):
                yield f"record {path} is {tree.get(path)} in the repository and {index.get(path)} in the index"
            elif tree[path] not in blocks:
                yield f"record {path} has no block {tree[path]}"


def open_unchanged(path: Path) -> sqlite3.Connection:
    """A database that nobody writes to, opened without making files beside it."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)


def integrity(path: Path) -> str:
    """SQLite's own verdict: "ok", or the first thing that is wrong."""
    try:
        with closing(open_unchanged(path)) as db:
            return str(db.execute("pragma integrity_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        return str(error)


def is_hash_of(cid: str, content: bytes) -> bool:
    """Whether `content` is what `cid` names."""
    try:
        named = libipld.decode_cid(cid)["hash"]
    except ValueError:
        return False
    return bool(named["code"] == _SHA2_256 and named["digest"] == hashlib.sha256(content).digest())


def _decoded(blocks: Mapping[str, bytes], cid: str) -> Any:
    if cid not in blocks:
        raise LookupError(f"block {cid} is missing")
    return libipld.decode_dag_cbor(blocks[cid])


def _records(blocks: Mapping[str, bytes], cid: str) -> Iterator[tuple[str, str]]:
    """Path and CID of each record below the tree's node `cid`, in order."""
    node = _decoded(blocks, cid)
    if node["l"] is not None:
        yield from _records(blocks, libipld.encode_cid(node["l"]))
    before = b""
    for entry in node["e"]:
        before = before[: entry["p"]] + entry["k"]
        yield before.decode(), libipld.encode_cid(entry["v"])
        if entry["t"] is not None:
            yield from _records(blocks, libipld.encode_cid(entry["t"]))


def _is_signed(commit: Mapping[str, Any], key: bytes) -> bool:
    signature = commit["sig"]
    unsigned = libipld.encode_dag_cbor({name: value for name, value in commit.items() if name != "sig"})
    whole = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    public = ec.derive_private_key(int.from_bytes(key, "big"), ec.SECP256K1()).public_key()
    try:
        public.verify(whole, unsigned, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
