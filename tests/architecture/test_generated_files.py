"""The files that are generated from the options are up to date and agree with the models."""

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from components.settings.checks.pds_env import owned_names
from components.settings.fields.errors import SettingsError
from components.settings.fields.option import env_of, holds_secret, options, section_of
from components.settings.parse import read
from components.settings.sections import PdsOptions
from components.settings.sections.settings import Settings
from tests.support.programs import BACKUP, BLOBS
from tests.unit.components.settings.test_settings import DOCUMENT, MAIL, ROTATION_KEY, S3, TEXT_KEY, document, settings
from tools.generate.generate import (
    PAGES,
    ROOT,
    derived,
    main,
    option_table,
    pulumi_yaml,
    replace_between,
    stack_schema,
    stale,
)

SCHEMA: dict[str, Any] = json.loads(stack_schema())
PROJECT: dict[str, Any] = yaml.load(pulumi_yaml(), yaml.CSafeLoader)
SLACK = {"channel": "#alerts", "url": "https://hooks.slack.com/services/T1234567/AAAAAAAA/ZZZZZZ"}
EXAMPLE = ROOT / "Pulumi.dev.yaml"


def accepts(config: dict[str, Any], **file: Any) -> bool:
    return bool(jsonschema.Draft7Validator(SCHEMA).is_valid({"config": config, **file}))


def prefixed(values: dict[str, Any]) -> dict[str, Any]:
    return {f"pds:{key}": value for key, value in values.items()}


def test_every_derived_file_is_up_to_date() -> None:
    assert [str(path.relative_to(ROOT)) for path, _ in derived()] == [
        "Pulumi.yaml",
        "docs/stack.schema.json",
        "docs/guide/list.svg",
        "README.md",
        "docs/architecture.md",
        "docs/options.md",
        "docs/commands.md",
        "docs/guide/mail.md",
        "docs/differences-from-the-post.md",
    ]
    assert not stale(), "run `make generate`"


def test_the_schema_is_valid() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


def test_the_example_stack_file_is_valid_and_names_its_schema() -> None:
    text = EXAMPLE.read_text()
    first = text.splitlines()[0]
    assert first == "# yaml-language-server: $schema=docs/stack.schema.json"
    assert (ROOT / first.partition("=")[2]).is_file()
    example = yaml.load(text, yaml.CSafeLoader)
    assert jsonschema.Draft7Validator(SCHEMA).is_valid(example)
    read({key.removeprefix("pds:"): value for key, value in example["config"].items()}, EXAMPLE.name, "dev")


def test_the_example_sets_only_required_options_the_image_and_new() -> None:
    config = yaml.load(EXAMPLE.read_text(), yaml.CSafeLoader)["config"]
    assert set(config) == {"pds:hostname", "pds:operators", "pds:pds"}
    assert config["pds:hostname"] == "noted.at"
    assert set(config["pds:operators"]) == {"cidrs", "ssh_keys"}
    assert config["pds:pds"] == {"image": PdsOptions().image, "new": True}


GOOD: list[dict[str, Any]] = [
    document(),
    document(time_zone="Europe/Berlin", service_handle_domains=[".noted.at"]),
    document(mail=MAIL, pds={"escrow": "made", "extra_env": {"PDS_SERVICE_NAME": "Noted"}}),
    document(alerts={"email": ["a@noted.at"], "slack": SLACK, "ping_url": "https://hc-ping.com/x", "accounts": 800}),
    document(s3=S3, secrets={"plc_rotation_key": ROTATION_KEY, "jwt_secret": "j" * 16}),
    document(mail=None, s3=None, host={"project": None, "tags": ["club"], "vpc_ip_range": "10.77.0.0/24"}),
    document(hostname="xn--mnchen-3ya.de", operators={"ssh_keys": ["laptop", TEXT_KEY], "nomad_anywhere": True}),
    document(hostname="pds.noted.at", dns={"zone": "noted.at", "ttl": 30, "caa": ["letsencrypt.org"]}),
    document(pds={"recovery_did_key": "did:key:zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169", "paused": True}),
    document(volume={"size_gib": 16384, "adopt": "506f78a4-e098-11e5-ad9f-000f53306ae1"}),
    document(ingress={"kind": "none"}, nomad={"datacenter": "fra", "region": "eu-1"}),
    document(clubs={"chess": {"port": 3101}}, host={"size": "s-2vcpu-4gb"}),
    document(on="dev", operators=..., pds={"port": 3101}),
    document(on={"stack": "dev"}, operators=..., pds={"port": 3101}),
    document(ingress={"kind": "caddy", "image": "caddy:2.11.4", "acme_email": "admin@my-club.org"}),
]

