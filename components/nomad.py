"""The connection to Nomad: certificates, ACL bootstrap, provider, and a token of limited rights.

Nomad's API listens on the host's loopback; an endpoint that requires a client certificate serves it to operators. This
module does not define what runs in Nomad.
"""

from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean
import pulumi_nomad as nomad
import pulumi_tls as tls

from components.entropy import as_secret, hex_secret
from components.facts import Bootstrap
from components.render.policies import ANONYMOUS, PROGRAM
from components.settings.settings import Settings
from components.target import NomadTarget

PROGRAM_TOKEN = "pds-program"  # noqa: S105 (a name)
"""Name of the program's own ACL token and of its policy."""

_TWENTY_YEARS = 20 * 365 * 24  # hours
_ONE_YEAR = 365 * 24
_TWO_MONTHS = 60 * 24


@dataclass(frozen=True, kw_only=True)
class CertificatesArgs:
    """Arguments of `NomadCertificates`: the address of the endpoint."""

    ipv4: pulumi.Output[str]


class NomadCertificates(pulumi.ComponentResource):
    """A private CA for one endpoint and one client.

    CA and server certificate live twenty years without early renewal: the server's is in cloud-init, and a renewed one
    would require a rebuilt host. `up` renews the client's two months before its year is over.
    """

    ca_pem: pulumi.Output[str]
    server_cert_pem: pulumi.Output[str]
    server_key_pem: pulumi.Output[str]
    client_cert_pem: pulumi.Output[str]
    client_key_pem: pulumi.Output[str]
    ca_key_pem: pulumi.Output[str]

    def __init__(self, name: str, args: CertificatesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:NomadCertificates", name, None, opts)
        kept = pulumi.ResourceOptions(parent=self, protect=True)
        child = pulumi.ResourceOptions(parent=self)

        ca_key = tls.PrivateKey(f"{name}-ca-key", algorithm="ECDSA", ecdsa_curve="P256", opts=kept)
        ca = tls.SelfSignedCert(
            f"{name}-ca",
            private_key_pem=ca_key.private_key_pem,
            subject=tls.SelfSignedCertSubjectArgs(common_name="PDS operators"),
            is_ca_certificate=True,
            validity_period_hours=_TWENTY_YEARS,
            allowed_uses=["cert_signing", "crl_signing"],
            opts=kept,
        )
        server_key = tls.PrivateKey(f"{name}-server-key", algorithm="ECDSA", ecdsa_curve="P256", opts=kept)
        server_request = tls.CertRequest(
            f"{name}-server-request",
            private_key_pem=server_key.private_key_pem,
            subject=tls.CertRequestSubjectArgs(common_name="nomad endpoint"),
            ip_addresses=[args.ipv4],
            opts=child,
        )
        server = tls.LocallySignedCert(
            f"{name}-server",
            cert_request_pem=server_request.cert_request_pem,
            ca_private_key_pem=ca_key.private_key_pem,
            ca_cert_pem=ca.cert_pem,
            validity_period_hours=_TWENTY_YEARS,
            allowed_uses=["digital_signature", "server_auth"],
            opts=child,
        )
        client_key = tls.PrivateKey(f"{name}-client-key", algorithm="ECDSA", ecdsa_curve="P256", opts=child)
        client_request = tls.CertRequest(
            f"{name}-client-request",
            private_key_pem=client_key.private_key_pem,
            subject=tls.CertRequestSubjectArgs(common_name="operator"),
            opts=child,
        )
        client = tls.LocallySignedCert(
            f"{name}-client",
            cert_request_pem=client_request.cert_request_pem,
            ca_private_key_pem=ca_key.private_key_pem,
            ca_cert_pem=ca.cert_pem,
            validity_period_hours=_ONE_YEAR,
            early_renewal_hours=_TWO_MONTHS,
            allowed_uses=["digital_signature", "client_auth"],
            opts=child,
        )
        self.ca_pem, self.ca_key_pem = ca.cert_pem, ca_key.private_key_pem
        self.server_cert_pem, self.server_key_pem = server.cert_pem, server_key.private_key_pem
        self.client_cert_pem, self.client_key_pem = client.cert_pem, client_key.private_key_pem
        self.register_outputs({"ca_pem": self.ca_pem})


@dataclass(frozen=True, kw_only=True)
class NomadArgs:
    """Arguments of `NomadAccess`: Nomad's address, our credentials, and the resources that it depends on."""

    settings: Settings
    ipv4: pulumi.Output[str]
    port: int
    ca_pem: pulumi.Output[str]
    client_cert_pem: pulumi.Output[str]
    client_key_pem: pulumi.Output[str]
    droplet: digitalocean.Droplet
    volume: digitalocean.Volume
    firewall: digitalocean.Firewall
    assignment: digitalocean.ReservedIpAssignment


class NomadAccess(pulumi.ComponentResource):
    """A bootstrapped Nomad: its policies and tokens, and the providers for resources in it."""

    address: pulumi.Output[str]
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
        made = hex_secret(f"{name}-management-token", 32, self).apply(_as_uuid)
        given = args.settings.secrets.nomad_management_token
        self.management_token = pulumi.Output.secret(given.get_secret_value() if given else made)
        bootstrap = Bootstrap(
            f"{name}-bootstrap",
            {
                "address": args.ipv4.apply(lambda ip: f"https://{ip}:{args.port}"),
                "ca_pem": args.ca_pem,
                "cert_pem": args.client_cert_pem,
                "key_pem": as_secret(args.client_key_pem),
                "token": self.management_token,
                "droplet_id": args.droplet.id,
                "volume_id": args.volume.id,
            },
            # The firewall must allow a changed operator address before anything connects to Nomad.
            pulumi.ResourceOptions(parent=self, depends_on=[args.firewall, args.assignment]),
        )
        self.address = bootstrap.address
        self.admin = self._target(f"{name}-admin", args, bootstrap, self.management_token)

        anonymous = nomad.AclPolicy(
            f"{name}-anonymous",
            name="anonymous",
            description="What the ingress on this host sees without a token: services, and jobs that hold no secret.",
            rules_hcl=ANONYMOUS,
            opts=self.admin.options(self),
        )
        policy = nomad.AclPolicy(
            f"{name}-policy",
            name=PROGRAM_TOKEN,
            description="What the Pulumi program does after the bootstrap.",
            rules_hcl=PROGRAM,
            opts=self.admin.options(self),
        )
        # After both policies, so that every user of the token, including the ingress, finds the anonymous policy.
        token = nomad.AclToken(
            f"{name}-token",
            name=PROGRAM_TOKEN,
            type="client",
            policies=[policy.name],
            opts=self.admin.options(self, left=True, depends_on=[anonymous]),  # `Ready` deletes others of this name
        )
        # Not by the property: it warns at each run, recommending an ephemeral resource that Pulumi does not have.
        self.token, self.accessor_id = as_secret(pulumi.get(token, "secret_id")), token.accessor_id
        self.target = self._target(f"{name}-provider", args, bootstrap, self.token)
        self.register_outputs({"address": self.address})

    def _target(self, name: str, args: NomadArgs, bootstrap: Bootstrap, token: pulumi.Output[str]) -> NomadTarget:
        provider = nomad.Provider(
            name,
            address=bootstrap.address,
            region=args.settings.nomad.region,
            ca_pem=args.ca_pem,
            cert_pem=args.client_cert_pem,
            key_pem=as_secret(args.client_key_pem),
            secret_id=token,
            # The operator's own shell may name another Nomad.
            ignore_env_vars={"NOMAD_NAMESPACE": True, "NOMAD_REGION": True},
            opts=pulumi.ResourceOptions(parent=self),
        )
        return NomadTarget(provider=provider, cluster_id=bootstrap.cluster_id, droplet=args.droplet)


def _as_uuid(digits: str) -> str:
    """Nomad accepts a bootstrap token only in a UUID's form."""
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
