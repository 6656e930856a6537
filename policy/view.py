"""The input of the checks: the desired resources, from the engine's preview or the offline evaluation.

Both have type, name, inputs, outputs, protection. The engine hides every secret; the offline evaluation knows them, as
stand-ins. So an item has its inputs twice: `inputs` as far as they are known, and `shown`, in which every secret is
`SECRET`, as in the engine's own output.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml
from pulumi.runtime import rpc

from offline.mock_engine import Evaluation

SECRET = "[secret]"  # noqa: S105 (what the engine writes instead of one: pulumi, pkg/backend/display/json.go)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One desired resource. Unknown values are None."""

    type: str
    name: str
    urn: str
    id: str
    inputs: Mapping[str, Any]
    """As far as they are known; an unknown secret is `SECRET`."""
    shown: Mapping[str, Any]
    """The readable form of them."""
    outputs: Mapping[str, Any]
    """The readable form of those."""
    protected: bool
    retained: bool

    @property
    def kind(self) -> str:
        """The last part of its type token."""
        return self.type.rpartition(":")[2]


@dataclass(frozen=True, kw_only=True)
class View:
    """All desired resources. The two choices are explicit ones of a stack file."""

    items: tuple[Item, ...]
    nomad_anywhere: bool = False
    open_registration: bool = False

    def of(self, type_end: str) -> list[Item]:
        """Return the items whose type token ends with it. Never empty, since a check of nothing would pass."""
        matching = [item for item in self.items if item.type.endswith(type_end)]
        if not matching:
            raise LookupError(f"there is no {type_end}")
        return matching

    def one(self, name: str) -> Item:
        """Return the item of this name."""
        matching = [item for item in self.items if item.name == name]
        if len(matching) != 1:
            raise LookupError(f"{len(matching)} resources are named {name}")
        return matching[0]

    def has(self, type_end: str) -> bool:
        """Return whether there is such an item."""
        return any(item.type.endswith(type_end) for item in self.items)


def of_evaluation(evaluation: Evaluation, *, nomad_anywhere: bool = False, open_registration: bool = False) -> View:
    """Return the view of an offline evaluation."""
    items = tuple(
        Item(
            type=item.type,
            name=item.name,
            urn=item.urn,
            id=item.id,
            inputs=item.inputs,
            shown=blinded(item.raw),
            outputs=blinded(item.outputs),
            protected=item.protected,
            retained=bool(item.options.get("retainOnDelete")),
        )
        for item in evaluation.resources
    )
    return View(items=items, nomad_anywhere=nomad_anywhere, open_registration=open_registration)


def blinded(value: Any) -> Any:
    """Return the value as the engine would show it: secrets hidden, unknown values None, whole numbers whole."""
    if isinstance(value, dict):
        if value.get(rpc._special_sig_key) == rpc._special_secret_sig:
            return SECRET
        return {key: blinded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [blinded(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None if value == rpc.UNKNOWN else value


def texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield every text in `value` with its path, keys of maps included."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}.{key}", str(key)
            yield from texts(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts(item, f"{path}[{index}]")
    elif isinstance(value, str):
        yield path, value


@lru_cache(maxsize=64)
def written_files(user_data: str) -> tuple[tuple[str, str], ...]:
    """Return path and content of each file that cloud-init writes. Several checks read the same document, and it takes
    20 ms to parse."""
    return tuple(
        (str(file["path"]), str(file["content"])) for file in yaml.load(user_data, yaml.CSafeLoader)["write_files"]
    )
