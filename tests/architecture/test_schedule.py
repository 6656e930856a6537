"""The distribution of tests in a parallel run."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from offline.mock_engine import ROOT
from tests.support.schedule import ALONE, LONG, Scheduler, order, unit_of

FIRST, SECOND = "tests/contract/test_large.py::test_a[0.4]", "tests/contract/test_large.py::test_a[x-0.5-y]"


class Node:
    """A worker that records the tests sent to it."""

    def __init__(self, collection: list[str]) -> None:
        self.collection, self.ran = collection, list[str]()
        self.shutting_down, self.gateway = False, SimpleNamespace(id="gw")

    def send_runtest_some(self, indexes: Iterable[int]) -> None:
        self.ran += [self.collection[index] for index in indexes]

    def shutdown(self) -> None:
        self.shutting_down = True


@pytest.mark.parametrize(
    ("nodeid", "unit"),
    [
        (FIRST, ("tests/contract/test_large.py", "0.4")),
        (SECOND, ("tests/contract/test_large.py", "0.5")),
        ("tests/contract/test_owner_day.py::test_a", ("tests/contract/test_owner_day.py", "")),
        ("tests/contract/test_session.py::test_a[0.5]", ("tests/contract/test_session.py", "")),
        (
            "tests/unit/components/settings/test_settings.py::test_a[0.5]",
            ("tests/unit/components/settings/test_settings.py", ""),
        ),
    ],
)
def test_the_unit_of_a_test_is_its_file_and_its_server_s_version_line(nodeid: str, unit: tuple[str, str]) -> None:
    assert unit_of(nodeid) == unit


def test_orders_contract_tests_first_and_long_files_before_others() -> None:
    names = [
        "tests/unit/cli/test_adopt_members.py::a",
        "tests/unit/components/host/test_clubs.py::a",
        "tests/contract/test_a.py::b[0.4]",
        FIRST,
    ]
    assert sorted(names, key=order) == [FIRST, names[2], names[1], names[0]]


def test_every_file_in_the_schedule_exists() -> None:
    assert set(LONG) | ALONE <= {path.stem for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize(("workers", "first"), [(2, ["0.4", "0.5"]), (3, ["0.4", "0.5", ""])])
def test_a_worker_takes_all_units_of_one_version_line_before_others(
    pytestconfig: pytest.Config, workers: int, first: list[str]
) -> None:
    files = ("a", "b", "c")
    collection = [f"tests/contract/test_{file}.py::test[{line}]" for file in files for line in ("0.4", "0.5")]
    collection += [f"tests/test_{file}.py::test" for file in files]
    config: Any = SimpleNamespace(
        option=SimpleNamespace(loadscopereorder=True), getvalue=lambda name: ["popen"] * workers, hook=pytestconfig.hook
    )
    scheduler = Scheduler(config, SimpleNamespace(loadscopesched=lambda *_: None))
    nodes: list[Any] = [Node(collection) for _ in range(workers)]
    scheduler.numnodes = len(nodes)
    for node in nodes:
        scheduler.add_node(node)
        scheduler.add_node_collection(node, collection)
    scheduler.schedule()
    for number in range(len(collection)):
        for node in nodes:
            if number < len(node.ran):
                scheduler.mark_test_complete(node, collection.index(node.ran[number]))
    assert sorted(nodeid for node in nodes for nodeid in node.ran) == sorted(collection), "each test runs once"
    lines = [[unit_of(nodeid)[1] for nodeid in node.ran] for node in nodes]
    assert [row[:3] for row in lines] == [[line] * 3 for line in first]
