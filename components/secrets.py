"""The secrets of the PDS: generated here or given in the stack file, and passed to the host in one Nomad variable.

They never appear in a job spec, in cloud-init or in a resource's ID. `nomad.py` has Nomad's own tokens and
certificates.
"""

import hashlib
import json
from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad

from components.entropy import hex_secret
from components.render.pds_job import SECRETS_PATH
from components.settings.environment import GENERATED_SECRETS, configured_secrets
from components.settings.settings import Settings
from components.target import NomadTarget

# Hex digits: 64 for a secp256k1 key (a random number is outside [1, n-1] with probability 2^-128), 32 for the others,
# as `openssl rand --hex 16` gives.
_DIGITS = {"plc_rotation_key": 64, "jwt_secret": 32, "admin_password": 32}


@dataclass(frozen=True, kw_only=True)
class PdsSecretsArgs:
    """Arguments of `PdsSecrets`."""

    settings: Settings
    target: NomadTarget


class PdsSecrets(pulumi.ComponentResource):
    """Rotation key, session key, admin password and configured secrets, in one Nomad variable."""

    items: pulumi.Output[dict[str, str]]
    """Environment name to secret value; secret."""
    digest: pulumi.Output[str]
    """A salted digest that changes with any of them; secret."""
    variable: nomad.Variable

    def __init__(self, name: str, args: PdsSecretsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:PdsSecrets", name, None, opts)
        given = args.settings.secrets
        values: dict[str, pulumi.Input[str]] = {}
        for key, environment_name in GENERATED_SECRETS.items():
            # Created even if one is given: removing a protected resource would fail `up` half-way.
            made = hex_secret(f"{name}-{key.replace('_', '-')}", _DIGITS[key], self)
            configured = getattr(given, key)
            values[environment_name] = pulumi.Output.secret(configured.get_secret_value()) if configured else made
        values |= {key: pulumi.Output.secret(value) for key, value in configured_secrets(args.settings).items()}

        self.items = pulumi.Output.secret(pulumi.Output.all(**values))
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
