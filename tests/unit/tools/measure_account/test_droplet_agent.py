"""The program on a droplet of a measurement, as a process on loopback: its rows, its reports, and what ends it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.lib.subprocesses import child
from tools.measure_account import droplet_agent
from tools.measure_account.droplet_agent import last_row
from tools.measure_account.droplets import HttpDroplets, user_data

KEY = "secret-path"
LOOPBACK = "127.0.0.1"
_SOON = 600.0


def _free_ports() -> list[int]:
    with socket.create_server((LOOPBACK, 0)) as one, socket.create_server((LOOPBACK, 0)) as two:
        return [one.getsockname()[1], two.getsockname()[1]]


@contextmanager
def running(root: Path) -> Iterator[tuple[HttpDroplets, list[int]]]:
    """The program below `root`, with a `mount` that does nothing. Yields its client and its ports."""
    programs = root / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("mount", "umount"):
        (programs / name).write_text("#!/bin/sh\nexit 0\n")
        (programs / name).chmod(0o755)
    ports = _free_ports()
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "MEASURE_ROOT": str(root),
        "MEASURE_ADDRESS": LOOPBACK,
        "MEASURE_PORTS": ",".join(map(str, ports)),
        "MEASURE_KEY": KEY,
        "MEASURE_NAME": "a",
        "MEASURE_VOLUME": "one",
    }
    client = HttpDroplets(KEY, ports[0])
    with child([sys.executable, droplet_agent.__file__], _SOON, env=environment, stderr=subprocess.DEVNULL):
        _until(lambda: client.status(LOOPBACK))
        yield client, ports


def _until(ask: Any) -> Any:
    end = time.monotonic() + _SOON
    while not (found := ask()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def _attach(root: Path) -> Path:
    """Let the disk be there. Returns the file of the rows."""
    disk = root / "dev/disk/by-id/scsi-0DO_Volume_one"
    disk.parent.mkdir(parents=True)
    disk.touch()
    return root / "mnt/measure/rows"


def test_acknowledges_rows_that_are_on_the_disk_and_goes_on_after_the_last(tmp_path: Path) -> None:
    with running(tmp_path) as (client, _ports):
        status = client.status(LOOPBACK)
        assert status
        assert (status["name"], status["found"], status["row"], status["error"]) == ("a", None, None, None)
        rows = _attach(tmp_path)
        acknowledged = _until(lambda: (client.status(LOOPBACK) or {}).get("row"))
        assert last_row(rows.read_bytes()) >= acknowledged
    with rows.open("a") as file:
        file.write("12")  # a power cut in the middle of a row
    whole = last_row(rows.read_bytes())
    with running(tmp_path) as (client, _ports):
        status = _until(lambda: (found := client.status(LOOPBACK)) and found["found"] is not None and found)
        assert status["found"] == whole
        _until(lambda: (client.status(LOOPBACK) or {}).get("row", 0) > whole)


def test_reports_the_error_that_ends_it(tmp_path: Path) -> None:
    rows = _attach(tmp_path)
    rows.mkdir(parents=True)
    with running(tmp_path) as (client, _ports):
        status = _until(lambda: (found := client.status(LOOPBACK)) and found["error"] and found)
        assert status["error"] == "EISDIR"
        assert status["error_at"] <= status["now"]


def test_says_whether_a_port_of_another_machine_is_open(tmp_path: Path) -> None:
    with running(tmp_path) as (client, ports):
        assert client.connects(LOOPBACK, LOOPBACK, ports[1])
        with socket.create_server((LOOPBACK, 0)) as closed:
            port = closed.getsockname()[1]
        assert not client.connects(LOOPBACK, LOOPBACK, port)


def test_stops_the_kernel_for_good_and_only_below_the_secret_path(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    trigger = tmp_path / "proc/sysrq-trigger"
    with running(tmp_path) as (client, ports):
        wrong = HttpDroplets("another", ports[0])
        with pytest.raises(OSError, match="404"):
            wrong.stop_kernel(LOOPBACK)
        assert wrong.status(LOOPBACK) is None
        assert not trigger.exists()
        client.stop_kernel(LOOPBACK)
        _until(trigger.exists)
        _until(lambda: trigger.read_text() == "c\n")
    assert (tmp_path / "proc/sys/kernel/panic").read_text() == "0\n", "else it would boot again"


def test_user_data_has_the_program_and_lets_nothing_mount_the_volume_before_it() -> None:
    text = user_data("a", "pds-measure-1", KEY)
    assert text.startswith("#cloud-config\n")
    assert len(text.encode()) < 64 * 1024, "DigitalOcean's limit"
    found = yaml.load(text, yaml.CSafeLoader)
    files = {item["path"]: item for item in found["write_files"]}
    assert files["/usr/local/lib/pds-measure.py"]["content"] == Path(droplet_agent.__file__).read_text()
    unit = files["/etc/systemd/system/pds-measure.service"]
    assert f"MEASURE_KEY={KEY} MEASURE_NAME=a MEASURE_VOLUME=pds-measure-1" in unit["content"]
    assert unit["permissions"] == "0600", "it has the secret path"
    assert "rm -f /etc/udev/rules.d/99-digitalocean-automount.rules" in found["runcmd"]
