"""Which worker of a parallel run (`pytest -n`) gets which tests, and when.

The tests of a file stay together, of those on the real servers the ones of one version line: what they share is made
once for each worker. A worker keeps to a version line for as long as there are tests of it, since a club with its
history takes more time than most tests. Whatever takes long goes first, so that the workers end at the same time.
"""

import re
from pathlib import PurePosixPath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

_LINE = re.compile(r"\[(?:.*-)?(0\.\d)(?:-.*)?\]$")
LONG = (
    "test_killed",
    "test_large",
    "test_restored_accounts",
    "test_one_account_restored",
    "test_restore",
    "test_backup",
    "test_snapshot",
    "test_damaged_accounts",
    "test_planted_defects",
    "test_preview",
    "test_clubs",
    "test_up_all",
    "test_move",
    "test_move_resumed",
    "test_any_stack_file",
    "test_escrow",
    "test_repair",
    "test_allow_ip",
)
"""Files, the longest first; those without a real server after those with one."""


ALONE = frozenset({"test_session", "test_power_cut"})
"""Files whose tests never run side by side: they take the same port, or make the machine's loop devices wait."""


def unit_of(nodeid: str) -> tuple[str, str]:
    """The file of a test, and the version line of the server that it runs on, if it runs on one."""
    file = nodeid.partition("::")[0]
    line = _LINE.search(nodeid) if "/contract/" in file and PurePosixPath(file).stem not in ALONE else None
    return file, line[1] if line else ""


def order(nodeid: str) -> tuple[bool, int]:
    """What tests are sorted by; those of equal rank stay in their order."""
    file = unit_of(nodeid)[0]
    name = PurePosixPath(file).stem
    return "/contract/" not in file, LONG.index(name) if name in LONG else len(LONG)


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Hands out one unit after the other, in the order in which they were collected."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False
        self._lines: dict[WorkerController, str] = {}

    def _split_scope(self, nodeid: str) -> str:
        return " ".join(unit_of(nodeid))

    def _assign_work_unit(self, node: WorkerController) -> None:
        own, others = self._lines.get(node), {line for at, line in self._lines.items() if at != node}
        for scope in self.workqueue:
            line = scope.partition(" ")[2]
            if line and (line == own if own else line not in others):
                self.workqueue.move_to_end(scope, last=False)
                self._lines[node] = line
                break
        super()._assign_work_unit(node)
