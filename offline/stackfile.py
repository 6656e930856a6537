"""Stack files as the engine would pass them, without the engine: for evaluating the program offline.

Encrypted values cannot be decrypted here and are not needed: a stand-in of the right form replaces each.
"""

import copy
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from components.settings.fields.errors import SettingsError
from components.settings.fields.option import options
from components.settings.parse import read, with_content, written_twice
from components.settings.sections.settings import Settings
from offline import ROOT

if TYPE_CHECKING:
    from offline.mock_engine import Evaluation, SecretSource


class StackFileError(Exception):
    """The stack file cannot be read; the text names which and why."""


@dataclass(frozen=True)
class StackConfig:
    """A stack's configuration: full keys to values as text (JSON for lists and maps), and which keys hold secrets."""

    values: dict[str, str]
    secret_keys: frozenset[str]


def read_stack(stack: str, root: Path = ROOT) -> StackConfig:
    """Return the configuration of `stack` from `Pulumi.STACK.yaml`. Raises StackFileError."""
    config = read_config(stack, root)
    values: dict[str, str] = {}
    secret: set[str] = set()
    for key, value in config.items():
        full = key if ":" in str(key) else f"pds:{key}"
        opened, had_secret = _open(value, full)
        if had_secret:
            secret.add(full)
        values[full] = opened if isinstance(opened, str) else json.dumps(opened)
    return StackConfig(values, frozenset(secret))


def read_settings(stack: str, root: Path = ROOT) -> Settings:
    """Return the settings of `stack`, with stand-ins for its secrets; `secrets` itself is omitted, because its
    stand-ins would be invalid. Raises StackFileError."""
    return _settings(stack, read_config(stack, root))


def parse_settings(stack: str, text: str) -> Settings:
    """Return the same as `read_settings`, from the text of the stack file."""
    return _settings(stack, _config_in(f"Pulumi.{stack}.yaml", text))


def _settings(stack: str, config: dict[Any, Any]) -> Settings:
    options = {str(key).removeprefix("pds:"): _open(value, str(key))[0] for key, value in config.items()}
    wanted = {key: value for key, value in options.items() if ":" not in key and key != "secrets"}
    try:
        return read(with_content(wanted), f"Pulumi.{stack}.yaml", stack)
    except SettingsError as error:
        raise StackFileError(str(error)) from None


def evaluate_stack(
    stack: str,
    *,
    preview: bool = False,
    secret: "SecretSource | None" = None,
    root: Path = ROOT,
    hosts: "dict[str, Evaluation] | None" = None,
) -> "Evaluation":
    """Return the program, evaluated for `stack`, with fixed secrets if `secret` generates none.

    Clubs of one host each need its evaluation: `hosts` caches it.
    """
    from offline.mock_engine import evaluate, fixed_secret  # loads Pulumi, which most readers of a file do not need

    config = read_stack(stack, root)
    on = read_settings(stack, root).on
    others = {} if hosts is None else hosts
    if on and on.stack and on.stack not in others:
        others[on.stack] = evaluate_stack(on.stack, secret=secret, root=root)
    return evaluate(
        stack,
        config.values,
        secret_keys=config.secret_keys,
        preview=preview,
        secret=secret or fixed_secret,
        others=others,
        root=root,
    )


def read_config(stack: str, root: Path = ROOT) -> dict[Any, Any]:
    """Return the file's `config:` map as it is written. Raises StackFileError."""
    return _config_in(f"Pulumi.{stack}.yaml", read_text(stack, root))


def read_text(stack: str, root: Path = ROOT) -> str:
    """Return the stack file unchanged, line ends included. Raises StackFileError."""
    path = root / f"Pulumi.{stack}.yaml"
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        there = ", ".join(sorted(file.name for file in root.glob("Pulumi.*.yaml"))) or "none"
        raise StackFileError(f"{path.name} does not exist; here are: {there}.") from None
    except UnicodeDecodeError as error:
        raise StackFileError(f"{path.name} is not UTF-8: {error}") from None


class _UniqueKeys(yaml.CSafeLoader):
    """Refuses a key that stands twice in a map, as the engine does. PyYAML would take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the map. Raises yaml.constructor.ConstructorError."""
        seen: set[str] = set()
        for key, _value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


@lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """An evaluation reads its file twice, and that of its host."""
    return yaml.load(text, _UniqueKeys)  # noqa: S506 (a safe loader)


def _config_in(name: str, text: str) -> dict[Any, Any]:
    try:
        document = copy.deepcopy(_parsed(text)) or {}
    except yaml.YAMLError as error:
        raise StackFileError(f"{name} is not YAML: {error}") from None
    config = document.get("config") if isinstance(document, dict) else None
    if not isinstance(config, dict):
        raise StackFileError(f"{name} has no 'config:' map. Start from Pulumi.dev.yaml.")
    if faults := tuple(written_twice(config)):
        raise StackFileError(str(SettingsError(name, faults)))
    return config


def _open(value: Any, path: str) -> tuple[Any, bool]:
    if isinstance(value, dict):
        if set(value) == {"secure"}:
            return _stand_in(path), True
        opened = {key: _open(item, f"{path}.{key}") for key, item in value.items()}
        return {key: item for key, (item, _) in opened.items()}, any(secret for _, secret in opened.values())
    if isinstance(value, list):
        items = [_open(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return [item for item, _ in items], any(secret for _, secret in items)
    return value, False


def _stand_in(path: str) -> str:
    """Return a stand-in for an encrypted value: the first form that its option accepts, of hex digits, a token of Nomad
    and a URL."""
    digits = hashlib.sha256(f"stand-in for {path}".encode()).hexdigest()
    token = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:32]}"
    field = dict(options(Settings)).get(path.removeprefix("pds:"))
    for shape in (digits, token, f"https://stand-in.test/{digits}"):
        try:
            TypeAdapter(field.rebuild_annotation() if field else str).validate_python(shape)
        except ValidationError:
            continue
        return shape
    return digits
