"""The check before records of the sender's domain are created, against name servers on loopback with broken records."""

import base64
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from cli.lib.subprocesses import child
from components.clients.errors import ServiceError
from components.dynamic.dns import SoleRecordsProvider
from offline.mock_engine import ROOT
from tests.conftest import Clock
from tests.support import fake_dns
from tests.support.mail import KEY

ZONE = "noted.at"
SPF = "v=spf1 include:amazonses.com ~all"
DMARC = "v=DMARC1; p=none"


pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dns.stay_on_loopback(monkeypatch)


def _inputs(*nameservers: str, existing: str = "", spf: str = SPF) -> dict[str, Any]:
    dkim = f"resend._domainkey.{ZONE}"
    records = [
        {"role": "mail-spf", "name": ZONE, "begins": "v=spf1", "value": spf},
        {"role": "mail-dmarc", "name": f"_dmarc.{ZONE}", "begins": "v=DMARC1", "value": DMARC},
        {"role": "mail-dkim-resend", "name": dkim, "begins": "", "value": KEY},
    ]
    where = {"zone": ZONE, "nameservers": list(nameservers), "existing_spf": existing, "wait": 0}
    return {**where, "records": records, "version": "1"}


def _refusal(records: fake_dns.Records, **changes: Any) -> str:
    """The refusal at the preview; the `up` refuses with the same sentence."""
    with fake_dns.serve(records) as server:
        provider, inputs = SoleRecordsProvider(), _inputs(server, **changes)
        [failure] = provider.check({}, inputs).failures
        with pytest.raises(ServiceError) as caught:
            provider.create(inputs)
        assert str(caught.value) == failure.reason
        return failure.reason


def test_names_without_records_are_accepted_and_become_the_state() -> None:
    others = {f"TXT {ZONE}": ["google-site-verification=1", "v=spf10"], ZONE: ["203.0.113.10"]}
    with fake_dns.serve(others) as server:
        provider, inputs = SoleRecordsProvider(), _inputs(server)
        assert provider.check({}, inputs).failures == []
        created = provider.create(inputs)
    assert created.outs == inputs


def test_a_second_spf_record_is_refused_with_the_merged_text() -> None:
    refusal = _refusal({f"TXT {ZONE}": ["v=spf1 include:_spf.google.com -all"]})
    assert "change its text to 'v=spf1 include:_spf.google.com include:amazonses.com -all'" in refusal
    assert "'mail.dns.spf_existing'" in refusal
    assert _refusal({f"TXT {ZONE}": ["V=SPF1 -all"]}), "the version has no case"
    assert _refusal({f"TXT {ZONE}": [SPF]}), "even the same text: DigitalOcean would hold it twice"


def test_an_existing_record_that_is_to_be_replaced_has_to_be_deleted_first() -> None:
    old = "v=spf1 include:_spf.google.com -all"
    new = "v=spf1 include:_spf.google.com include:amazonses.com -all"
    refusal = _refusal({f"TXT {ZONE}": [old]}, existing=old, spf=new)
    assert f"Delete it at the DNS host, then repeat `pulumi up`, which creates '{new}'" in refusal
    with fake_dns.serve({}) as server:
        assert SoleRecordsProvider().create(_inputs(server, existing=old, spf=new)).outs


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({f"TXT _dmarc.{ZONE}": ["v=DMARC1; p=reject"]}, "or remove 'mail.dns.dmarc'"),
        ({f"TXT resend._domainkey.{ZONE}": [KEY]}, "or remove 'mail.dns.dkim'"),
        (
            {f"CNAME resend._domainkey.{ZONE}": [f"key.{ZONE}."], f"TXT key.{ZONE}": ["p=another"]},
            "or remove 'mail.dns.dkim'",
        ),
    ],
    ids=["DMARC", "DKIM", "DKIM behind a CNAME"],
)
def test_a_second_dmarc_or_dkim_record_is_refused(records: dict[str, list[str]], said: str) -> None:
    assert said in _refusal(records)


def test_a_record_of_the_stack_s_own_may_change() -> None:
    with fake_dns.serve({f"TXT {ZONE}": [SPF]}) as server:
        provider, before = SoleRecordsProvider(), _inputs(server)
        after = _inputs(server, spf="v=spf1 include:spf.mtasv.net ~all")
        assert provider.check(before, after).failures == []
        assert provider.diff("id", before, after).changes
        assert (provider.update("id", before, after).outs or {})["records"] == after["records"]
        assert not provider.diff("id", after, after).changes


@pytest.mark.parametrize("name", [ZONE, f"_dmarc.{ZONE}", f"resend._domainkey.{ZONE}"])
def test_a_name_whose_record_could_not_be_created_is_checked_again(name: str) -> None:
    """The check succeeds before the records are created. Then the operator makes the failed one by hand."""
    texts = {ZONE: "v=spf1 mx -all", f"_dmarc.{ZONE}": "v=DMARC1; p=reject"}
    with fake_dns.serve({f"TXT {name}": [texts.get(name, "v=DKIM1; p=other")]}) as server:
        provider, inputs = SoleRecordsProvider(), _inputs(server)
        [failure] = provider.check(inputs, inputs).failures
    assert f"{name} has the" in failure.reason
    assert "which is not of this stack" in failure.reason


