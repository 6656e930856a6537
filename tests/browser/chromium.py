"""Debian's Chromium, which resolves the tests' names to a port of this machine and trusts one CA."""

import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.support.host_machine import tool
from tools.trial.process import LOOPBACK


@contextmanager
def chromium(folder: Path, root: str = "", names: Iterable[str] = (), port: int = 0) -> Iterator[Browser]:
    """Chromium with its files below `folder`. It connects to `names` at `port` and to loopback, knows no other name,
    and trusts `root` (PEM) beside the CAs of its own."""
    if root:
        _trust(folder / ".pki" / "nssdb", root)
    rules = ", ".join(
        [*(f"MAP {name}:443 {LOOPBACK}:{port}" for name in names), "MAP * ~NOTFOUND", f"EXCLUDE {LOOPBACK}"]
    )
    arguments = [f"--host-resolver-rules={rules}"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium refuses its sandbox to root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=tool("chromium", "chromium"),
            args=arguments,
            env={"PATH": os.defpath, "HOME": str(folder)},
        )
        try:
            yield browser
        finally:
            browser.close()


def _trust(database: Path, root: str) -> None:
    """Add a CA to the certificate database that Chromium reads in its home folder."""
    database.mkdir(parents=True)
    certutil = [tool("certutil", "libnss3-tools"), "-d", f"sql:{database}"]
    subprocess.run([*certutil, "-N", "--empty-password"], check=True, timeout=600)
    command = [*certutil, "-A", "-n", "tests", "-t", "C,,", "-a"]
    subprocess.run(command, input=root, text=True, check=True, timeout=600)
