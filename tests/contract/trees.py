"""One member's repository with a fault in it, and the errors of both verifiers.

Owns: the faults, in the tree and around it. Does not own: running the verifiers.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libipld

from cli.snapshot.verify import repo_path
from tests.contract.large import RAW, bytes_of, cid_of_block, enlarge, graft, layer_of

_WIDE = 50_000


@dataclass(frozen=True, kw_only=True)
class Account:
    """A copy of one member's files for a fault."""

    did: str
    data: Path
    """A data directory with only this account."""

    @property
    def folder(self) -> Path:
        """The folder of its files."""
        return self.data / repo_path(self.did)

    @property
    def store(self) -> Path:
        """Its database."""
        return self.folder / "store.sqlite"

    def copy(self, data: Path) -> Account:
        """A copy in another folder."""
        shutil.copytree(self.data, data)
        return Account(did=self.did, data=data)

    def write(self, statement: str, *values: Any) -> None:
        """Change the database directly."""
        with closing(sqlite3.connect(self.store)) as db:
            assert db.execute(statement, values).rowcount != 0, "the fault has something to be in"
            db.commit()

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Query the database."""
        with closing(sqlite3.connect(self.store)) as db:
            return db.execute(query, values).fetchall()

    def root(self) -> str:
        """The root of its tree."""
        (content,) = self.rows("select content from repo_block join repo_root using (cid)")[0]
        return str(libipld.encode_cid(libipld.decode_dag_cbor(content)["data"]))

    def graft(self, *made: Mapping[str, Any] | bytes) -> list[str]:
        """Replace the tree by these nodes, of which the last is the root; return their CIDs."""
        contents = [node if isinstance(node, bytes) else libipld.encode_dag_cbor(node) for node in made]
        cids = [cid_of_block(content) for content in contents]
        graft(self.store, self.did, dict(zip(cids, contents, strict=True)), cids[-1])
        return [libipld.encode_cid(cid) for cid in cids]


def _keys(layer: int) -> Iterator[bytes]:
    """Keys of one layer, in order."""
    names = (b"at.noted.try/%08d" % number for number in range(10_000_000))
    return (name for name in names if layer_of(name) == layer)


def _node(*keys: bytes, left: bytes | None = None, right: bytes | None = None) -> dict[str, Any]:
    """A node of these keys, without shared prefixes if they have none, with a subtree at each end."""
    entries: list[dict[str, Any]] = []
    before = b""
    for key in keys:
        shared = next((n for n, (a, b) in enumerate(zip(before, key, strict=False)) if a != b), len(before))
        entries.append({"p": shared, "k": key[shared:], "v": _VALUE, "t": None})
        before = key
    if entries:
        entries[-1]["t"] = right
    return {"l": left, "e": entries}


_VALUE = cid_of_block(b"\xa0")
_LOW, _HIGH = list(zip(_keys(0), range(40), strict=False)), list(zip(_keys(1), range(9), strict=False))
_FIRST, _SECOND, _THIRD = (key for key, _ in _LOW[:3])
_ABOVE = next(key for key, _ in _HIGH if key > _SECOND)
_SPECIAL = b"at.noted.try/!"
_IMPORTED = "3zzzzzzzzzz22"  # a revision that no commit has


def _cid(node: Mapping[str, Any]) -> bytes:
    return cid_of_block(libipld.encode_dag_cbor(node))


def _loop(account: Account) -> str:
    """A node that contains itself can exist only if a block does not match its CID."""
    cid = account.root()
    node = {"l": bytes_of(cid), "e": []}
    account.write("update repo_block set content = ? where cid = ?", libipld.encode_dag_cbor(node), cid)
    return f"block {cid} does not hash to its name\nnode {cid} is the root and has no key"


def _deep_loop(account: Account) -> str:
    below, _ = account.graft({"l": None, "e": []}, _node(_ABOVE, left=_cid({"l": None, "e": []})))
    node = libipld.encode_dag_cbor({"l": bytes_of(below), "e": []})
    account.write("update repo_block set content = ? where cid = ?", node, below)
    return f"block {below} does not hash to its name\nnode {below} is below the lowest layer"


def _twice(account: Account) -> str:
    below = _node(_FIRST)
    cids = account.graft(below, _node(_ABOVE, left=_cid(below), right=_cid(below)))
    return f"node {cids[0]} has {_FIRST.decode()} after {_ABOVE.decode()}"


def _descending(account: Account) -> str:
    cids = account.graft(_node(_SECOND, _FIRST))
    return f"node {cids[0]} has {_FIRST.decode()} after {_SECOND.decode()}"


def _wrong_layer(account: Account) -> str:
    cids = account.graft(_node(_FIRST, _ABOVE))
    return f"node {cids[0]} has {_ABOVE.decode()} in layer 0, not 1"


def _no_prefix(account: Account) -> str:
    node = _node(_FIRST, _SECOND)
    node["e"][1] |= {"p": 3, "k": _SECOND[3:]}
    return f"node {account.graft(node)[0]} has {_SECOND.decode()} with a wrong prefix"


def _long_prefix(account: Account) -> str:
    node = _node(_FIRST)
    node["e"][0] |= {"p": 3}
    return f"node {account.graft(node)[0]} has {_FIRST.decode()} with a wrong prefix"


def _empty(account: Account) -> str:
    below: dict[str, Any] = {"l": None, "e": []}
    return f"node {account.graft(below, _node(_ABOVE, left=_cid(below)))[0]} is empty"


def _bare_root(account: Account) -> str:
    below = _node(_FIRST)
    return f"node {account.graft(below, {'l': _cid(below), 'e': []})[1]} is the root and has no key"


def _bad_key(account: Account) -> str:
    return f"node {account.graft(_node(_SPECIAL))[0]} has a key that is not a path"


def _missing_node(account: Account) -> str:
    account.graft(_node(_ABOVE, left=_VALUE))
    return f"block {libipld.encode_cid(_VALUE)} is missing"


def _a_record(account: Account) -> str:
    (cid,) = account.rows("select cid from record")[0]
    account.graft(_node(_ABOVE, left=bytes_of(cid)))
    return f"node {cid} is not a node of a tree"


def _nested(account: Account) -> str:
    """Nested so deeply that a recursive reader fails."""
    deep = b"\xa2" + b"\x61e" + b"\x81" + b"\x81" * 200_000 + b"\xf6" + b"\x61l" + b"\xf6"
    return f"node {account.graft(deep)[0]} is not a node of a tree"


def _endless(account: Account) -> str:
    """A header that announces a list of 2^60 entries."""
    head = b"\xa2" + b"\x61e" + b"\x9b\x10" + bytes(7) + b"\x61l" + b"\xf6"
    return f"node {account.graft(head)[0]} is not a node of a tree"


def _unlike(account: Account) -> str:
    node = _node(_FIRST)
    node["e"][0]["v"] = "text"
    return f"node {account.graft(node)[0]} is not a node of a tree: it has an entry of another form"


def _endless_commit(account: Account) -> str:
    """A header that announces a list of 33 million entries instead of a commit."""
    (cid,) = account.rows("select cid from repo_root")[0]
    account.write("update repo_block set content = x'9a01ffffff' where cid = ?", cid)
    return f"block {cid} does not hash to its name\n\n"


STRUCTURE: dict[str, Callable[[Account], str]] = {
    "a loop": _loop,
    "a loop without keys": _deep_loop,
    "a subtree that is reached twice": _twice,
    "keys that descend": _descending,
    "a key of another layer": _wrong_layer,
    "a prefix that is too short": _no_prefix,
    "a prefix of nothing": _long_prefix,
    "an empty node": _empty,
    "a root without a key": _bare_root,
    "a key that is not a path": _bad_key,
    "a node that is missing": _missing_node,
    "a record for a node": _a_record,
    "lists in lists": _nested,
    "a list without an end": _endless,
    "a value that is not a link": _unlike,
    "a list without an end for a commit": _endless_commit,
}
"""Faults that end the reading of a tree, with the error of both verifiers."""


def _first(account: Account) -> tuple[str, str, str]:
    (row,) = account.rows("select uri, collection || '/' || rkey, cid from record order by uri limit 1")
    return row  # type: ignore[no-any-return]


def _moved_row(account: Account) -> list[str]:
    uri, path, _ = _first(account)
    account.write("update record set rkey = 'other' where uri = ?", uri)
    return [f"record {path} is listed as {path.split('/')[0]}/other in the index"]


def _lost_row(account: Account) -> list[str]:
    uri, path, cid = _first(account)
    account.write("delete from record where uri = ?", uri)
    return [f"record {path} is {cid} in the repository and undefined in the index"]


def _more_row(account: Account) -> list[str]:
    cid, path = _first(account)[2], "zz.last/key"
    account.write("insert into record values (?, ?, 'zz.last', 'key', '', '', null)", f"at://{account.did}/{path}", cid)
    return [f"record {path} is undefined in the repository and {cid} in the index"]


def _foreign_row(account: Account) -> list[str]:
    """A row of another repository sorts before all of this one."""
    cid = _first(account)[2]
    account.write("insert into record values ('at://a/b.c/d', ?, 'b.c', 'd', '', '', null)", cid)
    return [f"record at://a/b.c/d is undefined in the repository and {cid} in the index"]


def _other_row(account: Account) -> list[str]:
    uri, path, cid = _first(account)
    other = libipld.encode_cid(_VALUE)
    account.write("update record set cid = ? where uri = ?", other, uri)
    return [f"record {path} is {cid} in the repository and {other} in the index"]


def _bytes_row(account: Account) -> list[str]:
    uri, path, _ = _first(account)
    account.write("update record set rkey = cast(x'ff' as text) where uri = ?", uri)
    return [f"record {path} is listed as {path.split('/')[0]}/\ufffd in the index"]


def _lost_block(account: Account) -> list[str]:
    _, path, cid = _first(account)
    account.write("delete from repo_block where cid = ?", cid)
    return [f"record {path} has no block {cid}"]


def _renamed_block(account: Account) -> list[str]:
    _, path, cid = _first(account)
    account.write("update repo_block set cid = '' where cid = ?", cid)
    return ["block  does not hash to its name", f"record {path} has no block {cid}"]


def _other_text(account: Account) -> list[str]:
    """The last letter of a CID has two spare bits: four texts decode to the same bytes, and one is canonical."""
    _, path, cid = _first(account)
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    other = cid[:-1] + letters[letters.index(cid[-1]) + 1]
    account.write("update repo_block set cid = ? where cid = ?", other, cid)
    return [f"block {other} does not hash to its name", f"record {path} has no block {cid}"]


def _nothing_wrong(account: Account) -> list[str]:
    return []


def _another_key(account: Account) -> list[str]:
    (account.folder / "key").write_bytes(bytes([1] * 32))
    (root,) = account.rows("select cid from repo_root")[0]
    return [f"commit {root} is not signed with the account's key"]


def _imported(account: Account) -> list[str]:
    """As importRepo.js leaves it: the commit of the account's old server, at a revision of this one."""
    _another_key(account)
    account.write("update repo_root set rev = ?", _IMPORTED)
    return []


