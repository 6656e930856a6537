"""The e2e environment's external programs: found on PATH, and the sources of missing ones."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

PROGRAMS = ("pulumi", "pulumi-language-python", "nomad", "dockerd", "docker", "ip", "stunnel")
BUILD_PROGRAMS = ("debootstrap", "npm", "g++", "make", "go", "caddy")
"""Programs for building images, in addition to Docker."""

WHERE_FROM: Mapping[str, str] = {
    "pulumi": "https://www.pulumi.com/docs/install/",
    "pulumi-language-python": "https://www.pulumi.com/docs/install/ (it comes with the CLI)",
    "nomad": "https://developer.hashicorp.com/nomad/install",
    "dockerd": "https://docs.docker.com/engine/install/, or Debian's package docker.io",
    "docker": "https://docs.docker.com/engine/install/, or Debian's package docker-cli",
    "stunnel": "Debian's package stunnel4, https://www.stunnel.org/downloads.html",
    "ip": "Debian's package iproute2",
    "debootstrap": "Debian's package debootstrap",
    "caddy": "Debian's package caddy",
    "go": "https://go.dev/doc/install, 1.24 or newer",
    "qemu-system-x86_64": "Debian's package qemu-system-x86, https://www.qemu.org/download/",
    "mke2fs": "Debian's package e2fsprogs",
    "debugfs": "Debian's package e2fsprogs",
    "e2fsck": "Debian's package e2fsprogs",
    "mkfs.ext4": "Debian's package e2fsprogs",
    "blkid": "Debian's package util-linux",
    "losetup": "Debian's package mount",
    "iptables": "Debian's package iptables",
    "nft": "Debian's package nftables",
    "apt-get": "the machine grade builds a Debian disk, so it runs on Debian or Ubuntu",
    "ssh": "Debian's package openssh-client",
    "ssh-keygen": "Debian's package openssh-client",
    "victoria-metrics": "github.com/VictoriaMetrics/VictoriaMetrics, tag v1.150.0: CGO_ENABLED=0 go build "
    "./app/victoria-metrics",
    "busybox": "Debian's package busybox-static",
    "npm": "https://nodejs.org/en/download",
    "g++": "Debian's package g++",
    "make": "Debian's package make",
}
"""Program to its official source."""

_LAST_LINES = 30
_DEADLINE = 1800.0
"""Seconds; debootstrap, npm and compilers are run, too."""


class E2eError(Exception):
    """A one-line error of the e2e environment, with the remedy."""


def absent(*programs: str) -> list[str]:
    """Those of `programs` that are not on PATH."""
    return [name for name in programs if shutil.which(name) is None]


def missing(*programs: str) -> list[str]:
    """A line for each of `programs` that is not on PATH, with its source."""
    return [f"{name} is not on PATH: {WHERE_FROM[name]}" for name in absent(*programs)]


def need(*programs: str) -> None:
    """Raise E2eError unless all of `programs` are on PATH."""
    lines = missing(*programs)
    if lines:
        raise E2eError("\n".join(lines))


def run(
    command: Sequence[str],
    docker_host: str | None = None,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    seconds: float = _DEADLINE,
) -> str:
    """Standard output of `command`. Raises E2eError with its last lines if it fails and `check` is set, and if it
    does not end in time."""
    environment = {**os.environ, **(env or {})}
    if docker_host:
        environment["DOCKER_HOST"] = docker_host
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise E2eError(f"`{' '.join(command)}` did not end in {seconds:.0f} s") from None
    if done.returncode and check:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-_LAST_LINES:])
        raise E2eError(f"`{' '.join(command)}` ended with {done.returncode}:\n{last}")
    return done.stdout


def unmount_below(folder: Path) -> None:
    """Unmount mounts that Nomad or Docker left below `folder`, which a machine that is powered off loses by itself."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        path = line.split()[1].encode().decode("unicode_escape")
        if path.startswith(f"{folder}/"):
            run(["umount", "--lazy", path], check=False)
