"""What the checks look at: the resources that are wanted, as the engine shows them or the offline evaluation has them.

Both know type, name, inputs, outputs, protection. The engine hides every secret; the offline evaluation knows them, as
stand-ins. So an item has its inputs twice: `inputs` as far as they are known, and `shown`, in which every secret is
`SECRET`, as in the engine's own output.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pulumi.runtime import rpc

from tools.engine import Evaluation

SECRET = "[secret]"  # noqa: S105 (what the engine writes instead of one: pulumi, pkg/backend/display/json.go)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One resource as it is wanted. Unknown values are None."""

    type: str
    name: str
    urn: str
    id: str
    inputs: Mapping[str, Any]
    """As far as they are known; a secret that is not is `SECRET`."""
    shown: Mapping[str, Any]
    """What anybody may read of them."""
    outputs: Mapping[str, Any]
    """What anybody may read of those."""
    protected: bool
    retained: bool

    @property
    def kind(self) -> str:
        """The last part of its type token."""
        return self.type.rpartition(":")[2]


@dataclass(frozen=True, kw_only=True)
class View:
    """Everything that is wanted. The two choices are what a stack file may say on purpose."""

    items: tuple[Item, ...]
    nomad_anywhere: bool = False
    open_registration: bool = False

    def of(self, type_end: str) -> list[Item]:
        """The items whose type token ends so; never none, since a check of nothing would pass."""
        found = [item for item in self.items if item.type.endswith(type_end)]
        if not found:
            raise LookupError(f"there is no {type_end}")
        return found

    def one(self, name: str) -> Item:
        """The item of this name."""
        found = [item for item in self.items if item.name == name]
        if len(found) != 1:
            raise LookupError(f"{len(found)} resources are named {name}")
        return found[0]

    def has(self, type_end: str) -> bool:
        """Whether there is such an item."""
        return any(item.type.endswith(type_end) for item in self.items)


def of_evaluation(evaluation: Evaluation, *, nomad_anywhere: bool = False, open_registration: bool = False) -> View:
    """The view of a program that was evaluated offline."""
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
    """The value as the engine would show it: secrets hidden, what is unknown None, whole numbers whole."""
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
    """Every text in `value` and where it stands, keys of maps included."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}.{key}", str(key)
            yield from texts(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts(item, f"{path}[{index}]")
    elif isinstance(value, str):
        yield path, value
