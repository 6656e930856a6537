"""Removes resources from a stack's state without deleting them, because another stack, or a Nomad that the stack
leaves, now owns them.

The engine deletes what is missing in the program. For a volume, an address and the objects of a Nomad that is about to
end, that is never wanted, and most of these are protected. `pulumi state delete` removes one after the other, and not
those that others depend on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cli.lib.private_files import write_private
from cli.lib.stack import Stack, StackError
from components.settings import stack_identity

Json = dict[str, Any]


def release(stack: Stack, is_released: Callable[[Json], bool], place: str | None = None) -> int:
    """Remove the resources of the state for which `is_released` holds, and what is below them. Returns their number.

    `place` is that of the PDS from now on, which the state gets with the same step: without its volume, it would accept
    the `up` of an older stack file.

    The state before is kept in `build/released/`, with its secrets encrypted. Raises StackError.
    """
    state = stack.export()
    deployment = state["deployment"]
    if deployment.get("pending_operations"):
        raise StackError(
            f"An `up` of stack {stack.name} was interrupted. `./pds repair {stack.name}` first, then repeat the "
            "command."
        )
    resources = deployment.get("resources") or []
    gone = released(resources, is_released)
    if not gone:
        return 0
    folder = stack.root / "build/released"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{stack.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    former = folder / f"{name}-before.json"
    write_private(former, json.dumps(state).encode())
    deployment["resources"] = [at_place(item, place) if place else item for item in without(resources, gone)]
    file = folder / f"{name}.json"
    write_private(file, json.dumps(state).encode())
    if stack.run("stack", "import", "--file", str(file)).code:
        raise StackError(f"The state of stack {stack.name} could not be written. Repeat the command.")
    print(f"Removed {len(gone)} resources from the state of {stack.name}. None of them was deleted. Copy of the former")
    print(f"state: {former}")
    return len(gone)


def released(resources: Sequence[Json], is_released: Callable[[Json], bool]) -> set[str]:
    """The URNs of the resources for which it holds, of those with a released provider, and of their children."""
    gone = {item["urn"] for item in resources if is_released(item)}
    while True:
        more = {
            item["urn"]
            for item in resources
            if item["urn"] not in gone and (_provider(item) in gone or item.get("parent") in gone)
        }
        if not more:
            return gone
        gone |= more


def without(resources: Sequence[Json], gone: set[str]) -> list[Json]:
    """The resources without those in `gone`, and without references to them, which the engine would refuse."""
    left = []
    for item in resources:
        if item["urn"] in gone:
            continue
        kept = dict(item)
        if kept.get("dependencies"):
            kept["dependencies"] = [urn for urn in kept["dependencies"] if urn not in gone]
        by_property: Mapping[str, Any] = kept.get("propertyDependencies") or {}
        if by_property:
            kept["propertyDependencies"] = {
                name: [urn for urn in urns or [] if urn not in gone] for name, urns in by_property.items()
            }
        if kept.get("deletedWith") in gone:
            del kept["deletedWith"]
        left.append(kept)
    return left


def at_place(item: Json, place: str) -> Json:
    """The resource; `StackIdentity` with this place (`stack_identity.place`)."""
    if name_of(item) != stack_identity.RESOURCE:
        return item
    return item | {key: {**(item.get(key) or {}), "place": place} for key in ("inputs", "outputs")}


def name_of(item: Json) -> str:
    """The program's name of a resource."""
    return str(item["urn"]).rpartition("::")[2]


def is_below(item: Json, component: str) -> bool:
    """Whether it is a child of a component of this type, for example 'OwnHost'."""
    return f"pds:index:{component}$" in item["urn"]


def is_nomad(item: Json, providers: Sequence[str]) -> bool:
    """Whether it is one of these providers of Nomad, or an object that one of them made."""
    return name_of(item) in providers or name_of({"urn": _provider(item)}) in providers


def _provider(item: Json) -> str:
    """The URN of a resource's provider: `provider` is URN::ID."""
    return str(item.get("provider") or "").rpartition("::")[0]
