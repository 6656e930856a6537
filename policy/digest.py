"""The engine's preview, `pulumi preview --json --show-sames`, as a view and a list of changes.

Its form: pulumi, pkg/display/json.go and pkg/backend/display/json.go. It hides secrets and shows all else. So it is
parsed, and never kept, shown or uploaded as it is.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from policy.changes import Change, shown_inputs
from policy.view import Item, View, blinded

_LATE = re.compile(r"Detected that \S+ exited prematurely")
"""An error that the engine sometimes reports about a plugin that it ended itself after a successful preview."""

_STAYS = frozenset({"same", "read"})
"""Operations that change nothing: another stack's outputs are read at each preview."""

_PARTS = frozenset({"create-replacement", "delete-replaced"})
"""The physical steps of a replacement, shown by `--show-replacement-steps` beside the logical one."""


class DigestError(Exception):
    """It is not a complete preview of this stack; the text names the fault and what to run."""


@dataclass(frozen=True, kw_only=True)
class Digest:
    """The content of a preview of the engine."""

    view: View
    changes: tuple[Change, ...]
    """Without unchanged resources."""
    warnings: tuple[str, ...]
    errors: tuple[str, ...]
    """Why the preview failed; `view` and `changes` are as far as it came."""


def read_digest(text: str, stack: str, *, nomad_anywhere: bool = False, open_registration: bool = False) -> Digest:
    """Return the preview of `stack` in `text`. Raises DigestError."""
    try:
        digest = json.loads(text)
    except ValueError:
        raise DigestError(f"The preview is not JSON. {_run(stack)}") from None
    if not isinstance(digest, dict) or ("changeSummary" not in digest and "diagnostics" not in digest):
        raise DigestError(f"This JSON is not a preview of the engine's. {_run(stack)}")
    steps: list[dict[str, Any]] = digest.get("steps") or []
    errors = _messages(digest, "error")
    _refuse_others(steps, stack)
    if not errors:
        _refuse_parts(steps, digest.get("changeSummary") or {}, stack)
    items = {step["urn"]: _item(step["newState"]) for step in steps if step.get("newState")}
    return Digest(
        view=View(items=tuple(items.values()), nomad_anywhere=nomad_anywhere, open_registration=open_registration),
        changes=tuple(_change(step) for step in steps if step["op"] not in _STAYS and not _part(step, steps)),
        warnings=_messages(digest, "warning"),
        errors=errors,
    )


def _run(stack: str) -> str:
    return f"Make it with `pulumi preview --json --show-sames --stack {stack}`, or leave `--preview` out."


def _messages(digest: dict[str, Any], severity: str) -> tuple[str, ...]:
    """Return each message once: the engine repeats some."""
    messages = [item["message"] for item in digest.get("diagnostics") or [] if item.get("severity") == severity]
    texts = [" ".join(text.split()).removeprefix(f"{severity}: ") for text in messages if not _LATE.search(text)]
    return tuple(dict.fromkeys(text for text in texts if text))


def _refuse_others(steps: list[dict[str, Any]], stack: str) -> None:
    foreign = [step["urn"] for step in steps if not step["urn"].startswith(f"urn:pulumi:{stack}::pds::")]
    if foreign:
        raise DigestError(f"The preview is not of stack {stack}: it names {foreign[0]}.")
    if not steps:
        raise DigestError(f"The preview names no resource. {_run(stack)}")


def _refuse_parts(steps: list[dict[str, Any]], summary: dict[str, int], stack: str) -> None:
    """Require every resource: a check would pass for a hidden one."""
    shown = Counter(step["op"] for step in steps)
    missing = [op for op, count in summary.items() if shown[op] < count]
    if missing:
        raise DigestError(
            f"The preview does not show every resource ({', '.join(missing)} are left out). {_run(stack)}"
        )


def _item(state: dict[str, Any]) -> Item:
    inputs = _without_internals(blinded(state.get("inputs") or {}))
    return Item(
        type=state["type"],
        name=state["urn"].rpartition("::")[2],
        urn=state["urn"],
        id=state.get("id", ""),
        inputs=inputs,
        shown=inputs,
        outputs=blinded(state.get("outputs") or {}),
        protected=bool(state.get("protect")),
        retained=bool(state.get("retainOnDelete")),
    )


def _without_internals(value: Any) -> Any:
    """Return it without what engine and providers add for themselves (`__defaults`, `__internal`, `__provider`)."""
    if isinstance(value, dict):
        return {key: _without_internals(item) for key, item in value.items() if not key.startswith("__")}
    return [_without_internals(item) for item in value] if isinstance(value, list) else value


def _part(step: dict[str, Any], steps: list[dict[str, Any]]) -> bool:
    """Return whether the step is a part of a replacement that is present as a whole."""
    return step["op"] in _PARTS and any(other["urn"] == step["urn"] and other["op"] == "replace" for other in steps)


def _change(step: dict[str, Any]) -> Change:
    old, new = step.get("oldState") or {}, step.get("newState") or {}
    paths = [*(step.get("detailedDiff") or {}), *(step.get("diffReasons") or [])]
    return Change(
        type=(new or old)["type"],
        name=step["urn"].rpartition("::")[2],
        op=step["op"],
        inputs=shown_inputs(old.get("inputs") or {}, new.get("inputs") or {}, paths) if old and new else {},
        reasons=tuple(dict.fromkeys(step.get("replaceReasons") or [])),
        resize=_resize(old, new) if old and new else None,
    )


def _resize(old: dict[str, Any], new: dict[str, Any]) -> tuple[int, str] | None:
    """Return a resized droplet's disk in GB and its new size. The disk may be smaller than that of its present size."""
    size, has = (new.get("inputs") or {}).get("size"), (old.get("outputs") or {}).get("disk")
    if not new["type"].endswith(":Droplet") or not has or size == (old.get("inputs") or {}).get("size"):
        return None
    return int(has), str(size)
