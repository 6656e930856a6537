"""Checks at the account that the stack's firewall covers its droplet, with only the stack's rules. Changes nothing.

The engine does not see this by itself: a tag removed from the droplet, or a rule added in the panel, is not a change of
the stack file. Rules of several firewalls add up, so another one that covers the droplet counts, too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cli.lib.digitalocean import DigitalOceanAccount, Json
from cli.lib.stack import Resource, State
from cli.lib.temporary_firewall import temporary_firewalls

DROPLET, FIREWALL, TAG = "pds-host-droplet", "pds-host-network-firewall", "pds-host-network-tag"

Rule = tuple[str, str, frozenset[str]]
"""Protocol, ports and addresses."""


@dataclass(frozen=True, kw_only=True)
class FirewallGap:
    """A difference from the stack, as a sentence, and the resources that a refresh has to include for `up` to repair
    it; none if `up` cannot."""

    text: str
    targets: tuple[str, ...] = ()


def tag_of(stack: str, state: State) -> str:
    """Return the tag by which the firewall finds the droplet: it has the stack's original name."""
    return next(iter(state.ids("Tag")), f"pds-{stack}")


def firewall_gaps(stack: str, state: State, account: DigitalOceanAccount) -> list[FirewallGap]:
    """Return all differences; empty if there is no droplet to cover. Raises DigitalOceanError."""
    recorded, recorded_firewall = state.named(DROPLET), state.named(FIREWALL)
    droplet = account.get(f"droplets/{recorded.id}") if recorded else None
    if droplet is None or recorded_firewall is None:
        return []
    present = account.get(f"firewalls/{recorded_firewall.id}")
    if present is None:
        text = f"firewall {recorded_firewall.id} is gone: every port of droplet {droplet['id']} is open to everyone."
        return [FirewallGap(text=text, targets=(FIREWALL,))]
    tag = tag_of(stack, state)
    others = [item for item in account.list_all("firewalls") if item["id"] != present["id"]]
    return [
        *_cover(present, droplet, tag),
        *_rules(present, recorded_firewall),
        *_others(others, present, droplet, {item["id"] for item in temporary_firewalls(account, stack, tag)}),
        *_shared_tag(account.list_all("droplets", tag_name=tag), droplet, tag),
    ]


def covers(firewall: Json, droplet: Json) -> bool:
    """Return whether it applies to the droplet, by its tags or its id."""
    return bool(set(firewall["tags"] or ()) & set(droplet["tags"])) or droplet["id"] in (firewall["droplet_ids"] or ())


def _cover(firewall: Json, droplet: Json, tag: str) -> Iterator[FirewallGap]:
    if not covers(firewall, droplet):
        lacks = " and ".join(
            name
            for name, item in ((f"droplet {droplet['id']}", droplet), ("the firewall", firewall))
            if tag not in (item["tags"] or ())
        )
        yield FirewallGap(
            text=f"no firewall of this stack covers droplet {droplet['id']}: {lacks} lacks the tag {tag}. SSH and "
            f"Nomad's endpoint are open to everyone.",
            targets=(DROPLET, FIREWALL),
        )
    elif firewall["status"] == "failed":
        yield FirewallGap(text=f"DigitalOcean could not apply firewall {firewall['name']}.", targets=(FIREWALL,))


def _rules(present: Json, resource: Resource) -> Iterator[FirewallGap]:
    for way, key, peers in (("in", "inbound_rules", "sources"), ("out", "outbound_rules", "destinations")):
        recorded = resource.outputs.get(f"{way}boundRules")
        if recorded is None:
            continue  # an older state, or one that was never refreshed
        expected, actual = {_wanted(rule) for rule in recorded}, {_real(rule, peers) for rule in present[key] or ()}
        for rule in sorted(actual - expected, key=str):
            yield FirewallGap(
                text=f"its firewall lets {_shown(rule, way)}, which the stack does not declare.", targets=(FIREWALL,)
            )
        for rule in sorted(expected - actual, key=str):
            yield FirewallGap(text=f"its firewall no longer lets {_shown(rule, way)}.", targets=(FIREWALL,))


def _wanted(rule: Mapping[str, Any]) -> Rule:
    addresses = rule.get("sourceAddresses") or rule.get("destinationAddresses") or ()
    return rule["protocol"], _ports(rule.get("portRange")), frozenset(addresses)


def _real(rule: Json, peers: str) -> Rule:
    # The program names no droplets, load balancers or tags; a rule that does is another rule.
    named = {f"{kind} {item}" for kind, items in rule[peers].items() if kind != "addresses" for item in items or ()}
    return rule["protocol"], _ports(rule.get("ports")), frozenset(rule[peers].get("addresses") or ()) | named


def _ports(ports: str | None) -> str:
    """'all' in the spellings of API and provider."""
    return "all" if ports in (None, "", "0", "all", "1-65535") else str(ports)


def _shown(rule: Rule, way: str) -> str:
    protocol, ports, addresses = rule
    where = "in from" if way == "in" else "out to"
    return f"{protocol} {'' if protocol == 'icmp' else f'port {ports} '}{where} {', '.join(sorted(addresses))}"


def _others(others: list[Json], own: Json, droplet: Json, temporary: set[str]) -> Iterator[FirewallGap]:
    allowed = {_real(rule, "sources") for rule in own["inbound_rules"] or ()}
    for item in others:
        if item["id"] in temporary or not covers(item, droplet):
            continue
        for rule in sorted({_real(rule, "sources") for rule in item["inbound_rules"] or ()} - allowed, key=str):
            yield FirewallGap(
                text=f"firewall {item['name']} covers the droplet too and lets {_shown(rule, 'in')}. If it is not "
                f"meant: `doctl compute firewall delete {item['id']}`."
            )


def _shared_tag(tagged: list[Json], droplet: Json, tag: str) -> Iterator[FirewallGap]:
    for item in tagged:
        if item["id"] != droplet["id"]:
            yield FirewallGap(
                text=f"droplet {item['id']} ({item['name']}) has the tag {tag}, too. If it belongs to another "
                "stack, destroying that stack deletes the tag, and your droplet loses its firewall. Rename that stack "
                "before its first `up` (`pulumi stack rename`), or remove the tag from the other droplet."
            )
