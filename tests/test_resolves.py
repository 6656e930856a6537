"""The gate before the ingress, against name servers on loopback: does the name resolve, everywhere, to our address."""

from typing import Any

import dns.exception
import dns.query
import dns.resolver
import pytest

from components.dynamic import ResolvesProvider
from tests import fake_dns
from tests.conftest import Clock

pytestmark = pytest.mark.usefixtures("clock")

IP = "203.0.113.10"
HOST = "noted.at"


def _question(*nameservers: str, wait: int = 0) -> dict[str, Any]:
    return {"hostname": HOST, "ip": IP, "zone": HOST, "nameservers": list(nameservers), "wait": wait, "version": "1"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent server is given up on after a moment."""
    patient = dns.query.udp_with_fallback

    def ask(*args: Any, **kwargs: Any) -> Any:
        return patient(*args, **{**kwargs, "timeout": 0.3})

    monkeypatch.setattr(dns.query, "udp_with_fallback", ask)


def test_a_name_that_has_the_right_address_opens_the_gate() -> None:
    with fake_dns.serve({HOST: [IP]}) as server:
        found = ResolvesProvider().create(_question(server)).outs or {}
    assert (found["open"], found["state"]) == ("1", f"{HOST} resolves to {IP}")


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({HOST: ["198.51.100.1"]}, f"says 198.51.100.1 for {HOST}, not {IP}"),
        ({HOST: [IP, "198.51.100.1"]}, f"says 198.51.100.1, {IP} for {HOST}"),
        ({HOST: []}, f"says nothing for {HOST}"),
        ({}, f"says nothing for {HOST}"),
        (None, "does not answer"),
    ],
    ids=["wrong address", "one address too many", "no A record", "NXDOMAIN", "silent"],
)
def test_any_other_answer_is_pending_with_its_reason(records: dict[str, list[str]] | None, said: str) -> None:
    with fake_dns.serve(records) as server:
        found = ResolvesProvider().create(_question(server)).outs or {}
    assert found["open"] == "0", "a certificate order now would fail, and failures are rationed"
    assert found["state"].startswith("pending: DNS: name server "), "pending is a state, not a failed `up`"
    assert said in found["state"]


def test_every_name_server_has_to_agree() -> None:
    with fake_dns.serve({HOST: [IP]}) as one, fake_dns.serve({}) as other:
        found = ResolvesProvider().create(_question(one, other)).outs or {}
    assert found["open"] == "0"
    assert other in found["state"], "the one that lags behind is named"


def test_a_zone_that_is_not_delegated_is_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_args: Any, **_kwargs: Any) -> Any:
        raise dns.resolver.NoNameservers

    monkeypatch.setattr(dns.resolver, "resolve", none)
    found = ResolvesProvider().create(_question()).outs or {}
    assert found["open"] == "0"
    assert f"the zone {HOST} is not delegated" in found["state"]


def test_a_record_that_was_just_made_is_waited_for(clock: Clock) -> None:
    records: dict[str, list[str]] = {}
    with fake_dns.serve(records) as server:
        asked = 0

        def later(seconds: float) -> None:
            nonlocal asked
            asked += 1
            clock.now += seconds
            if asked == 3:
                records[HOST] = [IP]

        clock.sleep = later  # type: ignore[method-assign]
        found = ResolvesProvider().create(_question(server, wait=120)).outs or {}
    assert found["open"] == "1"
    assert asked == 3, "it looked again, and stopped once it was there"


def test_a_pending_gate_is_looked_at_again_by_the_next_up_and_an_open_one_is_not() -> None:
    provider, question = ResolvesProvider(), _question()
    declared = {"open": None, "state": None}
    pending, opened = ({**question, "open": answer, "state": "…"} for answer in ("0", "1"))
    assert provider.diff("id", pending, {**question, **declared}).changes
    assert not provider.diff("id", opened, {**question, **declared}).changes
    assert provider.diff("id", opened, {**question, **declared, "ip": "203.0.113.11"}).changes, "a new address is news"


def test_update_of_the_gate_returns_every_output_that_create_does() -> None:
    with fake_dns.serve({HOST: [IP]}) as server:
        provider, question = ResolvesProvider(), _question(server)
        created = provider.create(question).outs or {}
        updated = provider.update("id", created, question).outs or {}
    assert updated == created
