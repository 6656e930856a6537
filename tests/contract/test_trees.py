"""Invalid repositories, read by the host's program and the operator's: both end with the same errors."""

from __future__ import annotations

import base64
import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libipld
import pytest

from cli.snapshot.repository import RepositoryStore
from cli.snapshot.verify import repo_path
from tests.contract.large import bytes_of, car, enlarge, realistic
from tests.contract.lines import one_line
from tests.contract.memory import NoLimitError, limited
from tests.contract.restores import FILES
from tests.contract.snapshots import Data, Running
from tests.contract.trees import CONTENT, STRUCTURE, Account

pytestmark = [pytest.mark.contract, one_line]

_MEMORY_MIB = 128
_FLIPS = 60
_ON_THE_HOST = """
const [folder, accounts] = process.argv.slice(1);
const { Blocks, read } = require(`${folder}/account_check.cjs`);
const { problems, publicKey } = require(`${folder}/repository.cjs`);
const found = JSON.parse(accounts).map(([store, key, did]) =>
  read(store, (db) => {
    const { cid: root, rev } = db.prepare("select cid, rev from repo_root").get();
    const { verifier } = publicKey(require("node:fs").readFileSync(key));
    const blocks = new Blocks(db);
    const faults = problems({ blocks, root, rev, did, verifier, index: blocks.records() });
    return [...faults].map(({ text }) => text);
  })
);
console.log(JSON.stringify(found));
"""
_SERVED = """
const { openCar, problems, publicKey } = require(process.argv[1]);
const { verifier } = publicKey(require("node:fs").readFileSync(process.argv[2]));
const found = JSON.parse(process.argv[4]).map(([name, rev]) => {
  try {
    const car = openCar(name);
    const faults = [...problems({ ...car, rev, did: process.argv[3], verifier })];
    car.close();
    return faults.map(({ text }) => text);
  } catch (error) {
    return [`no repository: ${error.message}`];
  }
});
console.log(JSON.stringify(found));
"""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The expected errors, and those of both programs."""

    expected: list[str]
    host: list[str]
    operator: list[str]


@pytest.fixture(scope="module")
def account(running: Running, still: Data, tmp_path_factory: pytest.TempPathFactory) -> Account:
    """The data of a member with several hundred records, without a running server."""
    found = Account(did=running.club.members[0].did, data=tmp_path_factory.mktemp("account") / "pds")
    shutil.copytree(still.path / repo_path(found.did), found.folder)
    for name in ("account.sqlite", "sequencer.sqlite"):
        shutil.copy(still.path / name, found.data)
    enlarge(found.data, found.did, realistic(found.did, 300))
    return found


def _run(still: Data, program: str, *arguments: str) -> list[list[str]]:
    """The results of one process for all arguments, with less memory than a job has."""
    try:
        with limited(_MEMORY_MIB) as limit:
            command = limit.command([str(still.install.node), "-e", program, *arguments])
            done = subprocess.run(
                command, cwd=still.install.folder, capture_output=True, text=True, timeout=600, check=False
            )
    except NoLimitError as error:
        pytest.skip(f"memory cannot be limited on this machine: {error}")
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    found: list[list[str]] = json.loads(done.stdout)
    return found


def _by_both(still: Data, accounts: list[Account]) -> Iterator[tuple[list[str], list[str]]]:
    named = json.dumps([[str(account.store), str(account.folder / "key"), account.did] for account in accounts])
    for account, host in zip(accounts, _run(still, _ON_THE_HOST, str(FILES), named), strict=True):
        with closing(RepositoryStore(account.store, account.did)) as store:
            faults = store.problems((account.folder / "key").read_bytes())
            yield host, [fault.text for fault in faults]


@pytest.fixture(scope="module")
def verdicts(account: Account, still: Data, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """The verdict on every fault, from one process."""
    folder = tmp_path_factory.mktemp("faults")
    faults: dict[str, Callable[[Account], Any]] = {**STRUCTURE, **CONTENT}
    broken = {name: account.copy(folder / str(number)) for number, name in enumerate(faults)}
    expected = {name: fault(broken[name]) for name, fault in faults.items()}
    found = _by_both(still, list(broken.values()))
    return {
        name: Verdict(expected=text.splitlines() if isinstance(text, str) else text, host=host, operator=operator)
        for (name, text), (host, operator) in zip(expected.items(), found, strict=True)
    }


@pytest.mark.parametrize("name", STRUCTURE)
def test_invalid_tree_gives_the_same_error_in_both_programs(verdicts: dict[str, Verdict], name: str) -> None:
    verdict = verdicts[name]
    *before, last = verdict.expected
    assert verdict.host[: len(before)] == before
    for errors in (verdict.host, verdict.operator):
        assert errors[-1].startswith(f"the blocks do not link up from the root: {last}")
    assert verdict.host[:-1] == verdict.operator[:-1]


@pytest.mark.parametrize("name", CONTENT)
def test_both_programs_name_differing_records_with_the_same_error(verdicts: dict[str, Verdict], name: str) -> None:
    verdict = verdicts[name]
    assert verdict.host == verdict.expected
    assert verdict.operator == verdict.expected


def test_both_programs_name_the_first_records_of_a_repository_without_rows(
    account: Account, still: Data, tmp_path: Path
) -> None:
    broken = account.copy(tmp_path / "pds")
    rows = broken.rows("select collection || '/' || rkey as path, cid from record order by path limit 100")
    broken.write("delete from record")
    ((host, operator),) = _by_both(still, [broken])
    assert host == operator
    assert host[:100] == [f"record {path} is {cid} in the repository and undefined in the index" for path, cid in rows]


def test_both_programs_find_any_changed_byte_of_a_block(account: Account, still: Data, tmp_path: Path) -> None:
    chance = random.Random(12)
    flipped = []
    for number in range(_FLIPS):
        broken = account.copy(tmp_path / str(number))
        # Only nodes and the commit: records are not parsed, so only their hash can differ.
        cid, content = chance.choice(
            broken.rows("select cid, content from repo_block where cid not in (select cid from record) order by cid")
        )
        at = chance.randrange(len(content))
        changed = content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
        broken.write("update repo_block set content = ? where cid = ?", changed, cid)
        flipped.append((broken, f"block {cid} does not hash to its name"))
    found = _by_both(still, [broken for broken, _ in flipped])
    for (host, operator), (_, expected) in zip(found, flipped, strict=True):
        assert host[0] == operator[0] == expected


def test_rows_are_read_by_index_and_never_sorted(account: Account) -> None:
    """A sort of a large table needs a temporary file, and the jobs' containers have no room for one."""
    query = "select uri from record left join repo_block on repo_block.cid = record.cid order by record.uri"
    plan = [row[-1] for row in account.rows(f"explain query plan {query}")]
    assert not [step for step in plan if "TEMP B-TREE" in step], plan