BAD: list[dict[str, Any]] = [
    document(hostname=...),
    document(operators=...),
    document(hostnme="noted.at"),
    document(hostname="Noted.at"),
    document(hostname="noted.at."),
    document(hostname="pds.local"),
    document(hostname="192.0.2.1"),
    document(hostname=7),
    document(hostname="a" * 64 + ".at"),
    document(clubs={"chess": {}}),
    document(clubs=["chess"]),
    document(on=7, operators=...),
    document(time_zone="PDT"),
    document(service_handle_domains=["noted.at"]),
    document(service_handle_domains=".noted.at"),
    document(operators={"cidrs": []}),
    document(operators={"cidrs": ["home"]}),
    document(operators={"keys": []}),
    document(host=[]),
    document(host=None),
    document(host={"size": "large"}),
    document(host={"tags": ["no spaces"]}),
    document(host={"vpc_ip_range": "10.0.0.0/8"}),
    document(dns={"ttl": 29}),
    document(dns={"ttl": "300"}),
    document(dns={"provider": "route53"}),
    document(mail={key: value for key, value in MAIL.items() if key != "password"}),
    document(mail=MAIL | {"sender": "pds@noted.at"}),
    document(mail=MAIL | {"password": ""}),
    document(mail=MAIL | {"port": 0}),
    document(s3={}),
    document(secrets={"jwt_secret": ""}),
    document(pds={"new": "true"}),
    document(pds={"image": "ghcr.io/bluesky-social/pds"}),
    document(pds={"extra_env": {"PDS_SERVICE_NAME": 7}}),
    document(pds={"plc_url": "plc.directory"}),
    document(pds={"recovery_did_key": "did:plc:x"}),
    document(nomad={"sha256": "abc"}),
    document(alerts={"email": "a@noted.at"}),
    document(alerts={"accounts": 0}),
    document(alerts={"slack": {"channel": "#alerts"}}),
]


@pytest.mark.parametrize("values", GOOD)
def test_the_schema_accepts_what_the_models_accept(values: dict[str, Any]) -> None:
    assert read(values, "Pulumi.dev.yaml", "dev")
    errors = [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors({"config": prefixed(values)})]
    assert not errors


