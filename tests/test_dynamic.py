"""The dynamic providers against servers on loopback: bootstrap, mutual TLS, and the last gate."""

import ast
import base64
import inspect
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pulumi.dynamic import ResourceProvider

from components import dynamic, probes
from components.dynamic import (
    AccountProvider,
    BootstrapProvider,
    ClubRoomProvider,
    DispatchedProvider,
    HandleProvider,
    HostInUseProvider,
    InvitesProvider,
    OffersProvider,
    ReadyProvider,
    RemovalsProvider,
    ResolvesProvider,
    StackIdentityProvider,
    UnlistedProvider,
)
from tests.certificates import Authority, server_context
from tests.fake_nomad import FakeNomad, serve
from tests.programs import CLUBS, EXISTING, run
from tools.engine import Evaluation, Recorded

pytestmark = pytest.mark.usefixtures("clock")

TOKEN = "06b05181-6ba5-a269-ae00-373e61ed46eb"
FROZEN = {
    "pds-nomad-bootstrap": "gASVLwAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMEUJvb3RzdHJhcFByb3ZpZGVylJOUKYGULg==",
    "pds-resolves": "gASVLgAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMEFJlc29sdmVzUHJvdmlkZXKUk5QpgZQu",
    "pds-ready": "gASVKwAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMDVJlYWR5UHJvdmlkZXKUk5QpgZQu",
    "pds-member-kexpfan.noted.at-account": (
        "gASVLQAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMD0FjY291bnRQcm92aWRlcpSTlCmBlC4="
    ),
    "pds-member-kexpfan.noted.at-handle": (
        "gASVLAAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMDkhhbmRsZVByb3ZpZGVylJOUKYGULg=="
    ),
    "pds-removals": ("gASVLgAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMEFJlbW92YWxzUHJvdmlkZXKUk5QpgZQu"),
    "pds-invites": ("gASVLQAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMD0ludml0ZXNQcm92aWRlcpSTlCmBlC4="),
    "pds-unlisted": "gASVLgAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMEFVubGlzdGVkUHJvdmlkZXKUk5QpgZQu",
    "pds-host-offers": "gASVLAAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMDk9mZmVyc1Byb3ZpZGVylJOUKYGULg==",
    "pds-clubs-chess-room": "gASVLgAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMEENsdWJSb29tUHJvdmlkZXKUk5QpgZQu",
    "pds-confirmation-run": ("gASVMAAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMEkRpc3BhdGNoZWRQcm92aWRlcpSTlCmBlC4="),
    "pds-identity": "gASVMwAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMFVN0YWNrSWRlbnRpdHlQcm92aWRlcpSTlCmBlC4=",
    "pds-host-in-use": "gASVLwAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMEUhvc3RJblVzZVByb3ZpZGVylJOUKYGULg==",
}
"""The providers in the state of live stacks. Never edit a line here: make its provider load again."""
PROVIDERS = (
    BootstrapProvider,
    ResolvesProvider,
    ReadyProvider,
    AccountProvider,
    HandleProvider,
    RemovalsProvider,
    InvitesProvider,
    UnlistedProvider,
    OffersProvider,
    ClubRoomProvider,
    DispatchedProvider,
    StackIdentityProvider,
    HostInUseProvider,
)


@pytest.fixture
def nomad() -> Iterator[FakeNomad]:
    with serve(FakeNomad()) as fake:
        yield fake


def _inputs(address: str, **more: Any) -> dict[str, Any]:
    inputs = {"address": address, "ca_pem": "", "cert_pem": "", "key_pem": "", "token": TOKEN, "version": "1"}
    return {**inputs, "droplet_id": "1", "volume_id": "v", **more}


# What is frozen.


@pytest.fixture(scope="module")
def one(club: Evaluation) -> Callable[[str], Recorded]:
    """A dynamic resource by name, from a stack that has it."""
    stacks = (club, run(**CLUBS), run(**EXISTING))

    def found(name: str) -> Recorded:
        return next(item for stack in stacks for item in stack.resources if item.name == name)

    return found


def _named(provider: str) -> bytes:
    """A pickle without its protocol, which is Python's default: 4, and 5 from 3.14 on. Each Python reads both."""
    content = base64.b64decode(provider)
    assert content[:1] == pickle.PROTO
    return content[2:]


@pytest.mark.parametrize("name", FROZEN)
def test_providers_of_live_stacks_still_load(name: str, one: Callable[[str], Recorded]) -> None:
    provider = pickle.loads(base64.b64decode(FROZEN[name]))  # noqa: S301 (the line above)
    assert isinstance(provider, ResourceProvider), "refresh and destroy of every live stack load this"
    assert _named(one(name).inputs["__provider"]) == _named(FROZEN[name]), "module and class names are for ever"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_provider_writes_out_every_operation(provider: type[ResourceProvider]) -> None:
    for operation in ("create", "diff", "read", "update", "delete"):
        method = inspect.getmodule(getattr(provider, operation))
        assert method is dynamic, f"the SDK's own {operation} drops outputs or never sees drift"


