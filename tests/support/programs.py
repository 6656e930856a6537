"""Evaluations of the real program for the dev stack's options with the changes of a test."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from components.settings.parse import read
from components.settings.sections.settings import Settings
from offline.mock_engine import Evaluation, SecretSource, evaluate, fixed_secret
from offline.stackfile import read_stack

SOURCES = ("components", "offline", "policy", "cli", "tools")
"""The folders of the project's own code, beside `tests`."""

_HOLD_SECRETS = ("mail", "s3", "secrets", "ingress", "pds", "alerts", "backup", "blobs", "metrics", "on")
"""Sections that may contain a secret; the engine marks a whole top-level key as secret."""

ALERTS = {
    "email": ["owner@bench.test"],
    "slack": {"channel": "#alerts", "url": "https://hooks.slack.com/services/T1234567/AAAAAAAA/ZZZZZZ"},
    "ping_url": "https://hc-ping.com/5bf66975-d4c7-4bf5-bcc8-b8d8a82ea278",
}
"""Alerts of every kind; two of the values are secret."""

BACKUP = {"access_key_id": "DO00OWNERS", "secret_access_key": "owners+secret/of=Spaces"}
"""The minimum of a stack file for backups."""

BLOBS = {"bucket": "club-blobs"} | {name: f"{value}-blobs" for name, value in BACKUP.items()}
"""The minimum of a stack file for blobs in a bucket, without backups."""


CLUB: dict[str, Any] = {
    "members": [
        {"handle": "kexpfan.noted.at", "email": "fan@club.org", "email_verified": True},
        {"handle": "ann.her-domain.org", "email": "ann@her-domain.org"},
        {"handle": "info.noted.at", "email": "info@club.org", "reserved": True},
    ],
    "invites": {"count": 2, "uses": 3},
    "takedown": ["mallory.noted.at"],
    "delete": {"eve.noted.at": "did:plc:qo2urk437ss36eyefp5jgoyw"},
}
"""The options of a stack with members, beside the dev stack's: a handle under the hostname, one of the
member's own domain, a reserved one, and every other option about accounts."""


CLUBS: dict[str, Any] = {
    "clubs": {"chess": {"port": 3101}, "rooks": {"port": 3102, "disk_gib": 9}},
    "host": {"size": "s-2vcpu-4gb"},
}
"""The options of a host that grants places to two clubs."""

ON_A_HOST: dict[str, Any] = {
    "hostname": "pds.chess-club.org",
    "dns": {"provider": "manual"},
    "on": "dev",
    "pds": {"port": 3101},
}
"""The options of the club `chess` on that host."""

CLUSTER: dict[str, Any] = {
    "operators": {"cidrs": ["203.0.113.7/32"], "ssh_keys": ["laptop"]},
    "cluster": {
        "hosts": {"a": {}, "b": {"volume_gib": 60}},
        "takeover": {
            "token": "dop_v1_cluster-takeover",
            "notify_url": "https://hooks.slack.com/services/T1/B1/X1",
            "ping_url": "https://hc-ping.com/0c6d3c5b-6f0e-4b53-9d5e-1b9a4de0f7a2",
        },
        "snapshots": {**BACKUP, "ping_url": "https://hc-ping.com/ae1f2b6c-5d1c-4a0b-8f0e-2f6f0d8f7c11"},
    },
    "ingress": {"kind": "caddy"},
    "clubs": {"chess": {"host": "a", "port": 3101}, "rooks": {"host": "b", "port": 3101}},
}
"""The options of a cluster with two hosts, and a club on each, on the same port."""

EXISTING: dict[str, Any] = {
    "on": {
        "nomad_address": "https://nomad.my-club.org:4646",
        "nomad_token": "f0e1d2c3-b4a5-9687-7869-5a4b3c2d1e0f",
        "ipv4": "203.0.113.99",
    },
    "operators": None,
}
"""The options, in addition to the dev stack's, of a stack whose PDS runs in an existing Nomad."""


def document(**changes: Any) -> dict[str, Any]:
    """The dev stack's options with `changes` applied: a map is merged with the section, anything else replaces it, and
    None removes it."""
    options: dict[str, Any] = {}
    for key, text in read_stack("dev").values.items():
        options[key.removeprefix("pds:")] = json.loads(text) if text[:1] in "{[" else text
    for key, value in changes.items():
        old = options.get(key)
        options[key] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return {key: value for key, value in options.items() if value is not None}


def settings_of(**changes: Any) -> Settings:
    """The settings of the dev stack with `changes`."""
    return read(document(**changes), "Pulumi.dev.yaml", "dev")


def run(
    *,
    stack: str = "dev",
    preview: bool = False,
    secret: SecretSource = fixed_secret,
    others: Mapping[str, Evaluation] | None = None,
    program: Callable[[], object] | None = None,
    **changes: Any,
) -> Evaluation:
    """`__main__.py` (or `program`), evaluated for the dev stack with `changes`; secrets count as encrypted."""
    config = {
        f"pds:{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in document(**changes).items()
    }
    secret_keys = frozenset(f"pds:{key}" for key in _HOLD_SECRETS if key in changes)
    return evaluate(
        stack, config, secret_keys=secret_keys, preview=preview, secret=secret, others=others, program=program
    )


@cache
def cluster() -> Evaluation:
    """The program, evaluated for a cluster called fleet."""
    config = {f"pds:{key}": json.dumps(value) for key, value in CLUSTER.items()}
    return evaluate("fleet", config, secret_keys=frozenset({"pds:cluster"}))


@cache
def _host() -> Evaluation:
    """The host of `shared`, evaluated once."""
    return run(**CLUBS)


def shared(
    *, stack: str = "chess", preview: bool = False, host: Evaluation | None = None, **changes: Any
) -> Evaluation:
    """The program, evaluated for a stack on the host of `dev`, or of its `on`; secrets count as encrypted."""
    config = {
        f"pds:{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in {**ON_A_HOST, **changes}.items()
    }
    others = {str(changes.get("on", "dev")): host or _host()}
    secret_keys = frozenset(f"pds:{key}" for key in _HOLD_SECRETS if key in changes)
    return evaluate(stack, config, secret_keys=secret_keys, preview=preview, others=others)
