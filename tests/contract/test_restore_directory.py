"""A restore while the directory of identities limits queries, fails or stays away: no member is locked out without the
operator's decision. `tests/unit/components/render/test_did_documents.py` has how it is asked."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest

from cli.snapshot.did_keys import did_key
from tests.contract.lines import one_line
from tests.contract.restores import Restore, Scenario, names_the_key, newest
from tests.contract.test_damaged_accounts import key_of, overwrite_pages
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


def test_refuses_to_deactivate_many_accounts_because_of_a_directory_s_answers(disaster: Restore) -> None:
    """The directory is more likely to be a wrong one, or the backup to be too old, than two members to have changed
    their keys: both would be locked out."""
    scenario, other = disaster.scenario, did_key("5d" * 32)
    dids = [scenario.writer.did, scenario.resting.did]
    rules = [names_the_key(scenario.directory, did, other) for did in dids]
    with flawed_proxy(scenario.directory.url) as proxy:
        proxy.rule = lambda request: next((answer for rule in rules if (answer := rule(request))), None)
        output = _refused(disaster, "2 of 7 accounts would be deactivated", PDS_DID_PLC_URL=proxy.url)
        assert f"and the key {other}, and it signs with did:key:z" in output, "one account and both keys are named"
        assert f"Is {proxy.url} the directory of these accounts?" in output
        change = {"NOMAD_META_without_directory": "yes", "NOMAD_META_sequence": "1", "PDS_DID_PLC_URL": proxy.url}
        output = disaster.run(code=0, **change)
    assert f"LEFT OUT: {dids[0]}: its DID document names this server and the key {other}" in output
    with disaster.opened() as server:
        assert _status(_client(server, disaster), dids[0]) == "deactivated", "no relay accepts what it signs"


def test_account_alone_whose_document_names_another_key_is_restored_deactivated(in_place: Restore) -> None:
    """The member needs the account on the server to change the document, and posts would reach no relay before."""
    scenario, other = in_place.scenario, did_key("5d" * 32)
    did = scenario.writer.did
    overwrite_pages(in_place.data, did)
    before = newest(in_place.data.path)
    with flawed_proxy(scenario.directory.url) as proxy:
        proxy.rule = names_the_key(scenario.directory, did, other)
        only = {"NOMAD_META_only": did, "PDS_DID_PLC_URL": proxy.url}
        output = in_place.run(code=0, **only)
        assert f"note: {did}: its DID document names this server and the key {other}" in output
        output = in_place.run(code=0, **only, NOMAD_META_step="in")
    assert f"LEFT OUT: {did}: its DID document names this server and the key {other}" in output
    assert "docs/guide/members.md#another-signing-key" in output
    assert _events_after(in_place, before) == [(did, "account")], "relays drop a commit of this key"
    with in_place.opened() as server:
        client = _client(server, in_place)
        assert _status(client, did) == "deactivated"
        _logged_in(server, in_place, did)  # asserts the password
        assert _status(client, scenario.late.did) == "active"


def test_account_alone_keeps_the_key_that_its_document_names(in_place: Restore) -> None:
    """The backup is of before the key changed: it would replace the only key that relays accept."""
    scenario, changed = in_place.scenario, "5d" * 32
    did = scenario.writer.did
    key = key_of(in_place.data, did)
    key.write_bytes(bytes.fromhex(changed))
    with flawed_proxy(scenario.directory.url) as proxy:
        proxy.rule = names_the_key(scenario.directory, did, did_key(changed))
        output = in_place.run(code=1, NOMAD_META_only=did, PDS_DID_PLC_URL=proxy.url)
    assert f"REFUSED: {did}: its DID document names the key that it has here" in output
    assert "Restore it from a backup with the document's key: --snapshot ID" in output
    assert key.read_bytes() == bytes.fromhex(changed)


def _events_after(restore: Restore, number: int) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(restore.data.path / "sequencer.sqlite")) as db:
        return db.execute("select did, eventType from repo_seq where seq > ?", (number,)).fetchall()
