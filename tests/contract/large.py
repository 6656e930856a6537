"""Accounts with realistically many records, written below the XRPC layer in time linear in their number.

Owns: records of several collections, the tree above them (MST), a commit signed with the account's key, and its rows in
the account's, the accounts' and the sequencer's databases. Does not own: the server, which must not run on the data
meanwhile.
"""

from __future__ import annotations

import hashlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import libipld
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from cli.snapshot.verify import repo_path

_BATCH = 50_000
_FIRST = datetime(2023, 4, 1, tzinfo=UTC)
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141  # of secp256k1
_SORTABLE = "234567abcdefghijklmnopqrstuvwxyz"
_TRIPLES = ["".join(letters) for letters in itertools.product(_SORTABLE, repeat=3)]
RECORD, RAW = 0x71, 0x55
"""Codecs: that of a record as the server writes it, and another one."""


class Leaf(NamedTuple):
    """One record of a tree: its path, its CID as bytes, and the revision that wrote it."""

    path: bytes
    cid: bytes
    rev: str


@dataclass
class _Layer:
    """The unfinished node of one layer of a tree."""

    left: bytes | None = None
    entries: list[dict[str, Any]] = field(default_factory=list)
    last: bytes = b""
    rev: str = ""

    def below(self, cid: bytes | None, rev: str) -> None:
        """Append a subtree."""
        if cid is None:
            return
        self.rev = max(self.rev, rev)
        if self.entries:
            self.entries[-1]["t"] = cid
        else:
            self.left = cid

    def leaf(self, leaf: Leaf) -> None:
        """Append a record."""
        shared = 0
        for one, other in zip(self.last, leaf.path, strict=False):
            if one != other:
                break
            shared += 1
        self.entries.append({"p": shared, "k": leaf.path[shared:], "v": leaf.cid, "t": None})
        self.last, self.rev = leaf.path, max(self.rev, leaf.rev)


def layer_of(key: bytes) -> int:
    """Number of leading pairs of zero bits of a key's hash, counted in hex digits, unlike in the verifiers."""
    digits = hashlib.sha256(key).hexdigest()
    rest = digits.lstrip("0")
    return 2 * (len(digits) - len(rest)) + (rest[0] in "123")


def nodes(leaves: Iterable[Leaf]) -> Iterator[tuple[bytes, bytes, str]]:
    """The nodes of the tree (CID, content, revision) of `leaves`, which are in the order of their paths. The last one
    is the root. Memory holds one node of each layer."""
    layers = [_Layer()]
    none: tuple[bytes | None, str] = (None, "")

    def closed(upto: int) -> Iterator[tuple[bytes, bytes, str]]:
        """Finish the nodes of the layers below `upto`, and attach the highest one to the existing tree."""
        subtree = none
        for number in range(upto):
            layer = layers[number]
            layer.below(*subtree)
            if layer.entries or layer.left:
                content = libipld.encode_dag_cbor({"l": layer.left, "e": layer.entries})
                subtree = (cid_of_block(content), layer.rev)
                yield (cid_of_block(content), content, layer.rev)
                layers[number] = _Layer()
            else:
                subtree = none
        if upto < len(layers):
            layers[upto].below(*subtree)

    for leaf in leaves:
        height = layer_of(leaf.path)
        while len(layers) <= height:
            # The highest node becomes a child of the higher one, through empty nodes if there are layers in between.
            layers.append(_Layer())
        yield from closed(height)
        layers[height].leaf(leaf)
    highest = max((number for number, layer in enumerate(layers) if layer.entries), default=0)
    if layers[highest].entries:
        yield from closed(highest + 1)
    else:
        content = libipld.encode_dag_cbor({"l": None, "e": []})
        yield cid_of_block(content), content, ""


def tid(microseconds: int) -> str:
    """A record key that sorts by time (https://atproto.com/specs/tid)."""
    number = microseconds << 10
    return _SORTABLE[number >> 60] + "".join([_TRIPLES[number >> shift & 0x7FFF] for shift in (45, 30, 15, 0)])


