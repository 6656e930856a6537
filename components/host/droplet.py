"""The droplet, the assignment of its reserved IP, and its project."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean

from components.host.certificates import NomadCertificates
from components.host.network import HostNetwork
from components.render.host.cloud_init import Certificates, user_data
from components.secret_values import as_secret
from components.settings.fields.types import is_fingerprint
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class DropletArgs:
    """Arguments of `host_droplet`. The certificates are for its Nomad endpoint; only the server's key is secret."""

    settings: Settings
    stack: str
    network: HostNetwork
    volume: digitalocean.Volume
    certificates: NomadCertificates


def host_droplet(name: str, args: DropletArgs, parent: pulumi.Resource) -> digitalocean.Droplet:
    """The droplet. Raising `host.generation` rebuilds it; nothing else does."""
    host, operators = args.settings.host, args.settings.operators
    assert operators, "only a PDS on another host has none"
    certificates = args.certificates
    rendered = pulumi.Output.all(certificates.ca_pem, certificates.server_cert_pem, certificates.server_key_pem).apply(
        lambda pems: user_data(args.settings, args.stack, Certificates(*pems))
    )
    return digitalocean.Droplet(
        name,
        name=f"pds-{args.stack}",
        image=host.image,
        size=host.size,
        region=host.region,
        resize_disk=False,  # a larger disk could never shrink again; the data are on the volume
        vpc_uuid=args.network.vpc_uuid,
        ssh_keys=[account_key_id(key) for key in operators.account_keys],
        tags=[args.network.tag, *_account_tags(host.tags)],
        volume_ids=[args.volume.id],
        user_data=as_secret(rendered),
        monitoring=True,
        droplet_agent=False,
        graceful_shutdown=True,
        ipv6=False,
        opts=pulumi.ResourceOptions(
            parent=parent,
            depends_on=[args.network.firewall],
            # A volume attaches to one droplet, and text edits must not rebuild a machine with people's data on it.
            delete_before_replace=True,
            replacement_trigger=host.generation,
            ignore_changes=["userData", "sshKeys", "image"],
            # The provider's own delete waits 60 s, less than a PDS may take to stop cleanly.
            custom_timeouts=pulumi.CustomTimeouts(create="20m", delete="10m"),
        ),
    )


def assign_address(
    name: str, reserved_ip: digitalocean.ReservedIp, droplet: digitalocean.Droplet, parent: pulumi.Resource
) -> digitalocean.ReservedIpAssignment:
    """The assignment of the reserved IP to the droplet."""
    return digitalocean.ReservedIpAssignment(
        name,
        ip_address=reserved_ip.ip_address,
        droplet_id=droplet.id.apply(int),
        # DigitalOcean ends the assignment with its droplet. The provider's delete crashes if the droplet is gone, as it
        # is after an interrupted rebuild (resource_reserved_ip_assignment.go).
        opts=pulumi.ResourceOptions(parent=parent, delete_before_replace=True, retain_on_delete=True),
    )


def add_to_project(name: str, project: str, droplet: digitalocean.Droplet, parent: pulumi.Resource) -> None:
    """A DigitalOcean project of this name, with the droplet in it."""
    child = pulumi.ResourceOptions(parent=parent)
    created = digitalocean.Project(name, name=project, purpose="Web Application", environment="Production", opts=child)
    digitalocean.ProjectResources(
        f"{name}-resources",
        project=created.id,
        # Volume and address are in their droplet's project, and move with it. An address alone cannot be moved (412),
        # and it is listed under another URN than it was assigned by, so that each refresh would find a difference
        # (digitalocean/terraform-provider-digitalocean#1264).
        resources=[droplet.droplet_urn],
        opts=child,
    )


_NETWORK_ERRORS = ("no such host", "connection refused", "i/o timeout", "network is unreachable", "deadline exceeded")
"""Texts of Go's net package in the provider's error, if there was no answer."""


def account_key_id(key: str) -> pulumi.Output[str]:
    """The fingerprint of a key of the account, which the Droplet takes. Looked up by name or fingerprint.

    DigitalOcean would refuse an unknown fingerprint only with the droplet, after volume and address exist (422
    "invalid key identifiers").
    """
    try:
        # Not by an Output, whose failure would end in a traceback. This is the first query to the account, so it
        # detects a missing token.
        if not is_fingerprint(key):
            return pulumi.Output.from_input(digitalocean.get_ssh_key(name=key).fingerprint)
        wanted = digitalocean.GetSshKeysFilterArgs(key="fingerprint", values=[key])
        if not digitalocean.get_ssh_keys(filters=[wanted]).ssh_keys:
            raise LookupError("no key of the account has this fingerprint")
        return pulumi.Output.from_input(key)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        if any(text in reason for text in _NETWORK_ERRORS):
            raise pulumi.RunError(
                f"pds:operators.ssh_keys: DigitalOcean cannot be reached to look up the key '{key}' ({reason[:300]}). "
                "Check this machine's network, then run the command again."
            ) from None
        raise pulumi.RunError(
            f"pds:operators.ssh_keys: DigitalOcean returns no key '{key}' ({reason[:300]}). Set DIGITALOCEAN_TOKEN, or "
            "run `pulumi config set --secret digitalocean:token`. `doctl compute ssh-key list` lists your keys."
        ) from None


def _account_tags(tags: Sequence[str]) -> list[str]:
    """The tags in the capitals that the account has them in.

    A tag keeps the capitals of its first use, whatever later uses write (digitalocean/openapi, tags/models/tags.yml).
    With others, each `up` would take the tag off the droplet and add it again under its old name.
    """
    if not tags:
        return []
    try:
        names = [item.name for item in digitalocean.get_tags().tags]
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise pulumi.RunError(
            f"pds:host.tags: DigitalOcean does not list the account's tags ({why[:300]}). Set DIGITALOCEAN_TOKEN, and "
            "give the token the scope tag:read."
        ) from None
    canonical = {name.casefold(): name for name in names}
    return [canonical.get(tag.casefold(), tag) for tag in tags]
