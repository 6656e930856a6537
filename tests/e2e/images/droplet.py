"""The initial disk of a droplet, built on this machine: Debian 13 by debootstrap, as an ext4 file system.

It has what DigitalOcean's image brings before `user_data` is read: kernel, systemd, cloud-init, SSH. The packages of
`user_data` are not installed. They are in a package archive on the disk, which is the system's only source, so the
first boot installs them as it would from a mirror, in the same order and with the same scripts, and needs no network.

Kernel and initial file system are given to the virtual machine beside the disk, so there is no boot loader. Packages
come from the mirror that apt has on this machine. Needs root, and no mount.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from components.render.cluster.user_data import SERVER_PACKAGES
from components.render.host.cloud_init import PACKAGES as HOST_PACKAGES
from tests.e2e.environment.tools import E2eError, need, run

OUTSIDE = {"releases.test": "203.0.113.10", "pds.local": "203.0.113.10"}
"""Names that the droplet resolves, to documentation addresses (RFC 5737). `outside.py` answers there."""

PACKAGES = tuple(sorted({*HOST_PACKAGES, *SERVER_PACKAGES}))
"""What `user_data` installs, of a host or of a cluster's server."""

_SUITE = "trixie"
_BASE = (
    "apparmor", "ca-certificates", "cloud-init", "curl", "dbus", "e2fsprogs", "ifupdown", "initramfs-tools",
    "iproute2", "kmod", "libpam-systemd", "linux-image-cloud-amd64", "openssh-server", "procps", "systemd-sysv", "udev",
    # Dependencies of cloud-init, since debootstrap cannot resolve virtual packages.
    "python3-cffi-backend",
)  # fmt: skip
_DISK_GIB = 50
"""As in the droplet's size. The file is sparse."""
_ARCHIVE = "var/local/debian"
_CLOUD = """\
# As on DigitalOcean: one source, and boot messages are on the console, too.
datasource_list: [DigitalOcean, None]
output: {all: '| tee -a /var/log/cloud-init-output.log /dev/console'}
"""


@dataclass(frozen=True)
class DropletImage:
    """What a virtual machine starts from."""

    disk: Path
    kernel: Path
    initrd: Path


def droplet_image(cache: Path) -> DropletImage:
    """Build the image unless `cache` has it. Raises E2eError with the end of what failed."""
    made = DropletImage(*(cache / "droplet" / name for name in ("disk.ext4", "kernel", "initrd")))
    stamp = cache / "droplet" / "stamp"
    wanted = hashlib.sha256(f"{Path(__file__).read_text()} {PACKAGES}".encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return made
    need("debootstrap", "mke2fs", "apt-get")
    folder, tree = cache / "droplet.part", cache / "droplet.part" / "tree"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run(["debootstrap", "--variant=minbase", f"--include={','.join(_BASE)}", _SUITE, str(tree), _mirror()])
    _archive(tree)
    _settle(tree)
    for name, pattern in (("kernel", "vmlinuz-*"), ("initrd", "initrd.img-*")):
        [found] = (tree / "boot").glob(pattern)
        shutil.copy2(found, folder / name)
    run(["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(tree), str(folder / "disk.ext4"), f"{_DISK_GIB}G"])
    shutil.rmtree(tree)
    (folder / "stamp").write_text(wanted)
    shutil.rmtree(cache / "droplet", ignore_errors=True)
    folder.rename(cache / "droplet")
    return made


def _mirror() -> str:
    """The Debian mirror of this machine's apt."""
    targets = run(["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Identifier: Packages"])
    for line in targets.splitlines():
        label, _, address = line.partition(" ")
        if label == "Debian":
            return address
    raise E2eError("apt on this machine has no Debian mirror: run `apt-get update`")


def _archive(tree: Path) -> None:
    """Download the packages of `user_data` and make them a package archive on the disk, the only source."""
    chroot = ["chroot", str(tree)]
    run([*chroot, "apt-get", "update"])
    run([*chroot, "apt-get", "install", "--download-only", "--yes", "--no-install-recommends", *PACKAGES])
    archive = tree / _ARCHIVE
    archive.mkdir(parents=True)
    entries = []
    for file in sorted((tree / "var/cache/apt/archives").glob("*.deb")):
        # apt writes a version's colon as %3a, and would read it back as one.
        moved = archive / file.name.replace("%3a", ".")
        shutil.move(file, moved)
        about = run(["dpkg-deb", "--field", str(moved)]).strip()
        digest = hashlib.sha256(moved.read_bytes()).hexdigest()
        entries.append(f"{about}\nFilename: ./{moved.name}\nSize: {moved.stat().st_size}\nSHA256: {digest}\n")
    (archive / "Packages").write_text("\n".join(entries))
    shutil.rmtree(tree / "var/lib/apt/lists")
    (tree / "var/lib/apt/lists/partial").mkdir(parents=True)
    for file in (tree / "etc/apt/sources.list", *(tree / "etc/apt/sources.list.d").iterdir()):
        file.unlink(missing_ok=True)
    (tree / "etc/apt/sources.list").write_text(f"deb [trusted=yes lang=none] file:/{_ARCHIVE} ./\n")


def _settle(tree: Path) -> None:
    """Write what an image has and debootstrap does not create."""
    (tree / "etc/fstab").write_text("/dev/vda / ext4 errors=remount-ro 0 1\n")
    (tree / "etc/hostname").write_text("droplet\n")
    (tree / "etc/resolv.conf").unlink(missing_ok=True)
    (tree / "etc/resolv.conf").write_text("")  # this machine's, until now
    names = "".join(f"{address} {name}\n" for name, address in OUTSIDE.items())
    (tree / "etc/hosts").write_text(f"127.0.0.1 localhost\n{names}")
    (tree / "etc/cloud/cloud.cfg.d/90_bench.cfg").write_text(_CLOUD)
    # Empty, not "uninitialized": that would be a first boot to systemd, which then enables every unit there is.
    (tree / "etc/machine-id").write_text("")
    for key in (tree / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
