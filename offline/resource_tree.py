"""The desired resources of an evaluation as a tree on the terminal."""

import sys

from rich.text import Text
from rich.tree import Tree

from offline.mock_engine import Evaluation, Recorded

_SHOWN_INPUTS = {
    "Firewall": ("inboundRules",),
    "Droplet": ("size", "region", "image"),
    "Volume": ("name", "size", "region"),
    "ReservedIp": ("region",),
    "SpacesBucket": ("name", "region"),
    "SpacesKey": ("name",),
    "DnsRecord": ("type", "name", "ttl"),
    "Domain": ("name",),
    "ClubNamespace": ("club", "disk_gib"),
    "Variable": ("path",),
    "AclPolicy": ("name",),
    "AclToken": ("policies",),
    "RandomPassword": ("length",),
    "LocallySignedCert": ("validityPeriodHours",),
    "SelfSignedCert": ("validityPeriodHours",),
    "StackIdentity": ("hostname", "region", "volume"),
    "HostInUse": ("clubs",),
    "DnsReady": ("hostname", "wait"),
    "UptimeCheck": ("target",),
    "UptimeAlert": ("type", "threshold"),
    "MonitorAlert": ("description",),
    "Vpc": ("ipRange",),
    "Project": ("name",),
}


def resource_tree(evaluation: Evaluation) -> Tree:
    """Return the resource tree with the relevant inputs, and marks for protected, retained or secret ones."""
    root = Tree(Text(f"pulumi:pulumi:Stack pds-{evaluation.stack}"))
    branches = {item.urn: Tree(_line(item)) for item in evaluation.resources}
    for item in sorted(enumerate(evaluation.resources), key=_order):
        branches.get(item[1].parent, root).children.append(branches[item[1].urn])
    return root


def _order(numbered: tuple[int, Recorded]) -> tuple[int, str, str]:
    """Components in the order in which the program creates them, then their other resources by type and name."""
    number, item = numbered
    return (number if item.type.startswith("pds:index:") else sys.maxsize, item.type, item.name)


def _line(item: Recorded) -> Text:
    kind = "Provider" if item.type.startswith("pulumi:providers:") else item.type.rpartition(":")[2]
    text = Text.assemble((kind, "bold"), " ", item.name)
    inputs = [f"{key}={_short(item.inputs[key])}" for key in _SHOWN_INPUTS.get(kind, ()) if item.inputs.get(key)]
    if inputs:
        text.append("  " + " ".join(inputs), "dim")
    if item.protected:
        text.append("  protected", "green")
    if item.options.get("retainOnDelete"):
        text.append("  retained", "green")
    if item.secret_inputs:
        text.append(f"  secret: {', '.join(sorted(item.secret_inputs))}", "magenta")
    return text


def _short(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return ",".join(
            f"{rule.get('portRange')}({'all' if '0.0.0.0/0' in rule.get('sourceAddresses', []) else 'operators'})"
            for rule in value
        )
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
