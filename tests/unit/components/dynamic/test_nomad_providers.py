"""The dynamic providers that query Nomad, against one on loopback: bootstrap, a run of a job, mutual TLS, and times."""

import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from components.clients.errors import PendingError, ServiceError
from components.clients.https import client_tls
from components.clients.nomad import rfc3339_ns
from components.dynamic.nomad import (
    BootstrapProvider,
    ClubNamespaceProvider,
    HostInUseProvider,
    NomadJobRunProvider,
)
from components.dynamic.server import ServerReadyProvider
from tests.support.certificates import Authority, server_context
from tests.support.fake_nomad import FakeNomad, serve
from tests.unit.components.dynamic.test_providers import PROVIDERS

pytestmark = pytest.mark.usefixtures("clock")

TOKEN = "06b05181-6ba5-a269-ae00-373e61ed46eb"


@pytest.fixture
def nomad() -> Iterator[FakeNomad]:
    with serve(FakeNomad()) as fake:
        yield fake


def _inputs(address: str, **more: Any) -> dict[str, Any]:
    inputs = {"address": address, "ca_pem": "", "cert_pem": "", "key_pem": "", "token": TOKEN, "version": "1"}
    return {**inputs, "droplet_id": "1", "volume_id": "v", **more}


# Bootstrap.


def test_a_fresh_nomad_is_bootstrapped_with_our_token(nomad: FakeNomad) -> None:
    created = BootstrapProvider().create(_inputs(nomad.address))
    assert created.outs is not None
    assert created.outs["cluster_id"] == nomad.tokens[TOKEN], "the accessor id of the token we chose"
    assert created.outs["address"] == nomad.address, "the provider's address is this output"


def test_a_nomad_that_knows_our_token_is_taken_as_it_is(nomad: FakeNomad) -> None:
    provider, inputs = BootstrapProvider(), _inputs(nomad.address)
    first = provider.create(inputs).outs or {}
    second = provider.update("id", first, {**inputs, "droplet_id": "2"}).outs or {}
    assert second["cluster_id"] == first["cluster_id"], "a rebuilt host with its volume is the same Nomad"
    assert second.keys() == first.keys(), "what update leaves out, the engine forgets"


def test_another_stack_s_nomad_is_refused_in_a_sentence(nomad: FakeNomad) -> None:
    nomad.tokens["another token"] = "another accessor"
    with pytest.raises(ServiceError, match="bootstrapped with a token that this stack does not have") as raised:
        BootstrapProvider().create(_inputs(nomad.address))
    assert TOKEN not in str(raised.value), "an error is shown and kept"


def test_an_emptied_nomad_is_seen_by_refresh_and_bootstrapped_by_the_next_up(nomad: FakeNomad) -> None:
    provider, inputs = BootstrapProvider(), _inputs(nomad.address)
    state = provider.create(inputs).outs or {}
    assert not provider.diff("id", state, inputs).changes, "nothing happened: nothing to do"
    nomad.empty()
    refreshed = provider.read("id", state).outs or {}
    assert refreshed["cluster_id"] == "", "Nomad answers and does not know the token"
    assert provider.diff("id", refreshed, inputs).changes, "the next `up` bootstraps it"
    again = provider.update("id", refreshed, inputs).outs or {}
    assert again["cluster_id"] not in ("", state["cluster_id"]), "a new id, which replaces every resource in it"


def test_a_refresh_of_a_sound_nomad_changes_nothing(nomad: FakeNomad) -> None:
    provider, inputs = BootstrapProvider(), _inputs(nomad.address)
    state = provider.create(inputs).outs or {}
    assert (provider.read("id", state).outs or {}) == state


def test_a_nomad_without_a_leader_is_not_taken_for_an_emptied_one(nomad: FakeNomad) -> None:
    provider = BootstrapProvider()
    state = provider.create(_inputs(nomad.address)).outs or {}
    nomad.leaderless_answers = 1
    with pytest.raises(PendingError, match="No cluster leader"):
        provider.read("id", state)


def test_the_bootstrap_waits_for_a_leader(nomad: FakeNomad) -> None:
    nomad.leaderless_answers = 3
    created = BootstrapProvider().create(_inputs(nomad.address))
    assert (created.outs or {})["cluster_id"] == nomad.tokens[TOKEN]
    asked = [path for _method, path, _token in nomad.asked]
    assert asked == ["/v1/status/leader"] * 4 + ["/v1/acl/bootstrap"], "nothing is sent before there is one"