def test_served_repository_is_read_in_any_order_and_its_faults_are_named(
    account: Account, still: Data, tmp_path: Path
) -> None:
    root, rev = account.rows("select cid, rev from repo_root")[0]
    blocks = [(bytes_of(cid), content) for cid, content in account.rows("select cid, content from repo_block")]
    uri, record = account.rows("select uri, cid from record order by uri limit 1")[0]
    path = uri.partition(f"{account.did}/")[2]
    shuffled = random.Random(12).sample(blocks, len(blocks))
    whole = car(bytes_of(root), shuffled)
    without = car(bytes_of(root), [block for block in blocks if block[0] != bytes_of(record)])
    other = car(bytes_of(root), [(cid, b"" if cid == bytes_of(record) else content) for cid, content in blocks])
    zero = car(bytes_of(root), [*blocks, (bytes_of(record)[2:], b"of version 0")])
    alike = bytes_of(root)[:10] + bytes(22) + bytes_of(root)[-4:]
    similar = car(bytes_of(root), [(alike, b"a name that ends alike"), *blocks])
    huge = b"\xff" * 7 + b"\x7f"
    served = {
        "whole": (whole, []),
        "a block of version 0 too many": (zero, [f"block {_text_of(bytes_of(record)[2:])} does not hash to its name"]),
        "without a record": (without, [f"record {path} has no block {record}"]),
        "with another record": (other, [f"block {record} does not hash to its name"]),
        "a name that ends alike": (similar, [f"block {libipld.encode_cid(alike)} does not hash to its name"]),
        "cut short": (whole[:-10], ["no repository: it ends too early"]),
        "nothing": (b"", ["no repository: it has a length without an end"]),
        "a length beyond the end": (whole + huge, ["no repository: it ends too early"]),
        "a length without an end": (whole + b"\xff" * 12, ["no repository: it has a length without an end"]),
        "a block that is shorter than its name": (whole + b"\x02\x01\x71", None),
    }
    for number, (content, _) in enumerate(served.values()):
        (tmp_path / str(number)).write_bytes(content)
    named = json.dumps([[str(tmp_path / str(number)), rev] for number in range(len(served))])
    found = _run(still, _SERVED, str(FILES / "repository.cjs"), str(account.folder / "key"), account.did, named)
    for (name, (_, expected)), errors in zip(served.items(), found, strict=True):
        assert errors == expected if expected is not None else errors[0].startswith("no repository"), (name, errors)


def _text_of(cid: bytes) -> str:
    """In base32, in which a CID of version 0 is not usually written."""
    return "b" + base64.b32encode(cid).decode().lower().rstrip("=")
