"""The preload `data_lock.cjs`: two servers never write to the same data."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.lib.subprocesses import child
from tests.contract.lines import one_line
from tests.contract.restores import FILES
from tests.contract.snapshots import DEADLINE, open_environment
from tools.trial.directory import PlcDirectory
from tools.trial.node import Install
from tools.trial.pds import PdsProcess
from tools.trial.process import ServerEndedError, free_port

pytestmark = pytest.mark.contract

_WAIT = "const WAIT = 90;"


def test_second_server_on_the_same_data_is_refused_until_the_first_is_gone(
    quick_installs: dict[str, Install], program_env: dict[str, str], directory: PlcDirectory, line: str, tmp_path: Path
) -> None:
    data = tmp_path / "pds"
    data.mkdir()
    env = open_environment(program_env, data, directory, line)
    impatient = tmp_path / "data_lock.cjs"
    text = (FILES / impatient.name).read_text()
    assert _WAIT in text
    impatient.write_text(text.replace(_WAIT, "const WAIT = 1;"))
    preloads = env["NODE_OPTIONS"].replace(str(FILES / impatient.name), str(impatient))
    assert str(impatient) in preloads, "the program must preload it"

    def second() -> PdsProcess:
        change = {"PDS_PORT": str(free_port()), "NODE_OPTIONS": preloads}
        return PdsProcess(quick_installs[line], env | change, tmp_path / "second.log")

    with PdsProcess(quick_installs[line], env, tmp_path / "first.log") as first:
        with pytest.raises(ServerEndedError) as refusal, second():
            pass
        assert "REFUSED: another server runs on these data" in refusal.value.last_lines
        first.check()
        # As with an agent that is gone: nothing tells this server to end in order.
        subprocess.run(["kill", "-KILL", str(first.pid)], check=True, timeout=DEADLINE)
        with second():
            pass


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A stand-in for the server: it says that it runs, and ends with its standard input."""
    path = tmp_path / "server.js"
    path.write_text('console.log("runs"); process.stdin.resume();\n')
    (tmp_path / "pds").mkdir()
    return path


def _started(install: Install, program: Path) -> Iterator[subprocess.Popen[str]]:
    with child(
        [str(install.node), f"--require={FILES / 'data_lock.cjs'}", str(program)],
        DEADLINE,
        cwd=install.folder,
        env={"PDS_DATA_DIRECTORY": str(program.parent / "pds")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        yield process


@one_line
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_server_waits_for_the_end_of_the_one_before(
    pds_installs: dict[str, Install], line: str, program: Path, how: signal.Signals
) -> None:
    for first in _started(pds_installs[line], program):
        assert _line(first) == "runs"
        for second in _started(pds_installs[line], program):
            assert _line(second) == "another server still runs on these data; waiting up to 90 s until it ends"
            first.send_signal(how)
            assert _line(second) == "runs"


@one_line
def test_other_programs_of_the_container_need_no_lock(
    pds_installs: dict[str, Install], line: str, program: Path
) -> None:
    install = pds_installs[line]
    for first in _started(install, program):
        assert _line(first) == "runs"
        done = subprocess.run(
            [str(install.node), "-e", "console.log('read')"],
            cwd=install.folder,
            env={
                "PDS_DATA_DIRECTORY": str(program.parent / "pds"),
                "NODE_OPTIONS": f"--require={FILES / 'data_lock.cjs'}",
            },
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
        )
        assert done.stdout == "read\n"


@one_line
def test_directory_that_cannot_be_locked_is_named_with_a_remedy(
    pds_installs: dict[str, Install], line: str, program: Path
) -> None:
    (program.parent / "pds" / ".run-status").write_text("a file where the folder should be")
    for server in _started(pds_installs[line], program):
        output, _ = server.communicate(timeout=DEADLINE)
        assert server.returncode == 1
        assert "REFUSED: the data directory cannot be locked: " in output
        assert "server-lock.sqlite" in output


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()
