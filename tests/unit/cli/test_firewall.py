"""Whether the firewall covers the droplet: `orphans` reports changes made in the panel, and `repair` reverts them."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cli.drift import orphans, repair
from tests.e2e.environment.api_client import FIREWALL
from tests.support.leftover_account import RULES, Owner, owner

SSH = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["0.0.0.0/0"]}}


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    with owner(tmp_path, monkeypatch) as operator:
        yield operator


def _droplet(alice: Owner) -> str:
    return alice.made["pds-host-droplet"][2]


def _firewall(alice: Owner, **changes: Any) -> None:
    body = {**FIREWALL, "name": "pds-dev", "tags": ["pds-dev"], **changes}
    alice.client.ask("PUT", f"/firewalls/{alice.made['pds-host-network-firewall'][2]}", body)


def _untag(alice: Owner) -> None:
    body = {"resources": [{"resource_id": _droplet(alice), "resource_type": "droplet"}]}
    alice.client.ask("DELETE", "/tags/pds-dev/resources", body, status=204)


COVER = {"pds-host-droplet", "pds-host-network-firewall"}
PANEL: dict[str, tuple[Callable[[Owner], Any], str, set[str]]] = {
    "the tag is taken off the droplet": (_untag, "lacks the tag pds-dev", COVER),
    "the tag is deleted": (
        lambda alice: alice.client.ask("DELETE", "/tags/pds-dev", status=204),
        "and the firewall lacks the tag pds-dev",
        COVER | {"pds-host-network-tag"},
    ),
    "the firewall has another tag": (
        lambda alice: _firewall(alice, tags=["pds-other"]),
        "the firewall lacks the tag pds-dev",
        COVER,
    ),
    "the firewall is deleted": (
        lambda alice: alice.delete("pds-host-network-firewall"),
        "every port of droplet",
        {"pds-host-network-firewall"},
    ),
    "a port is opened": (
        lambda alice: _firewall(alice, inbound_rules=[*FIREWALL["inbound_rules"], SSH]),
        "lets tcp port 22 in from 0.0.0.0/0, which the stack does not declare",
        {"pds-host-network-firewall"},
    ),
    "a port is closed": (
        lambda alice: _firewall(alice, inbound_rules=[SSH]),
        "no longer lets tcp port 443 in",
        {"pds-host-network-firewall"},
    ),
}


def _gaps(alice: Owner) -> list[str]:
    return [gap.text for gap in alice.look().gaps]


@pytest.mark.parametrize("case", PANEL)
def test_orphans_and_repair_find_a_change_made_in_the_panel(
    alice: Owner, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, finding, targets = PANEL[case]
    assert _gaps(alice) == [], "before the change it covers the droplet"
    change(alice)
    assert [text for text in _gaps(alice) if finding in text] != []
    assert finding in orphans.text("dev", alice.look()), "`./pds orphans` reports it"
    with alice.account() as account:
        repair.repair(alice.stack, account, yes=True)
    refresh, up = alice.pulumi.ran
    refreshed = {part.removeprefix("**::") for flag, part in pairwise(refresh) if flag == "--target"}
    assert refreshed == targets, "a plain `up` would not detect it"
    assert up[0] == "up"
    assert finding in capsys.readouterr().out


def test_reports_a_foreign_firewall_that_opens_a_port_and_does_not_repair_it(alice: Owner) -> None:
    body = {**FIREWALL, "name": "mine", "inbound_rules": [SSH], "droplet_ids": [int(_droplet(alice))]}
    made = alice.client.ask("POST", "/firewalls", body, 202)["firewall"]["id"]
    [gap] = alice.look().gaps
    assert gap.targets == (), "`up` cannot repair another party's firewall"
    assert "firewall mine covers the droplet too and lets tcp port 22 in from 0.0.0.0/0" in gap.text
    assert made in gap.text


def test_a_temporary_firewall_of_allow_ip_is_not_a_gap(alice: Owner) -> None:
    rule = {"protocol": "tcp", "ports": "4650", "sources": {"addresses": ["203.0.113.8/32"]}}
    body = {"name": "pds-dev-allow-ip-laptop", "inbound_rules": [rule], "tags": ["pds-dev"]}
    alice.client.ask("POST", "/firewalls", body, 202)
    assert _gaps(alice) == []
    assert alice.orphan("temporary firewall"), "it is listed separately"


def test_reports_a_second_droplet_with_the_stack_s_tag(alice: Owner) -> None:
    number = alice.client.droplet(name="pds-dev", tags=["pds-dev"])["id"]
    assert any(f"droplet {number} (pds-dev) has the tag pds-dev, too" in text for text in _gaps(alice))


def test_accepts_the_former_tag_of_a_renamed_stack(alice: Owner) -> None:
    droplet = int(_droplet(alice))
    alice.client.ask("POST", "/tags", {"name": "pds-before"}, 201)
    body = {"resources": [{"resource_id": str(droplet), "resource_type": "droplet"}]}
    alice.client.ask("POST", "/tags/pds-before/resources", body, status=204)
    _untag(alice)
    _firewall(alice, tags=["pds-before"])
    alice.made["pds-host-network-tag"] = ("pds-host-network-tag", "digitalocean:index/tag:Tag", "pds-before", {})
    alice.remember()
    assert _gaps(alice) == []


def test_the_state_has_the_rules_in_the_provider_s_form(alice: Owner) -> None:
    made = alice.made["pds-host-network-firewall"][3]
    assert made == RULES, "otherwise the tests above compare nothing"
