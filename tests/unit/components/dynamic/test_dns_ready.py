"""`DnsReady` before the ingress, with name servers on loopback: whether all of them resolve the name to our address."""

from typing import Any

import dns.exception
import dns.query
import dns.resolver
import dns.rrset
import pytest

from components.clients import dns as resolving
from components.dynamic.dns import DnsReadyProvider
from tests.conftest import Clock
from tests.support import fake_dns

pytestmark = pytest.mark.usefixtures("clock")

IP = "203.0.113.10"
HOST = "noted.at"


def _inputs(*nameservers: str, wait: int = 0) -> dict[str, Any]:
    where = {"hostname": HOST, "ip": IP, "zone": HOST, "nameservers": list(nameservers), "issuer": "letsencrypt.org"}
    return {**where, "wait": wait, "version": "1"}


@pytest.fixture(autouse=True)
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time out quickly if a server is silent."""
    fake_dns.stay_on_loopback(monkeypatch)


def test_name_with_the_right_address_opens_the_ingress() -> None:
    with fake_dns.serve({HOST: [IP]}) as server:
        found = DnsReadyProvider().create(_inputs(server)).outs or {}
    assert (found["ingress_state"], found["state"]) == ("open", f"{HOST} resolves to {IP}")


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ({HOST: ["198.51.100.1"]}, f"answers 198.51.100.1 for {HOST}, not {IP}"),
        ({HOST: [IP, "198.51.100.1"]}, f"answers 198.51.100.1, {IP} for {HOST}"),
        ({HOST: []}, f"answers nothing for {HOST}"),
        ({}, f"answers nothing for {HOST}"),
        (None, "does not answer"),
    ],
    ids=["wrong address", "one address too many", "no A record", "NXDOMAIN", "silent"],
)
def test_any_other_answer_is_pending_with_its_reason(records: dict[str, list[str]] | None, reason: str) -> None:
    with fake_dns.serve(records) as server:
        found = DnsReadyProvider().create(_inputs(server)).outs or {}
    assert found["ingress_state"] == "closed", "a certificate order would fail now, and the authority limits failures"
    assert found["state"].startswith("pending: DNS: name server "), "pending is a state, not a failed `up`"
    assert reason in found["state"]


@pytest.mark.parametrize(
    ("server", "host", "port"),
    [("192.0.2.53", "192.0.2.53", 53), ("192.0.2.53:5353", "192.0.2.53", 5353), ("2001:db8::53", "2001:db8::53", 53)],
)
def test_name_server_has_an_address_of_either_family(
    server: str, host: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    def silent(_question: Any, where: str, timeout: float, port: int) -> Any:
        seen.append((where, port))
        raise dns.exception.Timeout

    monkeypatch.setattr(dns.query, "udp_with_fallback", silent)
    assert "does not answer" in str(resolving.resolves(HOST, IP, HOST, [server]))
    assert seen == [(host, port)]


def test_all_name_servers_must_agree() -> None:
    with fake_dns.serve({HOST: [IP]}) as current, fake_dns.serve({}) as outdated:
        found = DnsReadyProvider().create(_inputs(current, outdated)).outs or {}
    assert found["ingress_state"] == "closed"
    assert outdated in found["state"], "the outdated server is named"


def test_zone_that_is_not_delegated_is_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_args: Any, **_kwargs: Any) -> Any:
        raise dns.resolver.NoNameservers

    monkeypatch.setattr(dns.resolver, "resolve", none)
    found = DnsReadyProvider().create(_inputs()).outs or {}
    assert found["ingress_state"] == "closed"
    assert f"the zone {HOST} is not delegated" in found["state"]
    assert "ns1.digitalocean.com" in found["state"], "the reason names the records to create, and where"


def test_waits_for_a_record_that_was_just_created(clock: Clock) -> None:
    records: dict[str, list[str]] = {}
    with fake_dns.serve(records) as server:
        sleeps = 0

        def later(seconds: float) -> None:
            nonlocal sleeps
            sleeps += 1
            clock.now += seconds
            if sleeps == 3:
                records[HOST] = [IP]

        clock.sleep = later  # type: ignore[method-assign]
        found = DnsReadyProvider().create(_inputs(server, wait=120)).outs or {}
    assert found["ingress_state"] == "open"
    assert sleeps == 3, "it checked again and stopped when the record existed"


def test_next_up_checks_a_pending_state_again_and_not_an_open_one(
    capfd: pytest.CaptureFixture[str],
) -> None:
    provider, inputs = DnsReadyProvider(), _inputs()
    declared = {"ingress_state": None, "state": None}
    pending, opened = ({**inputs, "ingress_state": answer, "state": "…"} for answer in ("closed", "open"))
    assert provider.diff("id", pending, {**inputs, **declared}).changes
    assert capfd.readouterr().err == "DnsReady: …\n", "the preview prints why it is not empty"
    assert not provider.diff("id", opened, {**inputs, **declared}).changes
    assert provider.diff("id", opened, {**inputs, **declared, "ip": "203.0.113.11"}).changes, (
        "a new address is a change"
    )


def test_update_returns_every_output_that_create_does() -> None:
    with fake_dns.serve({HOST: [IP]}) as server:
        provider, inputs = DnsReadyProvider(), _inputs(server)
        created = provider.create(inputs).outs or {}
        updated = provider.update("id", created, inputs).outs or {}
    assert updated == created


# The record of a handle in a domain whose zone is not configured.


class _Delegated:
    """The resolver's view: the servers of the top level, and the name servers of each name."""

    def __init__(self, zone: str, addresses: dict[str, str]) -> None:
        self.zone, self.addresses = zone, addresses
        self.asked: list[str] = []

    def resolve(self, name: Any, kind: str, lifetime: float) -> Any:
        text = str(name).rstrip(".")
        self.asked.append(text)
        if kind == "NS":
            assert text == self.zone, f"a resolver that is queried for {text} may cache a negative answer"
            return dns.rrset.from_text(f"{text}.", 60, "IN", "NS", "ns1.test.")
        return dns.rrset.from_text(f"{text}.", 60, "IN", "A", self.addresses[text])


