"""`./pds check` with the real server behind an ingress with TLS: it passes, and fails for what the stack lacks.

`test_check_faults.py` plants faults.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli import app as verbs
from cli.check.run import CHECKS_BY_NAME
from tests.contract.checked_host import ELSEWHERE, EMAIL, HOST, MAIL_LOGIN, HostConnection, with_env
from tests.support.ingress_stand_in import Ingress, Planted

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def place(checked_host: HostConnection) -> HostConnection:
    return checked_host


def test_healthy_server_passes_all_checks(place: HostConnection) -> None:
    results = place.results(mail=EMAIL)
    assert {name: result.remark for name, result in results.items() if result.ok is False} == {}
    passed = {name for name, result in results.items() if result.ok}
    assert set(results) - passed == {"relay", *ELSEWHERE}, "relays are queried only if requested"
    assert "two addresses are distinguished" in results["rate limit"].remark
    assert "by HTTPS" in results["handles"].remark
    [message] = place.relay.taken
    assert (message.sender, message.recipients) == (f"pds@{HOST}", (EMAIL,)), "it went through the server to its relay"


def test_image_tag_reported_as_version_matches_the_package_version(
    place: HostConnection,
) -> None:
    """`getEnv` in service/index.ts of bluesky-social/pds, in images with packages 0.5."""
    package = place.subject.outputs["package_version"]
    tag = f"0.4.50{package.rpartition('.')[2]}" if package.startswith("0.5.") else package
    place.ingress.planted[f"{HOST}/xrpc/_health"] = Planted(200, json.dumps({"version": tag}))
    try:
        assert place.results()["health"].ok
    finally:
        place.ingress.planted.clear()


def test_prints_no_secret(place: HostConnection, program_env: dict[str, str], program_secrets: frozenset[str]) -> None:
    output = "\n".join(map(str, place.results().values()))
    assert [name for name in program_secrets if program_env[name] in output] == []


def test_sends_no_secret(place: HostConnection, program_env: dict[str, str], program_secrets: frozenset[str]) -> None:
    place.results()
    log = place.pds.log.read_text()
    assert "request completed" in log, "the server logs each request with its headers"
    assert [name for name in program_secrets if program_env[name] in log] == []
    # The line of the fixture's last own request has its login.
    assert '"authorization"' not in log.rpartition("createRecord")[2].partition("\n")[2]


def test_with_one_address_it_reports_what_it_cannot_check(place: HostConnection) -> None:
    result = place.results(second=None)["rate limit"]
    assert result.ok
    assert "a second address shows" in result.remark


def test_unreachable_server_is_one_failed_check(place: HostConnection) -> None:
    red = place.red(site=replace(place.subject.site, port=1), second=None)
    assert list(red) == ["health"]
    assert "docs/guide/troubleshooting.md" in red["health"]


def test_paused_server_is_reported_as_paused(place: HostConnection) -> None:
    outputs = {**place.subject.outputs, "state": "paused"}
    assert "paused" in place.red(site=replace(place.subject.site, port=1), outputs=outputs)["health"]


def test_reports_mail_that_the_relay_refuses_and_an_unknown_address(place: HostConnection) -> None:
    place.relay.busy = True
    try:
        refused = place.red(mail=EMAIL)
    finally:
        place.relay.busy = False
    assert list(refused) == ["mail"]
    assert "could not hand a message" in refused["mail"]
    assert MAIL_LOGIN[1] not in refused["mail"]
    assert "no account here" in place.red(mail="unknown@noted.at")["mail"]


def test_sends_no_mail_unless_requested(place: HostConnection) -> None:
    before = len(place.relay.taken)
    assert place.results()["mail"].ok is None
    assert len(place.relay.taken) == before


@pytest.mark.parametrize(
    ("status", "body", "ok"),
    [
        (200, {"status": "active", "accountCount": 3, "seq": 0}, True),
        (200, {"status": "idle", "accountCount": 3, "seq": 1_000_000}, False),
        (200, {"status": "throttled"}, False),
        (200, {"status": "banned"}, False),
        (400, {"error": "HostNotFound"}, False),
    ],
    ids=["active", "ahead of the server", "throttled", "banned", "unknown"],
)
def test_relays_are_queried_if_requested(place: HostConnection, status: int, body: dict[str, Any], ok: bool) -> None:
    answer = Planted(status, json.dumps(body))
    with Ingress(1, planted={"*/xrpc/com.atproto.sync.getHostStatus": answer}) as relay:
        found = place.results(outputs=with_env(place, PDS_CRAWLERS=relay.url), relay=True)["relay"]
    assert found.ok is ok, found


def test_reports_a_pending_escrow(place: HostConnection) -> None:
    red = place.red(escrow="pending")
    assert list(red) == ["escrow"]
    assert "./pds escrow dev" in red["escrow"]


def test_a_host_of_an_older_cloud_init_is_nothing_to_do(place: HostConnection) -> None:
    found = place.results(configuration="of tomorrow")["host"]
    assert found.ok is None, "a pipeline that runs the check would fail after each change of a host's file"
    assert "No action is needed. To rebuild the host, raise 'host.generation'" in found.remark


def test_reports_an_incomplete_escrow_even_if_the_stack_file_says_made(place: HostConnection) -> None:
    content = {**place.subject.outputs["escrow"], "volume_id": ""}
    assert "volume_id" in place.red(outputs={**place.subject.outputs, "escrow": content})["escrow"]


def test_command_prints_a_line_per_check_and_fails_if_there_is_something_to_do(
    place: HostConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = {**place.subject.outputs, "url": f"https://{HOST}", "ipv4": "203.0.113.10"}
    (tmp_path / "outputs.json").write_text(json.dumps(outputs))
    cli = tmp_path / "pulumi"
    respond = f'echo "$@" >> {tmp_path}/arguments; cat {tmp_path}/outputs.json'
    cli.write_text(f'#!/bin/sh\ncase "$1 $2" in "stack output") {respond} ;; *) exit 1 ;; esac\n')
    cli.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("components.clients.dns.resolves", lambda *_names, **_more: None)
    monkeypatch.setattr("components.clients.dns.leads_to", lambda *_names: True)
    monkeypatch.delenv("DIGITALOCEAN_TOKEN", raising=False)
    monkeypatch.delenv("DIGITALOCEAN_ACCESS_TOKEN", raising=False)
    code = verbs.main(["check", "dev", "--at", place.ingress.url, "--ca", str(place.folder / "ca.pem")])
    lines = capsys.readouterr().out.splitlines()
    assert code == 1, "Pulumi.dev.yaml has no escrow yet, and this host was created from another cloud-init"
    assert [line[7:].partition(":")[0] for line in lines if line.startswith("to do")] == [
        *("host", "escrow", "backup"),
    ], "and the stack has no backups"
    assert lines[-1] == "11 ok, 3 to do, 18 skipped."
    assert len(lines) == len(CHECKS_BY_NAME) + 2
    assert "--show-secrets" in (tmp_path / "arguments").read_text()
