"""`Orphan`: a resource of the account that a stack's state lacks."""

from dataclasses import dataclass


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
    """The commands that remove it, in order."""
    taken: bool = False
    """Whether the stack file adopts it already."""
    data: bool = False
    """Whether it may hold the only copy of something."""
    blocks: bool = False
    """Whether the next `up` fails while it exists."""