def _imported_of_another_account(account: Account) -> list[str]:
    """importRepo.js accepts any account's repository. The server's next commit would be of that account."""
    (content,) = account.rows("select content from repo_block join repo_root using (cid)")[0]
    commit = libipld.encode_dag_cbor(libipld.decode_dag_cbor(content) | {"did": "did:plc:another"})
    cid = libipld.encode_cid(cid_of_block(commit))
    account.write("insert into repo_block values (?, ?, ?, ?)", cid, _IMPORTED, len(commit), commit)
    account.write("update repo_root set cid = ?, rev = ?", cid, _IMPORTED)
    return [f"commit {cid} is of did:plc:another, not of {account.did}"]


def _no_records(account: Account) -> list[str]:
    account.graft({"l": None, "e": []})
    account.write("delete from record")
    return []


def _huge_record(account: Account) -> list[str]:
    record = {"$type": "at.noted.try", "text": "long " * 180_000, "more": bytes(4_000_000)}
    enlarge(account.data, account.did, [("at.noted.try/huge", record)])
    return []


def _huge_record_of_other_bytes(account: Account) -> list[str]:
    _huge_record(account)
    (cid,) = account.rows("select cid from record where rkey = 'huge'")[0]
    account.write("update repo_block set content = zeroblob(size) where cid = ?", cid)
    return [f"block {cid} does not hash to its name"]