def _on_port(monkeypatch: pytest.MonkeyPatch, servers: dict[str, str]) -> None:
    """Let each address (RFC 5737) be a name server on loopback."""
    real = dns.query.udp_with_fallback

    def ask(query: Any, where: str, **kwargs: Any) -> Any:
        host, _, port = servers.get(f"{where}:{kwargs['port']}", servers.get(where, "")).partition(":")
        return real(query, host, **{**kwargs, "port": int(port)})

    monkeypatch.setattr(dns.query, "udp_with_fallback", ask)


def test_name_servers_of_a_handle_are_found_from_the_top_and_queried_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    world = _Delegated("test", {"ns1.test": "192.0.2.1", "ns2.test": "192.0.2.2"})
    monkeypatch.setattr(dns.resolver, "resolve", world.resolve)
    record = "TXT _atproto.ann.club.her.test"
    below: dict[str, list[str]] = {record: ["did=did:plc:a"]}
    above = {"NS her.test": ["ns1.test."], "NS club.her.test": ["ns2.test."], record: ["did=did:plc:stale"]}
    with fake_dns.serve(above) as upper, fake_dns.serve(below) as lower:
        _on_port(monkeypatch, {"192.0.2.1": upper, "192.0.2.2": lower})
        assert resolving.names_did("ann.club.her.test", "did:plc:a", []) is None
        below[record] = ["did=did:plc:b"]
        reason = resolving.names_did("ann.club.her.test", "did:plc:a", [])
    assert reason == "name server 192.0.2.2 answers did=did:plc:b for _atproto.ann.club.her.test, not did=did:plc:a"
    assert "ann.club.her.test" not in world.asked, "no cache was queried for the name itself"


def test_domain_without_name_servers_is_pending_with_a_one_line_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_args: Any, **_kwargs: Any) -> Any:
        raise dns.resolver.NoNameservers

    monkeypatch.setattr(dns.resolver, "resolve", none)
    assert "the zone test is not delegated" in str(resolving.names_did("ann.her.test", "did:plc:a", []))


def test_zone_is_found_below_a_suffix_of_two_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    world = _Delegated("jp", {"ns1.test": "192.0.2.1", "ns2.test": "192.0.2.2"})
    monkeypatch.setattr(dns.resolver, "resolve", world.resolve)
    record = {"TXT _atproto.ann.example.co.jp": ["did=did:plc:a"]}
    # co.jp is not a zone: the servers of jp delegate its names.
    top = {"A co.jp": ["192.0.2.80"], "NS example.co.jp": ["ns2.test."]}
    with fake_dns.serve(top) as jp, fake_dns.serve(record) as example:
        _on_port(monkeypatch, {"192.0.2.1": jp, "192.0.2.2": example})
        assert resolving.names_did("ann.example.co.jp", "did:plc:a", []) is None
        assert resolving.zone_of("ann.example.co.jp") == ("example.co.jp", ["192.0.2.2"])
        # A hostname whose records are created by hand may be in any of the zones above it.
        assert resolving.resolves("pds.ann.example.co.jp", IP, "", []) == (
            f"name server 192.0.2.2 answers nothing for pds.ann.example.co.jp, not {IP}"
        )
        answer = str(resolving.names_did("ann.nowhere.jp", "did:plc:a", []))
    assert "there is none below 'jp'" in answer
    assert "ns1.digitalocean.com" in answer, "the reason names the records to create"


# Records with the right address that prevent a certificate.


def _state(records: fake_dns.Records, **changes: Any) -> str:
    with fake_dns.serve(records) as server:
        found = DnsReadyProvider().create({**_inputs(server), **changes}).outs or {}
    assert (found["ingress_state"] == "open") == (not found["state"].startswith("pending"))
    return str(found["state"])


