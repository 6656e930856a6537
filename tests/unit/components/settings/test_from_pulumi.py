"""From Pulumi's configuration to settings: what is read, what is refused, and the warnings."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml
from pulumi.runtime import config as runtime_config
from pulumi.runtime import mocks, set_all_config, set_mocks

from components.settings.from_pulumi import load
from components.settings.sections.settings import Settings
from tests.unit.components.settings.test_settings import DOCUMENT, MAIL, S3, document
from tools.generate.generate import pulumi_yaml

ROOT = Path(__file__).resolve().parents[4]


class _NoResources(mocks.Mocks):
    """Reading the configuration registers nothing."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        raise AssertionError(f"{args.typ} was registered")

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise AssertionError(f"{args.token} was called")


@pytest.fixture(autouse=True)
def engine() -> Iterator[None]:
    """Pulumi's runtime with mocks, and a separate configuration for each test."""
    set_mocks(_NoResources(), project="pds", stack="dev")
    yield
    set_all_config({}, [])


def configure(values: Mapping[str, Any], secret: tuple[str, ...] = ()) -> pulumi.Config:
    """A configuration as the engine passes it: text unchanged, everything else as JSON."""
    texts = {f"pds:{key}": value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    set_all_config({**texts, "digitalocean:token": "dop_v1", "aws:config:mail": "{"}, [f"pds:{key}" for key in secret])
    return pulumi.Config("pds")


def refused(values: Mapping[str, Any], secret: tuple[str, ...] = ()) -> str:
    """The text that the CLI shows."""
    with pytest.raises(pulumi.RunError) as caught:
        load(configure(values, secret), "dev")
    assert type(caught.value) is pulumi.RunError
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_a_project_of_another_name_is_refused_with_the_remedy() -> None:
    configure(DOCUMENT)
    with pytest.raises(pulumi.RunError, match=r"^Pulumi\.yaml: the project's name is 'club'\. Write 'name: pds'"):
        load(pulumi.Config("club"), "dev")


def test_a_section_with_and_without_the_projects_name_is_refused(tmp_path: Path) -> None:
    """The engine passes one of the two, so the configuration alone does not show it."""
    config, file = configure(document(pds={"escrow": "made"})), tmp_path / "Pulumi.dev.yaml"
    assert load(config, "dev", file).pds.escrow == "made", "the engine was given another file"
    file.write_text("config:\n  pds:pds: {new: true}\n  pds: {escrow: made}\n")
    with pytest.raises(pulumi.RunError, match=r"pds:pds: this file has it twice, as 'pds:pds' and as 'pds'\."):
        load(config, "dev", file)
    for text in ("config:\n  pds:pds: {escrow: made}\n", "config:\n  pds: {escrow: made}\n", "", "config:"):
        file.write_text(text)
        assert load(config, "dev", file).pds.escrow == "made"


def test_configuration_becomes_settings() -> None:
    given = document(
        time_zone="Europe/Berlin",
        service_handle_domains=[".noted.at"],
        dns={"ttl": 60, "caa": ["letsencrypt.org"]},
        pds={"new": True, "extra_env": {"PDS_SERVICE_NAME": "Noted"}},
    )
    settings = load(configure(given), "dev")
    assert settings == Settings.model_validate(given)
    assert settings.dns.ttl == 60


@pytest.mark.parametrize("text", ["5", "true", "null", "[]", "1e3"])
def test_text_that_looks_like_json_stays_text(text: str) -> None:
    assert f"'{text}'" in refused(document(hostname=text))


def test_defaults_of_the_project_file_change_nothing() -> None:
    declared = yaml.load(pulumi_yaml(), yaml.CSafeLoader)["config"]
    defaults = {key: item["default"] for key, item in declared.items() if "default" in item}
    assert len(defaults) == len(Settings.model_fields) - 1, "all but `on`"
    assert load(configure({**defaults, **DOCUMENT}), "dev") == load(configure(DOCUMENT), "dev")


def test_key_with_null_equals_a_missing_key() -> None:
    assert load(configure(document(dns=None, mail=None)), "dev") == load(configure(DOCUMENT), "dev")


def test_finds_a_misspelt_key() -> None:
    text = refused(document(hostnme="noted.at", oprators={"cidrs": []}))
    assert "Pulumi.dev.yaml has 2 faults; nothing was touched." in text
    assert "pds:hostnme: no option has this name.\n      Write 'hostname'." in text
    assert "Write 'operators'." in text


def test_finds_a_misspelt_key_that_only_the_environment_has(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"pds:hostname": "noted.at", "pds:operators": json.dumps(DOCUMENT["operators"]), "pds:hots": "{}"}
    set_all_config({}, [])
    monkeypatch.setenv("PULUMI_CONFIG", json.dumps(texts))
    with pytest.raises(pulumi.RunError) as caught:
        load(pulumi.Config("pds"), "dev")
    assert "pds:hots: no option" in str(caught.value)
    assert "1 fault;" in str(caught.value)


def test_reads_a_key_set_by_its_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(runtime_config.get_config_env_key("pds:dns"), '{"ttl": 77}')
    assert load(configure(DOCUMENT), "dev").dns.ttl == 77


def test_ignores_keys_of_other_projects_and_providers() -> None:
    config = configure(DOCUMENT)
    runtime_config.set_config("other:pds:hots", "x")
    runtime_config.set_config("pdsx:hots", "x")
    assert load(config, "dev").hostname == "noted.at"


@pytest.mark.parametrize(
    ("key", "value", "expected_type"),
    [
        ("mail", "smtp://hunter2@relay", "a map"),
        ("mail", "", "a map"),
        ("dns", [], "a map"),
        ("dns", 5, "a map"),
        ("service_handle_domains", ".noted.at", "a list"),
        ("service_handle_domains", {}, "a list"),
        ("host", "[" * 100_000, "a map"),
        ("host", '{"generation": ' + "1" * 5000 + "}", "a map"),
    ],
)
def test_refuses_a_value_of_the_wrong_type_with_its_own_error(key: str, value: Any, expected_type: str) -> None:
    text = refused(document(**{key: value}))
    assert f"pds:{key}: " in text
    assert f"Write {expected_type}" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("mail.password", {"mail": MAIL}),
        ("s3.access_key_id", {"s3": S3}),
        ("s3.secret_access_key", {"s3": S3}),
        ("secrets.jwt_secret", {"secrets": {"jwt_secret": "hunter2-hunter2-hunter2"}}),
        ("secrets.admin_password", {"secrets": {"admin_password": "hunter2-hunter2"}}),
        ("secrets.plc_rotation_key", {"secrets": {"plc_rotation_key": "1" * 64}}),
        ("ingress.license_hcl", {"ingress": {"license_hcl": 'license "hunter2" {}'}}),
        (
            "pds.extra_secret_env.PDS_RATE_LIMIT_BYPASS_KEY",
            {"pds": {"extra_secret_env": {"PDS_RATE_LIMIT_BYPASS_KEY": "hunter2"}}},
        ),
    ],
)
def test_refuses_a_plain_text_secret_and_prints_the_command_that_encrypts_it(key: str, values: dict[str, Any]) -> None:
    text = refused(document(**values))
    assert f"pds:{key}: this secret is in Pulumi.dev.yaml in plain text." in text
    assert f"pulumi config set --secret --path '{key}'" in text
    for secret in ("hunter2", MAIL["password"], S3["secret_access_key"], "1" * 64):
        assert secret not in text
    assert load(configure(document(**values), secret=tuple(values)), "dev")