def realistic(did: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and value of `count` records: likes, follows, posts, and keys that share prefixes with others."""
    for number in range(count):
        moment = int(_FIRST.timestamp() * 1_000_000) + number * 61_000_003
        key, when = tid(moment), datetime.fromtimestamp(moment / 1e6, UTC).isoformat(timespec="milliseconds")
        created = {"createdAt": when.replace("+00:00", "Z")}
        other = f"did:plc:{hashlib.sha256(b'%d' % number).hexdigest()[:24].translate(_PLC)}"
        kind = number % 20
        if kind < 12:
            subject = {"uri": f"at://{other}/app.bsky.feed.post/{key}", "cid": _SOME}
            yield f"app.bsky.feed.like/{key}", {"$type": "app.bsky.feed.like", "subject": subject} | created
        elif kind < 16:
            yield f"app.bsky.graph.follow/{key}", {"$type": "app.bsky.graph.follow", "subject": other} | created
        elif kind < 19:
            text = f"post {number}: " + "what was said " * (number % 17)
            yield f"app.bsky.feed.post/{key}", {"$type": "app.bsky.feed.post", "text": text, "langs": ["en"]} | created
        else:
            # Sorted by two columns, these have another order than by their whole paths.
            collection = ("at.noted.try", "at.noted.try.blob", "at.noted.try-on.blob")[number // 20 % 3]
            rkey = (key, f"{key}-1", f"{key}.1", f"{key}:1", f"{key}~1", f"{key}_1")[number // 60 % 6]
            yield f"{collection}/{rkey}", {"$type": collection, "number": number} | created


_PLC = str.maketrans("0189", "ghij")
_SOME = "bafyreihltcnuuyqp2jm24aqydpnlj7b6w3ogwrplomrjtg5rifv44mmjey"


def enlarge(data: Path, did: str, records: Iterable[tuple[str, dict[str, Any]]], codec: int = RECORD) -> str:
    """Add `records` to the account `did` of the server's `data` at rest; return the new revision.

    Existing records stay. The keys of `records` must be new.
    """
    folder = data / repo_path(did)
    now = datetime.now(UTC)
    rev = tid(int(now.timestamp() * 1_000_000))
    with closing(_opened(folder / "store.sqlite")) as db:
        indexes = _without_indexes(db)
        db.execute("delete from repo_block where cid not in (select cid from record)")
        leaves = [
            Leaf(f"{collection}/{rkey}".encode(), bytes_of(cid), written)
            for collection, rkey, cid, written in db.execute("select collection, rkey, cid, repoRev from record")
        ]
        for batch in _batches(records):
            leaves += _insert(db, did, batch, codec, now.isoformat(timespec="milliseconds"))
        leaves.sort()
        commit = _commit(db, did, _tree(db, leaves, rev), rev, folder / "key")
        for _, statement in indexes:
            db.execute(statement)
        db.commit()
        db.execute("pragma journal_mode = wal")
    _tell(data, did, rev, commit)
    return rev


def graft(store: Path, did: str, blocks: Mapping[bytes, bytes], root: bytes) -> None:
    """Give the account a tree of any `blocks` (content by CID) below the node `root`, in a commit that is in order."""
    with closing(sqlite3.connect(store)) as db:
        (rev,) = db.execute("select rev from repo_root").fetchone()
        rows = [(libipld.encode_cid(cid), rev, len(content), content) for cid, content in blocks.items()]
        db.executemany("insert or replace into repo_block values (?, ?, ?, ?)", rows)
        _commit(db, did, root, rev, store.with_name("key"))
        db.commit()


def cid_of_block(content: bytes, codec: int = RECORD) -> bytes:
    """A block's CID as bytes."""
    return bytes((1, codec, 0x12, 0x20)) + hashlib.sha256(content).digest()


def car(root: bytes, blocks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """An exported repository."""
    header = libipld.encode_dag_cbor({"roots": [root], "version": 1})
    sections = [header, *(cid + content for cid, content in blocks)]
    return b"".join(_varint(len(section)) + section for section in sections)


def _opened(store: Path) -> sqlite3.Connection:
    """Fast, and not safe from a crash: the test would be repeated."""
    db = sqlite3.connect(store)
    db.execute("pragma journal_mode = off")
    db.execute("pragma synchronous = off")
    db.execute("pragma cache_size = -500000")
    return db


def _insert(
    db: sqlite3.Connection, did: str, batch: Iterable[tuple[str, dict[str, Any]]], codec: int, now: str
) -> list[Leaf]:
    leaves, blocks, rows, links = [], [], [], []
    for path, value in batch:
        collection, _, rkey = path.partition("/")
        content = libipld.encode_dag_cbor(value)
        cid = cid_of_block(content, codec)
        text, uri = libipld.encode_cid(cid), f"at://{did}/{path}"
        rev = rkey[:13] if len(rkey) >= 13 else tid(0)
        leaves.append(Leaf(path.encode(), cid, rev))
        blocks.append((text, rev, len(content), content))
        rows.append((uri, text, collection, rkey, rev, now))
        subject = value.get("subject")
        if isinstance(subject, str):
            links.append((uri, "subject", subject))
        elif isinstance(subject, Mapping):
            links.append((uri, "subject.uri", subject["uri"]))
    db.executemany("insert or ignore into repo_block values (?, ?, ?, ?)", sorted(blocks))
    db.executemany("insert into record values (?, ?, ?, ?, ?, ?, null)", rows)
    db.executemany("insert into backlink (uri, path, linkTo) values (?, ?, ?)", links)
    return leaves


def _tree(db: sqlite3.Connection, leaves: Iterable[Leaf], rev: str) -> bytes:
    """Write the tree's nodes; return the root's CID."""
    root = b""
    for found in _batches(nodes(leaves)):
        rows = [(libipld.encode_cid(cid), at or rev, len(content), content) for cid, content, at in found]
        db.executemany("insert or ignore into repo_block values (?, ?, ?, ?)", sorted(rows))
        root = found[-1][0]
    return root


def _without_indexes(db: sqlite3.Connection) -> list[tuple[str, str]]:
    """Drop the indexes during the writes; return the statements that create them."""
    found = db.execute("select name, sql from sqlite_master where type = 'index' and sql is not null").fetchall()
    for name, _ in found:
        db.execute(f"drop index {name}")
    return found


def _commit(db: sqlite3.Connection, did: str, root: bytes, rev: str, key: Path) -> bytes:
    """Write the commit of the tree below `root`, signed with the lower of both possible halves, as the protocol wants
    it; its block."""
    commit = {"did": did, "version": 3, "data": root, "rev": rev, "prev": None}
    private = ec.derive_private_key(int.from_bytes(key.read_bytes(), "big"), ec.SECP256K1())
    r, s = decode_dss_signature(private.sign(libipld.encode_dag_cbor(commit), ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(32, "big") + min(s, _ORDER - s).to_bytes(32, "big")
    content = bytes(libipld.encode_dag_cbor(commit | {"sig": signature}))
    top = libipld.encode_cid(cid_of_block(content))
    db.execute("insert into repo_block values (?, ?, ?, ?)", (top, rev, len(content), content))
    db.execute("update repo_root set cid = ?, rev = ?", (top, rev))
    return content


def _tell(data: Path, did: str, rev: str, commit: bytes) -> None:
    """Write the rows of a commit outside of the repository: its root, and an event without operations."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    cid = cid_of_block(commit)
    with closing(sqlite3.connect(data / "account.sqlite")) as db:
        row = (libipld.encode_cid(cid), rev, now, did)
        db.execute("update repo_root set cid = ?, rev = ?, indexedAt = ? where did = ?", row)
        db.commit()
    event = libipld.encode_dag_cbor({"did": did, "rev": rev, "blocks": car(cid, [(cid, commit)])})
    with closing(sqlite3.connect(data / "sequencer.sqlite")) as db:
        db.execute(
            "insert into repo_seq (did, eventType, event, invalidated, sequencedAt) values (?, 'sync', ?, 0, ?)",
            (did, event, now),
        )
        db.commit()


def _varint(number: int) -> bytes:
    rest = number >> 7
    return bytes([number & 127 | 128]) + _varint(rest) if rest else bytes([number])


def _batches(items: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    iterator = iter(items)
    while batch := tuple(itertools.islice(iterator, _BATCH)):
        yield batch


def bytes_of(cid: str) -> bytes:
    """A CID's bytes by its text."""
    named = libipld.decode_cid(cid)
    return bytes((1, named["codec"], 0x12, 0x20)) + bytes(named["hash"]["digest"])
