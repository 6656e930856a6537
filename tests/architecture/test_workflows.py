"""The workflows: what they can access, what they pin, and that actionlint finds nothing."""

import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.settings.sections import NomadOptions
from offline.mock_engine import ROOT

FOLDER = ROOT / ".github/workflows"
FILES = sorted(FOLDER.glob("*.y*ml"))
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"

Workflow = dict[str, Any]

WITH_SECRETS = ("deploy", "drift")


def _read(file: Path) -> Workflow:
    document: dict[Any, Any] = yaml.safe_load(file.read_text())
    return {**document, "on": document[True]}  # YAML 1.1 takes `on` for true


WORKFLOWS = {file.stem: _read(file) for file in FILES}
STEPS = [
    (name, step) for name, workflow in WORKFLOWS.items() for job in workflow["jobs"].values() for step in job["steps"]
]


def _job(name: str) -> dict[str, Any]:
    [job] = WORKFLOWS[name]["jobs"].values()
    found: dict[str, Any] = job
    return found


def test_all_workflows_are_looked_at() -> None:
    assert set(WORKFLOWS) == {"comment", "deploy", "drift", "e2e", "pull-request"}


def test_actionlint_finds_nothing() -> None:
    """It is a Go program, so Go gets it from the module proxy if it is not on PATH."""
    if shutil.which("actionlint"):
        command = ["actionlint"]
    elif shutil.which("go"):
        command = ["go", "run", ACTIONLINT]
    else:
        pytest.skip("neither actionlint nor Go (https://go.dev/doc/install) is here: the workflows were not checked.")
    done = subprocess.run([*command, *map(str, FILES)], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


# What they pin.


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_actions_are_named_by_commit_with_their_version_beside_it(file: Path) -> None:
    used = re.findall(r"uses: *(.*)", file.read_text())
    assert used
    pinned = re.compile(r"[\w/-]+@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+(;.*)?")
    assert [line for line in used if not pinned.fullmatch(line)] == [], "a tag can be moved"


def test_an_action_has_one_version_everywhere() -> None:
    used = {line for file in FILES for line in re.findall(r"uses: *(\S+)", file.read_text())}
    assert len({line.partition("@")[0] for line in used}) == len(used)


def _told(action: str, key: str) -> set[str]:
    return {str(step["with"][key]) for _, step in STEPS if step.get("uses", "").startswith(f"{action}@")}


def test_engine_and_sdk_are_of_one_version() -> None:
    [version] = _told("pulumi/actions", "pulumi-version")
    assert f"pulumi=={version} " in (ROOT / "requirements.txt").read_text()


def test_nomad_is_the_one_that_hosts_get() -> None:
    assert _told("hashicorp/setup-nomad", "version") == {NomadOptions.model_fields["version"].default}


# What they may reach.


def test_a_pull_request_s_code_runs_without_secrets_and_may_write_nothing() -> None:
    for name, workflow in WORKFLOWS.items():
        triggers = workflow["on"]
        assert "pull_request_target" not in triggers, "it would run a stranger's code with the repository's secrets"
        if "pull_request" in triggers:
            text = (FOLDER / f"{name}.yaml").read_text()
            assert not re.search(r"secrets\s*[.\[]|github\.token|environment:", text), f"{name} reaches for a secret"
            assert workflow["permissions"] == {"contents": "read"}
            assert not any("permissions" in job for job in workflow["jobs"].values())


def test_who_may_comment_runs_no_code_of_a_pull_request() -> None:
    workflow = WORKFLOWS["comment"]
    assert set(workflow["on"]) == {"workflow_run"}
    assert workflow["on"]["workflow_run"]["workflows"] == [WORKFLOWS["pull-request"]["name"]]
    job = _job("comment")
    assert workflow["permissions"] == {}
    assert job["permissions"] == {"actions": "read", "contents": "read", "pull-requests": "write"}
    checkout, say = job["steps"]
    assert "ref" not in checkout["with"], "the default branch"
    assert (say["run"], set(say["env"])) == ("python3 -m tools.ci_comment", {"GITHUB_TOKEN"})


def test_secrets_are_in_environments_and_given_to_steps_that_need_them() -> None:
    holders = {file.stem for file in FILES if "secrets." in file.read_text()}
    assert holders == set(WITH_SECRETS)
    for name in WITH_SECRETS:
        job = _job(name)
        assert job["environment"] in ("${{ matrix.stack }}", "${{ matrix.stack }}-drift")
        assert "secrets." not in str(job["env"]), "every action would have them"
        for step in job["steps"]:
            assert ("secrets." in str(step)) == bool(re.match(r"\./pds|pulumi ", step.get("run", ""))), step


def test_no_checkout_leaves_its_token_in_the_folder() -> None:
    checkouts = [step for _, step in STEPS if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == 6
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_no_text_of_others_becomes_a_part_of_a_script() -> None:
    scripts = [step["run"] for _, step in STEPS if "run" in step]
    assert [text for text in scripts if "${{" in text] == [], "it comes by an environment variable"


def test_the_engine_s_json_is_never_uploaded() -> None:
    uploads = [step["with"]["path"] for _, step in STEPS if step.get("uses", "").startswith("actions/upload-artifact@")]
    assert uploads == ["preview.txt"], "the offline preview's text, of a run that has no secret"
    assert not any("--json" in step.get("run", "") for _, step in STEPS), "`./pds preflight` reads it without a file"


# What they do.


def test_one_run_at_a_time_has_a_stack() -> None:
    groups = {_job(name)["concurrency"]["group"] for name in WITH_SECRETS}
    assert groups == {"stack-${{ matrix.stack }}"}
    assert not any(_job(name)["concurrency"].get("cancel-in-progress") for name in WITH_SECRETS), (
        "an `up` that is cut short leaves the state behind what it made"
    )


def _runs(name: str) -> list[str]:
    return [step["run"] for step in _job(name)["steps"] if "run" in step]


def test_the_gate_stands_between_preview_and_up() -> None:
    assert _runs("deploy") == [
        "make venv/.tools",
        './pds allow-ip "$STACK" --label "$LABEL"',
        'pulumi preview --stack "$STACK" --diff --non-interactive',
        './pds preflight "$STACK" --allow "$ALLOW"',
        'pulumi up --stack "$STACK" --yes --skip-preview --non-interactive',
        './pds check "$STACK"',
        './pds allow-ip "$STACK" --label "$LABEL" --close',
    ]


def test_the_page_about_ci_has_the_very_commands() -> None:
    said = dict.fromkeys(
        line.partition("  #")[0].strip() for line in (ROOT / "docs/guide/ci.md").read_text().splitlines()
    )
    for name in WITH_SECRETS:
        for command in _runs(name)[1:]:
            typed = command.replace('"$STACK"', "club").replace('"$LABEL"', "RUN").replace(' --allow "$ALLOW"', "")
            typed = typed.removesuffix(" --non-interactive")
            assert typed in said or f"./pds allow-ip club -- {typed}" in said, f"{name} runs it"


def test_a_change_to_whatever_the_bench_uses_runs_it() -> None:
    paths = WORKFLOWS["e2e"]["on"]["pull_request"]["paths"]
    texts = [path.read_text() for path in (ROOT / "tests/e2e").rglob("*.py")]
    used = {
        f"tests/{name.replace('.', '/')}.py"
        for text in texts
        for name in re.findall(r"from tests\.([\w.]+) import", text)
    }
    used |= {name for text in texts for name in re.findall(r'"(README\.md|docs/[\w/-]+\.md)"', text)}
    used = {name for name in used if (ROOT / name).is_file()} | {"pds", "Pulumi.dev.yaml"}
    assert {"README.md", "docs/guide/first-hour.md", "tests/support/serving.py"} < used
    assert [name for name in sorted(used) if not any(fnmatch(name, path) for path in paths)] == []


def test_drift_changes_nothing() -> None:
    assert _runs("drift")[2] == (
        'pulumi preview --stack "$STACK" --refresh --diff --expect-no-changes --non-interactive'
    )
    assert not any(re.match("pulumi (up|refresh|destroy)", run) for run in _runs("drift"))


@pytest.mark.parametrize("name", WITH_SECRETS)
def test_the_door_to_nomad_is_closed_whatever_happens(name: str) -> None:
    opened, *_between, closed = [step for step in _job(name)["steps"] if "run" in step][1:]
    assert closed["run"] == f"{opened['run']} --close", "the same label, so the same door"
    assert closed["if"] == "always()"
    assert _job(name)["env"]["LABEL"] == "${{ github.run_id }}-${{ github.run_attempt }}", "no two runs share a door"


@pytest.mark.parametrize("name", WITH_SECRETS)
def test_secrets_are_used_by_the_default_branch_alone(name: str) -> None:
    assert "github.ref == format('refs/heads/{0}', github.event.repository.default_branch)" in _job(name)["if"]
