"""Checks at the account that the stack's firewalls cover its droplets, with only the stack's rules. Changes nothing.

The engine does not see this by itself: a tag removed from the droplet, or a rule added in the panel, is not a change of
the stack file. Rules of several firewalls add up, so another one that covers the droplet counts, too.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cli.lib.digitalocean import DigitalOceanAccount, Json
from cli.lib.stack import Resource, State
from cli.lib.temporary_firewall import temporary_firewalls

DROPLET, FIREWALL, TAG = "pds-host-droplet", "pds-host-network-firewall", "pds-host-network-tag"
CLUSTER_NETWORK, CLUSTER_DROPLETS = "pds-cluster-network", "pds-cluster-droplets"
"""Beginnings of the names of a cluster's resources."""

Rule = tuple[str, str, frozenset[str]]
"""Protocol, ports and addresses."""


@dataclass(frozen=True, kw_only=True)
class FirewallGap:
    """A difference from the stack, as a sentence, and the resources that a refresh has to include for `up` to repair
    it; none if `up` cannot."""

    text: str
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Cover:
    """A firewall, the tag by which it finds droplets, and those droplets, by the state."""

    firewall: Resource
    tag: str
    droplets: tuple[Resource, ...]
    is_cluster: bool = False
    """A refresh of a cluster's droplet would record the volumes that it has at the moment."""


def tag_of(stack: str, state: State) -> str:
    """Return the tag by which the firewall finds the droplet: it has the stack's original name."""
    return next(iter(state.ids("Tag")), f"pds-{stack}")


def firewall_gaps(stack: str, state: State, account: DigitalOceanAccount) -> list[FirewallGap]:
    """Return all differences; empty if there is no droplet to cover. Raises DigitalOceanError."""
    gaps = (gap for cover in _covers(stack, state) for gap in _gaps(stack, cover, account))
    return list(dict.fromkeys(gaps))  # of another firewall once, however many droplets it covers


def _covers(stack: str, state: State) -> Iterator[_Cover]:
    droplet, firewall = state.named(DROPLET), state.named(FIREWALL)
    if droplet and firewall:
        yield _Cover(firewall=firewall, tag=tag_of(stack, state), droplets=(droplet,))
    for role in ("server", "worker"):
        firewall, tag = state.named(f"{CLUSTER_NETWORK}-{role}-firewall"), state.named(f"{CLUSTER_NETWORK}-{role}-tag")
        numbered = re.compile(rf"{re.escape(CLUSTER_DROPLETS)}-{role}-[0-9]+")
        droplets = tuple(item for item in state.of("Droplet") if numbered.fullmatch(item.name))
        if firewall and tag and droplets:
            yield _Cover(firewall=firewall, tag=tag.id, droplets=droplets, is_cluster=True)


def _gaps(stack: str, cover: _Cover, account: DigitalOceanAccount) -> Iterator[FirewallGap]:
    found = [account.get(f"droplets/{item.id}") for item in cover.droplets]
    droplets = [item for item in found if item is not None]
    if not droplets:
        return
    present = account.get(f"firewalls/{cover.firewall.id}")
    if present is None:
        of = f"droplet {', '.join(str(item['id']) for item in droplets)}"
        text = f"firewall {cover.firewall.id} is gone: every port of {of} is open to everyone."
        yield FirewallGap(text=text, targets=(cover.firewall.name,))
        return
    others = [item for item in account.list_all("firewalls") if item["id"] != present["id"]]
    temporary = {item["id"] for item in temporary_firewalls(account, stack, cover.tag)}
    for droplet in droplets:
        yield from _cover(present, droplet, cover)
        yield from _others(others, present, droplet, temporary)
    yield from _rules(present, cover.firewall)
    yield from _shared_tag(account.list_all("droplets", tag_name=cover.tag), {i["id"] for i in droplets}, cover.tag)


def covers(firewall: Json, droplet: Json) -> bool:
    """Return whether it applies to the droplet, by its tags or its id."""
    return bool(set(firewall["tags"] or ()) & set(droplet["tags"])) or droplet["id"] in (firewall["droplet_ids"] or ())


def _cover(firewall: Json, droplet: Json, cover: _Cover) -> Iterator[FirewallGap]:
    tag = cover.tag
    if not covers(firewall, droplet):
        lacks = " and ".join(
            name
            for name, item in ((f"droplet {droplet['id']}", droplet), ("the firewall", firewall))
            if tag not in (item["tags"] or ())
        )
        yield FirewallGap(
            text=f"no firewall of this stack covers droplet {droplet['id']}: {lacks} lacks the tag {tag}. "
            f"{_open(droplet, cover)}",
            targets=(cover.firewall.name,) if cover.is_cluster else (DROPLET, FIREWALL),
        )
    elif firewall["status"] == "failed":
        yield FirewallGap(
            text=f"DigitalOcean could not apply firewall {firewall['name']}.", targets=(cover.firewall.name,)
        )


def _open(droplet: Json, cover: _Cover) -> str:
    if not cover.is_cluster:
        return "SSH and Nomad's endpoint are open to everyone."
    has_tag = cover.tag in (droplet["tags"] or ())
    remedy = "" if has_tag else f" `doctl compute droplet tag {droplet['id']} --tag-name {cover.tag}`"
    return f"Its ports are open to everyone.{remedy}"


def _rules(present: Json, resource: Resource) -> Iterator[FirewallGap]:
    for way, key, peers in (("in", "inbound_rules", "sources"), ("out", "outbound_rules", "destinations")):
        recorded = resource.outputs.get(f"{way}boundRules")
        if recorded is None:
            continue  # an older state, or one that was never refreshed
        expected, actual = {_wanted(rule) for rule in recorded}, {_real(rule, peers) for rule in present[key] or ()}
        for rule in sorted(actual - expected, key=str):
            yield FirewallGap(
                text=f"its firewall lets {_shown(rule, way)}, which the stack does not declare.",
                targets=(resource.name,),
            )
        for rule in sorted(expected - actual, key=str):
            yield FirewallGap(text=f"its firewall no longer lets {_shown(rule, way)}.", targets=(resource.name,))


def _wanted(rule: Mapping[str, Any]) -> Rule:
    addresses = rule.get("sourceAddresses") or rule.get("destinationAddresses") or ()
    tags = {f"tags {item}" for item in rule.get("sourceTags") or ()}
    return rule["protocol"], _ports(rule.get("portRange")), frozenset(addresses) | tags


def _real(rule: Json, peers: str) -> Rule:
    # The program names no droplets and load balancers; a rule that does is another rule.
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


def _shared_tag(tagged: list[Json], own: Collection[int], tag: str) -> Iterator[FirewallGap]:
    for item in tagged:
        if item["id"] not in own:
            yield FirewallGap(
                text=f"droplet {item['id']} ({item['name']}) has the tag {tag}, too. If it belongs to another "
                "stack, destroying that stack deletes the tag, and this stack's droplets lose their firewall. Rename "
                "that stack before its first `up` (`pulumi stack rename`), or remove the tag from the other droplet."
            )
