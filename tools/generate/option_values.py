"""What an option accepts, in the words of the table in docs/options.md."""

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from components.settings.fields.option import section_of

_WORDS: Mapping[Any, str] = {bool: "true or false", str: "text", SecretStr: "secret"}


def accepted_values(field: FieldInfo) -> str:
    """Return an option's choices, the bounds of its number, or its type."""
    annotation = _bare(field.annotation)
    kind = get_origin(annotation)
    if kind is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if kind is tuple:
        return f"list of {_plural(get_args(annotation)[0])}"
    if kind is Mapping:
        return f"map of {_plural(get_args(annotation)[1])}"
    if section_of(field):
        return "map"
    return _WORDS[annotation] if annotation in _WORDS else _number(field)


def _bare(annotation: Any) -> Any:
    """The annotation without `None` and without its validators."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return next(_bare(part) for part in get_args(annotation) if part is not NoneType)
    return annotation


def _plural(annotation: Any) -> str:
    return {str: "texts", SecretStr: "secrets", int: "numbers"}.get(_bare(annotation), "maps")


def _number(field: FieldInfo) -> str:
    least = next((bound.ge for bound in field.metadata if isinstance(bound, Ge)), None)
    most = next((bound.le for bound in field.metadata if isinstance(bound, Le)), None)
    return " ".join(["number", *([f"from {least}"] if least is not None else []), *([f"to {most}"] if most else [])])
