"""`./pds nomad`: the Nomad CLI gets a stack's access, and nothing of it stays."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cli import app
from cli.lib.stack import Stack
from cli.lib.subprocesses import child
from cli.observe import nomad_cli
from offline.mock_engine import ROOT
from tests.support.fake_pulumi import FakePulumi

ACCESS = {
    "nomad_address": "https://203.0.113.40:4650",
    "nomad_token": "06b05181-6ba5-a269-ae00-373e61ed46eb",
    "nomad_ca_pem": "the CA",
    "nomad_client_cert_pem": "the certificate",
    "nomad_client_key_pem": "the key",
}

_NOMAD = """#!{python} -IS
import json, os, pathlib, signal, sys, time
seen = pathlib.Path({seen!r})
variables = {{name: value for name, value in os.environ.items() if name.startswith("NOMAD_")}}
files = {{name: pathlib.Path(value) for name, value in variables.items() if value.startswith("/")}}
modes = sorted({{oct(path.stat().st_mode & 0o777) for file in files.values() for path in (file, file.parent)}})
texts = {{name: path.read_text() for name, path in files.items()}}
seen.write_text(json.dumps({{"arguments": sys.argv[1:], "variables": variables, "texts": texts, "modes": modes}}))
if "wait" in sys.argv:
    def end(number, frame):
        seen.with_name("signal").write_text(signal.Signals(number).name)
        sys.exit(9)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, lambda *_: None)
    print("waiting", flush=True)
    time.sleep(60)
sys.exit(3)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are, instead of in memory; and a `nomad` on PATH that writes `seen.json` beside it."""
    pulumi = FakePulumi(tmp_path, monkeypatch)
    pulumi.outputs(**ACCESS)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/nomad"
    program.write_text(_NOMAD.format(python=sys.executable, seen=str(tmp_path / "seen.json")))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("cli.commands.nomad.Stack", lambda name: Stack(name, pulumi.root))
    monkeypatch.setattr(nomad_cli, "_IN_MEMORY", (str(tmp_path / "none"), str(tmp_path / "memory")))
    (tmp_path / "memory").mkdir()
    return tmp_path


def seen(folder: Path) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return found


def left(folder: Path) -> list[Path]:
    return list((folder / "memory").iterdir())


def test_nomad_gets_the_stack_s_access_and_its_exit_code_is_passed_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOMAD_REGION", "another")
    monkeypatch.setenv("NOMAD_SKIP_VERIFY", "true")
    assert app.main(["nomad", "dev", "--", "job", "status", "-json", "pds"]) == 3
    run = seen(folder)
    assert run["arguments"] == ["job", "status", "-json", "pds"]
    files = ("NOMAD_CACERT", "NOMAD_CLIENT_CERT", "NOMAD_CLIENT_KEY")
    assert run["variables"].keys() == {"NOMAD_ADDR", "NOMAD_TOKEN", "NOMAD_NAMESPACE", *files}, "none of another Nomad"
    assert run["variables"]["NOMAD_ADDR"] == ACCESS["nomad_address"]
    assert run["variables"]["NOMAD_TOKEN"] == ACCESS["nomad_token"]
    assert run["variables"]["NOMAD_NAMESPACE"] == "default"
    assert [run["texts"][name] for name in files] == ["the CA", "the certificate", "the key"]
    assert run["modes"] == ["0o600", "0o700"]
    assert left(folder) == []


def test_a_club_s_namespace_and_a_nomad_without_certificates_are_passed_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pulumi/outputs.json"
    empty = dict.fromkeys(("nomad_ca_pem", "nomad_client_cert_pem", "nomad_client_key_pem"), "")
    path.write_text(json.dumps(ACCESS | empty | {"nomad_namespace": "chess"}))
    assert app.main(["nomad", "dev", "--", "status"]) == 3
    assert seen(folder)["variables"]["NOMAD_NAMESPACE"] == "chess"
    assert seen(folder)["texts"] == {}


def test_without_memory_the_files_are_where_temporary_files_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nomad_cli, "_IN_MEMORY", ())
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "memory"))
    assert app.main(["nomad", "dev", "--", "status"]) == 3
    assert seen(folder)["variables"]["NOMAD_CACERT"].startswith(str(folder / "memory"))
    assert left(folder) == []


def test_a_missing_nomad_is_said_before_the_state_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bin/nomad").unlink()
    monkeypatch.setenv("PATH", str(folder / "bin"))
    assert app.main(["nomad", "dev", "--", "status"]) == 2
    assert capsys.readouterr().err.startswith("The Nomad CLI is not on PATH; see https://")


def test_a_stack_before_its_first_up_is_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pulumi/outputs.json").write_text("{}")
    assert app.main(["nomad", "dev", "--", "status"]) == 2
    assert "Stack dev has no nomad_address yet. Run `pulumi up --stack dev` first." in capsys.readouterr().err
    assert left(folder) == []


def test_a_certificate_that_cannot_be_written_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nomad_cli, "write_private", full)
    with pytest.raises(OSError, match="No space left"):
        app.main(["nomad", "dev", "--", "status"])
    assert left(folder) == []


_PROCESS = """
import sys
from pathlib import Path
from cli import app
from cli.commands import nomad
from cli.lib.stack import Stack
from cli.observe import nomad_cli
nomad.Stack = lambda name: Stack(name, Path(sys.argv[1]) / "project")
nomad_cli._IN_MEMORY = (sys.argv[1] + "/memory",)
sys.exit(app.main(["nomad", "dev", "--", "wait"]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 9), (signal.SIGINT, 9)])
def test_a_signal_reaches_nomad_and_nothing_stays(folder: Path, number: int, code: int) -> None:
    command = [sys.executable, "-c", _PROCESS, str(folder)]
    with child(command, 600, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "waiting\n"
        assert len(left(folder)) == 1
        if number == signal.SIGINT:  # from the terminal: to both, and Nomad's own CLI decides whether it ends
            os.killpg(process.pid, number)
        process.send_signal(signal.SIGTERM)
        assert process.wait(600) == code
    assert (folder / "signal").read_text() == "SIGTERM"
    assert left(folder) == []
