"""`make preview`, run on a copy of the project in its own git repository."""

import ast
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml

from offline.mock_engine import ROOT, Evaluation
from offline.stackfile import evaluate_stack
from policy.secrets import forms, known_secrets
from tests.support.planted_defects import unprotected_volume
from tests.support.programs import SOURCES
from tools import compare, preview
from tools.preview import rendered

_LEFT_OUT = shutil.ignore_patterns("node_modules", "live")


@dataclass
class Project:
    """A copy of the project, or of its stack files."""

    path: Path

    def git(self, *arguments: str) -> None:
        """Run git, without a user's configuration."""
        environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        identity = ("-c", "user.name=test", "-c", "user.email=test@noted.at")
        command = ["git", *identity, *arguments]
        subprocess.run(command, cwd=self.path, env=environment, check=True, capture_output=True, timeout=600)

    def commit(self) -> None:
        """Commit all files to a new repository."""
        (self.path / ".gitignore").write_text("__pycache__/\nbuild/\n")
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=everything")

    def preview(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the preview of the copy's stack files in this process, with the program that it has loaded."""
        stdout, stderr = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
            patch.setattr(preview, "ROOT", self.path)
            for name in ("evaluate_stack", "read_settings"):
                patch.setattr(preview, name, partial(getattr(preview, name), root=self.path))
            patch.setattr(compare, "evaluate_elsewhere", _evaluated_here)
            code = preview.main(list(arguments))
        return subprocess.CompletedProcess(arguments, code, stdout.getvalue(), stderr.getvalue())

    def change(self, **sections: object) -> None:
        """Change options in the dev stack's file; None removes one."""
        path = self.path / "Pulumi.dev.yaml"
        document = yaml.load(path.read_text(), yaml.CSafeLoader)
        for key, value in sections.items():
            if value is None:
                del document["config"][f"pds:{key}"]
            else:
                document["config"][f"pds:{key}"] = value
        path.write_text(yaml.safe_dump(document))


_BEFORE: dict[tuple[str, ...], dict[str, Evaluation | str]] = {}


def _evaluated_here(tree: Path, stacks: Collection[str]) -> dict[str, Evaluation | str]:
    """Evaluate stacks of another tree that has the same program, once for all trees with the same stack files."""
    key = (*(file.read_text() for file in sorted(tree.glob("Pulumi.*.yaml"))), *stacks)
    if key not in _BEFORE:
        _BEFORE[key] = {stack: evaluate_stack(stack, root=tree) for stack in stacks}
    return _BEFORE[key]


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project's stack files, committed, with the program that this process has loaded."""
    project = Project(tmp_path_factory.mktemp("project") / "pds")
    project.path.mkdir()
    for name in ("__main__.py", "Pulumi.yaml", "Pulumi.dev.yaml"):
        shutil.copy(ROOT / name, project.path / name)
    project.commit()
    return project


@pytest.fixture
def project(committed: Project, tmp_path: Path) -> Project:
    """A copy of `committed` that one test may change."""
    return Project(Path(shutil.copytree(committed.path, tmp_path / "pds")))


@pytest.fixture(scope="module")
def whole_committed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with its program, committed."""
    project = Project(tmp_path_factory.mktemp("whole") / "pds")
    project.path.mkdir()
    for name in SOURCES:
        shutil.copytree(ROOT / name, project.path / name, ignore=_LEFT_OUT)
    for name in ("__main__.py", "Pulumi.yaml", "Pulumi.dev.yaml"):
        shutil.copy(ROOT / name, project.path / name)
    project.commit()
    return project


@pytest.fixture
def whole(whole_committed: Project) -> Iterator[Project]:
    """`whole_committed`, which one test may change. A copy of it would take a second."""
    whole_committed.git("tag", "--force", "committed")
    yield whole_committed
    whole_committed.git("reset", "--quiet", "--hard", "committed")
    whole_committed.git("clean", "--quiet", "-d", "--force")


@pytest.fixture(scope="module")
def shown(committed: Project) -> str:
    """The preview of the dev stack."""
    done = committed.preview()
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prints_first_that_it_does_not_read_the_state(shown: str) -> None:
    assert "does not read the state" in shown.splitlines()[0]


def test_prints_every_resource_below_its_parent(shown: str, dev: Evaluation) -> None:
    lines = shown.splitlines()
    depth = {}
    for item in dev.resources:
        kind = "Provider" if item.type.startswith("pulumi:providers:") else item.type.rpartition(":")[2]
        matches = [line for line in lines if f"{kind} {item.name} " in f"{line} "]
        assert len(matches) == 1, f"{kind} {item.name} is in the tree {len(matches)} times"
        depth[item.urn] = matches[0].index(kind)
    for item in dev.resources:
        if item.parent in depth:
            assert depth[item.urn] > depth[item.parent], f"{item.name} is indented below its parent"


def test_marks_protected_retained_and_secret_resources(shown: str) -> None:
    lines = {line.split("pds-", 1)[1].split()[0]: line for line in shown.splitlines() if " pds-" in line}
    assert "protected" in lines["host-data-volume"]
    assert "retained" in lines["host-data-volume"]
    assert "size=25 region=fra1" in lines["host-data-volume"], "the inputs that matter"
    assert "secret: items" in lines["secrets-variable"]
    assert "protected" in lines["secrets-plc-rotation-key"]
    assert "protected" not in lines["host-droplet"]
    assert "22(operators)" in lines["host-network-firewall"]
    assert "443(all)" in lines["host-network-firewall"]


def test_prints_the_settings_warnings(shown: str) -> None:
    assert "warning: pds:pds.escrow: NO ESCROW YET" in shown


def test_writes_and_names_every_rendered_file(committed: Project, shown: str, dev: Evaluation) -> None:
    folder = committed.path / "build" / "dev"
    assert {path.name for path in folder.iterdir()} == set(rendered(dev)), "jobs, ingress, cloud-init and agent"
    for name, text in rendered(dev).items():
        assert (folder / name).read_text() == text
        assert f"wrote build/dev/{name}" in shown


def test_prints_and_writes_no_secret(committed: Project, shown: str, dev: Evaluation) -> None:
    secrets = known_secrets(dev)
    for label, secret in secrets.items():
        assert not any(spelling in shown for spelling in forms(secret)), f"{label} is printed"
    written = {path.name: path.read_text() for path in (committed.path / "build" / "dev").iterdir()}
    for label, secret in secrets.items():
        holders = {name for name, text in written.items() if any(spelling in text for spelling in forms(secret))}
        stand_in = {"cloud-init.yaml"} if label == "pds-host-certificates-server-key.privateKeyPem" else set()
        assert holders == stand_in, f"{label}: only the stand-in of the endpoint's key is in cloud-init"


@pytest.mark.parametrize("arguments", [[], ["--diff", "HEAD"]])
def test_exits_with_2_if_the_program_does_not_protect_its_volume(
    project: Project, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No input of any resource changes." in project.preview("--diff", "HEAD").stdout
    unprotected_volume(monkeypatch)
    done = project.preview(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "preflight: protected state: Volume pds-host-data-volume is not protected" in done.stdout
    assert "Preflight failed." in done.stdout


def test_prints_every_fault_of_a_stack_file_and_exits_with_1(project: Project) -> None:
    project.change(hostname="PDS.example", hots={"size": "s-1vcpu-2gb"})
    done = project.preview()
    assert done.returncode == 1
    assert "pds:hostname" in done.stderr
    assert "pds:hots" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "", "it prints no graph of an invalid stack"


def test_exits_with_1_if_the_stack_has_no_file(committed: Project) -> None:
    done = committed.preview("--stack", "club")
    assert done.returncode == 1
    assert "Pulumi.club.yaml does not exist; here are: Pulumi.dev.yaml." in done.stderr


def test_diff_of_an_unchanged_tree_reports_no_change(committed: Project) -> None:
    done = committed.preview("--diff", "HEAD")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == (
        "From HEAD to the working tree, stack dev. This compares two programs, not the running stack."
    )
    assert "~" not in done.stdout
    assert "No input of any resource changes." in done.stdout


def test_diff_of_another_region_exits_with_2_for_replaced_resources(project: Project) -> None:
    project.change(host={"region": "ams3"})
    done = project.preview("--diff", "HEAD")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "    region: 'fra1' -> 'ams3'  REPLACES" in done.stdout
    first, *lost = [line for line in done.stdout.splitlines() if line.startswith("preflight: ")]
    assert "Write 'region: fra1' back" in first, "the advice that loses nothing comes first"
    assert lost == [
        "preflight: lost state: Volume pds-host-data-volume would be replaced (region)",
        "preflight: lost state: Droplet pds-host-droplet would be replaced (region)",
        "preflight: lost state: ReservedIp pds-host-network-ip would be replaced (region)",
    ], "replacing a resource without data, such as a DNS record, is not a finding"


def test_diff_of_a_harmless_change_prints_the_file_s_diff_and_exits_with_0(project: Project) -> None:
    project.change(pds={"new": True, "blob_upload_limit": 1234567})
    done = project.preview("--diff", "HEAD")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "~ Job pds-server-job" in done.stdout
    assert "+++ b/pds.nomad.hcl" in done.stdout
    assert '-        PDS_BLOB_UPLOAD_LIMIT           = "104857600"' in done.stdout
    assert '+        PDS_BLOB_UPLOAD_LIMIT           = "1234567"' in done.stdout
    assert "cloud-init differs" not in done.stdout
    assert "REPLACES" not in done.stdout


def test_diff_prints_a_changed_cloud_init_that_replaces_nothing(project: Project) -> None:
    project.change(host={"swap_gib": 2})
    done = project.preview("--diff", "HEAD")
    assert done.returncode == 0, "the droplet ignores it until its generation is raised"
    assert "+++ b/cloud-init.yaml" in done.stdout
    assert "cloud-init differs. No running host changes." in done.stdout


def test_diff_of_a_raised_generation_replaces_the_droplet(project: Project) -> None:
    project.change(host={"generation": 2})
    done = project.preview("--diff", "HEAD")
    assert done.returncode == 2
    assert "    host.generation: changed  REPLACES" in done.stdout
    assert "preflight: lost state: Droplet pds-host-droplet would be replaced (host.generation)" in done.stdout


def test_a_replacement_is_allowed_only_by_its_complete_name(project: Project) -> None:
    project.change(host={"generation": 2})
    assert project.preview("--diff", "HEAD", "--allow", "pds-host-droplet").returncode == 0
    assert project.preview("--diff", "HEAD", "--allow", "pds-host").returncode == 2, "the complete name is required"


def test_diff_hides_the_value_of_a_changed_secret(project: Project) -> None:
    project.change(secrets={"admin_password": {"secure": "v1:AAAA:BBBB"}})
    done = project.preview("--diff", "HEAD")
    assert "items: [secret]" in done.stdout
    assert done.returncode == 0, "the generated password is kept: its only copy is in the state"


def test_diff_compares_changes_of_the_program(whole: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = whole.path / "components/render/jobs/pds.py"
    now = 'shutdown_delay="2s"'
    assert now in path.read_text()
    path.write_text(path.read_text().replace(now, 'shutdown_delay="1s"'))
    whole.git("commit", "--quiet", "--all", "--message=before")
    # The program of this process is the changed one.
    unprotected_volume(monkeypatch)
    monkeypatch.setattr(sys.modules[__name__], "_evaluated_here", compare.evaluate_elsewhere)
    done = whole.preview("--diff", "HEAD")
    assert done.returncode == 2, done.stdout + done.stderr
    assert '-    shutdown_delay = "1s"' in done.stdout
    assert '+    shutdown_delay = "2s"' in done.stdout
    assert "preflight: protected state: Volume pds-host-data-volume is not protected" in done.stdout


@pytest.mark.parametrize("revision", ["no-such-branch", "--force"])
def test_diff_exits_with_3_for_an_unknown_revision(revision: str, committed: Project) -> None:
    # git must not take a revision that begins with a hyphen for an option.
    done = committed.preview(f"--diff={revision}")
    assert done.returncode == 3
    assert f"Not comparable: git does not know {revision}" in done.stdout


def test_diff_exits_with_3_if_the_revision_does_not_evaluate(whole: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    good = (whole.path / "Pulumi.dev.yaml").read_text()
    whole.change(hostname=None)
    whole.git("commit", "--quiet", "--all", "--message=broken")
    (whole.path / "Pulumi.dev.yaml").write_text(good)
    monkeypatch.setattr(sys.modules[__name__], "_evaluated_here", compare.evaluate_elsewhere)
    done = whole.preview("--diff", "HEAD")
    assert done.returncode == 3
    assert "does not evaluate for dev" in done.stdout


def test_diff_leaves_no_worktree_behind(project: Project) -> None:
    project.preview("--diff", "HEAD")
    assert list((project.path / ".git").glob("worktrees/*")) == []


# Every stack file, as in CI.


def _as_ci(project: Project) -> "subprocess.CompletedProcess[str]":
    """`.ci/preview` from the committed state to the present files, with the environment that runs these tests."""
    for name in ("Makefile", "requirements.txt", ".ci/preview"):
        (project.path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, project.path / name)
    (project.path / "venv").symlink_to(sys.prefix)
    command = [str(project.path / ".ci/preview"), "HEAD"]
    return subprocess.run(command, cwd=project.path, capture_output=True, text=True, check=False, timeout=600)


def test_ci_prints_what_each_stack_file_changes(whole: Project) -> None:
    club = whole.path / "Pulumi.club.yaml"
    club.write_text((whole.path / "Pulumi.dev.yaml").read_text().replace("noted.at", "chess-club.org"))
    whole.change(pds={"new": True, "blob_upload_limit": 1234567})
    done = _as_ci(whole)
    assert done.returncode == 0, done.stdout + done.stderr
    new, known = done.stdout.split("== stack dev\n")
    assert "== stack club\nIt is new: there is nothing to compare it with.\nThe graph of stack club" in new
    assert '+        PDS_BLOB_UPLOAD_LIMIT           = "1234567"' in known


def test_ci_exits_with_the_code_of_the_preview(whole: Project) -> None:
    (whole.path / "Pulumi.dev.yaml").write_text("config:\n  pds:hostname: NO\n")
    done = _as_ci(whole)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "pds:hostname" in done.stdout


def test_all_exits_with_the_worst_code_and_prints_every_stack_file(project: Project) -> None:
    good = (project.path / "Pulumi.dev.yaml").read_text()
    for name in ("a", "b", "c"):
        (project.path / f"Pulumi.{name}.yaml").write_text(good)
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message=clubs")
    (project.path / "Pulumi.a.yaml").write_text(good.replace("noted.at", "NO"))
    (project.path / "Pulumi.b.yaml").write_text(f"{good}  pds:host: {{region: ams3}}\n")
    (project.path / "Pulumi.c.yaml").unlink()
    done = project.preview("--all", "--diff", "HEAD")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "pds:hostname" in done.stdout, "the summary has the refused file, too"
    assert "preflight: lost state: Volume pds-host-data-volume would be replaced (region)" in done.stdout
    assert "== stack dev" in done.stdout
    assert "== Pulumi.c.yaml is removed" in done.stdout


def test_every_console_disables_emoji_codes() -> None:
    """Otherwise rich would render `pds:on:` as an emoji."""
    texts = {path: path.read_text() for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items() if "Console" in text}
    assert trees
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Console":
                arguments = {item.arg: ast.unparse(item.value) for item in node.keywords}
                assert arguments.get("emoji") == "False", f"{path.name}: this console renders emoji codes"