def test_two_records_at_an_own_name_are_refused_although_one_is_the_stack_s() -> None:
    with fake_dns.serve({f"TXT _dmarc.{ZONE}": [DMARC, "v=DMARC1; p=reject"]}) as server:
        assert SoleRecordsProvider().check(_inputs(server), _inputs(server)).failures


def test_an_own_record_that_an_earlier_up_failed_to_change_stays_the_stack_s() -> None:
    with fake_dns.serve({f"TXT {ZONE}": [f'"{SPF[:8]}" "{SPF[8:]}"']}) as server:
        provider, second = SoleRecordsProvider(), _inputs(server, spf="v=spf1 include:spf.mtasv.net ~all")
        checked = provider.update("id", _inputs(server), second).outs or {}
        third = _inputs(server, spf="v=spf1 include:spf.resend.com ~all")
        assert provider.check(checked, third).failures == []
        assert not provider.diff("id", checked, second).changes, "the history is no difference"


def test_an_own_cname_is_not_compared_with_the_key_that_it_leads_to() -> None:
    dkim, target = f"resend._domainkey.{ZONE}", "key.relay.test"
    with fake_dns.serve({f"CNAME {dkim}": [f"{target}."], f"TXT {target}": ["p=theirs"]}) as server:
        inputs = _inputs(server)
        inputs["records"][2]["value"] = f"{target}."
        assert SoleRecordsProvider().check(inputs, inputs).failures == []


def test_a_record_that_is_added_later_is_checked_then() -> None:
    with fake_dns.serve({f"TXT {ZONE}": [SPF], f"TXT _dmarc.{ZONE}": [DMARC]}) as server:
        after = _inputs(server)
        before = {**after, "records": after["records"][:1]}
        [failure] = SoleRecordsProvider().check(before, after).failures
    assert f"_dmarc.{ZONE} has the DMARC record" in failure.reason


@pytest.mark.parametrize("nameservers", [(), ("127.0.0.1:1",)], ids=["a zone that is not delegated", "a silent server"])
def test_without_an_answer_a_preview_passes_and_an_up_creates_nothing(nameservers: tuple[str, ...]) -> None:
    provider, inputs = SoleRecordsProvider(), _inputs(*nameservers)
    assert provider.check({}, inputs).failures == []
    with pytest.raises(ServiceError, match=r"were not created, because nothing shows whether others exist\. .*Repeat"):
        provider.create(inputs)


def test_a_zone_that_is_not_delegated_yet_is_queried_at_digitalocean(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_dns.serve({f"TXT {ZONE}": ["v=spf1 mx -all"]}) as server:
        monkeypatch.setattr(
            "components.clients.dns._addresses", lambda host: [server] if "digitalocean" in host else []
        )
        [failure] = SoleRecordsProvider().check({}, _inputs()).failures
    assert "include:amazonses.com" in failure.reason


def test_the_next_server_is_queried_if_one_is_silent() -> None:
    with fake_dns.serve({f"TXT {ZONE}": ["v=spf1 mx -all"]}) as server:
        assert SoleRecordsProvider().check({}, _inputs("127.0.0.1:1", server)).failures


def test_an_up_waits_for_a_zone_that_is_not_served_yet(clock: Clock) -> None:
    with fake_dns.serve({}) as server:
        provider, inputs = SoleRecordsProvider(), {**_inputs("127.0.0.1:1"), "wait": 120}

        def later(seconds: float) -> None:
            clock.now += seconds
            inputs["nameservers"] = [server]

        clock.sleep = later  # type: ignore[method-assign]
        assert provider.create(inputs).outs == inputs
    assert clock.now == 5, "one pause"


@contextmanager
def _host_of_dynamic_providers() -> Iterator[provider_pb2_grpc.ResourceProviderStub]:
    """The SDK's own process, which the engine starts for dynamic providers."""
    command = [sys.executable, "-u", "-m", "pulumi.dynamic"]  # unbuffered, as the engine starts it
    with child(command, 600, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE) as process:
        assert process.stdout
        with grpc.insecure_channel(f"127.0.0.1:{int(process.stdout.readline())}") as channel:
            yield provider_pb2_grpc.ResourceProviderStub(channel)


def test_the_sdk_s_host_hands_the_refusal_to_the_preview() -> None:
    provider = base64.b64encode(pickle.dumps(SoleRecordsProvider())).decode()
    urn = "urn:pulumi:dev::pds::pulumi-python:dynamic/pds:SoleRecords::pds-dns-sole-records"
    with fake_dns.serve({f"TXT {ZONE}": ["v=spf1 mx -all"]}) as server, _host_of_dynamic_providers() as host:
        news, own, nothing = Struct(), Struct(), Struct()
        news.update({**_inputs(server), "__provider": provider})
        own.update({**_inputs(server, spf="v=spf1 mx -all"), "__provider": provider})
        refused = host.Check(provider_pb2.CheckRequest(urn=urn, news=news, olds=nothing), timeout=600)
        accepted = host.Check(provider_pb2.CheckRequest(urn=urn, news=news, olds=own), timeout=600)
    [failure] = refused.failures
    assert failure.property == "", "the engine prints the value of a property"
    assert "'v=spf1 mx include:amazonses.com -all'" in failure.reason
    assert list(accepted.failures) == []
    assert accepted.inputs["__provider"] == provider
