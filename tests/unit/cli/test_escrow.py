"""The escrow file: complete, encrypted, private, and refused if it is invalid."""

import copy
import json
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyrage
import pytest

from cli import app
from cli.lib import escrow
from cli.lib.stack import StackError
from offline.mock_engine import Evaluation
from tests.support.programs import cluster

PASSPHRASE = "six words that are known to one"
EMPTY = (
    b"age-encryption.org/v1\n"
    b"-> scrypt 6ACCLbk5WKBON0B+8lXQxQ 1\n+gn3eaH1gzgFkY66PYYgaObgG4LFvkpQUBzD4OuqBXM\n"
    b"--- bWmujjc0OusZxyFOcmnqn9o+7QcfoVnmjtImoRhQwoo\n"
    + bytes.fromhex("e168c17dbd0590274f96ff6c60e848d7ea8dda21b41a3de226f1c3e99fd731d3596a")
)
"""An empty escrow for `PASSPHRASE`, with a work factor of 1. With pyrage's own, deriving a key takes a second."""


@pytest.fixture
def content(dev: Evaluation) -> dict[str, Any]:
    """The output `escrow` of the dev stack's program."""
    exported: dict[str, Any] = copy.deepcopy(dev.outputs["escrow"])
    return exported


@pytest.fixture
def unsealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep files in plain text. Deriving a key takes a second by design, and these tests do not need it."""
    same = SimpleNamespace(encrypt=lambda text, passphrase: text, decrypt=lambda text, passphrase: text)
    monkeypatch.setattr(pyrage, "passphrase", same)


def _seal(folder: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any]) -> Path:
    """Write an escrow file for a state with this content; a stand-in for `pulumi` returns that state."""
    state = folder / "state.json"
    state.write_text(json.dumps(content))
    cli = folder / "bin" / "pulumi"
    cli.parent.mkdir(exist_ok=True)
    cli.write_text(f'#!/bin/sh\necho "$@" > {folder}/arguments\ncat {state}\n')
    cli.chmod(0o755)
    monkeypatch.setenv("PATH", f"{cli.parent}:/usr/bin:/bin")
    passphrase = folder / "passphrase"
    passphrase.write_text(PASSPHRASE + "\n")
    monkeypatch.setenv(escrow.PASSPHRASE_FILE, str(passphrase))
    return escrow.write("dev", folder)


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Path]:
    """Write an escrow file for a state with the given content."""
    return partial(_seal, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory, dev: Evaluation) -> Path:
    """The dev stack's file, encrypted once for the tests that read it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return _seal(tmp_path_factory.mktemp("escrow"), monkeypatch, dev.outputs["escrow"])


