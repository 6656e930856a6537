"""The effects of a change on existing resources: between two evaluations of the program, or in the engine's preview.

The one check that needs both sides is here: no stateful resource is replaced or deleted, unless its name is allowed.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from components.settings import stack_identity
from offline.mock_engine import Evaluation, Recorded
from offline.replace_triggers import replaces
from policy.checks import precious
from policy.droplet_disks import disk_gb
from policy.view import SECRET, blinded

HARMLESS = frozenset({"same", "create", "update", "read", "refresh", "import", "diff", "extend-parameterize"})
"""Operations of the engine that keep an existing resource (pulumi, pkg/resource/deploy/step.go)."""

_IN_USE = frozenset({"Droplet", "ClubNamespace"})
"""Stateful, and not protected, since an owner may remove it: the host of a PDS, a club's directory on a host."""

_IDENTITY = ":StackIdentity"
_MARKS = {"create": ("+", "green"), "delete": ("-", "red"), "replace": ("~", "red")}
_DONE = {"replace": "replaced", "delete": "deleted"}
_BREVITY = 80


@dataclass(frozen=True, kw_only=True)
class Change:
    """One resource that changes."""

    type: str
    name: str
    op: str
    """The engine's name for it: create, update, replace, delete, …"""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Input to its change, as text; secrets are hidden."""
    reasons: tuple[str, ...] = ()
    """The causes of a replacement: inputs, or its trigger, as 'host.generation' for a droplet."""
    resize: tuple[int, str] | None = None
    """For a running droplet of another size: its disk in GB, by the state, and the new size."""
    refusal: str = ""
    """Why `up` would refuse it immediately; in the engine's own previews it is among the errors."""

    @property
    def kind(self) -> str:
        """The last part of its type token."""
        return self.type.rpartition(":")[2]

    @property
    def loses_state(self) -> bool:
        """Return whether a stateful resource is lost."""
        return (precious(self.type, self.name) or self.kind in _IN_USE) and self.op not in HARMLESS


def names(texts: Iterable[str]) -> frozenset[str]:
    """Return the names in each text, separated by white space; a text may hold none, as an input of a workflow may."""
    return frozenset(name for text in texts for name in text.split())


def find_lost_state(changes: Iterable[Change], allowed: Collection[str] = ()) -> list[str]:
    """Find stateful resources that are replaced or deleted, unless their names are in `allowed`."""
    return [
        f"{change.kind} {change.name} would be {_DONE.get(change.op, change.op)}{_because(change)}{_remedy(change)}"
        for change in changes
        if change.loses_state and change.name not in allowed
    ]


_REMEDIES = {
    ("-blobs-bucket", "name"): "a bucket keeps its name. Put 'blobs.bucket' back",
    ("-blobs-bucket", "region"): "a bucket keeps its region. Put 'blobs.region' back",
    ("-backup-bucket", "name"): "a bucket keeps its name. Put 'backup.bucket' back, or remove 'backup' for one `up` "
    "and then write the new one: the backups so far stay in the old bucket",
    ("-backup-bucket", "region"): "a bucket keeps its region. Put 'backup.region' back",
}
"""By the end of the name and by input: what to do instead of a replacement that loses data."""


def _remedy(change: Change) -> str:
    remedies = [text for (end, key), text in _REMEDIES.items() if change.name.endswith(end) and key in change.reasons]
    return f": {'; '.join(remedies)}" if remedies and change.op == "replace" else ""


def find_other_identity(changes: Iterable[Change]) -> list[str]:
    """Find a changed hostname, region or volume: the stack has to remain the same PDS."""
    return [change.refusal for change in changes if change.refusal]


def find_smaller_disks(changes: Iterable[Change]) -> list[str]:
    """Find a droplet whose new size has a smaller disk than it has now.

    A disk cannot be decreased (digitalocean/openapi, droplet_actions.yml), so the resize is answered with 422
    (hashicorp/terraform#7094), after the provider has powered the droplet off (resource_droplet.go).
    """
    return [
        f"Droplet {change.name} has a disk of {has} GB, and size {size} has {gb} GB. A disk cannot shrink: "
        "DigitalOcean would refuse the resize after the droplet was powered off. Put 'host.size' back, write one with "
        f"at least {has} GB of disk, or raise 'host.generation' too: a new droplet of that size takes over the volume"
        for change, has, size in _resized(changes)
        if (gb := disk_gb(size)) is not None and gb < has
    ]


