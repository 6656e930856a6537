"""Chooses a host of a cluster for clubs that name none, and writes it down; `./pds assign-hosts` and `./pds new --on`.

`pulumi up` chooses none: after a change of the file it could choose another host than the one with the club's data.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cli.cluster.hosts import ClusterError
from cli.lib.edit_stackfile import StackFileEdit, add_option
from components.settings.checks.capacity import host_room, roomiest_host
from components.settings.sections.placement import ClubOptions
from components.settings.sections.settings import Settings
from offline.stackfile import parse_settings, read_text

CLUBS = ("pds:clubs", "clubs")
"""The spellings of the key in a stack file."""


def assign_hosts(stack: str, root: Path) -> StackFileEdit | None:
    """Write a host for each club of a cluster that has none; return the change, or None if there is nothing to do.

    Raises StackFileError, and ClusterError if a club has room on no host.
    """
    before = read_text(stack, root)
    after = with_hosts(stack, before)
    if after == before:
        return None
    edit = StackFileEdit(root / f"Pulumi.{stack}.yaml", before, after)
    edit.write()
    return edit


def with_hosts(stack: str, text: str) -> str:
    """Return the text of a stack file with a host for each club that has none. Raises as `assign_hosts`."""
    document = yaml.load(text, yaml.CSafeLoader)
    config = document.get("config") if isinstance(document, Mapping) else None
    clubs = next((config[key] for key in CLUBS if isinstance(config, Mapping) and config.get(key)), None)
    if not isinstance(clubs, Mapping) or not {"pds:cluster", "cluster"} & set(config or ()):
        return text  # the caller's own reading reports what is wrong with it
    without = {name: club for name, club in clubs.items() if isinstance(club, Mapping) and "host" not in club}
    # The others are checked first: their room is what counts.
    settings = parse_settings(stack, _leaving_out(document, without)) if without else None
    for name, club in without.items():
        assert settings
        wish = ClubOptions.model_validate(dict(club))
        host = choose_host(stack, settings, name, wish)
        settings = settings.model_copy(
            update={"clubs": {**settings.clubs, name: wish.model_copy(update={"host": host})}}
        )
        text = add_option(f"Pulumi.{stack}.yaml", text, CLUBS, name, "host", host)
    if without:
        parse_settings(stack, text)
    return text


def choose_host(stack: str, settings: Settings, club: str, wish: ClubOptions) -> str:
    """Return the host with the most room for the club. Raises ClusterError if it has room on none."""
    host = roomiest_host(settings, wish)
    if host is not None:
        return host
    assert settings.cluster
    free = (host_room(settings, each) for each in settings.cluster.hosts)
    left = ", ".join(f"{room.host} has {max(room.memory_mib, 0)} MiB and {max(room.disk_gib, 0)} GiB" for room in free)
    raise ClusterError(
        f"No host of {stack} has room for {club}, which needs {wish.memory_mib} MiB of memory, {wish.disk_gib} GiB of "
        f"disk and {wish.job_demand.mhz} MHz: {left}. Nothing was changed. Add a host to 'cluster.hosts' in "
        f"Pulumi.{stack}.yaml, or raise 'cluster.workers.size' or 'cluster.hosts.NAME.volume_gib'."
    )


def _leaving_out(document: Mapping[str, Any], names: Mapping[str, Any]) -> str:
    config = {
        key: {name: club for name, club in value.items() if name not in names} if key in CLUBS else value
        for key, value in document["config"].items()
    }
    return yaml.safe_dump({**document, "config": config})
