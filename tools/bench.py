"""`make bench`: the cost of evaluating the program, as ratios from one run on this machine.

It answers two questions. What does the program add to importing its SDKs? Does the cost grow in proportion to the
number of resources? DNS records make the growth, since a record is a resource like any other. Whole processes are timed
alternately, and medians compared.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from offline import mock_engine, stackfile
from offline.mock_engine import ROOT

_ROUNDS = 9
_DEADLINE = 600.0
_RECORDS = (0, 50, 100, 200, 400)

# Both import offline.mock_engine: it is the measuring instrument, not a part of the program.
_IMPORTS = (
    "import pulumi, pulumi_digitalocean, pulumi_nomad, pulumi_random, pulumi_tls;"
    "from pulumi_digitalocean import (Droplet, Firewall, ReservedIp, ReservedIpAssignment, Volume, Tag, DnsRecord);"
    "from pulumi_nomad import Job, Variable, AclPolicy, AclToken, Provider;"
    "import offline.mock_engine, offline.stackfile, pydantic"
)
_EVALUATE = "import offline.stackfile as s; s.evaluate_stack('dev')"
_GROW = "import json, sys, tools.bench as b; print(json.dumps(b.grow([int(count) for count in sys.argv[1:]])))"


def grow(counts: Sequence[int]) -> list[tuple[int, float]]:
    """Evaluate the `dev` stack once for each count of further CAA records; resources and seconds of each."""
    config = stackfile.read_stack("dev")

    def evaluated(count: int) -> tuple[int, float]:
        # Of the records only the first has to name the issuer that the ingress uses.
        issuers = ["letsencrypt.org", *(f"issuer-{number}.test" for number in range(1, count))][:count]
        values = {**config.values, "pds:dns": json.dumps({"caa": issuers})}
        start = time.perf_counter()
        evaluation = mock_engine.evaluate("dev", values, secret_keys=config.secret_keys)
        return len(evaluation.resources), time.perf_counter() - start

    evaluated(0)
    return [evaluated(count) for count in counts]


def _seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=_environment(), timeout=_DEADLINE)
    return time.perf_counter() - start


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(ROOT))}


def main() -> int:
    """Print the tables; the exit code is always 0, since speed is shown and not asserted."""
    console = Console(emoji=False)
    _seconds(_EVALUATE)  # bytecode and file caches, for both alike
    pairs = [(_seconds(_IMPORTS), _seconds(_EVALUATE)) for _ in range(_ROUNDS)]
    imports, evaluate = (statistics.median(column) for column in zip(*pairs, strict=True))
    first = Table("whole process, dev", "median, s", "ratio", title=f"Evaluation against imports ({_ROUNDS} rounds)")
    first.add_row("importing the SDKs", f"{imports:.2f}", "1.00")
    first.add_row("evaluating the program", f"{evaluate:.2f}", f"{evaluate / imports:.2f}")
    console.print(first)

    samples = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", _GROW, *map(str, _RECORDS)],
                cwd=ROOT, check=True, env=_environment(), capture_output=True, text=True, timeout=_DEADLINE,
            ).stdout
        )
        for _ in range(3)
    ]  # fmt: skip
    second = Table("further records", "resources", "median, ms", "ms a resource", "ratio to the first", title="Growth")
    base = 0.0
    for index, records in enumerate(_RECORDS):
        resources = samples[0][index][0]
        milliseconds = statistics.median(sample[index][1] for sample in samples) * 1000
        each = milliseconds / resources
        base = base or each
        second.add_row(str(records), str(resources), f"{milliseconds:.0f}", f"{each:.2f}", f"{each / base:.2f}")
    console.print(second)
    return 0


if __name__ == "__main__":
    sys.exit(main())