def unknown_disks(changes: Iterable[Change]) -> list[str]:
    """Return a sentence for each resize to a size whose disk is unknown, which preflight cannot judge."""
    return [
        f"the disk of size {size} is not known here. With less than {has} GB, DigitalOcean refuses the resize after "
        "the droplet was powered off: `doctl compute size list` shows it."
        for _, has, size in _resized(changes)
        if disk_gb(size) is None
    ]


def _resized(changes: Iterable[Change]) -> Iterator[tuple[Change, int, str]]:
    for change in changes:
        if change.op == "update" and change.resize:
            yield change, *change.resize


def _because(change: Change) -> str:
    return f" ({', '.join(change.reasons)})" if change.reasons else ""


def between(before: Evaluation, now: Evaluation) -> list[Change]:
    """Return the differences between two evaluations. They know no state: this compares two desired graphs."""
    old = {(item.type, item.name): item for item in before.resources}
    new = {(item.type, item.name): item for item in now.resources}
    changes = []
    for kind, name in sorted(old.keys() | new.keys(), key=lambda pair: pair[1]):
        was, becomes = old.get((kind, name)), new.get((kind, name))
        if was is None or becomes is None:
            changes.append(Change(type=kind, name=name, op="create" if was is None else "delete"))
            continue
        inputs = {key: pair for key, pair in _pairs(was, becomes).items() if pair[0] != pair[1]}
        reasons = _replacing(was, becomes, inputs)
        if inputs or reasons:
            hidden = was.secret_inputs | becomes.secret_inputs
            changes.append(
                Change(
                    type=kind,
                    name=name,
                    op="replace" if reasons else "update",
                    inputs={key: SECRET if key in hidden else _arrow(*pair) for key, pair in inputs.items()},
                    reasons=tuple(reasons),
                    refusal=(stack_identity.fault(was.inputs, becomes.inputs) or "")
                    if kind.endswith(_IDENTITY)
                    else "",
                )
            )
    return changes


def _pairs(was: Recorded, becomes: Recorded) -> dict[str, tuple[Any, Any]]:
    keys = sorted(was.inputs.keys() | becomes.inputs.keys())
    return {key: (was.inputs.get(key), becomes.inputs.get(key)) for key in keys}


def _replacing(was: Recorded, becomes: Recorded, inputs: Iterable[str]) -> list[str]:
    ignored = set(becomes.options.get("ignoreChanges", []))
    replaced = set(becomes.options.get("replaceOnChanges", []))
    reasons = [key for key in inputs if key not in ignored and (key in replaced or replaces(becomes.type, key))]
    if was.options.get("replacementTrigger") != becomes.options.get("replacementTrigger"):
        reasons.append("host.generation" if becomes.type.endswith(":Droplet") else "replacement trigger")
    return reasons


def shown_inputs(was: Mapping[str, Any], becomes: Mapping[str, Any], paths: Collection[str]) -> dict[str, str]:
    """Return the changes of inputs as the engine shows them; `paths` are those that it reports as different, including
    nested ones."""
    old, new = blinded(dict(was)), blinded(dict(becomes))
    keys = sorted({path.partition(".")[0].partition("[")[0] for path in paths} - {""})
    return {
        key: SECRET if SECRET in (old.get(key), new.get(key)) else _arrow(old.get(key), new.get(key)) for key in keys
    }


def _arrow(was: Any, becomes: Any) -> str:
    return f"{_brief(was)} -> {_brief(becomes)}"


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _BREVITY else f"{text[: _BREVITY - 3]}..."


def show(console: Console, changes: Iterable[Change]) -> None:
    """Print one line for a resource, one for an input."""
    for change in changes:
        mark, style = _MARKS.get(change.op, ("~", "yellow"))
        console.print(f"{mark} {change.kind} {change.name}", style=style, markup=False)
        for name, text in change.inputs.items():
            console.print(f"    {name}: {text}{'  REPLACES' if name in change.reasons else ''}", markup=False)
        for reason in change.reasons:
            if reason not in change.inputs:
                console.print(f"    {reason}: changed  REPLACES", markup=False)
