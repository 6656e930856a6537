"""Converts Pulumi's configuration to `Settings`. Only this module reads `pulumi.Config`.

It decides which keys are read and how, and finds unknown keys, keys that the file has twice, and secrets in plain text.
The models validate the values; `errors.py` writes the messages.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pulumi
import yaml
from pulumi.runtime import get_config_env, is_config_secret
from pulumi.runtime.config import CONFIG
from pydantic import BaseModel

from components.settings.checks.warnings import warnings
from components.settings.fields.errors import Fault, SettingsError, dotted
from components.settings.fields.option import holds_secret, key_of, section_of
from components.settings.parse import read, with_content, written_twice
from components.settings.sections.settings import Settings

PROJECT = "pds"
"""The project's name: the prefix of every key in a stack file, and a part of every resource's identity."""


def load(config: pulumi.Config, stack: str, path: Path | None = None) -> Settings:
    """The settings of `stack`; `path` is its file. Logs warnings about accepted but harmful values.

    Raises pulumi.RunError with every fault found. The engine shows it without a traceback.
    """
    file = f"Pulumi.{stack}.yaml"
    if config.name != PROJECT:
        raise pulumi.RunError(
            f"Pulumi.yaml: the project's name is '{config.name}'. Write 'name: {PROJECT}', and '{PROJECT}:' before "
            f"each key of {file}. `./pds` reads these keys, and the name is part of every resource's identity."
        )
    document = with_content({key: _value(config, key) for key in _configured_keys(config)})
    faults = [*_in_plain_text(config, document, file), *_written_twice(path)]
    try:
        settings = read(document, file, stack)
    except SettingsError as error:
        faults += error.faults
    if faults:
        raise pulumi.RunError(str(SettingsError(file, faults))) from None
    for warning in warnings(settings):
        pulumi.log.warn(warning)
    return settings


def _configured_keys(config: pulumi.Config) -> list[str]:
    """This project's configured keys, known or not, without its prefix.

    `pulumi.Config` returns known keys only. The SDK keeps all of them in `CONFIG`, and its language host passes them in
    an environment variable that `get_config_env` parses. A misspelt key is found in either.
    """
    prefix = config.full_key("")
    listed = {
        key.removeprefix(prefix)
        for source in (CONFIG.get(), get_config_env())
        for key in source
        if key.startswith(prefix)
    }
    named = {key for key in Settings.model_fields if config.get(key) is not None}
    return sorted(listed | named)


def _value(config: pulumi.Config, key: str) -> Any:
    """A value as in the stack file. The engine passes text: a list or a map is JSON in it."""
    field = Settings.model_fields.get(key)
    if field is None or field.annotation is str:
        return config.get(key)
    try:
        return config.get_object(key)
    except (pulumi.ConfigTypeError, RecursionError):
        return config.get(key)  # text in place of a list or a map; `read` reports it


def _written_twice(path: Path | None) -> Iterator[Fault]:
    """Sections that the stack file has twice. The engine passes only one of them."""
    if not path or not path.is_file():  # another one with `pulumi up --config-file`
        return
    document = yaml.load(path.read_bytes(), Loader=yaml.CBaseLoader)  # noqa: S506 (makes text, lists and maps only)
    config = document.get("config") if isinstance(document, dict) else None
    yield from written_twice(config if isinstance(config, dict) else ())


def _in_plain_text(config: pulumi.Config, document: Mapping[str, Any], file: str) -> Iterator[Fault]:
    """Secret options in plain text.

    The engine reports which top-level keys contain encrypted values, but not which values. A plain value beside an
    encrypted one in the same section is not detected here.
    """
    for location in _secret_locations(document, Settings):
        if not is_config_secret(config.full_key(str(location[0]))):
            key = dotted(location)
            yield Fault(
                key,
                f"this secret is in {file} in plain text.",
                f"Run `pulumi config set --secret --path '{key}'`, and change the secret if the file was ever shared.",
            )


def _secret_locations(values: Mapping[str, Any], model: type[BaseModel]) -> Iterator[list[str | int]]:
    for name, field in model.model_fields.items():
        key = key_of(name, field)
        value = values.get(key)
        section = section_of(field)
        if value is None or not holds_secret(field):
            continue
        if section and isinstance(value, Mapping):
            yield from ([key, *inner] for inner in _secret_locations(value, section))
        elif section is None and isinstance(value, Mapping):
            yield from ([key, entry] for entry in value)
        elif section is None:
            yield [key]
