"""The workflows: what they can access, what they pin, and that actionlint reports nothing."""

import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.stacks.pending_changes import CHANGES_BY_ITSELF
from components.settings.sections import NomadOptions
from offline.mock_engine import ROOT

FOLDER = ROOT / ".github/workflows"
FILES = sorted(FOLDER.glob("*.y*ml"))
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"

Workflow = dict[str, Any]

WITH_SECRETS = ("deploy", "drift")


def _read(file: Path) -> Workflow:
    document: dict[Any, Any] = yaml.load(file.read_text(), yaml.CSafeLoader)
    return {**document, "on": document[True]}  # YAML 1.1 reads `on` as true


WORKFLOWS = {file.stem: _read(file) for file in FILES}
STEPS = [
    (name, step) for name, workflow in WORKFLOWS.items() for job in workflow["jobs"].values() for step in job["steps"]
]


def _job(name: str) -> dict[str, Any]:
    [job] = WORKFLOWS[name]["jobs"].values()
    only: dict[str, Any] = job
    return only


def test_covers_every_workflow() -> None:
    assert set(WORKFLOWS) == {"comment", "deploy", "drift", "e2e", "pull-request"}


def test_actionlint_reports_nothing() -> None:
    """If actionlint is not on PATH, Go fetches it from the module proxy."""
    if shutil.which("actionlint"):
        command = ["actionlint"]
    elif shutil.which("go"):
        command = ["go", "run", ACTIONLINT]
    else:
        pytest.skip(
            "neither actionlint nor Go (https://go.dev/doc/install) is installed: the workflows were not checked."
        )
    done = subprocess.run([*command, *map(str, FILES)], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


# Pins.


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_actions_are_pinned_by_commit_with_a_version_comment(file: Path) -> None:
    used = re.findall(r"uses: *(.*)", file.read_text())
    assert used
    pinned = re.compile(r"[\w/-]+@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+(;.*)?")
    assert [line for line in used if not pinned.fullmatch(line)] == [], "a tag can be moved"


def test_every_workflow_uses_the_same_version_of_an_action() -> None:
    used = {line for file in FILES for line in re.findall(r"uses: *(\S+)", file.read_text())}
    assert len({line.partition("@")[0] for line in used}) == len(used)


def _inputs(action: str, key: str) -> set[str]:
    return {str(step["with"][key]) for _, step in STEPS if step.get("uses", "").startswith(f"{action}@")}


def test_pulumi_engine_and_sdk_have_the_same_version() -> None:
    [version] = _inputs("pulumi/actions", "pulumi-version")
    assert f"pulumi=={version} " in (ROOT / "requirements.txt").read_text()


def test_ci_uses_the_nomad_version_of_the_hosts() -> None:
    assert _inputs("hashicorp/setup-nomad", "version") == {NomadOptions.model_fields["version"].default}


# Permissions and secrets.


def test_pull_request_workflows_have_no_secrets_and_read_only_permissions() -> None:
    for name, workflow in WORKFLOWS.items():
        triggers = workflow["on"]
        assert "pull_request_target" not in triggers, "it would run untrusted code with the repository's secrets"
        if "pull_request" in triggers:
            text = (FOLDER / f"{name}.yaml").read_text()
            assert not re.search(r"secrets\s*[.\[]|github\.token|environment:", text), f"{name} uses a secret"
            assert workflow["permissions"] == {"contents": "read"}
            assert not any("permissions" in job for job in workflow["jobs"].values())


def test_the_comment_workflow_runs_no_code_of_a_pull_request() -> None:
    workflow = WORKFLOWS["comment"]
    assert set(workflow["on"]) == {"workflow_run"}
    assert workflow["on"]["workflow_run"]["workflows"] == [WORKFLOWS["pull-request"]["name"]]
    job = _job("comment")
    assert workflow["permissions"] == {}
    assert job["permissions"] == {"actions": "read", "contents": "read", "pull-requests": "write"}
    checkout, comment = job["steps"]
    assert "ref" not in checkout["with"], "it checks out the default branch"
    assert (comment["run"], set(comment["env"])) == ("python3 -m tools.ci_comment", {"GITHUB_TOKEN"})


def test_only_steps_that_need_secrets_get_them_from_an_environment() -> None:
    holders = {file.stem for file in FILES if "secrets." in file.read_text()}
    assert holders == set(WITH_SECRETS)
    for name in WITH_SECRETS:
        job = _job(name)
        assert job["environment"] in ("${{ matrix.stack }}", "${{ matrix.stack }}-drift")
        assert "secrets." not in str(job["env"]), "otherwise every action would get them"
        for step in job["steps"]:
            assert ("secrets." in str(step)) == bool(re.match(r"\./pds|pulumi ", step.get("run", ""))), step


def test_checkouts_do_not_persist_credentials() -> None:
    checkouts = [step for _, step in STEPS if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == 6
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_scripts_contain_no_expressions() -> None:
    scripts = [step["run"] for _, step in STEPS if "run" in step]
    assert [text for text in scripts if "${{" in text] == [], "values are passed as environment variables"


def test_never_uploads_the_engine_s_json() -> None:
    uploads = [step["with"]["path"] for _, step in STEPS if step.get("uses", "").startswith("actions/upload-artifact@")]
    assert uploads == ["preview.txt"], "the text of the offline preview, from a run without secrets"
    assert not any("--json" in step.get("run", "") for _, step in STEPS), "`./pds preflight` reads it without a file"


# Steps.


def test_a_stack_has_one_run_at_a_time() -> None:
    groups = {_job(name)["concurrency"]["group"] for name in WITH_SECRETS}
    assert groups == {"stack-${{ matrix.stack }}"}
    assert not any(_job(name)["concurrency"].get("cancel-in-progress") for name in WITH_SECRETS), (
        "an interrupted `up` leaves the state outdated"
    )


def _runs(name: str) -> list[str]:
    return [step["run"] for step in _job(name)["steps"] if "run" in step]


def test_deploy_runs_preflight_between_preview_and_up() -> None:
    assert _runs("deploy") == [
        "make venv/.tools",
        './pds allow-ip "$STACK" --label "$LABEL"',
        'pulumi preview --stack "$STACK" --diff --non-interactive',
        './pds preflight "$STACK" --allow "$ALLOW"',
        'pulumi up --stack "$STACK" --yes --skip-preview --non-interactive',
        './pds check "$STACK"',
        './pds allow-ip "$STACK" --label "$LABEL" --close',
    ]


def test_the_ci_guide_has_the_workflows_commands() -> None:
    documented = dict.fromkeys(
        line.partition("  #")[0].strip() for line in (ROOT / "docs/guide/ci.md").read_text().splitlines()
    )
    for name in WITH_SECRETS:
        for command in _runs(name)[1:]:
            typed = command.replace('"$STACK"', "main").replace('"$LABEL"', "RUN").replace(' --allow "$ALLOW"', "")
            typed = typed.removesuffix(" --non-interactive")
            assert typed in documented or f"./pds allow-ip main -- {typed}" in documented, f"{name} runs it"


def test_a_change_to_any_file_that_e2e_uses_triggers_e2e() -> None:
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


def test_the_drift_workflow_changes_nothing() -> None:
    excluded = "".join(f" --exclude '**::{name}'" for name in sorted(CHANGES_BY_ITSELF))
    assert _runs("drift")[2] == (
        f'pulumi preview --stack "$STACK" --refresh --diff --expect-no-changes{excluded} --non-interactive'
    ), "a sign-up is no drift: a run that fails for each is not read any more"
    assert not any(re.match("pulumi (up|refresh|destroy)", run) for run in _runs("drift"))


def test_the_drift_workflow_also_checks_what_the_engine_does_not_see() -> None:
    """Edited jobs, lost tokens, failed backups, DID documents: no schedule looks at them otherwise."""
    (check,) = [step for step in _job("drift")["steps"] if step.get("run", "").startswith("./pds check")]
    assert (check["run"], check["if"]) == ('./pds check "$STACK"', "always()"), "also after a preview with a difference"
    assert check["env"] == _job("drift")["steps"][-1]["env"], "it needs the state, the account and Nomad"


@pytest.mark.parametrize("name", WITH_SECRETS)
def test_the_temporary_firewall_rule_is_always_deleted(name: str) -> None:
    opened, *_between, closed = [step for step in _job(name)["steps"] if "run" in step][1:]
    assert closed["run"] == f"{opened['run']} --close", "the same label, so the same firewall rule"
    assert closed["if"] == "always()"
    assert _job(name)["env"]["LABEL"] == "${{ github.run_id }}-${{ github.run_attempt }}", "no two runs share a rule"


@pytest.mark.parametrize("name", WITH_SECRETS)
def test_only_the_default_branch_uses_secrets(name: str) -> None:
    assert "github.ref == format('refs/heads/{0}', github.event.repository.default_branch)" in _job(name)["if"]
