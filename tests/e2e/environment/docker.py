"""A separate Docker engine of the e2e environment: its data, socket and process are in one folder, and removed with it.

It does not affect the machine's own engine or another e2e environment's. Each has its own bridge: on a shared one both
engines would assign the same addresses, and a server would answer in another's place. Images stay in `folder` between
runs, so that the server's image is built once.
"""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.environment.tools import E2eError, need, run, unmount_below

_START = 40.0
_STOP = 30.0


@contextmanager
def engine(folder: Path, number: int) -> Iterator[str]:
    """Start a separate `dockerd` with all its files under `folder`; return its DOCKER_HOST. It is stopped at the end,
    by its id.

    `number`, below 200, is unique on this machine: it names and numbers the network of its containers. Needs root.
    Raises E2eError with the end of its log if it does not start.
    """
    need("dockerd", "docker", "ip")
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder), _bridge(number) as bridge:
        yield from _engine(folder, bridge)


def gateway(docker_host: str) -> str:
    """The address that containers have for this machine."""
    command = ["docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"]
    return run(command, docker_host).strip()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two engines on the same data would damage each other; the second one is refused."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise E2eError(f"another e2e_env uses {folder}: wait for it, or give this one a cache of its own") from None
        yield


@contextmanager
def _bridge(number: int) -> Iterator[str]:
    """A bridge with private addresses, as Docker's own has: the server trusts proxies only at those. Returns its
    name."""
    name = f"pds-e2e-{number}"
    run(["ip", "link", "delete", name], check=False)  # of an e2e environment that was killed
    run(["ip", "link", "add", name, "type", "bridge"])
    try:
        run(["ip", "address", "add", f"10.199.{number}.1/24", "dev", name])
        run(["ip", "link", "set", name, "up"])
        yield name
    finally:
        run(["ip", "link", "delete", name], check=False)


def _engine(folder: Path, bridge: str) -> Iterator[str]:
    # A socket's path may have 107 characters at most, so it can't be under a deep folder.
    place = Path(f"/run/pds-e2e-{os.getpid()}")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    host = f"unix://{place}/docker.sock"
    config = folder / "daemon.json"
    config.write_text("{}\n")  # not the machine's own
    log = (folder / "dockerd.log").open("w")
    daemon = subprocess.Popen(
        [
            "dockerd",
            f"--data-root={folder}/data",
            f"--exec-root={place}/exec",
            f"--pidfile={place}/docker.pid",
            f"--host={host}",
            f"--config-file={config}",
            f"--bridge={bridge}",
            # No packet leaves the machine, and a process forwards published ports; the machine's rules stay as they
            # are. Two engines that start side by side would also trip over each other's.
            "--iptables=false",
            "--ip6tables=false",
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name != "DOCKER_HOST"},
    )
    try:
        _wait(daemon, host, folder / "dockerd.log")
        yield host
    finally:
        daemon.terminate()
        try:
            daemon.wait(_STOP)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(_STOP)
        log.close()
        unmount_below(place)  # the host's network namespace, if a container was in it
        shutil.rmtree(place, ignore_errors=True)


def _wait(daemon: subprocess.Popen[bytes], host: str, log: Path) -> None:
    end = time.monotonic() + _START
    command = ["docker", "--host", host, "version", "--format", "{{.Server.Version}}"]
    while time.monotonic() < end:
        if daemon.poll() is not None:
            break
        if subprocess.run(command, capture_output=True, timeout=_START).returncode == 0:
            return
        time.sleep(0.3)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise E2eError(f"dockerd did not come up (root is needed):\n{last}")
