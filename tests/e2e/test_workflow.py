"""The hosted run of the bench installs what the program pins."""

import re
from typing import Any

import yaml

from components.settings.sections import Nomad
from tools.engine import ROOT

STEPS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".github/workflows/e2e.yaml").read_text())["jobs"]["e2e"]["steps"]


def _told(action: str, key: str) -> str:
    [found] = [step["with"][key] for step in STEPS if step.get("uses", "").startswith(f"{action}@")]
    return str(found)


def test_engine_and_sdk_are_of_one_version() -> None:
    assert f"pulumi=={_told('pulumi/actions', 'pulumi-version')} " in (ROOT / "requirements.txt").read_text()


def test_nomad_is_the_one_that_hosts_get() -> None:
    assert _told("hashicorp/setup-nomad", "version") == Nomad.model_fields["version"].default


def test_actions_are_named_by_commit() -> None:
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert used
    assert [name for name in used if not re.fullmatch(r"[a-z/-]+@[0-9a-f]{40}", name)] == [], "a tag can be moved"
