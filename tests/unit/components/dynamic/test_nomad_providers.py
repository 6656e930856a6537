"""The dynamic providers that query Nomad, with one on loopback: bootstrap, a run of a job, mutual TLS, and times."""

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


def test_fresh_nomad_is_bootstrapped_with_the_token_of_the_stack(nomad: FakeNomad) -> None:
    created = BootstrapProvider().create(_inputs(nomad.address))
    assert created.outs is not None
    assert created.outs["cluster_id"] == nomad.tokens[TOKEN], "the accessor id of the stack's token"
    assert created.outs["address"] == nomad.address, "the provider's address is this output"


def test_nomad_that_knows_the_token_is_kept(nomad: FakeNomad) -> None:
    provider, inputs = BootstrapProvider(), _inputs(nomad.address)
    first = provider.create(inputs).outs or {}
    second = provider.update("id", first, {**inputs, "droplet_id": "2"}).outs or {}
    assert second["cluster_id"] == first["cluster_id"], "a rebuilt host with its volume is the same Nomad"
    assert second.keys() == first.keys(), "the engine forgets outputs that update omits"


def test_refuses_a_nomad_of_another_stack(nomad: FakeNomad) -> None:
    nomad.tokens["another token"] = "another accessor"
    with pytest.raises(ServiceError, match="bootstrapped with a token that this stack does not have") as raised:
        BootstrapProvider().create(_inputs(nomad.address))
    assert TOKEN not in str(raised.value), "errors are printed and logged"


def test_refresh_detects_an_emptied_nomad_and_the_next_up_bootstraps_it(nomad: FakeNomad) -> None:
    provider, inputs = BootstrapProvider(), _inputs(nomad.address)
    state = provider.create(inputs).outs or {}
    assert not provider.diff("id", state, inputs).changes, "without a change there is nothing to do"
    nomad.empty()
    refreshed = provider.read("id", state).outs or {}
    assert refreshed["cluster_id"] == "", "Nomad answers and does not know the token"
    assert provider.diff("id", refreshed, inputs).changes, "the next `up` bootstraps it"
    again = provider.update("id", refreshed, inputs).outs or {}
    assert again["cluster_id"] not in ("", state["cluster_id"]), "the new id replaces every resource in it"


def test_refresh_of_an_intact_nomad_changes_nothing(nomad: FakeNomad) -> None:
    provider, inputs = BootstrapProvider(), _inputs(nomad.address)
    state = provider.create(inputs).outs or {}
    assert (provider.read("id", state).outs or {}) == state


def test_nomad_without_a_leader_does_not_count_as_emptied(nomad: FakeNomad) -> None:
    provider = BootstrapProvider()
    state = provider.create(_inputs(nomad.address)).outs or {}
    nomad.leaderless_answers = 1
    with pytest.raises(PendingError, match="No cluster leader"):
        provider.read("id", state)


def test_bootstrap_waits_for_a_leader(nomad: FakeNomad) -> None:
    nomad.leaderless_answers = 3
    created = BootstrapProvider().create(_inputs(nomad.address))
    assert (created.outs or {})["cluster_id"] == nomad.tokens[TOKEN]
    requested_paths = [path for _method, path, _token in nomad.asked]
    assert requested_paths == ["/v1/status/leader"] * 4 + ["/v1/acl/bootstrap"], (
        "nothing is sent before there is a leader"
    )


def test_nomad_that_never_elects_a_leader_fails_with_the_reason(nomad: FakeNomad) -> None:
    nomad.leaderless_answers = 1_000_000
    with pytest.raises(ServiceError, match=r"no leader yet \(status 500\), after 900 s"):
        BootstrapProvider().create(_inputs(nomad.address))


def test_unreachable_nomad_fails_with_a_one_line_error() -> None:
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


def test_changed_input_is_a_change_and_a_declared_output_is_not(nomad: FakeNomad) -> None:
    provider, inputs = BootstrapProvider(), _inputs(nomad.address)
    state = provider.create(inputs).outs or {}
    assert not provider.diff("id", state, {**inputs, "cluster_id": None, "__provider": "other"}).changes
    for key in inputs:
        assert provider.diff("id", state, {**inputs, key: "changed"}).changes, f"a changed {key} must be a change"
    assert not provider.diff("id", state, {**inputs, "token": "changed"}).replaces, (
        "an input never replaces the resource"
    )


def test_deleting_a_dynamic_resource_sends_no_request(nomad: FakeNomad) -> None:
    # ClubNamespace and HostInUse send requests: see `test_nomad_clubs.py` and `test_stack_identity.py`.
    for provider in set(PROVIDERS) - {ClubNamespaceProvider, HostInUseProvider}:
        provider().delete("id", _inputs("http://127.0.0.1:1"))
    assert nomad.asked == []