def _other_codec(account: Account) -> list[str]:
    enlarge(account.data, account.did, [("at.noted.try/raw", {"codec": "raw"})], codec=RAW)
    return []


def _wide_node(account: Account) -> list[str]:
    """Keys that all belong in one layer make one node, of 2.7 MB here."""
    keys = (key.decode() for key, _ in zip(_keys(0), range(_WIDE), strict=False))
    enlarge(account.data, account.did, ((key, {"number": number}) for number, key in enumerate(keys)))
    assert account.rows("select max(size) from repo_block")[0][0] > 2_500_000
    return []


CONTENT: dict[str, Callable[[Account], list[str]]] = {
    "nothing": _nothing_wrong,
    "no records": _no_records,
    "a commit with another key's signature": _another_key,
    "a commit that was imported": _imported,
    "an imported commit of another account": _imported_of_another_account,
    "a row under another key": _moved_row,
    "a row that is lost": _lost_row,
    "a row too many": _more_row,
    "a row of another repository": _foreign_row,
    "a row with another record": _other_row,
    "a row that is not text": _bytes_row,
    "a record's block that is lost": _lost_block,
    "a block without a name": _renamed_block,
    "a block under another text of its name": _other_text,
    "a record of 5 MB": _huge_record,
    "a record of 5 MB, all zeros now": _huge_record_of_other_bytes,
    "a record with another codec": _other_codec,
    "a node of 50,000 entries": _wide_node,
}
"""Faults of records and commits with a valid tree, with the errors of both verifiers."""