@pytest.mark.parametrize("values", BAD)
def test_schema_and_models_refuse_what_a_schema_can_detect(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        read(values, "Pulumi.dev.yaml", "dev")
    assert not accepts(prefixed(values))


def test_the_schema_accepts_encrypted_values_only_for_secrets() -> None:
    secure = {"secure": "v1:abc:def"}
    for key, field in options(Settings):
        if section_of(field):
            continue
        section, _, name = key.partition(".")
        value: Any = {"PDS_RATE_LIMIT_BYPASS_KEY": secure} if key == "pds.extra_secret_env" else secure
        base: dict[str, Any] = {"mail": MAIL, "s3": S3, "backup": BACKUP, "blobs": BLOBS}.get(section, {})
        if name.startswith("slack."):
            name, value = "slack", {**SLACK, name.removeprefix("slack."): value}
        if section == "cluster" and "." in name:
            part, _, name = name.partition(".")
            inner = {"token": "t"} if part == "takeover" else {}
            base, name, value = {"hosts": {"a": {}}}, part, {**inner, name: value}
            if part == "hosts":
                value = {"a": value}
        if name.startswith("otlp."):
            value = {"X-Key": secure} if name == "otlp.headers" else secure
            name, value = "otlp", {"endpoint": "https://otlp.test/v1", name.removeprefix("otlp."): value}
        values = document(**{section: {**base, name: value} if name else value})
        # A schema cannot tell their keys from `secure`.
        is_map_of_text = key in ("pds.extra_env", "delete") or key.endswith(".generations")
        assert accepts(prefixed(values)) == (holds_secret(field) or is_map_of_text), key
    assert not accepts(prefixed(document(mail=MAIL | {"password": {"secure": 1}})))
    assert not accepts(prefixed(document(mail=MAIL | {"password": {"secured": "v1:abc"}})))


def test_the_schema_accepts_provider_keys_and_refuses_unknown_keys_of_pds() -> None:
    good = prefixed(DOCUMENT)
    assert accepts(good | {"digitalocean:token": {"secure": "v1:abc"}, "nomad:address": "https://192.0.2.1:4650"})
    assert not accepts(good | {"pds:hots": {}})
    assert not accepts(good | {"hostname": "noted.at"})
    assert accepts(good, encryptionsalt="v1:abc", secretsprovider="passphrase")
    assert not accepts(good, Config={})


def test_pulumi_yaml_declares_every_key_with_type_and_description() -> None:
    assert list(PROJECT["config"]) == [key for key in Settings.model_fields if key != "on"], (
        "`on` is text or a map, and Pulumi has no type for both"
    )
    for key, declared in PROJECT["config"].items():
        assert declared["type"] in ("string", "boolean", "array", "object"), key
        assert declared["description"], key
        assert (declared["type"] == "array") == ("items" in declared), key
        assert "default" in declared, f"{key}: a cluster has no hostname, and the CLI would require one"
        # The CLI takes `default: null` for no default, and then requires a value.
        assert declared.get("default", "") is not None, key
    assert PROJECT["name"] == "pds"
    assert PROJECT["runtime"] == {"name": "python", "options": {"toolchain": "pip", "virtualenv": "venv"}}
    assert "main" not in PROJECT


def test_the_option_table_has_every_option_and_every_environment_name() -> None:
    rows = [row.split(" | ") for row in option_table().splitlines()[2:]]
    keys = [row[0].removeprefix("| ").strip("`*") for row in rows]
    assert keys == [key for key, _ in options(Settings)]
    kinds = {key: row[1] for key, row in zip(keys, rows, strict=True)}
    assert kinds["pds.escrow"] == "`pending` or `made` or `declined`"
    assert kinds["host.swap_gib"] == "number from 0 to 16"
    assert (kinds["clubs"], kinds["members"], kinds["mail"]) == ("map of maps", "list of maps", "map")
    assert (kinds["on.nomad_token"], kinds["pds.new"], kinds["time_zone"]) == ("secret", "true or false", "text")
    text = option_table()
    literal = {"PDS_DATA_DIRECTORY", "PDS_BLOBSTORE_DISK_LOCATION", "PDS_BLOBSTORE_DISK_TMP_LOCATION"}
    for name in owned_names(settings()).keys() - literal:
        assert f"`{name}`" in text
    for key, field in options(Settings):
        assert field.description, key
        assert env_of(field) is None or f"| `{env_of(field)}` |" in text


def test_replaces_text_only_between_its_markers() -> None:
    page = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n<!-- y:begin -->\nkept\n<!-- y:end -->\n"
    once = replace_between(page, "x", "\nnew\n")
    assert once == page.replace("old", "new")
    assert replace_between(once, "x", "new") == once


@pytest.mark.parametrize(
    "page",
    [
        "",
        "<!-- x:begin -->",
        "<!-- x:end --><!-- x:begin -->",
        "<!-- x:begin --><!-- x:end --><!-- x:begin --><!-- x:end -->",
    ],
)
def test_refuses_a_page_without_exactly_one_pair_of_markers(page: str) -> None:
    with pytest.raises(ValueError, match="x:begin"):
        replace_between(page, "x", "new")


def test_check_names_every_stale_file_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs/guide").mkdir(parents=True)
    for page, tables in PAGES.items():
        empty = "".join(f"<!-- {marker}:begin -->\n<!-- {marker}:end -->\n" for marker in tables)
        (tmp_path / page).write_text(empty)
    before = {path: path.read_text() for path in tmp_path.rglob("*.md")}
    assert main(["--check"], tmp_path) == 1
    error = capsys.readouterr().err
    for name in ("Pulumi.yaml", "docs/stack.schema.json", *PAGES):
        assert f"{name} is not what the code says" in error
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    (tmp_path / "Pulumi.yaml").write_text("name: other\n")
    assert main(["--check"], tmp_path) == 1
    assert capsys.readouterr().err.startswith("Pulumi.yaml is not")


def test_names_a_page_without_markers_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], tmp_path) == 1
    (tmp_path / "README.md").write_text("no markers")
    assert main([], tmp_path) == 1
    assert "README.md: there must be one '<!-- graph:begin -->'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
