"""A host with two clubs, and the answer of its script for the metrics store."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.host_machine import FILES, Machine


def host(folder: Path) -> Machine:
    """A host with two clubs on its volume, whose backups and drills are fresh."""
    machine = Machine(folder / "root", folder / "stands")
    machine.root.mkdir()
    machine.stands.mkdir()
    machine.configure()
    machine.stand_in("mountpoint")
    # As `df` answers for a directory with a quota: another size than the volume's.
    machine.stand_in(
        "df",
        "for word; do case $word in"
        ' */clubs/*-club0/) echo "5000000000 2000000000 3000000000 $word" ;;'
        ' */clubs/*) echo "5000000000 1400000000 3600000000 $word" ;;'
        ' /*) echo "25000000000 9000000000 16000000000 $word" ;; esac; done',
    )
    for home in ("pds", "clubs/pds-club0", "clubs/pds-club1"):
        machine.file(f"srv/nomad/{home}/.run-status/backup.json", status(5))
        machine.file(f"srv/nomad/{home}/.run-status/drill.json", status(60))
    return machine


def status(minutes: float) -> str:
    """A status as `run_status.cjs` writes it, of a run that ended well so many minutes ago."""
    time_ = datetime.now(UTC) - timedelta(minutes=minutes)
    return f'{{"good":"{time_.isoformat(timespec="milliseconds").replace("+00:00", "Z")}"}}\n'


def host_page(machine: Machine) -> str:
    """The answer of the host's script to a request, without its head."""
    answer = subprocess.run(
        ["/bin/sh", str(FILES / "metrics.sh")],
        input="GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        env={"PATH": f"{machine.stands}:/usr/bin:/bin", "PDS_ROOT": str(machine.root)},
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    return answer.stdout.partition("\n\n")[2]
