"""The stack files here and the stacks of the backend, and which of them share a host."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.settings.sections.settings import Settings
from offline import stack_names
from offline.stackfile import StackFileError, read_settings


@dataclass(frozen=True, kw_only=True)
class KnownStack:
    """A stack. `settings` is None if its file is missing here or refused; `fault` says which."""

    name: str
    created: bool
    """Whether the backend has it."""
    has_a_file: bool
    settings: Settings | None
    fault: str = ""

    @property
    def where(self) -> str:
        """Return what its PDS runs on: 'droplet', the host's stack, or a Nomad's address; 'cluster' for one; empty if
        unknown."""
        on = self.settings.on if self.settings else None
        if self.settings and self.settings.cluster:
            return "cluster"
        if on is None:
            return "droplet" if self.settings else ""
        return str(on.stack or on.nomad_address)

    @property
    def host(self) -> str:
        """Return the key that the stacks of one host share."""
        return self.where if self.settings and self.settings.on else self.name

    @property
    def has_a_host(self) -> bool:
        """Return whether the host is its own."""
        return self.settings is not None and self.settings.on is None


def known_stacks(root: Path, created: Iterable[str]) -> list[KnownStack]:
    """Return every stack, by name; `created` are those of the backend."""
    names = set(stack_names(root))
    in_backend = set(created)
    stacks = []
    for name in sorted(names | in_backend):
        settings, fault = None, ""
        try:
            settings = read_settings(name, root)
        except StackFileError as error:
            fault = str(error) if name in names else f"there is no Pulumi.{name}.yaml here."
        stacks.append(
            KnownStack(name=name, created=name in in_backend, has_a_file=name in names, settings=settings, fault=fault)
        )
    return stacks


def by_host(stacks: Iterable[KnownStack]) -> Mapping[str, Sequence[KnownStack]]:
    """Return the stacks of each host: the host's own first, then its clubs by name; hosts with few of them first."""
    groups: dict[str, list[KnownStack]] = {}
    for stack in sorted(stacks, key=lambda stack: (not stack.has_a_host, stack.name)):
        groups.setdefault(stack.host, []).append(stack)
    return dict(sorted(groups.items(), key=lambda item: (len(item[1]), item[0])))
