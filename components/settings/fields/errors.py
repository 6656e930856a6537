"""The errors of a refused stack file: every fault at once, each with its key and a remedy."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from components.settings.fields.option import holds_secret, is_map, key_of, options, section_of

SECRET_NAME = re.compile(r"SECRET|PASSWORD|PRIVATE_KEY|ACCESS_KEY|_TOKEN|SMTP_URL|API_KEY|BYPASS_KEY", re.IGNORECASE)
"""Environment names whose value is always a secret."""

Location = Sequence[int | str]


@dataclass(frozen=True, order=True)
class Fault:
    """One fault: its dotted key in the stack file, the problem, and what to write instead."""

    key: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = self.key if self.key.startswith("(") else f"pds:{self.key}"
        return f"  {where}: {self.problem}\n      {self.remedy}"


class SettingsError(ValueError):
    """The stack file is refused. `faults` holds every fault found; the message is written for the operator."""

    def __init__(self, file: str, faults: Iterable[Fault]) -> None:
        self.file = file
        self.faults = tuple(sorted(set(faults)))
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        lines = "\n".join(str(fault) for fault in self.faults)
        super().__init__(f"{file} has {count}; nothing was touched.\n{lines}")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` most likely misspells, if any is close."""
    folded = {name.lower().replace("-", "_"): name for name in known}
    match = difflib.get_close_matches(word[:100].lower().replace("-", "_"), folded, n=1, cutoff=0.65)
    return folded[match[0]] if match else None


def shown(value: object) -> str:
    """A recognizable form of a value: one line, at most 60 characters, no terminal control characters."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if abs(value) < 10**30 else "a number of more than 30 digits"
        case float():
            return repr(value)
        case str():
            return repr(value) if len(value) <= 57 else f"{value[:54]!r}…"
        case Mapping():
            return "a map"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def dotted(location: Location) -> str:
    """A location in the form of Pulumi's `--path`: `host.size`, `operators.cidrs[0]`, `pds.extra_env["a.b"]`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z_][\w-]{0,79}", part, re.ASCII):
            text += f".{part}"
        else:
            text += f"[{json.dumps(part if len(part) <= 80 else part[:79] + '…')}]"
    return text.lstrip(".") or "(the whole file)"


def from_validation(error: ValidationError, model: type[BaseModel]) -> list[Fault]:
    """Pydantic's findings on `model` as this program's faults."""
    return [_fault(details, model) for details in error.errors(include_url=False) if not _echo(details)]


def _echo(details: ErrorDetails) -> bool:
    """Whether a list is reported as too short only because its items were refused, each with its own finding."""
    given = details["input"]
    return details["type"] == "too_short" and isinstance(given, list) and len(given) >= details["ctx"]["min_length"]


def location_of(details: ErrorDetails) -> list[int | str]:
    """Location of a finding. Pydantic marks a fault in a map's key itself with a last part `[key]`."""
    location = list(details["loc"])
    return location[:-1] if len(location) > 1 and location[-1] == "[key]" else location


def _fault(details: ErrorDetails, model: type[BaseModel]) -> Fault:
    location = location_of(details)
    key, field, kind = dotted(location), _field_at(model, location), details["type"]
    context: Mapping[str, Any] = details.get("ctx", {})
    value = _shown(details, model, location)
    described = (field.description if field else None) or "docs/options.md lists every option."
    match kind:
        case "refused":
            return Fault(key, str(context["problem"]), str(context["remedy"]))
        case "extra_forbidden":
            return Fault(key, "no option has this name.", _known_near(model, location))
        case "missing":
            return Fault(key, "this option is required.", _required(model, location, field))
        case "literal_error":
            choices = re.findall(r"'([^']*)'", str(context["expected"]))
            guess = nearest(details["input"], choices) if isinstance(details["input"], str) else None
            expected = f"'{guess}'" if guess else context["expected"]
            return Fault(key, f"{value} is not one of the choices.", f"Write {expected}. {described}")
        case "greater_than_equal":
            return Fault(key, f"{value} is too small.", f"Write a number from {context['ge']} up. {described}")
        case "less_than_equal":
            return Fault(key, f"{value} is too large.", f"Write a number of at most {context['le']}. {described}")
        case "too_short" | "string_too_short":
            least = context["min_length"]
            if kind == "too_short" and field and not holds_secret(field):
                return Fault(key, "this list is empty.", f"{_form(location, field)} {described}")
            count = "one character" if least == 1 else f"{least} characters"
            return Fault(key, f"{value} is too short.", f"Write {count} or more. {described}")
        case "string_too_long":
            return Fault(key, f"{value} is too long.", f"Write at most {context['max_length']} characters. {described}")
        case "string_pattern_mismatch":
            return Fault(key, f"{value} does not have this option's form.", f"{_example(field)} {described}".strip())
        case _ if kind in _WANTED and details["input"] is None:
            way_out = "" if field and field.is_required() else ", or remove the key"
            return Fault(key, "this key has no value.", f"Write {_WANTED[kind]}{way_out}.")
        case _ if kind in _WANTED:
            return Fault(key, f"{value} has the wrong type.", f"Write {_WANTED[kind]}.")
        case _:
            return Fault(key, f"{value} cannot be used: {details['msg']}.", described)


