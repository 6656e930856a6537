"""Each test plants one defect in the program: its own check finds the defect, and no other check does."""

import base64
from collections.abc import Callable
from typing import Any

import pulumi
import pulumi_digitalocean as digitalocean
import pulumi_nomad as nomad
import pytest

from components.pds import Pds, PdsArgs
from components.secret_values import random_hex
from offline.mock_engine import Evaluation
from policy import checks as preflight_checks
from policy import digest
from policy.secrets import find_secrets_in_texts, find_secrets_in_the_open
from tests.support.engine_json import preview_of
from tests.support.invariants import CHECKS, preflight_check
from tests.support.planted_defects import DEFECTS, WITH_BACKUPS, default_provider, in_job, wrap_call
from tests.support.programs import BACKUP, run, settings_of

Checks = dict[str, Callable[[Evaluation], list[str]]]


@pytest.mark.parametrize("defect", DEFECTS)
def test_only_the_expected_check_finds_the_defect(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, check, text = DEFECTS[defect]
    plant(monkeypatch)
    evaluation = run()
    findings = CHECKS[check](evaluation)
    assert any(text in finding for finding in findings), f"the check '{check}' does not find it: {findings}"
    for other, find in CHECKS.items():
        if other != check:
            assert find(evaluation) == [], f"one defect was planted, and the check '{other}' finds something, too"
    if check in preflight_checks.CHECKS | preflight_checks.CHECKS_OF_A_HOST and check != "user_data":
        findings_by_check = preflight_checks.findings(digest.read_digest(preview_of(evaluation), "dev").view)
        assert {name for name, texts in findings_by_check.items() if texts} == {check}, (
            "the check also finds it in the engine's preview"
        )
        assert any(text in finding for finding in findings_by_check[check])


@pytest.fixture(scope="module")
def checks_of_backups() -> Checks:
    """The checks of a program with backups, which find nothing in it without a defect."""
    checks = CHECKS | {"backup bucket": preflight_check("backup bucket")}
    sound = run(backup=BACKUP)
    assert [finding for find in checks.values() for finding in find(sound)] == [], "no finding before"
    return checks


@pytest.mark.parametrize("defect", WITH_BACKUPS)
def test_with_backups_only_the_expected_check_finds_the_defect(
    defect: str, monkeypatch: pytest.MonkeyPatch, checks_of_backups: Checks
) -> None:
    plant, check, text = WITH_BACKUPS[defect]
    checks = dict(checks_of_backups)
    plant(monkeypatch)
    evaluation = run(backup=BACKUP)
    assert any(text in finding for finding in checks.pop(check)(evaluation)), f"the check '{check}' does not find it"
    assert {other: find(evaluation) for other, find in checks.items() if find(evaluation)} == {}


def test_finds_nomad_resources_without_the_program_s_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    default_provider(monkeypatch)
    findings = CHECKS["Nomad resources"](run())
    assert len([text for text in findings if "does not use a Nomad provider" in text]) == 9, (
        "the default provider has no address"
    )


GIVEN = {"admin_password": "a given password", "jwt_secret": "given 0123456789"}


def test_finds_a_secret_in_the_job_s_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    in_job(monkeypatch, "        TZ  ", f'        PDS_ADMIN_PASSWORD = "{GIVEN["admin_password"]}"\n        TZ  ')
    evaluation = run(secrets=GIVEN)
    findings = find_secrets_in_texts(evaluation, GIVEN.values())
    assert findings == ["pds-server-job: the job's text holds given 1"], "Nomad keeps job specs in plain text"
    assert find_secrets_in_the_open(evaluation, GIVEN.values()) != [], "the job spec is also in state and diffs"


def test_finds_a_generated_secret_in_a_job_spec_that_is_an_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        spec, parent = kwargs["jobspec"], kwargs["opts"].parent
        secret = random_hex("pds-planted", 32, parent)
        kwargs["jobspec"] = secret.apply(lambda value: f"# {value}\n{spec}")

    wrap_call(monkeypatch, nomad, "Job", change)
    findings = find_secrets_in_texts(run(ingress={"kind": "none"}))
    assert "pds-server-job: the job's text holds pds-planted.result" in findings


def _leaks() -> dict[str, Callable[[Any], None]]:
    def as_output(pds: Any) -> None:
        pds.outputs["leak"] = pulumi.Output.unsecret(pds.outputs["admin_password"])

    def in_base64(pds: Any) -> None:
        secret = pulumi.Output.unsecret(pds.outputs["admin_password"])
        pds.outputs["leak"] = secret.apply(lambda text: base64.b64encode(bytes.fromhex(text)).decode())

    def as_a_message(pds: Any) -> None:
        pds.outputs["admin_password"].apply(lambda text: pulumi.log.info(f"the password is {text}"))

    def as_an_input(pds: Any) -> None:
        digitalocean.Tag("leak", name=pulumi.Output.unsecret(pds.outputs["nomad_token"]))

    def in_a_trigger(pds: Any) -> None:
        token = pulumi.Output.unsecret(pds.outputs["nomad_management_token"])
        digitalocean.Tag("leak", name="leak", opts=pulumi.ResourceOptions(replacement_trigger=token))

    leaks = (as_output, in_base64, as_a_message, as_an_input, in_a_trigger)
    return {leak.__name__.replace("_", " "): leak for leak in leaks}


@pytest.mark.parametrize("leak", _leaks())
def test_finds_a_secret_that_is_not_marked_secret(leak: str) -> None:
    def program() -> None:
        pds = Pds("pds", PdsArgs(settings=settings_of(), stack="dev", project="organization/pds"))
        _leaks()[leak](pds)
        for key, value in pds.outputs.items():
            pulumi.export(key, value)

    findings = find_secrets_in_the_open(run(program=program))
    assert findings, f"a secret {leak} was not found"


def test_an_empty_evaluation_fails_every_check() -> None:
    for check, find in CHECKS.items():
        with pytest.raises(LookupError):
            pytest.fail(f"the check '{check}' passed without anything to check: {find(Evaluation('empty'))}")
