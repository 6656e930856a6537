"""The host's script for the metrics store: one HTTP answer with the figures of volume, clubs and runs."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.host_machine import FILES, Machine
from tests.support.metrics_host import host, host_page, status


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return host(tmp_path)


def values(page: str) -> dict[str, float]:
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in page.splitlines())}


def test_answers_with_the_volume_the_clubs_and_the_runs(machine: Machine) -> None:
    found = values(host_page(machine))
    times = {name: found.pop(name) for name in list(found) if "timestamp" in name}
    assert found == {
        "pds_volume_size_bytes": 25_000_000_000,
        "pds_volume_used_bytes": 9_000_000_000,
        "pds_volume_available_bytes": 16_000_000_000,
        'pds_club_size_bytes{club="club0"}': 5_000_000_000,
        'pds_club_used_bytes{club="club0"}': 2_000_000_000,
        'pds_club_size_bytes{club="club1"}': 5_000_000_000,
        'pds_club_used_bytes{club="club1"}': 1_400_000_000,
        'pds_run_findings{pds="dev",club="",run="backup"}': 0,
        'pds_run_findings{pds="dev",club="",run="drill"}': 0,
        'pds_run_findings{pds="club0",club="club0",run="backup"}': 0,
        'pds_run_findings{pds="club1",club="club1",run="backup"}': 0,
        'pds_run_findings{pds="club0",club="club0",run="drill"}': 0,
        'pds_run_findings{pds="club1",club="club1",run="drill"}': 0,
    }
    assert len(times) == 6
    assert all(name.startswith("pds_run_good_timestamp_seconds{") for name in times)


def test_reads_the_times_as_run_status_cjs_writes_them(machine: Machine) -> None:
    machine.file(
        "srv/nomad/pds/.run-status/backup.json",
        '{"first":"2026-01-01T00:00:00.000Z","good":"2026-11-27T04:49:27.215Z","failed":"2026-11-27T05:00:00.000Z",'
        '"why":"x","findings":{"did:plc:a":{"state":"damaged","what":"\\"good\\":\\"1999-01-01T00:00:00Z\\""}}}\n',
    )
    found = values(host_page(machine))
    labels = '{pds="dev",club="",run="backup"}'
    assert found[f"pds_run_good_timestamp_seconds{labels}"] == 1795754967
    assert found[f"pds_run_failed_timestamp_seconds{labels}"] == 1795755600
    assert found[f"pds_run_findings{labels}"] == 1


def test_an_answer_begins_as_http_and_ends_after_one_request(machine: Machine) -> None:
    answer = subprocess.run(
        ["/bin/sh", FILES / "metrics.sh"], input=b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nnever read", timeout=600,
        env={"PATH": f"{machine.stands}:/usr/bin:/bin", "PDS_ROOT": str(machine.root)}, capture_output=True, check=True,
    )  # fmt: skip
    head, _, body = answer.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK\r\n")
    assert body.startswith(b"pds_volume_")


def test_a_club_s_own_files_cannot_harm_the_figures(machine: Machine) -> None:
    club = machine.root / "srv/nomad/clubs/pds-club0/.run-status"
    (club / "drill.json").unlink()
    before = host_page(machine)
    (club / "drill.json").symlink_to("/etc/passwd")
    os.mkfifo(club / "unreferenced-blobs.json")
    (club / "backup.json").write_text("x" * 300_000)
    (club / 'backup"} 1.json').write_text(status(1))
    strange = machine.root / "srv/nomad/clubs/pds-a b"
    strange.mkdir()
    found = host_page(machine)
    assert {line for line in found.splitlines() if "club0" in line} == {
        line for line in before.splitlines() if "club0" in line and "pds_run" not in line
    }, "a link, a pipe, an endless file and another name are not read"
    assert {line for line in before.splitlines() if "club0" not in line} <= set(found.splitlines())
    assert "a b" not in found


def test_a_club_without_a_quota_has_no_figures_of_its_own(machine: Machine) -> None:
    machine.stand_in("df", 'for word; do case $word in /*) echo "9000 3000 6000 $word" ;; esac; done')
    assert "pds_club_" not in host_page(machine)


def test_a_host_whose_volume_is_not_mounted_has_no_figures(machine: Machine) -> None:
    machine.stand_in("mountpoint", code=1)
    assert host_page(machine) == ""
