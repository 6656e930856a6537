"""The connection to Nomad: certificates, ACL bootstrap, provider, and a token of limited rights.

Nomad's API listens on the host's loopback; an endpoint that requires a client certificate serves it to operators. This
module does not define what runs in Nomad.
"""

from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean
import pulumi_nomad as nomad

from components.dynamic.resources import Bootstrap
from components.host.certificates import NomadCertificates
from components.nomad_target import NomadTarget
from components.render.acl_policies import ANONYMOUS, CLUSTER, PROGRAM
from components.secret_values import as_secret, random_hex
from components.settings.sections import NOMAD_PORT
from components.settings.sections.settings import Settings

PROGRAM_TOKEN = "pds-program"  # noqa: S105 (a name)
"""Name of the program's own ACL token and of its policy."""


@dataclass(frozen=True, kw_only=True)
class NomadArgs:
    """Arguments of `NomadAccess`: Nomad's address, the program's credentials, and the resources it depends on."""

    settings: Settings
    ipv4: pulumi.Output[str]
    certificates: NomadCertificates
    droplet: digitalocean.Droplet
    volume: digitalocean.Volume | None
    """None for a cluster, whose servers have none."""
    firewall: digitalocean.Firewall
    assignment: digitalocean.ReservedIpAssignment


class NomadAccess(pulumi.ComponentResource):
    """A bootstrapped Nomad: its policies and tokens, and the providers for resources in it."""

    address: pulumi.Output[str]
    api: dict[str, pulumi.Input[str]]
    """Connection with `token`, as inputs of the dynamic resources."""
    management_token: pulumi.Output[str]
    """For emergencies. The program itself uses `token`."""
    token: pulumi.Output[str]
    accessor_id: pulumi.Output[str]
    """Of `token`."""
    target: NomadTarget
    admin: NomadTarget
    """With the management token, for ACL resources only."""

    def __init__(self, name: str, args: NomadArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:NomadAccess", name, None, opts)
        generated = random_hex(f"{name}-management-token", 32, self).apply(_as_uuid)
        adopted = args.settings.secrets.nomad_management_token
        self.management_token = pulumi.Output.secret(adopted.get_secret_value() if adopted else generated)
        bootstrap = Bootstrap(
            f"{name}-bootstrap",
            {
                "address": args.ipv4.apply(lambda ip: f"https://{ip}:{NOMAD_PORT}"),
                "ca_pem": args.certificates.ca_pem,
                "cert_pem": args.certificates.client_cert_pem,
                "key_pem": as_secret(args.certificates.client_key_pem),
                "token": self.management_token,
                "droplet_id": args.droplet.id,
                "volume_id": args.volume.id if args.volume else "",
            },
            # The firewall must allow a changed operator address before anything connects to Nomad.
            pulumi.ResourceOptions(parent=self, depends_on=[args.firewall, args.assignment]),
        )
        self.address = bootstrap.address
        self.admin = self._target(f"{name}-admin", args, bootstrap, self.management_token)

        anonymous = nomad.AclPolicy(
            f"{name}-anonymous",
            name="anonymous",
            description="Rights of the ingress, which has no token: it reads services, and jobs, which hold no secret.",
            rules_hcl=ANONYMOUS,
            opts=self.admin.options(self),
        )
        policy = nomad.AclPolicy(
            f"{name}-policy",
            name=PROGRAM_TOKEN,
            description="Rights of the Pulumi program after the bootstrap.",
            rules_hcl=PROGRAM + (CLUSTER if args.settings.cluster else ""),
            opts=self.admin.options(self),
        )
        # After both policies, so that every user of the token, including the ingress, finds the anonymous policy.
        token = nomad.AclToken(
            f"{name}-token",
            name=PROGRAM_TOKEN,
            type="client",
            policies=[policy.name],
            # `ServerReady` deletes other tokens of this name.
            opts=self.admin.options(self, retained=True, depends_on=[anonymous]),
        )
        # Not by the property, which warns at each run and recommends an ephemeral resource that Pulumi does not have.
        self.token, self.accessor_id = as_secret(pulumi.get(token, "secret_id")), token.accessor_id
        self.api = {
            "address": self.address,
            "ca_pem": args.certificates.ca_pem,
            "cert_pem": args.certificates.client_cert_pem,
            "key_pem": as_secret(args.certificates.client_key_pem),
            "token": self.token,
        }
        self.target = self._target(f"{name}-provider", args, bootstrap, self.token)
        self.register_outputs({"address": self.address})

    def _target(self, name: str, args: NomadArgs, bootstrap: Bootstrap, token: pulumi.Output[str]) -> NomadTarget:
        provider = nomad.Provider(
            name,
            address=bootstrap.address,
            region=args.settings.nomad.region,
            ca_pem=args.certificates.ca_pem,
            cert_pem=args.certificates.client_cert_pem,
            key_pem=as_secret(args.certificates.client_key_pem),
            secret_id=token,
            # The operator's own shell may name another Nomad.
            ignore_env_vars={"NOMAD_NAMESPACE": True, "NOMAD_REGION": True},
            opts=pulumi.ResourceOptions(parent=self),
        )
        return NomadTarget(provider=provider, cluster_id=bootstrap.cluster_id, droplet=args.droplet)


def _as_uuid(digits: str) -> str:
    """Nomad accepts a bootstrap token only in a UUID's form."""
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