def test_names_a_left_over_ipv6_address_and_what_to_delete() -> None:
    reason = _state({HOST: [IP], f"AAAA {HOST}": ["2001:db8::1"]})
    assert f"has AAAA 2001:db8::1 for {HOST}" in reason
    assert "Delete that record" in reason, "the certificate authority would connect to it first, and fail"


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (['0 issue "digicert.com"'], f"the CAA record of {HOST} allows only digicert.com"),
        (['0 issue ";"'], "allows no authority"),
        (['0 issue "letsencrypt.org; validationmethods=dns-01,http-01"', '0 issue "digicert.com"'], ""),
        (
            ['0 issue "letsencrypt.org; validationmethods=dns-01"'],
            "only with 'validationmethods=dns-01', which excludes",
        ),
        (['0 issue "letsencrypt.org;accounturi=https://le/acct/1"'], "only with 'accounturi=https://le/acct/1'"),
        (['0 issue "letsencrypt.org;accounturi=https://le/acct/1"', '0 issue "letsencrypt.org"'], ""),
        (['0 issue "letsencrypt.org."'], ""),
        (['0 iodef "mailto:me@noted.at"'], ""),
        ([], ""),
    ],
    ids=[
        "another authority",
        "no authority",
        "ours and another",
        "ours with a challenge that the ingress does not answer",
        "ours with another account",
        "ours with and without an account",
        "as the API writes it",
        "only iodef",
        "no record",
    ],
)
def test_names_a_caa_record_of_another_authority_and_what_to_add(records: list[str], reason: str) -> None:
    found = _state({HOST: [IP], f"CAA {HOST}": records})
    assert reason in found
    assert found.startswith("pending") == bool(reason)
    if reason:
        assert '0 issue "letsencrypt.org"' in found


def test_caa_record_of_the_parent_domain_counts_unless_the_name_has_one() -> None:
    name = {"hostname": f"pds.{HOST}"}
    above = {f"pds.{HOST}": [IP], f"CAA {HOST}": ['0 issue "digicert.com"']}
    assert f"the CAA record of {HOST}" in _state(above, **name)
    assert not _state(above | {f"CAA pds.{HOST}": ['0 issue "letsencrypt.org"']}, **name).startswith("pending")


def test_accepts_any_caa_record_if_the_authority_is_unknown() -> None:
    assert not _state({HOST: [IP], f"CAA {HOST}": ['0 issue "digicert.com"']}, issuer="").startswith("pending")


@pytest.mark.parametrize("validates", [False, True])
def test_names_a_left_over_ds_record_of_an_unsigned_zone(monkeypatch: pytest.MonkeyPatch, validates: bool) -> None:
    """`validates`: this machine's resolver does, and answers SERVFAIL."""
    digest = "1 13 2 " + "0f" * 32
    world = _Delegated(HOST, {"ns1.test": "192.0.2.1"})

    def resolve(name: Any, kind: str, lifetime: float) -> Any:
        if kind == "DS":
            return dns.rrset.from_text(f"{name}.", 60, "IN", "DS", digest)
        if validates or kind == "CAA":
            raise dns.resolver.NoNameservers
        return world.resolve(name, kind, lifetime)

    monkeypatch.setattr(dns.resolver, "resolve", resolve)
    records = {HOST: [IP]}
    with fake_dns.serve(records) as server:
        _on_port(monkeypatch, {"192.0.2.1": server})
        reason = str(resolving.resolves(HOST, IP, HOST, []))
        records[f"DNSKEY {HOST}"] = ["257 3 13 AAAA"]
        signed = resolving.resolves(HOST, IP, HOST, [])
    assert f"{HOST} has a DS record at its registrar" in reason
    assert "Delete the DS record" in reason
    assert (signed is None) is not validates, "a signed zone keeps its DS record"


def test_cname_of_the_hostname_is_followed() -> None:
    assert not _state({f"CNAME {HOST}": ["pds.hosting.test."], "pds.hosting.test": [IP]}).startswith("pending")
    wrong = _state({f"CNAME {HOST}": ["pds.hosting.test."], "pds.hosting.test": ["198.51.100.1"]})
    assert f"answers 198.51.100.1 for {HOST} (a CNAME for pds.hosting.test), not {IP}" in wrong
    assert "replace the CNAME by an A record" in wrong
    sixth = _state({f"CNAME {HOST}": ["h.test."], "h.test": [IP], "AAAA h.test": ["2001:db8::1"]})
    assert "has AAAA 2001:db8::1 for h.test" in sixth


def test_cname_into_another_zone_is_followed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    world = _Delegated("test", {"ns1.test": "192.0.2.1"})
    monkeypatch.setattr(dns.resolver, "resolve", world.resolve)
    hosting = {"NS hosting.test": ["ns1.test."], "pds.hosting.test": [IP]}
    with fake_dns.serve({f"CNAME {HOST}": ["pds.hosting.test."]}) as own, fake_dns.serve(hosting) as other:
        _on_port(monkeypatch, {"192.0.2.1": other, "127.0.0.1": own, own: own})
        assert resolving.resolves(HOST, IP, "", [own]) is None


def test_names_a_circle_of_cnames() -> None:
    assert "leads in a circle: noted.at -> a.test -> noted.at" in _state(
        {f"CNAME {HOST}": ["a.test."], "CNAME a.test": [f"{HOST}."]}
    )


def test_pending_state_reports_no_wait_if_records_were_checked_once() -> None:
    assert "after 0 s" not in _state({})
