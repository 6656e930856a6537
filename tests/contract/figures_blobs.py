"""`make bench`, the part about blobs in a bucket: how fast they are moved, the server's latency meanwhile, and the disk
and memory that a bucket saves.

Real PDS and PLC directory, on loopback; the bucket is the S3 server of the tests, which checks every request in Python
and is the slowest part. Nothing is asserted. The number of blobs can be given: `python -m tests.contract.figures_blobs
400`.
"""

import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from offline.mock_engine import ROOT
from offline.stackfile import evaluate_stack
from tests.contract.club import Club, Member
from tests.contract.moved_blobs import COPIES, BlobSite
from tests.contract.snapshots import Data, open_environment
from tests.support.s3 import s3_server
from tools.trial.directory import PlcDirectory
from tools.trial.node import PDS_LINES, Install, install
from tools.trial.pds import PdsProcess
from tools.trial.trial import task_environment

_BLOBS = 300
_SIZE = 200_000  # bytes
_ROUNDS = 6
"""Each after an idle phase of the same length: the medians are of all rounds, because other work on the machine changes
more between two phases than the copy does."""
_IDLE = 8.0  # seconds of the first idle phase
_MEBIBYTE = 1024 * 1024


def main(count: int) -> int:
    """Print the figures."""
    cache = ROOT / "build" / "cache"
    pds, plc = install(f"pds-{PDS_LINES[-1]}", cache), install("plc", cache)
    env = dict(task_environment(evaluate_stack("dev"))[0])
    with tempfile.TemporaryDirectory(prefix="pds-figures-") as name:
        folder = Path(name)
        (folder / "s3").mkdir()
        (folder / "pds").mkdir()
        buckets = tuple(f"blobs-{number}" for number in range(_ROUNDS))
        with (
            PlcDirectory(plc, data=folder / "plc", log=folder / "plc.log") as directory,
            s3_server(folder / "s3", COPIES, *buckets) as url,
        ):
            env = open_environment(env, folder / "pds", directory, PDS_LINES[-1])
            data = Data(path=folder / "pds", install=pds, document_key=lambda did: None)
            _Bench(env, pds, data, url, count).run(buckets)
    return 0


@dataclass
class _Times:
    """Milliseconds of requests in all phases of one kind, and the seconds of the last phase."""

    reads: list[float] = field(default_factory=list)
    posts: list[float] = field(default_factory=list)
    last: float = 0.0


class _Bench:
    """A PDS with `count` blobs of one member."""

    def __init__(self, env: Mapping[str, str], pds: Install, data: Data, url: str, count: int) -> None:
        self.env, self.pds, self.data, self.url, self.count = env, pds, data, url, count
        self.console = Console()

    def run(self, buckets: tuple[str, ...]) -> None:
        """Measure each round with an empty bucket, then both servers."""
        chance = random.Random(3)
        with self._opened({}) as server:
            club = Club(server.url, self.env["PDS_HOSTNAME"])
            member = club.join()
            for _ in range(self.count):
                club.post_blob(member, chance.randbytes(_SIZE))
            idle, moving = _Times(), _Times()
            for bucket in buckets:
                self._round(self._site(bucket), member, idle, moving)
        for name in ("reads", "posts"):
            rest, busy = (statistics.median(getattr(times, name)) for times in (idle, moving))
            self.console.print(f"{name}: {rest:.1f} ms idle, {busy:.1f} ms meanwhile ({busy / rest:.2f})")
        site = self._site(buckets[-1])
        on_disk, before = self._memory({}, member), self._disk()
        site.run("finish", "bucket")
        site.run("forget")
        in_bucket, after = self._memory(site.server, member), self._disk()
        self.console.print(f"blobs on the disk: {before:.1f} MiB before, {after:.1f} MiB after")
        self.console.print(
            f"server that reads {self.count} blobs: {on_disk:.0f} MiB from the disk, {in_bucket:.0f} from the bucket"
        )

    def _round(self, site: BlobSite, member: Member, idle: _Times, moving: _Times) -> None:
        """Copy everything once, after a phase without a copy that takes as long as the last copy."""
        self._measure(member, idle, lambda: time.sleep(moving.last or _IDLE))
        self._measure(member, moving, lambda: site.run("copy", "bucket"))
        self.console.print(
            f"{self.count} blobs of {_SIZE // 1000} kB in {moving.last:.1f} s: {self.count / moving.last:.0f} a second"
        )

    def _measure(self, member: Member, times: _Times, task: Callable[[], object]) -> None:
        """Read and post while `task` runs."""
        thread = threading.Thread(target=task, daemon=True)
        began = time.monotonic()
        thread.start()
        while thread.is_alive():
            for kept, ask in ((times.reads, self._read), (times.posts, self._post)):
                start = time.monotonic()
                ask(member)
                kept.append((time.monotonic() - start) * 1000)
            time.sleep(0.02)
        thread.join(600)
        times.last = time.monotonic() - began

    def _read(self, member: Member) -> None:
        parameters = {"repo": member.did, "collection": "at.noted.try.blob", "limit": "20"}
        member.client.query("com.atproto.repo.listRecords", parameters)

    def _post(self, member: Member) -> None:
        record = {"$type": "app.bsky.feed.post", "text": "x", "createdAt": "2026-01-01T00:00:00.000Z"}
        body = {"repo": member.did, "collection": "app.bsky.feed.post", "record": record, "validate": False}
        member.client.procedure("com.atproto.repo.createRecord", body)

    def _memory(self, change: Mapping[str, str | None], member: Member) -> float:
        """Resident memory of a server after each blob was read once, in MiB."""
        with self._opened(change) as server:
            member = Club(server.url, self.env["PDS_HOSTNAME"]).logged_in(member, server.url)
            cids = member.client.query("com.atproto.sync.listBlobs", {"did": member.did, "limit": "1000"})["cids"]
            for cid in cids:
                parameters = {"did": member.did, "cid": cid}
                member.client.http.get("/xrpc/com.atproto.sync.getBlob", params=parameters).raise_for_status()
            port = server.url.rpartition(":")[2]
            return _resident(port)

    def _disk(self) -> float:
        return sum(file.stat().st_size for file in (self.data.path / "blocks").rglob("*") if file.is_file()) / _MEBIBYTE

    def _site(self, bucket: str) -> BlobSite:
        return BlobSite(data=self.data, url=self.url, bucket=bucket, serve="bucket")

    def _opened(self, change: Mapping[str, str | None]) -> PdsProcess:
        merged = {name: value for name, value in {**self.env, **change}.items() if value is not None}
        return PdsProcess(self.pds, merged, self.data.path.with_suffix(".log"))


def _resident(port: str) -> float:
    """Resident memory of the process whose environment has this port, in MiB."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"PDS_PORT={port}\0" in (process / "environ").read_text():
                [line] = [text for text in (process / "status").read_text().splitlines() if text.startswith("VmRSS")]
                return int(line.split()[1]) / 1024
        except OSError:
            continue
    raise LookupError(f"no server has port {port}")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else _BLOBS))
