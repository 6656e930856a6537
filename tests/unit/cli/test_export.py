"""The repository that an old server exports: what is read of it, and what is refused."""

from pathlib import Path
from typing import Any

import libipld
import pytest

from cli.migrate.car import CarError, read_export
from tests.contract.large import car, cid_of_block

DID = "did:plc:zs5i5kcyh3bsifkz55qhe62w"


def _export(did: str = DID) -> tuple[bytes, str]:
    node = libipld.encode_dag_cbor({"l": None, "e": []})
    commit = libipld.encode_dag_cbor(
        {"did": did, "version": 3, "data": cid_of_block(node), "rev": "3n3bfkfdufl2a", "prev": None, "sig": b"x"}
    )
    root = cid_of_block(commit)
    return car(root, [(root, commit), (cid_of_block(node), node)]), libipld.encode_cid(cid_of_block(node))


def test_reads_an_export_and_finds_its_root_of_records(tmp_path: Path) -> None:
    content, data = _export()
    path = tmp_path / "repository.car"
    path.write_bytes(content)
    export = read_export(path, DID)
    assert (export.rev, export.data, export.blocks, export.size) == ("3n3bfkfdufl2a", data, 2, len(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-3], "it ends within a block"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "does not hash to its name"),
        (lambda content: content[: content.index(b"rev")], "it ends within a block"),
        (lambda content: b"<html>Bad Gateway</html>", "damaged|is not a repository"),
        (lambda content: b"", "damaged|is not a repository"),
        (lambda content: _export("did:plc:other")[0], "is the repository of did:plc:other"),
    ],
)
def test_refuses_an_export_that_is_cut_damaged_or_another_s(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "repository.car"
    path.write_bytes(change(_export()[0]))
    with pytest.raises(CarError, match=message):
        read_export(path, DID)
