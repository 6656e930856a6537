"""How options are declared, how values are refused, and how a program iterates over all options.

Each option is declared once: a field of a `Section`, made by `option()`, holds its documentation, default, bounds and
the server's environment name. The table in docs/options.md, the editor's schema, `Pulumi.yaml`, the job's environment
and the error texts are derived from that field. This module describes no option.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, NoReturn, Self, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from components.settings.fields.job_demand import JobDemand


class Section(BaseModel):
    """A group of options: immutable, strictly typed, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    @property
    def job_demand(self) -> JobDemand:
        """What the Nomad jobs that exist because of this section reserve. A section without jobs reserves nothing."""
        return JobDemand()

    @classmethod
    def total_demand(cls, entries: Sequence[Self]) -> JobDemand:
        """The demand of all entries of a list or a map of this section: by default, each has jobs of its own."""
        return sum((entry.job_demand for entry in entries), JobDemand())


Strings = Annotated[tuple[str, ...], Field(strict=False)]
"""A list in the stack file, a tuple in the program."""


def _read_only(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(value))


READ_ONLY_MAP = (Field(strict=False, validate_default=True), AfterValidator(_read_only), PlainSerializer(dict))
"""Annotations of an option that is a map."""


def option(default: Any = ..., *, doc: str, env: str | None = None, example: Any = None, **bounds: Any) -> Any:
    """Declare one option.

    Omit `default` for a required option. `env` is the environment name by which the PDS reads the value, if any.
    `example` is shown if a value is missing or malformed and the default does not help. `bounds` are Pydantic's (`ge`,
    `le`, `pattern`, `min_length`, `alias`, `default_factory`).
    """
    bounds["json_schema_extra"] = {"env": env} if env else None
    bounds["examples"] = None if example is None else [example]
    return (
        Field(description=doc, **bounds) if "default_factory" in bounds else Field(default, description=doc, **bounds)
    )


def refuse(problem: str, remedy: str) -> NoReturn:
    """Refuse a value from inside a validator: what is wrong, and what to write instead."""
    raise PydanticCustomError("refused", "{problem}", {"problem": problem, "remedy": remedy})


def key_of(name: str, field: FieldInfo) -> str:
    """The option's key in the stack file."""
    return field.alias or name


def env_of(field: FieldInfo) -> str | None:
    """The environment name by which the PDS reads this option."""
    extra = field.json_schema_extra
    name = extra.get("env") if isinstance(extra, dict) else None
    return str(name) if name else None


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section class of an option, or None for an option with a plain value."""
    return next((kind for kind in _types(field.annotation) if issubclass(kind, Section)), None)


def is_map(field: FieldInfo) -> bool:
    """Whether an option is a map whose names the operator chooses."""
    return get_origin(field.annotation) is Mapping


def holds_secret(field: FieldInfo) -> bool:
    """Whether the option's value may contain a secret, at any depth."""
    section = section_of(field)
    if section:
        return any(holds_secret(inner) for inner in section.model_fields.values())
    return any(issubclass(kind, SecretStr) for kind in _types(field.annotation))


@cache
def options(model: type[BaseModel], prefix: str = "") -> tuple[tuple[str, FieldInfo], ...]:
    """Every option below `model` with its dotted key. A section comes before its options."""
    found: list[tuple[str, FieldInfo]] = []
    for name, field in model.model_fields.items():
        key = prefix + key_of(name, field)
        found.append((key, field))
        if section := section_of(field):
            found += options(section, f"{key}.")
    return tuple(found)


def _types(annotation: Any) -> Iterator[type]:
    """The classes in a type annotation, through `|`, `Annotated` and generics."""
    arguments = get_args(annotation)
    if not arguments and isinstance(annotation, type):
        yield annotation
    for argument in arguments:
        yield from _types(argument)