def test_a_nomad_that_never_has_a_leader_ends_with_the_reason(nomad: FakeNomad) -> None:
    nomad.leaderless_answers = 1_000_000
    with pytest.raises(ServiceError, match=r"no leader yet \(status 500\), after 900 s"):
        BootstrapProvider().create(_inputs(nomad.address))


def test_an_unreachable_nomad_ends_with_a_sentence() -> None:
    with serve(FakeNomad()) as gone:
        address = gone.address
    with pytest.raises(ServiceError, match=rf"Nomad at {address}: it does not answer \(.+\), after 900 s\."):
        BootstrapProvider().create(_inputs(address))
    with pytest.raises(ServiceError, match=f"Nomad at {address} does not answer"):
        BootstrapProvider().read("id", _inputs(address))
    with pytest.raises(ServiceError, match=f"Nomad at {address} does not answer"):
        ServerReadyProvider().create(
            _inputs(address, paused=True, management_token=TOKEN, tokens={"pds-program": "ours"})
        )


def test_a_changed_input_is_a_change_and_a_declared_output_is_none(nomad: FakeNomad) -> None:
    provider, inputs = BootstrapProvider(), _inputs(nomad.address)
    state = provider.create(inputs).outs or {}
    assert not provider.diff("id", state, {**inputs, "cluster_id": None, "__provider": "other"}).changes
    for key in inputs:
        assert provider.diff("id", state, {**inputs, key: "changed"}).changes, f"a changed {key} is looked at again"
    assert not provider.diff("id", state, {**inputs, "token": "changed"}).replaces, "a fact is looked up, not replaced"


def test_deleting_a_dynamic_resource_sends_no_request(nomad: FakeNomad) -> None:
    # A room is deleted, and a host with clubs refuses; see `test_nomad_clubs.py` and `test_stack_identity.py`.
    for provider in set(PROVIDERS) - {ClubNamespaceProvider, HostInUseProvider}:
        provider().delete("id", _inputs("http://127.0.0.1:1"))
    assert nomad.asked == []


def test_the_engine_is_told_the_sentence_and_not_our_stack(nomad: FakeNomad, monkeypatch: pytest.MonkeyPatch) -> None:
    nomad.tokens["another"] = "a-1"
    with pytest.raises(ServiceError):
        BootstrapProvider().create(_inputs(nomad.address))
    assert not hasattr(sys, "tracebacklimit"), "in any other process nothing changes"
    host = ModuleType("__main__")
    host.__spec__ = ModuleSpec("pulumi.dynamic.__main__", None)
    monkeypatch.setitem(sys.modules, "__main__", host)
    with pytest.raises(ServiceError):
        BootstrapProvider().create(_inputs(nomad.address))
    try:
        raise ServiceError("a sentence")
    except ServiceError:
        assert "Traceback" not in traceback.format_exc()
    with suppress(KeyError):
        BootstrapProvider().create({})
    try:
        raise KeyError("a mistake of ours")
    except KeyError:
        assert "Traceback" in traceback.format_exc(), "which is told whole"


# A run of a job.


def _run_of(status: str, **task: Any) -> list[dict[str, Any]]:
    return [
        {"ID": "22222222-0000-0000-0000-000000000000", "ClientStatus": status, "TaskStates": {"confirm-email": task}}
    ]


def _bootstrapped(nomad: FakeNomad, **more: Any) -> dict[str, Any]:
    nomad.tokens[TOKEN] = "accessor"
    return _inputs(nomad.address, job="pds-confirm-email", list="did:plc:a", paused=False, **more)


def test_a_dispatched_job_is_waited_for_to_its_end(nomad: FakeNomad) -> None:
    nomad.runs = [[], _run_of("pending"), _run_of("running", Failed=False), _run_of("complete", Failed=False)]
    provider, inputs = NomadJobRunProvider(), _bootstrapped(nomad)
    done = provider.create(inputs).outs or {}
    assert done["state"] == "done"
    posted = [path for method, path, token in nomad.asked if method == "POST"]
    assert posted == ["/v1/job/pds-confirm-email/dispatch"], "once"
    assert len(nomad.runs) == 1, "it looked until the end"
    assert not provider.diff("id", done, inputs).changes
    assert provider.diff("id", done, {**inputs, "list": "did:plc:a did:plc:b"}).changes, "another account: another run"


