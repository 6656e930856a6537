"""Checks of what the jobs of the host record in DATA/.run-status: backups, drills, accounts and pings."""

import re
import time
from dataclasses import replace
from typing import Any

import pytest

from tests.support.programs import ALERTS, BACKUP, ON_A_HOST, settings_of
from tests.unit.cli.test_drift import World, ago
from tests.unit.cli.test_drift import world as world

EVE = {"did:plc:eve": {"state": "not restorable", "what": "its folder is gone"}}


def test_the_backup_check_fails_without_a_backup_in_the_stack_file(world: World) -> None:
    world.subject = replace(world.subject, settings=settings_of())
    ok, remark = world.result("backup")
    assert (ok, "Add 'backup'" in remark) == (False, True), "it fails although no option requests a backup"
    assert world.result("drill")[0] is None


@pytest.mark.parametrize("check", ["backup", "drill"])
def test_a_time_names_its_zone(world: World, check: str) -> None:
    assert re.search(r" at \d{4}-\d\d-\d\d \d\d:\d\d UTC$", world.result(check)[1])


def test_a_success_in_the_future_counts_as_none(world: World) -> None:
    """The host's clock was ahead: until that time no backup would be too old."""
    world.container["run_status"]["backup"]["good"] = ago(days=-300)
    ok, remark = world.result("backup")
    assert ok is False
    assert "none has succeeded yet. One is dated 20" in remark
    assert "in the future: the host's clock was ahead" in remark


def test_names_the_time_of_the_last_check_of_the_accounts_while_backups_fail(world: World) -> None:
    backup: dict[str, Any] = world.container["run_status"]["backup"]
    assert world.result("accounts") == (True, "the last backup and drill found none damaged")
    backup.update(failed=ago(minutes=5), why="the snapshot was not sent", checked="2026-11-26T15:45:34.762Z")
    ok, remark = world.result("accounts")
    assert (ok, "as of 2026-11-26 15:45 UTC: backups fail" in remark) == (True, True)
    backup.update(findings=EVE)
    ok, remark = world.result("accounts")
    assert (ok, "1 damaged, as of 2026-11-26 15:45 UTC" in remark) == (False, True)
    del backup["good"]
    assert world.result("accounts")[0] is False, "a backup that was never sent has checked them, too"


def test_shows_the_findings_of_backup_and_drill_about_one_account(world: World) -> None:
    """A missing blob must not hide a foreign key, with which each further post is lost."""
    statuses: dict[str, Any] = world.container["run_status"]
    statuses["drill"]["findings"] = {"did:plc:eve": {"state": "with losses", "what": "its document names another key"}}
    statuses["backup"]["findings"] = {"did:plc:eve": {"state": "with losses", "what": "one blob is missing"}}
    ok, remark = world.result("accounts")
    assert (ok, remark.startswith("1 damaged. did:plc:eve: with losses: its document names another key.")) == (
        False,
        True,
    )
    assert "did:plc:eve: with losses: one blob is missing." in remark
    statuses["drill"]["findings"] = statuses["backup"]["findings"]
    assert world.result("accounts")[1].count("one blob is missing") == 1


def test_a_volume_without_an_answer_of_df_does_not_pass(world: World) -> None:
    world.container.update(used=None, free=None)
    ok, remark = world.result("disk")
    assert (ok, "does not answer `df`" in remark) == (False, True)


def test_names_the_remedy_of_a_full_volume_that_cannot_be_written_to(world: World) -> None:
    world.container.update(used=100, free=0, writable=False)
    assert "and 100 % of it is used. Members cannot post, and backups fail. Raise 'vol" in world.result("disk")[1]
    world.container.update(writable=None)
    assert world.result("disk")[0] is False


def test_a_club_is_told_to_raise_its_quota(world: World) -> None:
    world.subject = replace(world.subject, settings=settings_of(**ON_A_HOST, operators=None))
    world.container.update(used=95, free=5)
    assert "Raise 'disk_gib' of this club under 'clubs' in the host's stack file" in world.result("disk")[1]


def test_pings_are_checked_if_the_stack_has_a_dead_man_s_switch(world: World) -> None:
    status = world.container["run_status"]["alerts"]
    world.subject = replace(world.subject, settings=settings_of(alerts={"email": ["a@b.test"]}))
    assert world.result("alerts") == (None, "'alerts.ping_url' is not set")
    world.subject = replace(world.subject, settings=settings_of(alerts=ALERTS, backup=BACKUP))
    assert world.result("alerts")[0] is True
    status.update(failed=ago(minutes=1), why="the ping was answered with 404")
    assert world.result("alerts")[0] is True, "one ping may fail"
    status["good"] = ago(days=-1)
    assert world.result("alerts")[0] is False, "the host's clock was ahead"


def test_a_new_alerts_job_has_time_for_its_first_ping(world: World) -> None:
    world.container["run_status"].pop("alerts")
    assert "has accepted no ping" in world.result("alerts")[1], "Nomad does not know the job"
    world.nomad.jobs["pds-alerts"] = 41
    world.nomad.submitted = (int(time.time()) - 300) * 10**9
    assert world.result("alerts") == (None, "the job is new, and has not run yet")
    world.nomad.submitted -= 3600 * 10**9
    assert world.result("alerts")[0] is False
    world.nomad.submitted += 3600 * 10**9
    world.container["run_status"]["alerts"] = {"failed": ago(minutes=1), "why": "the ping was answered with 404"}
    assert "answered with 404" in world.result("alerts")[1], "it has run"


def test_reports_a_nomad_that_does_not_answer(world: World) -> None:
    outputs = {**world.subject.outputs, "nomad_address": "http://127.0.0.1:1"}
    world.subject = replace(world.subject, outputs=outputs)
    ok, remark = world.result("Nomad")
    assert ok is False
    assert "http://127.0.0.1:1 does not answer" in remark
