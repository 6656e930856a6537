"""`make bench`, the part about migrations: an account with 50,000 records and 1,000 blobs, against a plain copy.

Two real servers of both lines and a real directory, on loopback. The records are written below the XRPC layer, the
blobs are uploaded. Nothing is asserted. `python -m tests.contract.figures_migration 1000 20` takes other counts.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cli.snapshot.verify import repo_path
from offline.mock_engine import ROOT
from offline.stackfile import evaluate_stack
from tests.contract.large import enlarge, realistic
from tests.contract.migration import Mover, data_of, member, mover
from tests.contract.snapshots import open_environment
from tests.contract.two_servers import NEW, OLD, OTHER_SECRETS, Side, World
from tools.trial.directory import PlcDirectory
from tools.trial.node import PDS_LINES, Install, install
from tools.trial.pds import PdsProcess
from tools.trial.trial import task_environment
from tools.trial.xrpc import Client

RECORDS, BLOBS = 50_000, 1_000
_PATIENCE = 3600.0
_MEBIBYTE = 1024 * 1024
_NAME = "big"


def main(records: int, blobs: int) -> int:
    """Print the table."""
    cache = ROOT / "build" / "cache"
    installs = {line: install(f"pds-{line}", cache) for line in PDS_LINES}
    env = dict(task_environment(evaluate_stack("dev"))[0])
    table = Table("what", "s", "ratio", title=f"An account with {records:,} records and {blobs:,} blobs")
    with (
        tempfile.TemporaryDirectory(prefix="pds-figures-") as name,
        PlcDirectory(install("plc", cache), data=Path(name) / "plc", log=Path(name) / "plc.log") as directory,
        large_account(Path(name), installs, env, directory, records, blobs) as (here, did),
    ):
        size, plain = _plain_copy(data_of(here.world.old), did, Path(name) / "copied")
        began = time.monotonic()
        code = here.run(f"{_NAME}.{OLD}", here.answers(did), time)
        took = time.monotonic() - began
        table.add_row(f"`cp -a` of the same {size / _MEBIBYTE:.0f} MiB", f"{plain:.2f}", "1.0")
        table.add_row("moved", f"{took:.1f}", f"{took / plain:.0f}")
        Console().print(table)
        print(f"The new server held at most {_peak_mib(here.world.new)} MiB; exit code {code}.")
    return 0


@contextmanager
def large_account(
    folder: Path,
    installs: Mapping[str, Install],
    env: Mapping[str, str],
    directory: PlcDirectory,
    records: int,
    blobs: int,
) -> Iterator[tuple[Mover, str]]:
    """An account on a server of the older line, and the command that moves it to one of the newer line; its DID."""
    first, second = PDS_LINES
    old_path, new_path = folder / "old" / "pds", folder / "new" / "pds"
    for path in (old_path, new_path):
        path.mkdir(parents=True)
    old_env = open_environment(env, old_path, directory, first)
    new_env = open_environment({**env, **OTHER_SECRETS, "PDS_HOSTNAME": NEW}, new_path, directory, second)
    with PdsProcess(installs[first], old_env, old_path.with_suffix(".log")) as server:
        did = member(_side(OLD, old_env, installs[first], server), _NAME, blobs=blobs)
    enlarge(old_path, did, realistic(did, records))
    with (
        PdsProcess(installs[first], old_env, old_path.with_suffix(".log")) as old,
        PdsProcess(installs[second], new_env, new_path.with_suffix(".log")) as new,
    ):
        sides = _side(OLD, old_env, installs[first], old), _side(NEW, new_env, installs[second], new)
        room = "  pds:host: {size: s-4vcpu-8gb}\n  pds:pds: {memory_mib: 3072}\n"
        yield mover(World(*sides, directory, {}), folder, room), did


def _side(hostname: str, env: Mapping[str, str], installed: Install, pds: PdsProcess) -> Side:
    return Side(hostname, env, installed, pds, Client(pds.url, hostname))


def _plain_copy(data: Path, did: str, into: Path) -> tuple[int, float]:
    """Return the bytes of the account's files, and the seconds that a copy takes."""
    into.mkdir()
    sources = [data / repo_path(did), data / "blocks" / did]
    began = time.monotonic()
    subprocess.run(["cp", "-a", *sources, into], check=True, timeout=_PATIENCE)
    took = time.monotonic() - began
    size = sum(path.stat().st_size for path in into.rglob("*") if path.is_file())
    shutil.rmtree(into)
    return size, took


def _peak_mib(side: Side) -> int:
    status = Path(f"/proc/{side.pds.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) // 1024 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(*(map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (RECORDS, BLOBS))))