def test_every_dynamic_resource_has_its_version_as_an_input(one: Callable[[str], Recorded]) -> None:
    for name in FROZEN:
        assert one(name).inputs["version"] == "1", "a change of behaviour raises it: changed code alone is no diff"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("pds-nomad-bootstrap", {"ca_pem", "cert_pem", "key_pem", "token"}),
        ("pds-ready", {"ca_pem", "cert_pem", "key_pem", "token", "management_token", "secrets_digest"}),
        ("pds-identity", set()),
        ("pds-host-in-use", {"ca_pem", "cert_pem", "key_pem", "token"}),
        ("pds-resolves", set()),
        (
            "pds-member-kexpfan.noted.at-account",
            {"admin_password", "password", "initial_password", "email", "live_email", "applied_email"},
        ),
        ("pds-member-kexpfan.noted.at-handle", {"admin_password"}),
        ("pds-removals", {"admin_password"}),
        ("pds-invites", {"admin_password", "codes"}),
        ("pds-unlisted", {"admin_password"}),
        ("pds-host-offers", {"ca_pem", "cert_pem", "key_pem", "token"}),
        ("pds-clubs-chess-room", {"ca_pem", "cert_pem", "key_pem", "token"}),
        ("pds-confirmation-run", {"ca_pem", "cert_pem", "key_pem", "token", "addresses"}),
    ],
)
def test_outputs_of_dynamic_resources_are_secret_unless_listed(
    name: str, secret: set[str], one: Callable[[str], Recorded]
) -> None:
    assert set(one(name).options.get("additionalSecretOutputs", [])) == secret, (
        "the dynamic provider's host echoes inputs without their secret marks"
    )


def test_every_input_that_a_provider_reads_is_given_to_it(one: Callable[[str], Recorded]) -> None:
    tree = ast.parse(Path(dynamic.__file__).read_text())
    api = {"address", "ca_pem", "cert_pem", "key_pem", "token"}
    pds = {"url", "ip", "admin_password", "open"}
    for name, provider in zip(FROZEN, PROVIDERS, strict=True):
        (node,) = [item for item in tree.body if isinstance(item, ast.ClassDef) and item.name == provider.__name__]
        read = {
            item.slice.value
            for item in ast.walk(node)
            if isinstance(item, ast.Subscript) and isinstance(item.slice, ast.Constant)
            if ast.unparse(item.value) in ("news", "props", "_props")
        }
        assert read, f"{provider.__name__} reads something"
        read |= api if "_api" in ast.unparse(node) else set()
        read |= pds if "_OnThePds" in ast.unparse(node) else set()
        missing = read - one(name).inputs.keys() - {"did"}
        assert missing == set(), f"{name} is not given what its provider reads"


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
    with pytest.raises(probes.ProbeError, match="bootstrapped with a token that this stack does not have") as raised:
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
    with pytest.raises(probes.NotYetError, match="No cluster leader"):
        provider.read("id", state)


def test_the_bootstrap_waits_for_a_leader(nomad: FakeNomad) -> None:
    nomad.leaderless_answers = 3
    created = BootstrapProvider().create(_inputs(nomad.address))
    assert (created.outs or {})["cluster_id"] == nomad.tokens[TOKEN]
    asked = [path for _method, path, _token in nomad.asked]
    assert asked == ["/v1/status/leader"] * 4 + ["/v1/acl/bootstrap"], "nothing is sent before there is one"


def test_a_nomad_that_never_has_a_leader_ends_with_the_reason(nomad: FakeNomad) -> None:
    nomad.leaderless_answers = 1_000_000
    with pytest.raises(probes.ProbeError, match=r"no leader yet \(status 500\), after 900 s"):
        BootstrapProvider().create(_inputs(nomad.address))


def test_an_unreachable_nomad_ends_with_a_sentence() -> None:
    with serve(FakeNomad()) as gone:
        address = gone.address
    with pytest.raises(probes.ProbeError, match=rf"Nomad at {address}: it does not answer \(.+\), after 900 s\."):
        BootstrapProvider().create(_inputs(address))
    with pytest.raises(probes.ProbeError, match=f"Nomad at {address} does not answer"):
        BootstrapProvider().read("id", _inputs(address))
    with pytest.raises(probes.ProbeError, match=f"Nomad at {address} does not answer"):
        ReadyProvider().create(_inputs(address, paused=True, management_token=TOKEN, tokens={"pds-program": "ours"}))


def test_a_changed_input_is_a_change_and_a_declared_output_is_none(nomad: FakeNomad) -> None:
    provider, inputs = BootstrapProvider(), _inputs(nomad.address)
    state = provider.create(inputs).outs or {}
    assert not provider.diff("id", state, {**inputs, "cluster_id": None, "__provider": "other"}).changes
    for key in inputs:
        assert provider.diff("id", state, {**inputs, key: "changed"}).changes, f"a changed {key} is looked at again"
    assert not provider.diff("id", state, {**inputs, "token": "changed"}).replaces, "a fact is looked up, not replaced"


