"""Compares recorded inputs with the SDK's types: nested keys, required keys, Python types and enum values.

Pulumi's mocks accept any input. Names, types and enums are those of the pinned packages. A provider's configuration is
JSON text on the wire and is decoded first.
"""

import enum
import importlib
import inspect
import json
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Any, Union

import pulumi
from pulumi import _types

from offline.mock_engine import Evaluation

_PACKAGES = {"digitalocean", "nomad", "random", "tls"}


@cache
def args_class(token: str) -> type | None:
    """The SDK's `…Args` class of a resource type; None for a component and a dynamic resource, which have none."""
    package, _, kind = token.partition(":")
    if token.startswith("pulumi:providers:"):
        package, name, module = token.rpartition(":")[2], "Provider", "provider"
    else:
        name = kind.rpartition(":")[2]
        module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    if package not in _PACKAGES:
        return None
    args: type = getattr(importlib.import_module(f"pulumi_{package}.{module}"), f"{name}Args")
    return args


def find_faulty_inputs(evaluation: Evaluation) -> list[str]:
    """Find inputs of every provider's resource that its SDK does not have, or has in another form."""
    findings, checked = [], 0
    for item in evaluation.of(""):
        args = args_class(item.type)
        if args is None:
            continue
        checked += 1
        inputs = item.inputs
        if item.type.startswith("pulumi:providers:"):
            inputs = {key: _opened(value) for key, value in inputs.items()}
        findings += list(_against(args, inputs, item.name))
        if item.type.endswith(":Droplet") and not item.id.isdigit():
            findings.append(f"{item.name}: a droplet's id is a number, not {item.id}")
    if not checked:
        raise LookupError("the program registered no resource of a provider")
    return findings


def _opened(value: Any) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


@cache
def _fields(args: type) -> dict[str, tuple[Any, bool]]:
    """Wire name to type and whether it is required."""
    constructor = vars(args)["__init__"]
    # `pulumi.Input` names `Output[T]` by text, which Python 3.14 resolves only with these names.
    namespace = {**vars(pulumi.output), **vars(sys.modules[args.__module__])}
    hints = typing.get_type_hints(constructor, namespace)
    names = _types.input_type_py_to_pulumi_names(args)
    parameters = inspect.signature(constructor).parameters
    return {
        names[key]: (hints[key], parameter.default is inspect.Parameter.empty)
        for key, parameter in parameters.items()
        if key in names
    }


def wire_names(args: type) -> frozenset[str]:
    """The inputs of an `…Args` class, as they go over the wire."""
    return frozenset(_fields(args))


def _against(args: type, value: Mapping[str, Any], where: str) -> Iterator[str]:
    fields = _fields(args)
    for key in value.keys() - fields.keys():
        yield f"{where}: {args.__name__} has no '{key}'"
    for key, (hint, required) in fields.items():
        if value.get(key) is not None:
            yield from _fits(hint, value[key], f"{where}.{key}")
        elif required:
            yield f"{where}: {args.__name__} demands '{key}'"


def _members(hint: Any) -> list[Any]:
    """The types that a value may have, without None and Pulumi's wrappers (Awaitable, Output)."""
    if typing.get_origin(hint) not in (Union, UnionType):
        return [hint]
    members: list[Any] = []
    for member in typing.get_args(hint):
        origin = typing.get_origin(member) or member
        if member is type(None) or origin is pulumi.Output or getattr(origin, "__name__", "") == "Awaitable":
            continue
        members += _members(member)
    return members


def _fits(hint: Any, value: Any, where: str) -> Iterator[str]:
    members = _members(hint)
    enums = [member for member in members if inspect.isclass(member) and issubclass(member, enum.Enum)]
    if enums:
        # An argument that names an enum also takes any text; a value outside the enum still counts as misspelt.
        allowed = {item.value for member in enums for item in member}
        if value not in allowed:
            yield f"{where}: {value!r} is not one of {enums[0].__name__}"
        return
    faults = [list(_fits_one(member, value, where)) for member in members]
    if all(faults):
        yield from min(faults, key=len)


def _fits_one(member: Any, value: Any, where: str) -> Iterator[str]:
    origin = typing.get_origin(member) or member
    if member is Any:
        return
    if inspect.isclass(member) and _types.is_input_type(member):
        if isinstance(value, Mapping):
            yield from _against(member, value, where)
        else:
            yield f"{where}: {value!r} is no {member.__name__}"
    elif inspect.isclass(origin) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            yield f"{where}: {value!r} is no map"
        else:
            for key, item in value.items():
                yield from _fits(typing.get_args(member)[1], item, f"{where}.{key}")
    elif inspect.isclass(origin) and issubclass(origin, Sequence) and origin is not str:
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
        else:
            for index, item in enumerate(value):
                yield from _fits(typing.get_args(member)[0], item, f"{where}[{index}]")
    else:
        # The wire has one kind of number, and a bool is no number.
        accepted = (int, float) if origin is float else (origin,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and origin is not bool):
            yield f"{where}: {value!r} is no {getattr(origin, '__name__', origin)}"
