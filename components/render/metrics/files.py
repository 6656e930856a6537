"""The store's files as the job gets them: targets, dashboards and alert rules. Each is a complete file beside this one.

Linters of VictoriaMetrics read them as they are (`tests/contract/test_metrics_store.py`).
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from components.render.jobspec import Template
from components.settings.checks.pds_env import telemetry_environment
from components.settings.sections.settings import Settings

_FOLDER = Path(__file__).parent

_DASHBOARDS = ("host.json", "server.json")

_DELIMITERS = ("[[[", "]]]")
"""Nomad's templates have these in files with '{{' of their own."""


def file_template(name: str, text: str) -> Template:
    """`text` as the task's file `local/NAME`. A changed job is a new allocation, so no file changes under a process."""
    left, right = _DELIMITERS
    return Template(
        destination=f"local/{name}", change_mode="noop", left_delimiter=left, right_delimiter=right, data=text
    )


def scrape_config(settings: Settings) -> str:
    """`scrape.yaml` without the targets that this stack lacks. The store counts a missing target as down."""
    config = yaml.load(_read("scrape.yaml"), yaml.CSafeLoader)
    lacking = set() if telemetry_environment(settings) else {"pds"}
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] not in lacking]
    return yaml.safe_dump(config, sort_keys=False, width=4096)


def targets(settings: Settings) -> tuple[str, ...]:
    """The names of this stack's targets."""
    return tuple(job["job_name"] for job in yaml.load(scrape_config(settings), yaml.CSafeLoader)["scrape_configs"])


def dashboards() -> dict[str, str]:
    """File name to text of each dashboard."""
    return {name: _read(f"dashboards/{name}") for name in _DASHBOARDS}


def rules() -> list[dict[str, str]]:
    """The alert rules: `alert`, `expr`, `summary` and the labels of each."""
    groups: list[dict[str, Any]] = yaml.load(_read("rules.yaml"), yaml.CSafeLoader)["groups"]
    return [
        {"alert": rule["alert"], "expr": rule["expr"], **rule["annotations"], **rule.get("labels", {})}
        for group in groups
        for rule in group["rules"]
    ]


def rules_json() -> str:
    """The rules for the job that evaluates them, which has no reader for YAML."""
    return json.dumps(rules(), indent=1) + "\n"


@cache
def _read(name: str) -> str:
    return (_FOLDER / name).read_text()
