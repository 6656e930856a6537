"""The template of Pulumi.yaml: its questions and commands make a complete stack file."""

import re
import shlex
from typing import Any

import pytest
import yaml

from components.settings.fields.errors import SettingsError
from components.settings.fields.option import holds_secret
from components.settings.parse import read
from components.settings.sections.settings import Settings
from offline.mock_engine import ROOT
from tests.support.programs import settings_of
from tools.generate.generate import pulumi_yaml
from tools.generate.template import PROVIDER_TOKEN, commands

PROJECT: dict[str, Any] = yaml.load(pulumi_yaml(), yaml.CSafeLoader)
TEMPLATE: dict[str, Any] = PROJECT["template"]
KEYS = {"displayName", "description", "quickstart", "config", "metadata"}
"""Of a template (pulumi, sdk/go/common/apitype/templates.go)."""
KEYS_OF_A_QUESTION = {"description", "default", "secret"}


def test_the_template_has_the_form_that_the_cli_reads() -> None:
    assert TEMPLATE.keys() <= KEYS
    assert all(isinstance(TEMPLATE[key], str) for key in ("displayName", "description", "quickstart"))
    assert {type(value) for pair in TEMPLATE["metadata"].items() for value in pair} == {str}
    for question in TEMPLATE["config"].values():
        assert question.keys() <= KEYS_OF_A_QUESTION
        assert isinstance(question["description"], str)
        assert isinstance(question.get("default", ""), str), "the CLI reads text"


def test_every_required_text_is_asked_for_and_nothing_that_has_a_default() -> None:
    required = {key for key, field in Settings.model_fields.items() if field.is_required()}
    assert required == TEMPLATE["config"].keys() - {PROVIDER_TOKEN}
    for key in required:
        assert PROJECT["config"][key]["type"] == "string", "an answer is text; the engine refuses it for another type"
        assert "default" not in TEMPLATE["config"][key], "the CLI asks until it has an answer"
        # The CLI requires each declared key without a default. A cluster has no hostname; for a PDS, '' is refused.
        assert PROJECT["config"][key]["default"] == ""
        with pytest.raises(SettingsError, match=key):
            settings_of(**{key: ""})


def test_a_secret_is_stored_encrypted() -> None:
    questions = TEMPLATE["config"]
    assert questions[PROVIDER_TOKEN]["secret"] is True
    secret = {key for key in questions if key != PROVIDER_TOKEN and holds_secret(Settings.model_fields[key])}
    assert secret == {key for key, question in questions.items() if question.get("secret")} - {PROVIDER_TOKEN}


def _set(document: dict[str, Any], path: str, value: Any) -> None:
    """What `pulumi config set --path` does."""
    section, name, index = re.fullmatch(r"(\w+)\.(\w+)(\[0\])?", path).groups()  # type: ignore[union-attr]
    document.setdefault(section, {})[name] = [value] if index else value


def test_the_answers_and_the_commands_make_a_complete_stack_file() -> None:
    document: dict[str, Any] = {"hostname": "pds.my-club.org"}
    for command in commands():
        *words, path, value = shlex.split(command)
        assert words == ["pulumi", "config", "set", "--path"]
        _set(document, path, yaml.load(value, yaml.CSafeLoader))
    settings = read(document, "Pulumi.club.yaml", "club")
    assert settings.pds.new, "a first `up` finds an empty volume"
    assert settings.operators
    for without in [key for key in document if key != "pds"]:
        with pytest.raises(Exception, match=without):
            read({key: value for key, value in document.items() if key != without}, "Pulumi.club.yaml", "club")


def test_the_commands_are_shown_and_the_pages_exist() -> None:
    lines = [line.strip() for line in TEMPLATE["quickstart"].splitlines()]
    assert [line for line in lines if line.startswith("pulumi config set")] == commands()
    pages = re.findall(r"docs/[\w/-]+\.md", TEMPLATE["quickstart"])
    assert pages
    assert all((ROOT / page).is_file() for page in pages)
    assert max(map(len, TEMPLATE["quickstart"].splitlines())) <= 120


def test_no_file_of_the_repository_has_a_placeholder_that_the_cli_would_fill_in() -> None:
    placeholders = re.compile(r"\$\{(PROJECT|DESCRIPTION)\}")
    texts = {
        path: path.read_text() for path in ROOT.iterdir() if path.is_file() and path.suffix in (".py", ".md", ".yaml")
    }
    texts |= {
        path: path.read_text()
        for folder in ("components", "cli", "docs")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".py", ".sh", ".cjs", ".hcl", ".md", ".yaml", ".service")
    }
    assert [path for path, text in texts.items() if placeholders.search(text)] == []
