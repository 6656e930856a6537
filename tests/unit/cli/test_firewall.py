"""Whether the firewall covers the droplet: `orphans` reports changes made in the panel, and `rescue` repairs them."""

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
    with owner(tmp_path, monkeypatch) as found:
        yield found


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


def _look(alice: Owner) -> list[str]:
    return [hole.text for hole in alice.look().gaps]


@pytest.mark.parametrize("case", PANEL)
def test_what_was_changed_in_the_panel_is_said_and_looked_at_again(
    alice: Owner, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, said, looked_at = PANEL[case]
    assert _look(alice) == [], "as it was made it covers the droplet"
    change(alice)
    assert [text for text in _look(alice) if said in text] != []
    assert said in orphans.text("dev", alice.look()), "`./pds orphans` says it"
    with alice.account() as account:
        repair.repair(alice.stack, account, yes=True)
    refresh, up = alice.pulumi.ran
    found = {part.removeprefix("**::") for flag, part in pairwise(refresh) if flag == "--target"}
    assert found == looked_at, "a plain `up` does not see it"
    assert up[0] == "up"
    assert said in capsys.readouterr().out


def test_another_firewall_that_opens_a_port_of_the_droplet_is_named_and_left_to_its_owner(alice: Owner) -> None:
    body = {**FIREWALL, "name": "mine", "inbound_rules": [SSH], "droplet_ids": [int(_droplet(alice))]}
    made = alice.client.ask("POST", "/firewalls", body, 202)["firewall"]["id"]
    [hole] = alice.look().gaps
    assert hole.targets == (), "`up` cannot mend what is not the stack's"
    assert "firewall mine covers the droplet too and lets tcp port 22 in from 0.0.0.0/0" in hole.text
    assert made in hole.text


def test_a_door_of_let_in_is_no_hole(alice: Owner) -> None:
    rule = {"protocol": "tcp", "ports": "4650", "sources": {"addresses": ["203.0.113.8/32"]}}
    body = {"name": "pds-dev-allow-ip-laptop", "inbound_rules": [rule], "tags": ["pds-dev"]}
    alice.client.ask("POST", "/firewalls", body, 202)
    assert _look(alice) == []
    assert alice.orphan("temporary firewall"), "which is listed by itself"


def test_a_second_droplet_with_the_tag_is_named_since_its_stack_would_take_it_along(alice: Owner) -> None:
    number = alice.client.droplet(name="pds-dev", tags=["pds-dev"])["id"]
    assert any(f"droplet {number} (pds-dev) has the tag pds-dev, too" in text for text in _look(alice))


def test_a_renamed_stack_is_found_by_the_tag_that_it_has_kept(alice: Owner) -> None:
    droplet = int(_droplet(alice))
    alice.client.ask("POST", "/tags", {"name": "pds-before"}, 201)
    body = {"resources": [{"resource_id": str(droplet), "resource_type": "droplet"}]}
    alice.client.ask("POST", "/tags/pds-before/resources", body, status=204)
    _untag(alice)
    _firewall(alice, tags=["pds-before"])
    alice.made["pds-host-network-tag"] = ("pds-host-network-tag", "digitalocean:index/tag:Tag", "pds-before", {})
    alice.remember()
    assert _look(alice) == []


def test_the_rules_of_the_tests_are_the_providers(alice: Owner) -> None:
    made = alice.made["pds-host-network-firewall"][3]
    assert made == RULES, "else nothing was compared above"