def test_reports_plain_secrets_and_other_faults_together() -> None:
    text = refused(document(mail=MAIL, hostname="noted", dns={"ttl": 1}))
    assert "Pulumi.dev.yaml has 3 faults" in text
    for key in ("mail.password", "hostname", "dns.ttl"):
        assert f"pds:{key}: " in text


def test_warnings_are_logged_and_do_not_stop_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", logged.append)
    load(configure(document(pds={"new": True}, mail=MAIL | {"port": 587, "tls": "starttls"}), secret=("mail",)), "dev")
    assert [text for text in logged if "NO ESCROW YET" in text]
    assert [text for text in logged if "DigitalOcean blocks 587" in text]
    assert [text for text in logged if text.startswith("pds:pds.new")]


def test_logs_no_warning_if_the_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", logged.append)
    refused(document(hostname="noted"))
    assert not logged


def test_only_this_module_reads_the_configuration() -> None:
    """A second reader in `components/` would accept options that no model declares."""
    readers = {path.relative_to(ROOT).as_posix() for path in (ROOT / "components").rglob("*.py") if _reads(path)}
    assert readers == {"components/settings/from_pulumi.py"}


def _reads(path: Path) -> bool:
    """Whether the module's code, not its documentation, names Pulumi's configuration."""
    code = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute | ast.ImportFrom)]
    words = ("pulumi.Config", "get_config", "runtime.config", "is_config_secret")
    return any(word in ast.unparse(node) for node in code for word in words)


def test_models_do_not_import_pulumi() -> None:
    code = "import sys; import components.settings.sections.settings; sys.exit('pulumi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=600, check=False).returncode == 0
