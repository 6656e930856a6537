"""`cli/stacks/container_usage.sh`: memory, disk and uploads of a server, as its container has them."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from cli.stacks import inspect_stack
from tests.support.host_machine import tool


def usage(
    folder: Path, limit: int, groups: Mapping[str, str] = MappingProxyType({}), *, in_bucket: bool = False
) -> dict[str, Any]:
    """The script's output for a data directory, with these files for cgroups."""
    for name, text in groups.items():
        file = folder / "cgroup" / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    done = subprocess.run(
        ["sh", "-c", inspect_stack.USAGE_SCRIPT.read_text(), "usage", str(limit)],
        env={
            "PATH": "/usr/bin:/bin",
            "PDS_DATA_DIRECTORY": str(folder / "data"),
            "CGROUPS": str(folder / "cgroup"),
            **({} if in_bucket else {"PDS_BLOBSTORE_DISK_TMP_LOCATION": str(folder / "data/temp")}),
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    output: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return output


@pytest.mark.parametrize(
    "groups",
    [
        {
            "memory_dot_current": "104857600\n",
            "memory_dot_stat": "anon 1\ninactive_file 4857600\nactive_file 3\n",
            "memory_dot_max": "134217728\n",
        },
        {
            "memory__memory_dot_usage_in_bytes": "104857600\n",
            "memory__memory_dot_stat": "inactive_file 7\ntotal_inactive_file 4857600\n",
            "memory__memory_dot_limit_in_bytes": "134217728\n",
        },
    ],
)
def test_memory_is_read_from_cgroups_of_either_version(groups: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    reported = usage(tmp_path, 0, groups)
    assert (reported["memory"], reported["memory_limit"]) == (100_000_000, 134217728)


def test_memory_is_unknown_without_cgroups_and_unlimited_with_max(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    reported = usage(tmp_path, 0)
    assert (reported["memory"], reported["memory_limit"]) == (None, None)
    unlimited = {"memory_dot_current": "9\n", "memory_dot_stat": "inactive_file 1\n", "memory_dot_max": "max\n"}
    assert usage(tmp_path, 0, unlimited)["memory_limit"] is None


def test_counts_file_sizes_if_the_file_system_is_shared(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "blob").write_bytes(b"x" * 1_000_000)
    (data / "snapshot").hardlink_to(data / "blob")
    (data / ".run-status").mkdir()
    (data / ".run-status/drill.json").write_text(
        '{"first":"2026-01-01T00:00:00.000Z","good":"2026-01-08T00:00:00.000Z"}\n'
    )
    (data / ".run-status/backup.json").write_text("")
    reported = usage(tmp_path, 1)
    assert 1_000_000 <= reported["disk"] < 1_100_000, "a hard link counts once"
    assert (reported["drill"], reported["backup"]) == ("2026-01-08T00:00:00.000Z", None)
    with_quota = usage(tmp_path, 2**50)
    assert with_quota["disk"] > 10 * reported["disk"], (
        "with a quota it reads the file system's usage; here that is the whole machine's"
    )


def test_uploads_are_counted_with_their_size(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert usage(tmp_path, 0)["uploads"] == 0
    for number in range(2):
        folder = tmp_path / f"data/temp/did:plc:{number}"
        folder.mkdir(parents=True)
        (folder / "upload").write_bytes(b"x" * 1_000_000)
    reported = usage(tmp_path, 0)
    assert (reported["uploads"], reported["uploads_kib"] // 1000) == (2, 1)


def test_uploads_in_a_bucket_are_those_of_the_last_weekly_run(tmp_path: Path) -> None:
    (tmp_path / "data/.run-status").mkdir(parents=True)
    assert usage(tmp_path, 0, in_bucket=True)["uploads"] == 0, "before the first one"
    status = {"good": "2026-11-23T05:23:00.000Z", "removed": 7, "bytes": 9, "uploads": 12, "uploads_kib": 3400}
    (tmp_path / "data/.run-status/unreferenced-blobs.json").write_text(json.dumps(status, separators=(",", ":")))
    reported = usage(tmp_path, 0, in_bucket=True)
    assert (reported["uploads"], reported["uploads_kib"]) == (12, 3400)


def test_shellcheck_reports_nothing() -> None:
    done = subprocess.run(
        [tool("shellcheck", "shellcheck"), "-s", "sh", inspect_stack.USAGE_SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.stdout == ""
