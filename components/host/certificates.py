"""The private CA of the endpoint in front of Nomad, with one server and one client certificate."""

from dataclasses import dataclass

import pulumi
import pulumi_tls as tls

_TWENTY_YEARS = 20 * 365 * 24  # hours
_ONE_YEAR = 365 * 24
_TWO_MONTHS = 60 * 24


@dataclass(frozen=True, kw_only=True)
class CertificatesArgs:
    """Arguments of `NomadCertificates`: the endpoint's address, and the region of a cluster's servers."""

    ipv4: pulumi.Output[str]
    region: str | None = None
    """Nomad's region: servers and workers then prove themselves to each other with certificates of this CA, too."""


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
            dns_names=[f"server.{args.region}.nomad"] if args.region else None,
            opts=child,
        )
        server = tls.LocallySignedCert(
            f"{name}-server",
            cert_request_pem=server_request.cert_request_pem,
            ca_private_key_pem=ca_key.private_key_pem,
            ca_cert_pem=ca.cert_pem,
            validity_period_hours=_TWENTY_YEARS,
            # A server of Nomad is a client of the others.
            allowed_uses=["digital_signature", "server_auth", *(["client_auth"] if args.region else [])],
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
        self._ca = (ca_key, ca)
        self.ca_pem, self.ca_key_pem = ca.cert_pem, ca_key.private_key_pem
        self.server_cert_pem, self.server_key_pem = server.cert_pem, server_key.private_key_pem
        self.client_cert_pem, self.client_key_pem = client.cert_pem, client_key.private_key_pem
        self.register_outputs({"ca_pem": self.ca_pem})

    def worker(self, name: str, region: str) -> tuple[pulumi.Output[str], pulumi.Output[str]]:
        """Certificate and key of a cluster's workers, for as long as those of the servers: both are in user_data."""
        key, ca = self._ca
        opts = pulumi.ResourceOptions(parent=self)
        own = tls.PrivateKey(
            f"{name}-key",
            algorithm="ECDSA",
            ecdsa_curve="P256",
            opts=pulumi.ResourceOptions(parent=self, protect=True),
        )
        request = tls.CertRequest(
            f"{name}-request",
            private_key_pem=own.private_key_pem,
            subject=tls.CertRequestSubjectArgs(common_name="worker"),
            dns_names=[f"client.{region}.nomad"],
            opts=opts,
        )
        signed = tls.LocallySignedCert(
            name,
            cert_request_pem=request.cert_request_pem,
            ca_private_key_pem=key.private_key_pem,
            ca_cert_pem=ca.cert_pem,
            validity_period_hours=_TWENTY_YEARS,
            allowed_uses=["digital_signature", "client_auth"],
            opts=opts,
        )
        return signed.cert_pem, own.private_key_pem
