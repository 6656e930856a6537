"""Hands a host's volume and address over from one droplet to another."""

import re
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

from cli.errors import CommandError
from cli.lib.digitalocean import DigitalOceanAccount, DigitalOceanError
from cli.lib.subprocesses import orderly_end, run_in_foreground

_PAUSE = 2.0
_SHUTDOWN_SECONDS = 180.0
_DETACH_SECONDS = 300.0


class VolumeError(CommandError):
    """The volume or its droplet is not as it has to be; the text says what to do."""


def volume_of(account: DigitalOceanAccount, volume: str) -> dict[str, Any]:
    """The volume as DigitalOcean describes it. Raises VolumeError if there is none."""
    found = account.get(f"volumes/{volume}")
    if found is None:
        raise VolumeError(f"DigitalOcean has no volume {volume}. Nothing was changed.")
    return found


def carrier_of(account: DigitalOceanAccount, volume: str) -> int | None:
    """The droplet that has the volume."""
    droplets = volume_of(account, volume)["droplet_ids"] or []
    return int(droplets[0]) if droplets else None


def is_on(account: DigitalOceanAccount, droplet: int) -> bool:
    """Whether the droplet exists and is on."""
    return bool((account.get(f"droplets/{droplet}") or {"status": "off"})["status"] == "active")


def require_distinct(cluster: str, stack: str) -> None:
    """Require a stack's name to be no possible owner's name of the cluster's hosts. Raises VolumeError.

    Volumes have their owner's name: that of a stack, or CLUSTER-HOST (components/render/host/files/volume.sh).
    """
    if re.fullmatch(rf"{re.escape(cluster)}-[a-z0-9]+", stack):
        raise VolumeError(
            f"The name of stack {stack} could be that of a host of cluster {cluster}. Each could then claim the "
            "other's volume. Use a stack or a cluster with another name. Nothing was changed."
        )


def give_away(stack: str, droplet: int, address: str, handover: Sequence[str]) -> None:
    """Write the next owner onto the volume, by ssh to the droplet that has it. Raises VolumeError."""
    remote = shlex.join(["/usr/local/lib/pds/volume", "handover", *handover])
    command = ["ssh", "-o", f"HostKeyAlias=pds-{stack}-{droplet}-22", f"root@{address}", "--", remote]
    print(f"\n$ {shlex.join(command)}", flush=True)
    with orderly_end():
        code = run_in_foreground(command)
    if code:
        raise VolumeError(
            f"ssh to droplet {droplet} failed (exit code {code}). Nothing was changed. If it was refused: only "
            "'operators.cidrs' may connect."
        )


def set_free(account: DigitalOceanAccount, volume: str, address: str, droplet: int, again: str) -> None:
    """Shut the droplet down cleanly, then detach its volume and unassign its address. Can be repeated at any point.

    `again` is the command to repeat. Raises VolumeError.
    """
    if is_on(account, droplet):
        print(f"shut down droplet {droplet}", flush=True)
        _act(account, f"droplets/{droplet}/actions", {"type": "shutdown"})
        _wait(
            lambda: not is_on(account, droplet),
            _SHUTDOWN_SECONDS,
            f"Droplet {droplet} is not off after {_SHUTDOWN_SECONDS:.0f} s. Its volume was not detached. "
            f"`doctl compute droplet-action power-off {droplet} --wait`, then `{again}`.",
        )
    if carrier_of(account, volume) == droplet:
        if is_on(account, droplet):
            raise VolumeError(
                f"Droplet {droplet} is on again: it was switched on after its shutdown. Its volume was not detached. "
                f"Make sure that no other command is running for it, then repeat `{again}`."
            )
        print(f"detach volume {volume} from droplet {droplet}", flush=True)
        if not _is_busy(account, volume):
            _act(account, f"volumes/{volume}/actions", {"type": "detach", "droplet_id": droplet})
        _wait(
            lambda: carrier_of(account, volume) is None and not _is_busy(account, volume),
            _DETACH_SECONDS,
            f"The volume {volume} is still not detached from droplet {droplet}. Wait, then repeat `{again}`.",
        )
    if _droplet_with(account, address) == droplet:
        print(f"unassign {address} from droplet {droplet}", flush=True)
        _act(account, f"reserved_ips/{address}/actions", {"type": "unassign"})
        _wait(
            lambda: _droplet_with(account, address) is None,
            _DETACH_SECONDS,
            f"The address {address} is still assigned to droplet {droplet}. Wait, then repeat `{again}`.",
        )


def _act(account: DigitalOceanAccount, path: str, body: dict[str, Any]) -> None:
    """Request an action, again while another one on the droplet is not over."""
    end = time.monotonic() + _SHUTDOWN_SECONDS
    while True:
        try:
            account.create(path, body)
        except DigitalOceanError as error:
            if "pending event" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _is_busy(account: DigitalOceanAccount, volume: str) -> bool:
    return any(item["status"] == "in-progress" for item in account.list_all(f"volumes/{volume}/actions"))


def _droplet_with(account: DigitalOceanAccount, address: str) -> int | None:
    found = account.get(f"reserved_ips/{address}")
    if found is None:
        raise VolumeError(f"DigitalOcean has no reserved IP {address}.")
    return int(found["droplet"]["id"]) if found.get("droplet") else None


def _wait(done: Callable[[], bool], seconds: float, otherwise: str) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise VolumeError(otherwise)
        time.sleep(_PAUSE)
