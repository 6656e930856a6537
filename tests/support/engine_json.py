"""The output of `pulumi preview --json --show-sames` for an evaluation, for tests of its readers.

`tests/e2e/test_preflight_engine.py` compares this with the real engine's.
"""

import json
from collections import Counter
from typing import Any

from pulumi.runtime import rpc

from offline.mock_engine import Evaluation, Recorded
from policy.view import SECRET

Step = dict[str, Any]


def preview_of(evaluation: Evaluation, *more: Step, diagnostics: tuple[tuple[str, str], ...] = ()) -> str:
    """A preview in which every resource stays the same except `more`; `diagnostics` are severity and message."""
    changed = {step["urn"] for step in more}
    steps = [same(item) for item in evaluation.resources if item.urn not in changed] + list(more)
    document = {
        "config": {"pds:hostname": "noted.at"},
        "steps": steps,
        "diagnostics": [{"severity": severity, "message": message} for severity, message in diagnostics],
        "duration": 1,
        "changeSummary": dict(Counter(step["op"] for step in steps)),
    }
    return json.dumps(document)


def same(item: Recorded) -> Step:
    """The step of a resource that does not change."""
    return {"op": "same", "urn": item.urn, "oldState": state(item), "newState": state(item), "detailedDiff": None}


def replaced(item: Recorded, **inputs: Any) -> Step:
    """The step of a resource that is replaced because of these new inputs."""
    new = state(item)
    new["inputs"] = {**new["inputs"], **inputs}
    return {
        "op": "replace",
        "urn": item.urn,
        "oldState": state(item),
        "newState": new,
        "diffReasons": list(inputs),
        "replaceReasons": list(inputs),
        "detailedDiff": {key: {"kind": "update-replace", "inputDiff": False} for key in inputs},
    }


def deleted(item: Recorded) -> Step:
    """The step of a resource that is deleted."""
    return {"op": "delete", "urn": item.urn, "oldState": state(item), "detailedDiff": None}


def state(item: Recorded) -> dict[str, Any]:
    """A resource as the engine writes it."""
    document = {
        "urn": item.urn,
        "custom": not item.type.startswith("pds:"),
        "id": item.id,
        "type": item.type,
        "inputs": {**_hidden(item.raw), "__defaults": []},
        "outputs": _hidden(item.outputs),
        "parent": item.parent,
        "protect": item.protected,
        "retainOnDelete": bool(item.options.get("retainOnDelete")),
    }
    return {key: value for key, value in document.items() if value not in (False, "")}


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get(rpc._special_sig_key) == rpc._special_secret_sig:
            return SECRET
        return {key: _hidden(item) for key, item in value.items()}
    return [_hidden(item) for item in value] if isinstance(value, list) else value
