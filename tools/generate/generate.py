"""Writes everything that is derived from the options: `python -m tools.generate [--check]`.

An option exists once, as a typed field in `components/settings`. `Pulumi.yaml`'s config block, the JSON schema by which
editors check `Pulumi.*.yaml`, and the table in `docs/options.md` come from there. The README's graph comes from the
evaluated program, its commands and `docs/commands.md` from the parsers of `./pds`, the map in `docs/architecture.md`
from the imports, the picture of `./pds list` from the command, and `docs/differences-from-the-post.md` from
`differences.py`. With `--check` it writes nothing, names each stale file, and exits with 1.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic.fields import FieldInfo

from components.settings.fields.option import env_of, options, section_of
from components.settings.from_pulumi import PROJECT
from components.settings.sections.mail_presets import PRESETS
from components.settings.sections.settings import Settings
from offline.stackfile import evaluate_stack
from tools.generate.commands import command_pages, command_table
from tools.generate.differences import markdown_table
from tools.generate.graph import mermaid
from tools.generate.import_map import import_map
from tools.generate.list_picture import list_picture
from tools.generate.option_values import accepted_values
from tools.generate.template import template

ROOT = Path(__file__).resolve().parents[2]
_DESCRIPTION = "A Bluesky Personal Data Server on DigitalOcean, under Nomad, behind IO or Caddy"
SCHEMA_PATH = "docs/stack.schema.json"
_SECURE = "#/definitions/Secure"


def pulumi_yaml() -> str:
    """Return the project file. Every key is typed, so that the CLI too refuses a list instead of a map.

    The CLI requires a value for each declared key without a default (pulumi/pulumi, pkg/workspace/config.go,
    mergeConfig), and takes `default: null` for none. Optional sections therefore have the default `{}`: the models
    check all their options. A key that is text or a map (`on`) is not declared: the CLI has no type for it, and accepts
    undeclared keys.
    """
    project = {
        "name": PROJECT,
        "description": _DESCRIPTION,
        "runtime": {"name": "python", "options": {"toolchain": "pip", "virtualenv": "venv"}},
        "template": template(_DESCRIPTION),
        "config": {key: _declaration(field) for key, field in Settings.model_fields.items() if key != "on"},
    }
    text = yaml.dump(project, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=116)
    return f"# Written by `make generate` from components/settings, which documents each option.\n{text}"


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as a block."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _declaration(field: FieldInfo) -> dict[str, Any]:
    section = section_of(field)
    described = field.description or ""
    kind = get_origin(field.annotation)
    if section and kind is tuple:
        inside = ", ".join(key for key, _ in options(section))
        described = f"{described} Each is a map: {inside}."
        declared: dict[str, Any] = {"type": "array", "items": {"type": "object"}, "description": described}
        default: Any = []
    elif section:
        inside = ", ".join(key for key, _ in options(section) if "." not in key)
        declared = {"type": "object", "description": f"{described} Options: {inside}."}
        default = {}
    elif kind is Mapping:
        declared, default = {"type": "object", "description": described}, {}
    elif field.annotation is bool:
        declared, default = {"type": "boolean", "description": described}, field.default
    elif field.annotation is str:
        declared, default = {"type": "string", "description": described}, field.default
    else:
        declared = {"type": "array", "items": {"type": "string"}, "description": described}
        default = list(field.default or ())
    # The CLI would refuse a cluster, which has no hostname; the models refuse a PDS without one.
    return declared | {"default": "" if field.is_required() else default}


def stack_schema() -> str:
    """Return the JSON schema of a stack file. Draft 7, which every editor's YAML server supports."""
    model = Settings.model_json_schema(ref_template="#/definitions/{model}")
    definitions = {name: _for_editors(schema) for name, schema in model["$defs"].items()}
    definitions["Secure"] = {
        "type": "object",
        "description": "Encrypted by `pulumi config set --secret --path KEY`.",
        "properties": {"secure": {"type": "string"}},
        "required": ["secure"],
        "additionalProperties": False,
    }
    config = {
        "type": "object",
        "properties": {f"{PROJECT}:{key}": _for_editors(schema) for key, schema in model["properties"].items()},
        "anyOf": [
            {"required": [f"{PROJECT}:{key}" for key in (*model["required"], where)]} for where in ("operators", "on")
        ]
        + [{"required": [f"{PROJECT}:cluster", f"{PROJECT}:operators"]}],
        "patternProperties": {f"^(?!{PROJECT}:)[^:]+:.+$": {"description": "Configuration of a provider."}},
        "additionalProperties": False,
    }
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A stack file of this program, Pulumi.STACK.yaml",
        "type": "object",
        "properties": {
            "config": config,
            "secretsprovider": {"type": "string"},
            "encryptedkey": {"type": "string"},
            "encryptionsalt": {"type": "string"},
            "environment": {"description": "Pulumi ESC environments."},
        },
        "required": ["config"],
        "additionalProperties": False,
        "definitions": definitions,
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _for_editors(schema: Any, *, names: bool = False) -> Any:
    """Return Pydantic's schema without its titles, with a secret's encrypted form beside its text.

    With `names`, the keys are those of options, not of the schema language.
    """
    if isinstance(schema, list):
        return [_for_editors(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if names:
        return {key: _for_editors(value) for key, value in schema.items()}
    if schema.get("format") == "password":
        text = {key: value for key, value in schema.items() if key in ("type", "minLength", "pattern")}
        rest = {key: value for key, value in schema.items() if key in ("description", "examples")}
        return _named({"anyOf": [text, {"$ref": _SECURE}], **rest}, schema.get("env"))
    plain = {
        key: value if key in ("default", "examples") else _for_editors(value, names=key == "properties")
        for key, value in schema.items()
        if key not in ("title", "env")
    }
    return _named(plain, schema.get("env"))


def _named(schema: dict[str, Any], env: str | None) -> dict[str, Any]:
    return schema | {"description": f"{schema['description']} ({env})"} if env else schema


def option_table() -> str:
    """The table of options."""
    rows = ["| Option | Value | Default | Meaning | Environment |", "| --- | --- | --- | --- | --- |"]
    for key, field in options(Settings):
        meaning = (field.description or "").replace("|", "\\|")
        name = f"**`{key}`**" if section_of(field) else f"`{key}`"
        env = f"`{env_of(field)}`" if env_of(field) else ""
        rows.append(f"| {name} | {accepted_values(field)} | {_default(field)} | {meaning} | {env} |")
    return "\n".join(rows)


def preset_table() -> str:
    """The table of mail presets, with the source of each."""
    rows = ["| `preset` | Host, port, TLS | At the relay | `mail.dns` | Source |", "| --- | --- | --- | --- | --- |"]
    for name, preset in PRESETS.items():
        hosts = " or ".join(f"`{host.format(region='REGION')}`" for host in (preset.host, preset.regional_host) if host)
        sources = ", ".join(f"[{number}]({url})" for number, url in enumerate(preset.sources, 1))
        user = f"`user` is `{preset.user}`; {preset.credentials}" if preset.user else preset.credentials
        cells = [f"`{name}`", f"{hosts}, {preset.port}, {preset.tls}", user, preset.records, sources]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"  # `hostname` too: a cluster, which has none, is the exception above the table
    if field.default_factory or field.default is None:
        return ""
    bare = isinstance(field.default, str) and field.default
    return f"`{field.default if bare else json.dumps(field.default)}`"


def replace_between(text: str, marker: str, body: str) -> str:
    """Return `text` with `body` between the lines `<!-- MARKER:begin -->` and `<!-- MARKER:end -->`.

    Raises ValueError if there is not exactly one such pair.
    """
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end or begin in rest or end in before + after:
        raise ValueError(f"there must be one '{begin}' and, after it, one '{end}'")
    return f"{before}{begin}\n{body.strip()}\n{end}{after}"


def picture() -> str:
    """The README's picture of the graph."""
    return f"```mermaid\n{mermaid(evaluate_stack('dev'))}\n```"


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"graph": picture, "commands": command_table},
    "docs/architecture.md": {"imports": lambda: import_map(ROOT)},
    "docs/options.md": {"options": option_table},
    "docs/commands.md": {"commands": command_pages},
    "docs/guide/mail.md": {"presets": preset_table},
    "docs/differences-from-the-post.md": {"deviations": markdown_table},
}
"""What each page has between its markers; the rest of the page is written by hand."""


@cache
def _once(text: Callable[[], str]) -> str:
    """What the code says does not change while a process runs."""
    return text()


def derived(root: Path = ROOT) -> Iterator[tuple[Path, str]]:
    """Return each derived file with its text. Raises ValueError or OSError if a page has no place for it."""
    yield root / "Pulumi.yaml", _once(pulumi_yaml)
    yield root / SCHEMA_PATH, _once(stack_schema)
    yield root / "docs/guide/list.svg", _once(list_picture)
    for name, tables in PAGES.items():
        page = root / name
        text = page.read_text()
        for marker, table in tables.items():
            try:
                text = replace_between(text, marker, _once(table))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        yield page, text


def stale(root: Path = ROOT) -> list[Path]:
    """Return the derived files that are out of date."""
    return [path for path, text in derived(root) if not path.exists() or path.read_text() != text]


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.generate", description="Write the files that are derived from the options."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; name files that are out of date and exit with 1"
    )
    check = parser.parse_args(arguments).check
    try:
        if check:
            behind = stale(root)
            for path in behind:
                print(f"{path.relative_to(root)} is not what the code says: run `make generate`.", file=sys.stderr)
            return 1 if behind else 0
        for path, text in list(derived(root)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
