"""The disk of `droplet.py` with the packages of `user_data` installed, their services off: what a first boot's setup
finds already there, it does not install under emulation. Needs root, and a loop device."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.environment.tools import run
from tests.e2e.images.droplet import PACKAGES, DropletImage, droplet_image

_KEYS = "# RSA keys take an emulated machine half a minute.\nssh_genkeytypes: [ed25519]\n"
_SERVICES = ("containerd.service", "docker.service", "docker.socket", "unattended-upgrades.service")
"""Which the packages switch on."""


def installed_image(cache: Path) -> DropletImage:
    """Build the image unless `cache` has it. Raises E2eError with the end of what failed."""
    bare = droplet_image(cache)
    folder = cache / "droplet-installed"
    made = DropletImage(folder / "disk.ext4", bare.kernel, bare.initrd)
    stamp, wanted = folder / "stamp", Path(__file__).read_text() + (bare.disk.parent / "stamp").read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return made
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    run(["cp", "--sparse=always", str(bare.disk), str(made.disk)])
    with _mounted(made.disk) as tree:
        # Debian's way to keep packages from starting services.
        policy = tree / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        chroot = ["chroot", str(tree), "env", "DEBIAN_FRONTEND=noninteractive"]
        run([*chroot, "apt-get", "update"])
        run([*chroot, "apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES])
        run([*chroot, "systemctl", "disable", *_SERVICES])
        policy.unlink()
        (tree / "etc/cloud/cloud.cfg.d/91_keys.cfg").write_text(_KEYS)
    stamp.write_text(wanted)
    return made


@contextmanager
def _mounted(disk: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        run(["mount", "-o", "loop", str(disk), folder])
        try:
            yield Path(folder)
        finally:
            run(["umount", folder])
