"""Which other stack has a resource of the account, by the stack files here and by the states of their stacks.

A volume keeps its name when it changes its stack (`./pds adopt`, `./pds release`), and a reserved IP has no name. So a
resource with a stack's name, or with none, may be in use by another stack.
"""

import contextlib
import re
from collections.abc import Collection, Sequence
from functools import cached_property

from cli.lib.stack import Stack, UnknownStackError
from components.render.cluster.user_data import volume_prefix
from components.render.host.cloud_init import volume_name
from components.settings.sections.settings import Settings
from offline import stack_names
from offline.stackfile import StackFileError, read_settings, read_text

_KINDS = ("Volume", "ReservedIp", "Droplet")


class Claims:
    """What other stacks have than `stack`. Their states are read only if their files name nothing."""

    def __init__(self, stack: Stack) -> None:
        self._root = stack.root
        self._others = [name for name in stack_names(stack.root) if name != stack.name]

    def file_with(self, word: str) -> str | None:
        """The stack whose file has this ID, address or name."""
        pattern = re.compile(rf"(?<![\w.-]){re.escape(word)}(?![\w.-])")
        return next((name for name, text in self._texts.items() if pattern.search(text)), None)

    def of(self, number: str, name: str = "") -> str:
        """Which other stack has the resource, a sentence; empty if none has."""
        by_name = next((stack for stack, volumes in self._volume_names.items() if name and name in volumes), None)
        if stack := self.file_with(number) or (self.file_with(name) if name else None) or by_name:
            return f"Pulumi.{stack}.yaml has it."
        return self.in_a_state(number)

    def in_a_state(self, number: str) -> str:
        """Which other stack's state has the resource, a sentence; empty if none has."""
        return next((f"It is in the state of {name}." for name, ids in self._states.items() if number in ids), "")

    def on_a_volume(self, number: str, name: str, droplets: Sequence[str], own: Collection[str]) -> str:
        """Which other stack or droplet has the volume, a sentence; empty if none has."""
        foreign = [droplet for droplet in droplets if droplet not in own]
        held = f"Droplet {foreign[0]} has it, which is not a droplet of this stack." if foreign else ""
        return self.of(number, name) or held

    @cached_property
    def _texts(self) -> dict[str, str]:
        return {name: read_text(name, self._root) for name in self._others}

    def adopting_host(self, volume: str) -> tuple[str, str] | None:
        """The cluster, and its host, whose file adopts the volume."""
        for name, settings in self._settings.items():
            for host, options in settings.cluster.hosts.items() if settings.cluster else ():
                if options.adopt and options.adopt.volume == volume:
                    return name, host
        return None

    @cached_property
    def _volume_names(self) -> dict[str, set[str]]:
        """The volumes' names that the files do not write."""
        return {name: _volume_names(name, settings) for name, settings in self._settings.items()}

    @cached_property
    def _settings(self) -> dict[str, Settings]:
        """Those of the files that are not refused."""
        found = {}
        for name in self._others:
            with contextlib.suppress(StackFileError):
                found[name] = read_settings(name, self._root)
        return found

    @cached_property
    def _states(self) -> dict[str, set[str]]:
        """IDs of the resources. A stack that this backend does not have has none.

        Raises StackError: what cannot be read may be in use, and the report prints commands that delete.
        """
        found: dict[str, set[str]] = {}
        for name in self._others:
            try:
                state = Stack(name, self._root).state()
            except UnknownStackError:
                continue
            found[name] = {item.id for item in state.resources if item.type in _KINDS}
        return found


def _volume_names(stack: str, settings: Settings) -> set[str]:
    if settings.cluster:
        return {f"{volume_prefix(stack)}{host}" for host in settings.cluster.hosts}
    return set() if settings.on else {volume_name(settings, stack)}
