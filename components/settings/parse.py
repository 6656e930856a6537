"""Converts a stack file's values, parsed and decrypted, to `Settings`, or to all of their faults at once.

`from_pulumi.py` reads the values from the engine's configuration, `offline/stackfile.py` from the file.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from components.settings.checks.placement import NO_HOSTNAME
from components.settings.checks.validation import cross_faults, stack_faults
from components.settings.fields.errors import Fault, SettingsError, dotted, from_validation, location_of, shown
from components.settings.fields.option import is_map, section_of
from components.settings.sections.settings import Settings


def with_content(document: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a stack file that have content.

    `Pulumi.yaml` must give optional sections such as `mail` the default `{}`, because the engine requires a value for
    every declared key without one. For these sections an empty map therefore means absent.
    """

    def is_absent(key: str, value: Any) -> bool:
        field = Settings.model_fields.get(key)
        is_optional_section = field is not None and section_of(field) is not None and field.default is None
        return value is None or (is_optional_section and value == {}) or (key == "hostname" and value == "")

    return {key: value for key, value in document.items() if not is_absent(key, value)}


def written_twice(keys: Iterable[object]) -> Iterator[Fault]:
    """Faults of the keys below a stack file's `config:` that stand there both with `pds:` and without it.

    The engine adds the project's name to a key without one and keeps either value, at random: it iterates over a Go map
    (pulumi/pulumi, sdk/go/common/workspace/loaders.go, stackConfigNamespacedWithProject).
    """
    written = set(map(str, keys))
    for key in sorted(written):
        if ":" not in key and f"pds:{key}" in written:
            yield Fault(
                key,
                f"this file has it twice, as 'pds:{key}' and as '{key}'. Only one of them would take effect.",
                f"Merge both into 'pds:{key}', and remove '{key}'.",
            )


def read(document: Mapping[str, Any], file: str, stack: str) -> Settings:
    """Settings from a stack file's `pds:` keys (without the prefix), parsed and decrypted.

    Raises SettingsError with every fault found, before any resource is created.
    """
    faults = list(stack_faults(stack))
    settings: Settings | None = None
    if not isinstance(document, Mapping):
        whole = Fault("(the whole file)", f"{shown(document)} is not a map.", "Write 'pds:option: value' lines.")
        raise SettingsError(file, [*faults, whole])
    document = _readable(document, [], faults)
    if document.get("cluster") is not None:
        if "hostname" in document:
            faults.append(
                Fault("hostname", "a cluster has no PDS of its own, so it has no name.", "Remove it, or 'cluster'.")
            )
        document = {**document, "hostname": NO_HOSTNAME}
    try:
        settings = Settings.model_validate(document)
        faults += cross_faults(settings, faulty=frozenset())
    except ValidationError as error:
        faults += from_validation(error, Settings)
        sound, faulty = _sound_part(document, error)
        # Without its section a cluster would be checked as a PDS.
        if document.get("cluster") is None or "cluster" in sound:
            faults += cross_faults(Settings.model_validate(sound), faulty)
    if faults or settings is None:
        raise SettingsError(file, faults)
    return settings


_DEPTH = 4
"""Depth to which keys are checked: an option that is a map, in a section of a section."""


def _readable(values: Mapping[Any, Any], path: list[str | int], faults: list[Fault]) -> dict[str, Any]:
    """The document without keys that are not text. Half a surrogate pair in one key would make Pydantic fail
    entirely."""
    readable: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, str) or (not key.isascii() and key != key.encode(errors="ignore").decode()):
            where = dotted([*path, key if isinstance(key, str) else shown(key)])
            quoted = "Write it in quotes." if not isinstance(key, str) else "Write a key of a-z, 0-9 and '_'."
            faults.append(Fault(where, "this key is not text.", quoted))
        elif isinstance(value, Mapping) and len(path) + 1 < _DEPTH:
            readable[key] = _readable(value, [*path, key], faults)
        elif isinstance(value, list) and not path:
            readable[key] = [
                _readable(item, [key, index], faults) if isinstance(item, Mapping) else item
                for index, item in enumerate(value)
            ]
        else:
            readable[key] = value
    return readable


_STAND_INS: Mapping[str, Any] = {
    "hostname": "pds.stand-in.test",
    "operators": {"cidrs": ["192.0.2.1/32"], "ssh_keys": ["stand-in"]},
}
"""Replacements for faulty options without a default. Checks that read them are skipped."""


def _sound_part(document: Mapping[str, Any], error: ValidationError) -> tuple[dict[str, Any], frozenset[str]]:
    """The document without its faulty options, and their keys, so that one fault does not hide another.

    Findings are independent of each other (no validator reads two options), so the rest is valid.
    """
    known = Settings.model_fields
    sound = {key: dict(value) if isinstance(value, dict) else value for key, value in document.items() if key in known}
    faulty: set[str] = set()
    for details in error.errors(include_url=False):
        top, option_key, entry = [*location_of(details), None, None][:3]
        section = sound.get(str(top))
        if option_key is None or not isinstance(section, dict):
            faulty.add(str(top))
            sound.pop(str(top), None)
            continue
        faulty.add(f"{top}.{option_key}")
        if is_map(known[str(top)]):
            section.pop(option_key, None)
            continue
        inner = section.get(str(option_key))
        if isinstance(inner, Mapping) and entry is not None:
            section[str(option_key)] = {key: value for key, value in inner.items() if key != entry}
        else:
            section.pop(option_key, None)
    for key in known:
        stand_in = _STAND_INS.get(key)
        if key not in sound and stand_in is not None and (key in document or known[key].is_required()):
            sound[key] = stand_in
        elif isinstance(stand_in, dict) and isinstance(sound.get(key), dict):
            sound[key] = stand_in | sound[key]
        elif section_of(known[key]) and known[key].default is None and any(f.startswith(f"{key}.") for f in faulty):
            # An optional section with a fault in it may lack a required option, so all of it is omitted.
            faulty.add(key)
            sound.pop(key, None)
    return sound, frozenset(faulty)
