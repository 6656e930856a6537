"""A full quota on a kernel with quota support: `pytest -x -s tests/e2e/scenarios/e2e_machine_quota.py`, as root; some
minutes.

A virtual machine with a volume, as in `e2e_machine.py`, and only the host files that create a club's
directory: the script that formats and claims the volume, the volume's mount unit, and the plugin that Nomad runs.
Neither Nomad nor a server is on it: the test writes as their users.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.environment.environment import ROOT
from tests.e2e.environment.tools import E2eError, missing
from tests.e2e.environment.virtual import VirtualMachines
from tests.e2e.images.droplet import droplet_image

PROGRAMS = ("qemu-system-x86_64", "debootstrap", "mke2fs", "debugfs", "ssh", "ssh-keygen")
FILES = ROOT / "components/render/host/files"
DROPLET, STACK, VOLUME = 1, "bench", "pds-bench"
PLUGIN, SCRIPT = "/usr/local/lib/nomad/host-volume-plugins/pds-dir", "/usr/local/lib/pds/volume"
UNIT = "/etc/systemd/system/srv-nomad.mount"
MIB = 1024**2
_PATIENCE = 900.0
_AS_THE_SERVER = "setpriv --reuid=1000 --regid=1000 --clear-groups"


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """The output of a shell script on the machine, whose volume is mounted and claimed."""
    if lines := missing(*PROGRAMS):
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e")).resolve()
    cache.mkdir(parents=True, exist_ok=True)
    machines = VirtualMachines(tmp_path_factory.mktemp("machine"), droplet_image(cache))
    try:
        machines.make_volume("volume", 2)
        # `quota` is one of the host's packages.
        machines.boot(DROPLET, "#cloud-config\ndisable_root: false\npackages: [quota]\n", {VOLUME: "volume"})
        answered(machines)

        def ask_with_patience(script: str) -> str:
            return machines.ask(DROPLET, script, patience=_PATIENCE)

        ask_with_patience("cloud-init status --wait >/dev/null || true; command -v setquota")
        mount = (FILES / "srv-nomad.mount").read_text().replace("@VOLUME@", VOLUME)
        # The test runs the preparation itself, below.
        mount = "\n".join(line for line in mount.splitlines() if "pds-volume-prepare" not in line)
        lay_out(ask_with_patience, PLUGIN, (FILES / "host-volume-plugin.sh").read_text())
        lay_out(ask_with_patience, SCRIPT, (FILES / "volume.sh").read_text())
        lay_out(ask_with_patience, UNIT, mount)
        lay_out(ask_with_patience, "/etc/pds/host.env", f"STACK={STACK}\nVOLUME={VOLUME}\nADOPT=0\n")
        print(
            ask_with_patience(
                f"{SCRIPT} prepare && systemctl start srv-nomad.mount && {SCRIPT} claim; mount | grep /srv/nomad"
            )
        )
        yield ask_with_patience
    finally:
        machines.stop_all()


def answered(machines: VirtualMachines) -> None:
    """Wait until a login succeeds. Raises E2eError if none does."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        try:
            machines.ask(DROPLET, "true")
        except E2eError:
            time.sleep(2)
        else:
            return
    raise E2eError(f"no login to the machine succeeded within {_PATIENCE:.0f} s")


def lay_out(ask: Callable[[str], str], path: str, text: str) -> None:
    """Write a file on the machine."""
    assert "@END@" not in text
    ask(f"mkdir -p {Path(path).parent}\ncat >{path} <<'@END@'\n{text}\n@END@\nchmod 0755 {path}")


def create_directory(ask: Callable[[str], str], club: str, mib: int) -> str:
    """Create a club's directory with this quota as Nomad does, with only the plugin's environment; return its path."""
    variables = f"DHV_VOLUME_NAME=pds-{club} DHV_CAPACITY_MIN_BYTES={mib * MIB} DHV_CAPACITY_MAX_BYTES={mib * MIB}"
    ask(f"env -i {variables} {PLUGIN} create")
    return f"/srv/nomad/clubs/pds-{club}"


def write(ask: Callable[[str], str], file: str, mib: int) -> str:
    """The error of a server that writes this much; empty if it succeeds."""
    return ask(f"{_AS_THE_SERVER} dd if=/dev/zero of={file} bs=1M count={mib} status=none conv=fsync 2>&1 || true")


def test_full_quota_of_a_club_leaves_space_for_the_others(ask: Callable[[str], str]) -> None:
    chess, rooks = create_directory(ask, "chess", 64), create_directory(ask, "rooks", 64)
    assert "Disk quota exceeded" in write(ask, f"{chess}/blob", 100)
    used = int(ask(f"du --summarize --block-size=1M {chess}").split()[0])
    assert used in (63, 64), "the club must get exactly its quota"
    assert "Disk quota exceeded" in write(ask, f"{chess}/another", 1)
    assert write(ask, f"{rooks}/blob", 50) == "", "the other club must not be affected"
    assert write(ask, "/srv/nomad/pds/blob", 100) == "", "the host's own PDS must not be affected"


def test_files_in_subdirectories_count_for_the_quota(ask: Callable[[str], str]) -> None:
    rooks = "/srv/nomad/clubs/pds-rooks"
    ask(f"{_AS_THE_SERVER} mkdir -p {rooks}/actors/1a")
    assert "Disk quota exceeded" in write(ask, f"{rooks}/actors/1a/store", 30)
    ask(f"rm {rooks}/actors/1a/store")


def test_space_is_available_after_deleting_files_or_raising_the_quota(ask: Callable[[str], str]) -> None:
    chess = "/srv/nomad/clubs/pds-chess"
    ask(f"rm -f {chess}/another")
    assert "Disk quota exceeded" in write(ask, f"{chess}/more", 20)
    create_directory(ask, "chess", 128)
    assert write(ask, f"{chess}/more", 20) == "", "Nomad runs the plugin again with the new limit"
    ask(f"rm {chess}/blob")
    assert write(ask, f"{chess}/blob", 60) == ""


def test_directory_that_is_moved_back_has_its_quota_again(ask: Callable[[str], str]) -> None:
    """As in docs/guide/clubs.md: it replaces the empty one, and the agent is restarted."""
    chess = "/srv/nomad/clubs/pds-chess"
    ask(f"env -i DHV_VOLUME_NAME=pds-chess {PLUGIN} delete")
    create_directory(ask, "chess", 128)
    ask(f"rmdir {chess} && mv /srv/nomad/.trash/*-pds-chess {chess}")
    create_directory(ask, "chess", 128)  # as a restart of the agent does
    assert "Disk quota exceeded" in write(ask, f"{chess}/rest", 100)
    assert int(ask(f"du --summarize --block-size=1M {chess}").split()[0]) in (127, 128)
