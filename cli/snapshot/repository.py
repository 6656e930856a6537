"""One member's repository, read from the server's database by libraries that are not the server's.

Owns: the format of atproto repositories (https://atproto.com/specs/repository): content-addressed blocks, the tree of
records (MST), the signed commit on top. Does not own: which repositories there have to be, or the source of a key.
"""

import hashlib
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libipld
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

_SHA2_256 = 0x12  # multicodec's number of the hash
_DAG_CBOR = 0x71  # and of the format of records
_PATH = re.compile(rb"[\w~.:-]+/[\w~.:-]+")  # the specification's repo paths, and the server's own check
# Damaged data may be neither text nor bytes.
_BLOCKS = "select cast(cid as blob), cast(ifnull(content, '') as blob) from repo_block"
# By the index of URIs, whose order is that of the tree's keys and needs no sorting; that of two columns is another:
# "app.bsky.feed-x" is before "app.bsky.feed/".
_LISTED = """
    select cast(ifnull(record.uri, '') as blob), cast(record.cid as blob), cast(collection || '/' || rkey as blob),
        repo_block.cid is not null
    from record left join repo_block on repo_block.cid = record.cid order by record.uri"""


@dataclass(frozen=True, kw_only=True)
class RepositoryFault:
    """A fault of a repository, in the terms of `repository.cjs`.

    `kind` is "block" (`cid`) for one whose hash does not match its name, "signature" if the newest commit is another
    account's or key's, "record" for a record (path) without its block, "index" for one that differs in the table
    (`lost` if the table lacks it), "tree" for any other broken link; after a `fatal` one there is no tree.
    """

    kind: str
    text: str
    record: str = ""
    cid: str = ""
    lost: bool = False
    fatal: bool = False


class RepositoryStore:
    """A member's database, opened so that no file is ever written beside it; a context manager through `closing`."""

    def __init__(self, path: Path, did: str) -> None:
        self.did = did
        self._db = open_unchanged(path)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def root(self) -> tuple[str, str]:
        """Return CID and revision of the newest commit. Raises LookupError if there is none."""
        row = self._db.execute("select cid, rev from repo_root").fetchone()
        if row is None:
            raise LookupError("no repository has been made in it")
        return str(row[0]), str(row[1])

    def blobs(self) -> set[str]:
        """Return CIDs of the blobs that the server keeps; uploads without a record yet are not among them."""
        return {row[0] for row in self._db.execute('select cid from blob where "tempKey" is null')}

    def problems(self, key: bytes) -> Iterator[RepositoryFault]:
        """Return the faults of the repository, whose commits the private key `key` signs. Memory does not grow with it.

        Raises LookupError if there is none.
        """
        top, revision = self.root()
        yield from self._damaged()
        faults = list(self._commit(top, revision, key))
        yield from faults
        if any(fault.fatal for fault in faults):
            return
        try:
            commit = libipld.decode_dag_cbor(self._block(top))
            tree = _records(self._block, libipld.encode_cid(commit["data"]))
            yield from _differences(tree, self._db.execute(_LISTED), f"at://{self.did}/".encode())
        except (LookupError, ValueError, TypeError, RecursionError) as error:
            yield RepositoryFault(kind="tree", text=f"the blocks do not link up from the root: {error}")

    def _commit(self, top: str, revision: str, key: bytes) -> Iterator[RepositoryFault]:
        """A commit at another revision than its repository was imported from the account's old server, whose signature
        it has until the next write (`commitProblems` in repository.cjs)."""
        try:
            content = self._block(top)
            if not is_hash_of(top, content):
                raise ValueError(f"block {top} does not hash to its name")
            commit = libipld.decode_dag_cbor(content)
            signed = is_signed(commit, ec.derive_private_key(int.from_bytes(key, "big"), ec.SECP256K1()).public_key())
        except (LookupError, ValueError, TypeError, RecursionError) as error:
            yield RepositoryFault(kind="tree", text=f"the blocks do not link up from the root: {error}", fatal=True)
            return
        if commit["did"] != self.did:
            yield RepositoryFault(kind="signature", text=f"commit {top} is of {commit['did']}, not of {self.did}")
        if not signed and commit["rev"] == revision:
            yield RepositoryFault(kind="signature", text=f"commit {top} is not signed with the account's key")

    def records_of(self, cid: str) -> list[str]:
        """Return paths of the records that have this block."""
        query = "select collection || '/' || rkey from record where cid = ?"
        return [str(row[0]) for row in self._db.execute(query, (cid,))]

    def _block(self, cid: str) -> bytes:
        row = self._db.execute("select content from repo_block where cid = ?", (cid,)).fetchone()
        if row is None:
            raise LookupError(f"block {cid} is missing")
        return bytes(row[0])

    def _damaged(self) -> Iterator[RepositoryFault]:
        for name, content in self._db.execute(_BLOCKS):
            cid = _text(name)
            if not is_hash_of(cid, content):
                yield RepositoryFault(kind="block", cid=cid, text=f"block {cid} does not hash to its name")


