"""`Orphan`: a resource of the account that a stack's state lacks."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cli.lib.digitalocean import Json


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """A resource of the account that the state lacks."""

    kind: str
    id: str
    about: str
    """Its kind, its content, and its effect on the next `up`."""
    adopt: tuple[str, ...] = ()
    """The command that adopts it; empty if there is none."""
    delete: tuple[tuple[str, ...], ...] = ()
    """The commands that remove it, in order; empty if it must stay."""
    instead: str = ""
    """What to do about one that must stay."""
    taken: bool = False
    """Whether the stack file adopts it already."""
    data: bool = False
    """Whether it may hold the only copy of something."""
    blocks: bool = False
    """Whether the next `up` fails while it exists."""


def unknown_droplet(item: Json, volumes: Collection[str], holds: str, *, blocks: bool = False) -> Orphan:
    """A droplet that no state has. `volumes` are the stack's own; what `holds` says is of a droplet with no others."""
    number = str(item["id"])
    off = [("doctl", "compute", "droplet-action", "shutdown", number, "--wait")] if item["status"] == "active" else []
    others = sorted(set(item["volume_ids"]) - set(volumes))
    return Orphan(
        kind="droplet",
        id=number,
        about=f"{item['name']}, {item['status']}, created {item['created_at']}. "
        + (f"It has volume {', '.join(others)}, which is not of this stack. PDSes may run on it." if others else holds),
        # In order: a server on it may be writing to the volume.
        delete=() if others else (*off, ("doctl", "compute", "droplet", "delete", number)),
        instead=f"`doctl compute volume get {others[0]}` shows which volume it is." if others else "",
        blocks=blocks,
    )


def volume_deletion(number: str, droplets: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The commands that delete a volume, in order."""
    return (
        *(("doctl", "compute", "volume-action", "detach", number, held, "--wait") for held in droplets),
        ("doctl", "compute", "volume", "delete", number),
    )
