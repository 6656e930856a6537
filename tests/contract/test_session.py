"""A whole session as `make try` runs it: its exit code, its data, its output, and that no process remains."""

from __future__ import annotations

import functools
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from cli.lib.subprocesses import child
from components.people.members import temporary_handle
from offline.mock_engine import ROOT
from tests.contract.bundled import quick_install
from tests.contract.conftest import CACHE
from tests.contract.empty_directory import copy_empty_directory
from tests.support.programs import CLUB, run
from tools.trial import session
from tools.trial.node import Install
from tools.trial.trial import member_steps, task_environment

pytestmark = pytest.mark.contract

_SCRIPT = """
import json, sys
from pathlib import Path
from rich.console import Console
from tests.contract.bundled import quick_install
from tools.trial import session
session.install = quick_install
env, data, cache = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
sys.exit(session.serve(env, frozenset(), data, cache, "0.5", False, Console(width=200)))
"""
_DEADLINE = 600.0


@pytest.fixture
def with_directory(plc_install: Install, tmp_path: Path) -> Path:
    """The data of a session whose directory has its database already."""
    copy_empty_directory(plc_install, tmp_path / "plc")
    return tmp_path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions start the servers that have their modules in one file."""
    monkeypatch.setattr(session, "install", quick_install)


def _run(env: dict[str, str], secrets: frozenset[str], data: Path, line: str) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=200)
    code = session.serve(env, secrets, data, CACHE, line, True, console)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def test_second_session_finds_the_account_and_identity_of_the_first(
    program_env: dict[str, str], program_secrets: frozenset[str], with_directory: Path, line: str
) -> None:
    small = program_env | {"PDS_BLOB_UPLOAD_LIMIT": "100000"}
    first_code, first = _run(small, program_secrets, with_directory, line)
    second_code, second = _run(small, program_secrets, with_directory, line)
    assert (first_code, second_code) == (0, 0), first + second
    account = re.search(r"alice\.noted\.at is (did:plc:\w+)", first)
    assert account is not None, first
    assert f"is there from an earlier run: {account[1]}" in second
    # Every difference is printed with its reason, and no secret is printed.
    assert re.search(r"PDS_DID_PLC_URL +https://plc\.directory +http://localhost:\d+ +no identity", first), first
    assert re.search(r"PDS_CRAWLERS +https://bsky\.network +unset +no relay", first), first
    assert [name for name in program_secrets if program_env[name] in first + second] == []


@pytest.mark.usefixtures("quick")
def test_session_prints_the_error_of_a_server_that_does_not_start(
    program_env: dict[str, str], program_secrets: frozenset[str], with_directory: Path
) -> None:
    bad = program_env | {"PDS_SERVICE_HANDLE_DOMAINS": "noted.at"}
    code, text = _run(bad, program_secrets, with_directory, "0.5")
    assert code == 1
    assert "Invalid handle domain: noted.at" in text


def test_unknown_version_line_is_named_with_the_known_ones(program_env: dict[str, str], tmp_path: Path) -> None:
    code, text = _run(program_env, frozenset(), tmp_path, "0.6")
    assert code == 1
    assert "'0.6'" in text
    assert "0.4, 0.5" in text


@pytest.fixture(scope="module")
def lived_in(plc_install: Install, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of sessions that follow each other."""
    folder = tmp_path_factory.mktemp("session")
    copy_empty_directory(plc_install, folder / "plc")
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_of_a_session_outlives_it(
    program_env: dict[str, str], lived_in: Path, number: signal.Signals
) -> None:
    small = json.dumps(program_env | {"PDS_BLOB_UPLOAD_LIMIT": "100000"})
    command = [sys.executable, "-c", _SCRIPT, small, str(lived_in), str(CACHE)]
    with child(command, 3 * _DEADLINE, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        text = ""
        while "Serving" not in text:
            line = process.stdout.readline()
            assert line, text
            text += line
        urls = re.findall(r"http://(?:127\.0\.0\.1|localhost):\d+", text)
        process.send_signal(number)
        code = process.wait(_DEADLINE)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0), text
    assert len(set(urls)) == 2, text
    for url in set(urls):
        _wait_until_gone(url)


def _wait_until_gone(url: str) -> None:
    end = time.monotonic() + _DEADLINE
    while time.monotonic() < end:
        try:
            httpx.get(url, trust_env=False, timeout=1.0)
        except httpx.ConnectError:
            return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    pytest.fail(f"{url} still answers")


@pytest.mark.usefixtures("quick")
def test_members_get_accounts_and_a_second_session_finds_them(tmp_path: Path) -> None:
    """The first session begins without any data: it also creates the directory's database."""
    evaluation = run(**CLUB, pds={"blob_upload_limit": 100000})
    env, secret_names = task_environment(evaluation)
    outputs = []
    for _ in range(2):
        console = Console(file=io.StringIO(), width=200)
        further = functools.partial(member_steps, evaluation)
        code = session.serve(env, secret_names, tmp_path, CACHE, "0.5", True, console, further)
        assert isinstance(console.file, io.StringIO)
        outputs.append(console.file.getvalue())
        assert code == 0, outputs[-1]
    accounts = [re.findall(r"ok +member (\S+): (\S+) is (did:plc:\w+)", text) for text in outputs]
    assert accounts[0] == accounts[1], "the same accounts"
    assert [(requested, created) for requested, created, _did in accounts[0]] == [
        ("ann.her-domain.org", temporary_handle("ann.her-domain.org", (".noted.at",))),
        ("info.noted.at", "info.noted.at"),
        ("kexpfan.noted.at", "kexpfan.noted.at"),
    ]
    assert "ann.her-domain.org waits for a DNS record" in outputs[0]
    assert [
        name for name, value in evaluation.outputs["member_passwords"].items() if value in outputs[0] + outputs[1]
    ] == []