_WANTED = {
    "string_type": "text (in quotes, if it looks like a number)",
    "string_unicode": "text in Unicode",
    "int_type": "a whole number, without quotes",
    "bool_type": "true or false, without quotes",
    "tuple_type": "a list, one '- value' a line",
    "dict_type": "a map of 'name: value' lines",
    "mapping_type": "a map of 'name: value' lines",
    "model_type": "a map of 'name: value' lines",
    "model_attributes_type": "a map of 'name: value' lines",
}


def _known_near(model: type[BaseModel], location: Location) -> str:
    """The probable meaning of an unknown key: a similar key, or an option of that name in another section."""
    owner = _field_at(model, location[:-1])
    section = (section_of(owner) if owner else None) or model
    known = [key_of(name, field) for name, field in section.model_fields.items()]
    word = str(location[-1])
    if model is section and word in {key for key, _ in options(model)}:  # "pds.escrow" as a key of the file
        head, _, rest = word.partition(".")
        return f"Write '{rest}' in the section 'pds:{head}', or run `pulumi config set --path {word} VALUE`."
    elsewhere = [key for key, _ in options(model) if key.rpartition(".")[2] == word]
    if 0 < len(elsewhere) <= 3:
        return f"Write it as {' or '.join(repr(key) for key in elsewhere)}: there is such an option."
    guess = nearest(word, known)
    return f"Write '{guess}'." if guess else f"The keys here are: {', '.join(sorted(known))}."


def _shown(details: ErrorDetails, model: type[BaseModel], location: Location) -> str:
    """The refused value, shortened; never the value of an option that can hold a secret."""
    field = _field_at(model, location)
    named_so = any(isinstance(part, str) and SECRET_NAME.search(part) for part in location)
    return "the value" if field is None or holds_secret(field) or named_so else shown(details["input"])


def _field_at(model: type[BaseModel], location: Location) -> FieldInfo | None:
    """The option of a location. An entry of a list or a map belongs to its option."""
    found: FieldInfo | None = None
    section: type[BaseModel] | None = model
    entry = False
    for part in location:
        if section is None:
            break
        if (isinstance(part, int) and found is not None) or entry:
            entry = False
            continue  # an item of a list or of a map of sections
        fields = {key_of(name, field): field for name, field in section.model_fields.items()}
        if part not in fields:
            return None
        found = fields[str(part)]
        section, entry = section_of(found), is_map(found)
    return found


def _required(model: type[BaseModel], location: Location, field: FieldInfo | None) -> str:
    secret = field is not None and holds_secret(field)
    how = f"Run `pulumi config set --secret --path '{dotted(location)}'`." if secret else _form(location, field)
    outer = _field_at(model, location[:-1])
    section = dotted(location[:-1])
    way_out = "" if outer is None or outer.is_required() else f" Or remove '{section}' altogether."
    return f"{how} {(field.description if field else None) or ''}{way_out}".strip()


def _example(field: FieldInfo | None) -> str:
    if field and field.examples:
        example = field.examples[0]
        return f"Write for example {_flow(example[0] if isinstance(example, list) else example)!r}."
    return f"Write for example {field.default!r}." if field and isinstance(field.default, str) else ""


def _form(location: Location, field: FieldInfo | None) -> str:
    return f"Write '{location[-1]}: {_flow(field.examples[0]) if field and field.examples else '…'}'."


def _flow(value: Any) -> str:
    """Single-line YAML, sufficient for the plain words of examples."""
    match value:
        case dict():
            return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
        case list():
            return f"[{', '.join(_flow(inner) for inner in value)}]"
        case _:
            return str(value)