def open_unchanged(path: Path) -> sqlite3.Connection:
    """Open a database without writers, without creating files beside it."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)


def integrity(path: Path) -> str:
    """Return SQLite's own verdict: "ok", or the first fault."""
    try:
        with closing(open_unchanged(path)) as db:
            verdict = str(db.execute("pragma integrity_check(1)").fetchone()[0])
            return " ".join(verdict.removeprefix("*** in database main ***").split())
    except sqlite3.DatabaseError as error:
        return str(error)


def is_hash_of(cid: str, content: bytes) -> bool:
    """Return whether `cid` names `content`: the base32 text of version 1, any codec, a SHA-256."""
    digest = hashlib.sha256(content).digest()
    if _cid(digest) == cid:  # as nearly all are
        return True
    try:
        named = libipld.decode_cid(cid)
    except ValueError:
        return False
    if named["version"] != 1 or named["hash"]["code"] != _SHA2_256 or named["hash"]["digest"] != digest:
        return False
    return _cid(digest, named["codec"]) == cid


def cid_of(content: bytes) -> str:
    """Return the base32 text of the CID of DAG-CBOR `content`: version 1, a SHA-256."""
    return _cid(hashlib.sha256(content).digest())


def _cid(digest: bytes, codec: int = _DAG_CBOR) -> str:
    return str(libipld.encode_cid(b"\x01" + _varint(codec) + b"\x12\x20" + digest))


def _varint(number: int) -> bytes:
    rest = number >> 7
    return bytes([number & 127 | 128]) + _varint(rest) if rest else bytes([number])


def _records(block: Callable[[str], bytes], top: str) -> Iterator[tuple[bytes, str]]:
    """Yield path and CID of each record in the tree below the node `top`. Raises ValueError if it is not a tree.

    It ends for any blocks: a step down is a layer down, and the keys of a subtree reached twice do not ascend.
    """
    last = b""

    def below(cid: str, node: Mapping[str, Any], layer: int) -> Iterator[tuple[bytes, str]]:
        nonlocal last
        if layer < 0:
            raise ValueError(f"node {cid} is below the lowest layer")
        if node["l"] is not None:
            yield from below(*_node(block, node["l"]), layer - 1)
        for key, value, right in _entries(cid, node):
            if key <= last:
                raise ValueError(f"node {cid} has {key.decode()} after {last.decode()}")
            if (own := _layer(key)) != layer:
                raise ValueError(f"node {cid} has {key.decode()} in layer {layer}, not {own}")
            last = key
            yield key, libipld.encode_cid(value)
            if right is not None:
                yield from below(*_node(block, right), layer - 1)
        if node["l"] is None and not node["e"]:
            raise ValueError(f"node {cid} is empty")

    cid, root = _node(block, top)
    if root["e"]:
        yield from below(cid, root, _layer(next(_entries(cid, root))[0]))
    elif root["l"] is not None:  # without both there are no records
        raise ValueError(f"node {cid} is the root and has no key")


