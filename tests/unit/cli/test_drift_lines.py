"""Single lines of `./pds check` at the account, the host and its Nomad; `test_drift.py` breaks each of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from cli.check.run import run_check
from cli.check.site import Site
from cli.drift import repair
from tests.support.certificates import Authority, server_context
from tests.support.ingress_stand_in import Ingress
from tests.support.leftover_account import ZONE
from tests.unit.cli.test_drift import World, edit
from tests.unit.cli.test_drift import world as world


def test_an_expired_certificate_fails_its_check(world: World, tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_text(authority.pem)

    def passes(days: float) -> bool | None:
        with Ingress(1, server_context(authority.issue(ZONE, days=days), tmp_path)) as ingress:
            site = Site.at(ZONE, ingress.url, str(tmp_path / "ca.pem"))
            return run_check("certificate", replace(world.subject, site=site)).ok

    assert (passes(60), passes(-1)) == (True, False)


def test_reports_a_nomad_that_does_not_answer(world: World) -> None:
    outputs = {**world.subject.outputs, "nomad_address": "http://127.0.0.1:1"}
    world.subject = replace(world.subject, outputs=outputs)
    ok, remark = world.result("Nomad")
    assert ok is False
    assert "http://127.0.0.1:1 does not answer" in remark


def test_account_checks_are_unknown_without_a_digitalocean_token(world: World) -> None:
    world.subject = replace(world.subject, account=None)
    for name in ("firewall", "account"):
        ok, remark = world.result(name)
        assert ok is None
        assert "DIGITALOCEAN_TOKEN" in remark


def test_names_what_an_up_would_create_change_or_remove(world: World) -> None:
    program = {**world.subject.program, "pds-alerts-job": "job"}  # type: ignore[dict-item]
    del program["pds-backup-drill-job"]
    del program["pds-dns-a"]
    world.subject = replace(world.subject, program=program)
    assert "not applied: pds-alerts-job, pds-backup-drill-job." in world.result("applied")[1], "of others, `up` decides"
    world.subject = replace(world.subject, program=None)
    assert world.result("applied")[0] is None


@pytest.mark.parametrize(
    ("days", "ok", "remark"), [(200.5, True, "The client certificate ends on 20"), (20.5, False, "in 20 days.")]
)
def test_says_when_the_client_certificate_ends_and_fails_while_an_up_still_reaches_nomad(
    world: World, days: float, ok: bool, remark: str
) -> None:
    pem = Authority().issue(ZONE, days=days).cert_pem
    world.subject = replace(world.subject, outputs={**world.subject.outputs, "nomad_client_cert_pem": pem})
    result = world.result("Nomad")
    assert result[0] is ok
    assert remark in result[1]
    assert ok or "`pulumi up --stack dev` renews it" in result[1]


def test_says_that_buckets_were_not_looked_at(world: World) -> None:
    """Versioning that was suspended ends the 30 days that protect backups against a stolen key."""
    assert "buckets" not in world.result("account")[1]
    kind = "digitalocean:index/spacesBucket:SpacesBucket"
    world.alice.made["pds-backup-bucket"] = ("pds-backup-bucket", kind, "pds-dev", {})
    world.alice.remember()
    ok, remark = world.result("account")
    assert ok
    assert "its buckets were not looked at" in remark


def test_finds_an_edited_job_after_a_refresh_has_recorded_the_edit(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(world)
    world.nomad.jobs["pds"] = 40  # as a refresh leaves the state: the new index, without the edited text
    assert world.result("jobs")[0] is False
    assert repair.repair(world.alice.stack, world.subject.account, yes=True) == 1  # type: ignore[arg-type]
    assert "--replace '**::pds-server-job'" in capsys.readouterr().out
    assert world.alice.pulumi.ran == [], "a replacement stops the server, so the operator chooses the time"
