"""Every wait has an end, in the program, its tools and its tests."""

from pathlib import Path

import pytest

from offline.mock_engine import ROOT
from tests.support.deadlines import endless
from tests.support.programs import SOURCES

FILES = [path for room in (*SOURCES, "tests") for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_every_wait_has_a_deadline(path: Path) -> None:
    assert endless(path.read_text()) == [], "a run that hangs there has no failure and no name"


@pytest.mark.parametrize(
    "text",
    [
        "subprocess.run(['git'], check=True)",
        "thread.join()",
        "process.wait()",
        "process.communicate()",
        "connection.recv()",
        "with subprocess.Popen(['git']) as process:\n    process.wait(3)",
        "threading.Thread(target=work)",
        "socket.create_connection(('127.0.0.1', 1))",
        "urlopen('http://127.0.0.1')",
        "def f():\n    while not there():\n        time.sleep(1)",
    ],
)
def test_a_wait_without_one_is_found(text: str) -> None:
    assert len(endless(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "subprocess.run(['git'], timeout=3)",
        "', '.join(names)",
        "thread.join(3)",
        "socket.create_connection(where, 3)",
        "async def f():\n    await done.wait()",
        "def f():\n    while time.monotonic() < end:\n        time.sleep(1)",
        "process.wait()  # no deadline: it is what this thread is for",
    ],
)
def test_one_that_has_an_end_or_says_why_not_is_left(text: str) -> None:
    assert endless(text) == []
