"""A restore while the directory of identities limits queries, fails or stays away: no member is locked out without the
operator's decision. `tests/unit/components/render/test_did_documents.py` has how it is asked."""

from __future__ import annotations

import time

import pytest

from cli.snapshot.did_keys import did_key
from tests.contract.lines import one_line
from tests.contract.restores import Restore, Scenario, names_the_key
from tests.contract.test_restore import _client, _departed, _logged_in, _refused, _status
from tests.support.flawed_proxy import Answer, Request, Rule, flawed_proxy

pytestmark = [pytest.mark.contract, one_line]

LOCKED_OUT = "The member can reactivate it"


class Window:
    """A rate limit of `count` requests in each `seconds`, from the first request on."""

    def __init__(self, count: int, seconds: int) -> None:
        self.count, self.seconds = count, seconds
        self.end, self.used = 0.0, 0

    def __call__(self, _request: Request) -> Answer | None:
        now = time.monotonic()
        if now >= self.end:
            self.end, self.used = now + self.seconds, 0
        self.used += 1
        return None if self.used <= self.count else Answer(429, b"{}", {"Retry-After": str(int(self.end - now) + 1)})


def _fails_for(scenario: Scenario, count: int) -> Rule:
    """A rule by which the directory fails for `count` members of the backup who are still here."""
    here = sorted({member.did for member in scenario.club.members} - _departed(scenario) - {scenario.late.did})
    chosen = tuple(f"/{did}/" for did in here[:count])
    return lambda request: Answer(502) if request.method.startswith(chosen) else None


def test_waits_while_the_directory_limits_queries_and_locks_no_member_out(disaster: Restore) -> None:
    with flawed_proxy(disaster.scenario.directory.url) as proxy:
        proxy.rule = Window(5, 4)
        output = disaster.run(NOMAD_META_sequence="1", PDS_DID_PLC_URL=proxy.url)
    assert "limits queries; asked again in" in output
    assert LOCKED_OUT not in output
    assert f"LEFT OUT: {disaster.scenario.gone.did}: its DID document names the server rooks.test" in output


def test_refuses_while_the_directory_answers_for_some_accounts_only(in_place: Restore) -> None:
    with flawed_proxy(in_place.scenario.directory.url) as proxy:
        proxy.rule = _fails_for(in_place.scenario, 2)
        _refused(in_place, "did not answer for 2 of 8 accounts, as for did:plc:", PDS_DID_PLC_URL=proxy.url)


def test_one_account_without_an_answer_does_not_stop_the_others(disaster: Restore) -> None:
    with flawed_proxy(disaster.scenario.directory.url) as proxy:
        proxy.rule = _fails_for(disaster.scenario, 1)
        output = disaster.run(NOMAD_META_sequence="1", PDS_DID_PLC_URL=proxy.url)
    assert output.count(LOCKED_OUT) == 1, "it is named with the way back"


def test_operator_restores_members_without_a_directory_that_stays_away(disaster: Restore) -> None:
    scenario = disaster.scenario
    away = "http://localhost:1"
    _refused(
        disaster, "Repeat the command once it answers. If it stays away, add --without-directory", PDS_DID_PLC_URL=away
    )
    output = disaster.run(NOMAD_META_without_directory="yes", NOMAD_META_sequence="1", PDS_DID_PLC_URL=away)
    assert f"7 accounts are as in the backup, because {away} did not answer" in output
    with disaster.opened() as server:
        _logged_in(server, disaster, scenario.writer.did)
        assert _status(_client(server, disaster), scenario.writer.did) == "active"


def test_account_whose_document_names_another_key_is_restored_deactivated(disaster: Restore) -> None:
    """Relays drop what the restored key signs, so the account must not appear as one in use."""
    scenario, other = disaster.scenario, did_key("5d" * 32)
    did = scenario.writer.did
    with flawed_proxy(scenario.directory.url) as proxy:
        proxy.rule = names_the_key(scenario.directory, did, other)
        output = disaster.run(NOMAD_META_sequence="1", PDS_DID_PLC_URL=proxy.url)
    assert "1 are another server's, 1 have another key" in output
    assert f"LEFT OUT: {did}: its DID document names this server and the key {other}" in output
    with disaster.opened() as server:
        client = _client(server, disaster)
        assert _status(client, did) == "deactivated"
        assert client.query("com.atproto.sync.getRepoStatus", {"did": did})["active"] is False


def test_account_alone_is_not_restored_with_another_key_than_its_document_s(in_place: Restore) -> None:
    scenario, other = in_place.scenario, did_key("5d" * 32)
    did = scenario.writer.did
    with flawed_proxy(scenario.directory.url) as proxy:
        proxy.rule = names_the_key(scenario.directory, did, other)
        output = in_place.run(code=1, NOMAD_META_only=did, PDS_DID_PLC_URL=proxy.url)
    assert f"REFUSED: {did}: its DID document names this server and the key {other}" in output
    assert "Restore it from a backup with the document's key: --snapshot ID" in output
