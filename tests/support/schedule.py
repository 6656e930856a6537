"""The distribution of tests among the workers of a parallel run (`pytest -n`).

The tests of a file run on one worker, because each worker creates its own shared fixtures; tests on real servers are
also split by version line. A worker takes all units of one version line before others, because a club with its history
takes longer to create than most tests. A worker for which no line is left takes units without one, and helps with
another worker's line only at the end. Long files start first, so that the workers end at about the same time.
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
    "test_restore_killed",
    "test_restore_directory",
    "test_restored_departures",
    "test_drill",
    "test_session",
    "test_durable_writes",
    "test_owner_day",
    "test_snapshot",
    "test_damaged_accounts",
    "test_damaged_copies",
    "test_unreferenced_blobs",
    "test_backup",
    "test_migrate_account",
    "test_arrival_backed_up",
    "test_preview",
    "test_any_stack_file",
    "test_planted_defects",
    "test_clubs",
    "test_program_options",
    "test_hcl",
    "test_escrow",
    "test_allow_ip",
    "test_volume_check",
    "test_run",
    "test_up_all",
    "test_s3_double",
    "test_drift",
    "test_did_documents",
    "test_alerts_script",
    "test_modules",
    "test_move",
    "test_move_in_cluster",
    "test_rate_limit",
)
"""Files, the longest first; those without a real server after those with one."""


ALONE = frozenset({"test_session", "test_power_cut"})
"""Files whose tests are never split between workers: they share a port, or contend for the machine's loop devices."""


def unit_of(nodeid: str) -> tuple[str, str]:
    """The file of a test, and the version line of its server, or "" without a real server."""
    file = nodeid.partition("::")[0]
    line = _LINE.search(nodeid) if "/contract/" in file and PurePosixPath(file).stem not in ALONE else None
    return file, line[1] if line else ""


def order(nodeid: str) -> tuple[bool, int]:
    """The sort key of a test; the sort is stable."""
    file = unit_of(nodeid)[0]
    name = PurePosixPath(file).stem
    return "/contract/" not in file, LONG.index(name) if name in LONG else len(LONG)


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Assigns units to workers in the order of collection, by version line."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False
        self._lines: dict[WorkerController, str] = {}

    def _split_scope(self, nodeid: str) -> str:
        return " ".join(unit_of(nodeid))

    def _assign_work_unit(self, node: WorkerController) -> None:
        own, others = self._lines.get(node), {line for at, line in self._lines.items() if at != node}
        lines = {scope: scope.partition(" ")[2] for scope in self.workqueue}
        first = [scope for scope, line in lines.items() if line and (line == own if own else line not in others)]
        if chosen := first or [scope for scope, line in lines.items() if not line]:
            self.workqueue.move_to_end(chosen[0], last=False)
            if line := lines[chosen[0]]:
                self._lines[node] = line
        super()._assign_work_unit(node)