def test_engine_gets_a_one_line_error_without_a_traceback(nomad: FakeNomad, monkeypatch: pytest.MonkeyPatch) -> None:
    nomad.tokens["another"] = "a-1"
    with pytest.raises(ServiceError):
        BootstrapProvider().create(_inputs(nomad.address))
    assert not hasattr(sys, "tracebacklimit"), "other processes keep their tracebacks"
    host = ModuleType("__main__")
    host.__spec__ = ModuleSpec("pulumi.dynamic.__main__", None)
    monkeypatch.setitem(sys.modules, "__main__", host)
    with pytest.raises(ServiceError):
        BootstrapProvider().create(_inputs(nomad.address))
    try:
        raise ServiceError("a one-line error")
    except ServiceError:
        assert "Traceback" not in traceback.format_exc()
    with suppress(KeyError):
        BootstrapProvider().create({})
    try:
        raise KeyError("a defect of the program")
    except KeyError:
        assert "Traceback" in traceback.format_exc(), "defects must be printed in full"


# A run of a job.


def _run_of(status: str, **task: Any) -> list[dict[str, Any]]:
    return [
        {"ID": "22222222-0000-0000-0000-000000000000", "ClientStatus": status, "TaskStates": {"confirm-email": task}}
    ]


def _bootstrapped(nomad: FakeNomad, **more: Any) -> dict[str, Any]:
    nomad.tokens[TOKEN] = "accessor"
    return _inputs(nomad.address, job="pds-confirm-email", list="did:plc:a", paused=False, **more)


def test_waits_for_a_dispatched_job_to_end(nomad: FakeNomad) -> None:
    nomad.runs = [[], _run_of("pending"), _run_of("running", Failed=False), _run_of("complete", Failed=False)]
    provider, inputs = NomadJobRunProvider(), _bootstrapped(nomad)
    done = provider.create(inputs).outs or {}
    assert done["state"] == "done"
    posted = [path for method, path, token in nomad.asked if method == "POST"]
    assert posted == ["/v1/job/pds-confirm-email/dispatch"], "once"
    assert len(nomad.runs) == 1, "it polled until the end"
    assert not provider.diff("id", done, inputs).changes
    assert provider.diff("id", done, {**inputs, "list": "did:plc:a did:plc:b"}).changes, (
        "another account requires another run"
    )


def test_failed_dispatched_job_fails_up_with_its_error_output(nomad: FakeNomad) -> None:
    nomad.runs = [_run_of("failed", Failed=True, Events=[{"DisplayMessage": "Exit Code: 1"}])]
    nomad.stderr = "SqliteError: unable to open database file"
    with pytest.raises(ServiceError, match=r"(?s)task confirm-email failed \(Exit Code: 1\).*unable to open database"):
        NomadJobRunProvider().create(_bootstrapped(nomad))


def test_reports_that_nomad_has_no_room_for_a_dispatched_job(nomad: FakeNomad) -> None:
    nomad.runs = [[]]
    with pytest.raises(
        ServiceError, match=r"Job pds-confirm-email: it has no allocation; .* no room for it, after 300 s"
    ):
        NomadJobRunProvider().create(_bootstrapped(nomad))


def test_empty_list_dispatches_no_job(nomad: FakeNomad) -> None:
    done = NomadJobRunProvider().create({**_bootstrapped(nomad), "list": ""}).outs or {}
    assert (done["state"], nomad.asked) == ("done", [])


def test_paused_pds_dispatches_no_job(nomad: FakeNomad) -> None:
    provider, inputs = NomadJobRunProvider(), {**_bootstrapped(nomad), "paused": True}
    new = provider.create(inputs).outs or {}
    assert (new["state"], nomad.asked) == ("pending: the PDS is paused", [])
    assert provider.diff("id", new, inputs).changes, "the next `up` checks again"
    kept = provider.update("id", {**new, "state": "done"}, inputs).outs or {}
    assert (kept["state"], nomad.asked) == ("done", [])
    assert not provider.diff("id", kept, inputs).changes, "pausing alone must not be a change"
    assert provider.diff("id", kept, {**inputs, "paused": False}).changes


# Mutual TLS.


def test_mutual_tls_uses_the_client_certificate_and_leaves_no_key_on_disk(
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
def test_mutual_tls_refuses_a_wrong_certificate_on_both_sides(wrong: str, tmp_path: Path) -> None:
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


def test_key_that_does_not_match_its_certificate_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_nomad_times_are_parsed_to_the_nanosecond(text: str, nanoseconds: int) -> None:
    assert rfc3339_ns(text) == nanoseconds
