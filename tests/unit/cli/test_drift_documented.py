"""Further checks of what only the host sees, and the list of all checks in docs/guide/monitoring.md."""

import re
from collections.abc import Mapping
from dataclasses import replace

from cli.check.run import CHECKS_BY_NAME
from offline.mock_engine import ROOT
from tests.support.programs import BLOBS, settings_of
from tests.unit.cli.test_drift import LOSSES, World, ago
from tests.unit.cli.test_drift import world as world


def test_a_club_has_no_firewall_check(world: World) -> None:
    club = settings_of(on="ground", operators=None, pds={"port": 3101, "new": True}, dns={"provider": "manual"})
    world.subject = replace(world.subject, settings=club)
    assert world.result("firewall")[0] is None
    assert world.result("account")[0], "its records are still checked"
    world.container.update(used=95, free=5)
    assert "'disk_gib'" in world.result("disk")[1]


def test_reports_uploads_that_no_record_names_and_whether_they_are_removed(world: World) -> None:
    name = "unreferenced blobs"
    assert world.result(name) == (
        True,
        "3 uploads that no record names take 2.0 MiB; removed after 30 days. `./pds usage dev` lists them",
    )
    world.container["run_status"]["unreferenced-blobs"] = {"good": ago(days=1), "failed": ago(days=8), "why": "x"}
    assert world.result(name)[0], "a later run succeeded"
    world.container["run_status"]["unreferenced-blobs"] = {"began": ago(days=1)}
    assert world.result(name)[0] is False, "a run that never ended"
    world.subject = replace(world.subject, settings=settings_of())
    world.container["uploads_kib"] = 12
    assert "take 12 KiB; 'pds.unreferenced_blob_days' is not set: they stay" in world.result(name)[1]
    world.container["uploads"] = 0
    assert world.result(name) == (True, "a record names every upload")
    world.container["uploads"] = None
    assert world.result(name)[0] is None
    assert "`./pds usage dev` counts them" in world.result(name)[1]
    world.subject = replace(world.subject, settings=settings_of(blobs=BLOBS))
    assert world.result(name)[0] is False, "in a bucket, the job removes what deleted accounts left"
    status = {"good": "2026-11-23T05:23:00.000Z", "uploads": 2, "uploads_kib": 700}
    world.container["run_status"]["unreferenced-blobs"] = status
    assert "2 uploads that no record names take 700 KiB on 2026-11-23 05:23 UTC" in world.result(name)[1]
    status["uploads"] = 0
    assert world.result(name) == (True, "a record names every upload on 2026-11-23 05:23 UTC")


def _documented() -> Mapping[str, str]:
    text = (ROOT / "docs/guide/monitoring.md").read_text()
    table = text.partition("## What `up` does not see")[2].partition("\n## ")[0]
    return {checks: change for change, checks in re.findall(r"^\| (.+?) \| (.+?) \|", table, re.MULTILINE)}


def test_the_docs_list_every_check_of_a_change_that_up_does_not_detect() -> None:
    checks = {check for cell in _documented() for check in cell.split(", ")}
    assert {loss.check for loss in LOSSES.values()} | {"certificate"} <= checks


def test_every_check_has_a_test_in_which_it_fails() -> None:
    tested = {loss.check for loss in LOSSES.values()}
    files = ("contract/test_check.py", "contract/test_check_faults.py", "unit/cli/test_check_mail.py")
    elsewhere = "".join((ROOT / "tests" / file).read_text() for file in files)
    assert [name for name in CHECKS_BY_NAME if name not in tested and f'"{name}"' not in elsewhere] == []
