"""Every wait has a deadline, in the program, its tools and its tests."""

import pytest

from offline.mock_engine import ROOT
from tests.support.deadlines import endless
from tests.support.programs import SOURCES


def test_every_wait_has_a_deadline() -> None:
    files = [path for folder in (*SOURCES, "tests") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 700
    found = {str(path.relative_to(ROOT)): endless(path.read_text()) for path in files}
    assert {name: waits for name, waits in found.items() if waits} == {}, "a run that hangs there would never fail"


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
def test_finds_a_wait_without_a_deadline(text: str) -> None:
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
def test_accepts_a_wait_with_a_deadline_or_a_stated_reason(text: str) -> None:
    assert endless(text) == []