def test_a_dispatched_job_that_fails_ends_up_with_its_own_words(nomad: FakeNomad) -> None:
    nomad.runs = [_run_of("failed", Failed=True, Events=[{"DisplayMessage": "Exit Code: 1"}])]
    nomad.stderr = "SqliteError: unable to open database file"
    with pytest.raises(ServiceError, match=r"(?s)task confirm-email failed \(Exit Code: 1\).*unable to open database"):
        NomadJobRunProvider().create(_bootstrapped(nomad))


def test_a_dispatched_job_without_room_says_so(nomad: FakeNomad) -> None:
    nomad.runs = [[]]
    with pytest.raises(
        ServiceError, match=r"Job pds-confirm-email: it has no allocation; .* no room for it, after 300 s"
    ):
        NomadJobRunProvider().create(_bootstrapped(nomad))


def test_an_empty_list_runs_no_job(nomad: FakeNomad) -> None:
    done = NomadJobRunProvider().create({**_bootstrapped(nomad), "list": ""}).outs or {}
    assert (done["state"], nomad.asked) == ("done", [])


def test_nothing_is_run_on_a_paused_pds_whose_data_may_not_be_there_yet(nomad: FakeNomad) -> None:
    provider, inputs = NomadJobRunProvider(), {**_bootstrapped(nomad), "paused": True}
    new = provider.create(inputs).outs or {}
    assert (new["state"], nomad.asked) == ("pending: the PDS is paused", [])
    assert provider.diff("id", new, inputs).changes, "the next `up` looks again"
    kept = provider.update("id", {**new, "state": "done"}, inputs).outs or {}
    assert (kept["state"], nomad.asked) == ("done", [])
    assert not provider.diff("id", kept, inputs).changes, "a pause alone leaves nothing to do"
    assert provider.diff("id", kept, {**inputs, "paused": False}).changes


# Mutual TLS.


def test_the_endpoint_is_asked_with_our_certificate_and_no_key_stays_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = Authority()
    operator = ca.issue("operator", client=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    context = server_context(ca.issue("127.0.0.1"), tmp_path, client_ca=ca.pem)
    with serve(FakeNomad(), context) as nomad:
        tls = {"ca_pem": ca.pem, "cert_pem": operator.cert_pem, "key_pem": operator.key_pem}
        created = BootstrapProvider().create(_inputs(nomad.address, **tls))
        assert (created.outs or {})["cluster_id"] == nomad.tokens[TOKEN]
    assert list(scratch.iterdir()) == [], "neither a key nor a pipe is left behind"


@pytest.mark.parametrize(
    "wrong", ["our certificate is of another CA", "the server is of another CA", "another address"]
)
def test_a_stranger_is_turned_away_on_either_side(wrong: str, tmp_path: Path) -> None:
    ca, other = Authority(), Authority("another CA")
    client_ca = other if wrong.startswith("our") else ca
    server_ca = other if wrong.startswith("the server") else ca
    name = "127.0.0.2" if wrong == "another address" else "127.0.0.1"
    operator = client_ca.issue("operator", client=True)
    tls = {"ca_pem": ca.pem, "cert_pem": operator.cert_pem, "key_pem": operator.key_pem}
    with serve(FakeNomad(), server_context(server_ca.issue(name), tmp_path, client_ca=ca.pem)) as nomad:
        with pytest.raises(ServiceError, match="it does not answer"):
            BootstrapProvider().create(_inputs(nomad.address, **tls))
        assert nomad.asked == [], "no token was sent to it"


def test_a_key_that_does_not_fit_is_an_error_and_not_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ca = Authority()
    one, two = ca.issue("one", client=True), ca.issue("two", client=True)
    for cert, key in ((one.cert_pem, two.key_pem), ("no certificate", one.key_pem), (one.cert_pem, "no key")):
        with pytest.raises(ServiceError, match="not a pair"):
            client_tls(ca.pem, cert, key)
    assert list(tmp_path.iterdir()) == [], "the pipes are gone"


# Times.


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-06-01T12:00:00Z", 1_780_315_200_000_000_000),
        ("2026-06-01T12:00:00.5Z", 1_780_315_200_000_000_000 + 500_000_000),
        ("2026-06-01T12:00:00.000000001Z", 1_780_315_200_000_000_000 + 1),
    ],
)
def test_nomad_s_times_are_read_to_the_nanosecond(text: str, nanoseconds: int) -> None:
    assert rfc3339_ns(text) == nanoseconds
