"""`make try` runs the rendered job: where its environment and its secrets come from."""

import stat
from pathlib import Path

import pytest

from components.settings.checks.pds_env import plain_environment
from offline.mock_engine import Evaluation
from offline.stackfile import evaluate_stack
from tests.support.programs import settings_of
from tools.trial import node
from tools.trial.trial import KeptSecrets, task_environment


def test_the_environment_is_the_job_s_and_the_nomad_variable_s(dev: Evaluation) -> None:
    environment, secret = task_environment(dev)
    variable = dev.one("pds-secrets-variable").inputs["items"]
    preloads = environment.pop("NODE_OPTIONS")
    assert (
        preloads == "--require=/local/volume_check.cjs --require=/local/durable.cjs --require=/local/data_lock.cjs"
    ), "the server's process loads them"
    assert environment == plain_environment(settings_of(pds={"new": True})) | variable
    assert secret == frozenset(variable), "exactly the items of the variable are secret"


def test_kept_secrets_are_reused_and_their_file_has_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    first = task_environment(evaluate_stack("dev", secret=KeptSecrets(path)))[0]
    second = task_environment(evaluate_stack("dev", secret=KeptSecrets(path)))[0]
    assert first == second, "a second run with another key would find a foreign volume"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_folders_have_different_secrets(tmp_path: Path) -> None:
    name = "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"
    keys = {
        task_environment(evaluate_stack("dev", secret=KeptSecrets(tmp_path / f"{number}.json")))[0][name]
        for number in range(3)
    }
    assert len(keys) == 3, "they are random, not derived from the stack's name"
    assert all(len(key) == 64 for key in keys)


def test_a_missing_compiler_is_named_with_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.trial.node.shutil.which", lambda _tool: None)
    text = node._failure("@atproto/pds", "rebuild", ["gyp ERR! stack"])
    assert "a compiler is missing here" in text
    assert text.endswith("apt-get install g++ make")
    assert "gyp" not in text
    assert "network" in node._failure("@atproto/pds", "install", ["gyp ERR! stack"]), "another step failed"