def test_deleting_a_fact_asks_nobody(nomad: FakeNomad) -> None:
    # A room is deleted, and a host with clubs refuses; see `test_rooms.py` and `test_identity.py`.
    for provider in set(PROVIDERS) - {ClubRoomProvider, HostInUseProvider}:
        provider().delete("id", _inputs("http://127.0.0.1:1"))
    assert nomad.asked == []


def test_the_engine_is_told_the_sentence_and_not_our_stack(nomad: FakeNomad, monkeypatch: pytest.MonkeyPatch) -> None:
    nomad.tokens["another"] = "a-1"
    with pytest.raises(probes.ProbeError):
        BootstrapProvider().create(_inputs(nomad.address))
    assert not hasattr(sys, "tracebacklimit"), "in any other process nothing changes"
    host = ModuleType("__main__")
    host.__spec__ = ModuleSpec("pulumi.dynamic.__main__", None)
    monkeypatch.setitem(sys.modules, "__main__", host)
    with pytest.raises(probes.ProbeError):
        BootstrapProvider().create(_inputs(nomad.address))
    try:
        raise probes.ProbeError("a sentence")
    except probes.ProbeError:
        assert "Traceback" not in traceback.format_exc()
    with suppress(KeyError):
        BootstrapProvider().create({})
    try:
        raise KeyError("a mistake of ours")
    except KeyError:
        assert "Traceback" in traceback.format_exc(), "which is told whole"


# A run of a job.


def _run_of(status: str, **task: Any) -> list[dict[str, Any]]:
    return [{"ID": "22222222-0000-0000-0000-000000000000", "ClientStatus": status, "TaskStates": {"confirm": task}}]


def _bootstrapped(nomad: FakeNomad, **more: Any) -> dict[str, Any]:
    nomad.tokens[TOKEN] = "accessor"
    return _inputs(nomad.address, job="pds-confirm", list="did:plc:a", paused=False, **more)


def test_a_dispatched_job_is_waited_for_to_its_end(nomad: FakeNomad) -> None:
    nomad.runs = [[], _run_of("pending"), _run_of("running", Failed=False), _run_of("complete", Failed=False)]
    provider, inputs = DispatchedProvider(), _bootstrapped(nomad)
    done = provider.create(inputs).outs or {}
    assert done["state"] == "done"
    posted = [path for method, path, token in nomad.asked if method == "POST"]
    assert posted == ["/v1/job/pds-confirm/dispatch"], "once"
    assert len(nomad.runs) == 1, "it looked until the end"
    assert not provider.diff("id", done, inputs).changes
    assert provider.diff("id", done, {**inputs, "list": "did:plc:a did:plc:b"}).changes, "another account: another run"


def test_a_dispatched_job_that_fails_ends_up_with_its_own_words(nomad: FakeNomad) -> None:
    nomad.runs = [_run_of("failed", Failed=True, Events=[{"DisplayMessage": "Exit Code: 1"}])]
    nomad.stderr = "SqliteError: unable to open database file"
    with pytest.raises(probes.ProbeError, match=r"(?s)task confirm failed \(Exit Code: 1\).*unable to open database"):
        DispatchedProvider().create(_bootstrapped(nomad))


def test_a_dispatched_job_without_room_says_so(nomad: FakeNomad) -> None:
    nomad.runs = [[]]
    with pytest.raises(
        probes.ProbeError, match=r"Job pds-confirm: it has no allocation; .* no room for it, after 300 s"
    ):
        DispatchedProvider().create(_bootstrapped(nomad))


def test_nothing_is_run_for_nobody(nomad: FakeNomad) -> None:
    done = DispatchedProvider().create({**_bootstrapped(nomad), "list": ""}).outs or {}
    assert (done["state"], nomad.asked) == ("done", [])


def test_nothing_is_run_on_a_paused_pds_whose_data_may_not_be_there_yet(nomad: FakeNomad) -> None:
    provider, inputs = DispatchedProvider(), {**_bootstrapped(nomad), "paused": True}
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
        with pytest.raises(probes.ProbeError, match="it does not answer"):
            BootstrapProvider().create(_inputs(nomad.address, **tls))
        assert nomad.asked == [], "no token was sent to it"


def test_a_key_that_does_not_fit_is_an_error_and_not_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ca = Authority()
    one, two = ca.issue("one", client=True), ca.issue("two", client=True)
    for cert, key in ((one.cert_pem, two.key_pem), ("no certificate", one.key_pem), (one.cert_pem, "no key")):
        with pytest.raises(probes.ProbeError, match="not a pair"):
            probes.client_tls(ca.pem, cert, key)
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
    assert probes.rfc3339_ns(text) == nanoseconds
