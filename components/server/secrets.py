"""The secrets of the PDS: generated, or configured in the stack file, and passed to the host in one Nomad variable.

They never appear in a job spec, in cloud-init or in a resource's ID. `host/nomad.py` has Nomad's own tokens and
certificates.
"""

import hashlib
import json
from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad

from components.nomad_target import NomadTarget
from components.render.jobs.pds import SECRETS_PATH
from components.secret_values import random_hex
from components.settings.checks.pds_env import GENERATED_SECRETS, configured_secrets
from components.settings.sections.settings import Settings

# Hex digits: 64 for a secp256k1 key (a random number is outside [1, n-1] with probability 2^-128), 32 for the others,
# as `openssl rand --hex 16` gives.
_DIGITS = {"plc_rotation_key": 64, "jwt_secret": 32, "admin_password": 32}


@dataclass(frozen=True, kw_only=True)
class PdsSecretsArgs:
    """Arguments of `PdsSecrets`."""

    settings: Settings
    target: NomadTarget
    blobs: pulumi.Output[dict[str, str]] | None
    """The key of the bucket for blobs, by the server's names; None without one."""


class PdsSecrets(pulumi.ComponentResource):
    """Rotation key, session key, admin password and configured secrets, in one Nomad variable."""

    items: pulumi.Output[dict[str, str]]
    """Environment name to secret value; secret."""
    admin_password: pulumi.Output[str]
    digest: pulumi.Output[str]
    """A salted digest that changes with any of the items; secret."""
    variable: nomad.Variable

    def __init__(self, name: str, args: PdsSecretsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:PdsSecrets", name, None, opts)
        configured = args.settings.secrets
        values: dict[str, pulumi.Input[str]] = {}
        for key, environment_name in GENERATED_SECRETS.items():
            # Created even if one is configured: removing a protected resource would fail `up` half-way.
            generated = random_hex(f"{name}-{key.replace('_', '-')}", _DIGITS[key], self)
            adopted = getattr(configured, key)
            values[environment_name] = pulumi.Output.secret(adopted.get_secret_value()) if adopted else generated
        values |= {key: pulumi.Output.secret(value) for key, value in configured_secrets(args.settings).items()}

        blobs = args.blobs if args.blobs is not None else pulumi.Output.from_input({})
        configured_items = pulumi.Output.all(**values)
        self.items = pulumi.Output.secret(
            pulumi.Output.all(configured_items, blobs).apply(lambda both: both[0] | both[1])
        )
        self.admin_password = self.items.apply(lambda items: items["PDS_ADMIN_PASSWORD"])
        self.variable = nomad.Variable(
            f"{name}-variable",
            namespace=args.target.namespace,
            path=SECRETS_PATH,
            items=self.items,
            opts=args.target.options(self),
        )
        # Salted with the rotation key, which every item set holds, so that the digest reveals nothing about a password.
        self.digest = self.items.apply(
            lambda items: hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()
        )
        self.register_outputs({})