def _node(block: Callable[[str], bytes], link: str | bytes) -> tuple[str, Any]:
    """Return its CID and its content, whose entries are not checked yet."""
    cid = libipld.encode_cid(link)
    try:
        node = libipld.decode_dag_cbor(block(cid))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"node {cid} is not a node of a tree: {error}") from error
    if not isinstance(node, dict) or node.keys() != {"l", "e"} or not isinstance(node["e"], list):
        raise ValueError(f"node {cid} is not a node of a tree: it has other fields")
    if not isinstance(node["l"], bytes | None):
        raise ValueError(f"node {cid} is not a node of a tree: its left side is not a link")
    return cid, node


def _entries(cid: str, node: Mapping[str, Any]) -> Iterator[tuple[bytes, bytes, bytes | None]]:
    """Return key, value and right side of each."""
    before = b""
    for entry in node["e"]:
        try:
            prefix, rest, value, right = entry["p"], entry["k"], entry["v"], entry.get("t")
            key = before[:prefix] + rest
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"node {cid} is not a node of a tree: it has an entry of another form") from error
        if not isinstance(value, bytes) or not isinstance(right, bytes | None):
            raise ValueError(f"node {cid} is not a node of a tree: it has an entry of another form")
        if len(key) > 1024 or not _PATH.fullmatch(key):
            raise ValueError(f"node {cid} has a key that is not a path")
        if not 0 <= prefix <= len(before) or rest[:1] == before[prefix : prefix + 1] != b"":
            raise ValueError(f"node {cid} has {key.decode()} with a wrong prefix")
        yield key, value, right
        before = key


def _layer(key: bytes) -> int:
    """Return the layer of a tree in which a key belongs: half the number of zero bits at the start of its hash."""
    return (256 - int.from_bytes(hashlib.sha256(key).digest(), "big").bit_length()) // 2


def _differences(tree: Iterable[tuple[bytes, str]], index: Iterator[Any], prefix: bytes) -> Iterator[RepositoryFault]:
    """Both are in the order of their URIs: neither is held completely."""

    def differs(path: str, here: str, there: str) -> RepositoryFault:
        text = f"record {path} is {here} in the repository and {there} in the index"
        return RepositoryFault(kind="index", record=path, lost=there == "undefined", text=text)

    def surplus(row: Any) -> RepositoryFault:
        return differs(_text(row[0].removeprefix(prefix)), "undefined", _text(row[1]))

    row = next(index, None)
    for key, cid in tree:
        uri, path = prefix + key, key.decode()
        while row is not None and row[0] < uri:
            yield surplus(row)
            row = next(index, None)
        if row is None or row[0] != uri:
            yield differs(path, cid, "undefined")
            continue
        if row[1] != cid.encode():
            yield differs(path, cid, _text(row[1]))
        elif not row[3]:
            yield RepositoryFault(kind="record", record=path, text=f"record {path} has no block {cid}")
        if row[2] != key:
            yield RepositoryFault(
                kind="index", record=path, text=f"record {path} is listed as {_text(row[2])} in the index"
            )
        row = next(index, None)
    while row is not None:
        yield surplus(row)
        row = next(index, None)


def _text(value: bytes | None) -> str:
    return "null" if value is None else value.decode(errors="replace")


def is_signed(commit: Mapping[str, Any], public: ec.EllipticCurvePublicKey) -> bool:
    """Return whether this key signed the commit. Raises KeyError, TypeError or ValueError if it is none."""
    signature = commit["sig"]
    unsigned = libipld.encode_dag_cbor({name: value for name, value in commit.items() if name != "sig"})
    whole = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    try:
        public.verify(whole, unsigned, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