def _open(path: Path, passphrase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    file = tmp_path / "passphrase"
    file.write_text(passphrase)
    monkeypatch.setenv(escrow.PASSPHRASE_FILE, str(file))
    return escrow.read(path)


def test_the_file_decrypts_to_everything_needed_to_rebuild_the_pds(
    encrypted: Path, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = _open(encrypted, PASSPHRASE + "\n", tmp_path, monkeypatch)
    assert opened["secrets"] == content["secrets"], "every secret is unchanged"
    assert "pds:hostname: noted.at" in opened["stack_file"], "the stack file is needed to run the program again"
    assert opened["volume_id"], "the volume's id is needed to adopt it"
    assert opened["nomad_ca_key_pem"], "the CA's key is needed to make a new client certificate"


@pytest.mark.usefixtures("unsealed")
def test_a_second_file_of_the_same_day_gets_a_new_name(
    sealed: Callable[[dict[str, Any]], Path], content: dict[str, Any]
) -> None:
    first = sealed(content)
    before = first.read_bytes()
    second, third = sealed(content), sealed(content)
    assert len({first, second, third}) == 3
    assert second.name == first.name.replace(".age", "-2.age")
    assert first.read_bytes() == before, "the first file may have another passphrase"


def test_the_file_is_encrypted_with_age_and_has_mode_0600(encrypted: Path, content: dict[str, Any]) -> None:
    raw = encrypted.read_bytes()
    for name, secret in content["secrets"].items():
        assert secret.encode() not in raw, f"{name} is in the file in plain text"
    assert stat.S_IMODE(encrypted.stat().st_mode) == 0o600
    assert raw.startswith(b"age-encryption.org/v1"), "any age implementation can decrypt it"
    arguments = (encrypted.parent / "arguments").read_text()
    assert PASSPHRASE not in arguments, "a command line is visible to every user of the machine"


def test_reports_a_wrong_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "escrow.age"
    path.write_bytes(EMPTY)
    with pytest.raises(escrow.EscrowError, match="right passphrase"):
        _open(path, "another passphrase entirely", tmp_path, monkeypatch)
    with pytest.raises(escrow.EscrowError, match="The output `escrow` lacks"):
        _open(path, PASSPHRASE, tmp_path, monkeypatch)


@pytest.mark.parametrize("lost", ["volume_id", "nomad_ca_key_pem", "secrets"])
def test_does_not_write_an_incomplete_escrow(
    sealed: Callable[[dict[str, Any]], Path], content: dict[str, Any], tmp_path: Path, lost: str
) -> None:
    with pytest.raises(escrow.EscrowError, match=r"lacks.*Complete `pulumi up`"):
        sealed({**content, lost: None if lost != "secrets" else {}})
    assert not list(tmp_path.glob("*.age")), "the operator would trust an incomplete file"


def test_refuses_an_invalid_rotation_key(sealed: Callable[[dict[str, Any]], Path], content: dict[str, Any]) -> None:
    name = "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"
    with pytest.raises(escrow.EscrowError, match="not a secp256k1 key"):
        sealed({**content, "secrets": {**content["secrets"], name: "0" * 64}})


@pytest.mark.usefixtures("unsealed")
def test_refuses_a_short_passphrase_before_writing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sealed: Callable[[dict[str, Any]], Path], content: dict[str, Any]
) -> None:
    path = sealed(content)
    path.unlink()
    (tmp_path / "passphrase").write_text("short")
    with pytest.raises(escrow.EscrowError, match="too short"):
        escrow.write("dev", tmp_path)
    assert not list(tmp_path.glob("*.age"))


def test_prints_the_install_page_if_the_pulumi_cli_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match=r"pulumi.com/docs/install"):
        escrow.write("dev", tmp_path)


@pytest.mark.usefixtures("unsealed")
def test_commands_print_the_next_step_and_no_secret(
    sealed: Callable[[dict[str, Any]], Path],
    content: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    path = sealed(content)
    assert app.main(["escrow-check", str(path)]) == 0
    output = capsys.readouterr().out
    assert "noted.at" in output
    assert not any(secret in output for secret in content["secrets"].values()), "a terminal is a log"
    assert "of which this stack makes none" in output
    with_backups = sealed(content | {"backup": {"RESTIC_PASSWORD": "of the backups"}})
    assert app.main(["escrow-check", str(with_backups)]) == 0
    output = capsys.readouterr().out
    assert "whose address and password are in it" in output
    assert "of the backups" not in output
    assert app.main(["escrow", "dev", "--to", str(tmp_path)]) == 0
    assert "config set --path pds.escrow made --stack dev" in capsys.readouterr().out
    assert app.main(["escrow-check", str(tmp_path / "nothing.age")]) == 1
    assert "nothing.age" in capsys.readouterr().err


@pytest.mark.usefixtures("unsealed")
def test_a_cluster_s_file_has_its_hosts_and_no_keys_of_members(
    sealed: Callable[[dict[str, Any]], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    exported = copy.deepcopy(cluster().outputs["escrow"])
    path = sealed(exported)
    assert path.name.startswith("escrow-dev-"), "it has no hostname, so it has the stack's name"
    assert app.main(["escrow-check", str(path)]) == 0
    output = capsys.readouterr().out
    assert "hosts a, b" in output
    assert exported["nomad_management_token"] not in output
    del exported["nomad_ca_key_pem"]
    with pytest.raises(escrow.EscrowError, match="lacks nomad_ca_key_pem"):
        sealed(exported)
