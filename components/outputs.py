"""All stack outputs, and the secret output `escrow`, which holds everything needed to rebuild a PDS elsewhere."""

import hashlib
from dataclasses import dataclass

import pulumi

from components.connection import HostConnection
from components.dynamic.resources import DnsReady, ServerReady
from components.edge.dns import Dns
from components.edge.ingress import IngressParts
from components.operations.operations import OperationParts
from components.people.people import People
from components.render.jobs.registry import requested_jobs
from components.secret_values import as_secret
from components.server.secrets import PdsSecrets
from components.settings.checks.pds_env import env_file, plain_environment
from components.settings.sections.settings import Settings

Outputs = dict[str, pulumi.Input[object]]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a PDS that have outputs; None for an optional part that the stack file does not ask for."""

    settings: Settings
    stack: str
    host: HostConnection
    secrets: PdsSecrets
    dns: Dns
    dns_ready: DnsReady
    ingress: IngressParts
    ready: ServerReady
    operations: OperationParts
    people: People


def outputs(parts: Parts) -> Outputs:
    """The stack's exports, by name (docs/outputs.md)."""
    settings, secrets, people = parts.settings, parts.secrets, parts.people
    members = people.members.values()
    exports: Outputs = {
        "url": f"https://{settings.hostname}",
        "state": parts.ready.state,
        "ipv4": parts.host.ipv4,
        "package_version": settings.pds.package_version,
        "records": pulumi.Output.all(parts.dns.records, *(member.records for member in members)).apply(
            lambda tables: [record for table in tables for record in table]
        ),
        "resolves": parts.dns_ready.state,
        "admin_password": secrets.admin_password,
        "pds_env": secrets.items.apply(lambda items: env_file(plain_environment(settings) | items)),
    }
    if file := parts.ingress.file:
        exports["ingress_file"] = file.text
    if backup := parts.operations.backup:
        exports["backup_repository"] = backup.repository
    if metrics := parts.operations.metrics:
        exports["metrics_password"] = metrics.password
    exports |= parts.host.outputs
    exports["host_configuration"] = parts.ready.host_configuration
    exports["escrow"] = _escrow(parts)
    exports |= _of_people(people)
    # Digests alone: every preview and refresh would list whole files, including scripts.
    exports["files"] = {role: _digest(text) for role, text in rendered_files(parts).items()}
    return exports


def rendered_files(parts: Parts) -> dict[str, str]:
    """The rendered jobs and the ingress's file, by role. `make preview` writes them to `build/STACK`."""
    files = {f"{job.role}_job": job.render(parts.settings, parts.stack) for job in requested_jobs(parts.settings)}
    return files | ({"ingress_file": parts.ingress.file.text} if parts.ingress.file else {})


def _escrow(parts: Parts) -> pulumi.Output[dict[str, object]]:
    values: Outputs = {
        "hostname": parts.settings.hostname,
        "stack": parts.stack,
        "package_version": parts.settings.pds.package_version,
        "environment": plain_environment(parts.settings),
        "secrets": parts.secrets.items,
        "ipv4": parts.host.ipv4,
        **parts.host.escrow,
    }
    if backup := parts.operations.backup:
        address = backup.repository
        values["backup"] = backup.items.apply(lambda items: items | {"RESTIC_REPOSITORY": address})
    return as_secret(pulumi.Output.all(**values))


def _of_people(people: People) -> Outputs:
    exports: Outputs = {}
    if people.members:
        exports["members"] = pulumi.Output.all(
            **{
                handle: pulumi.Output.all(
                    did=member.did,
                    handle=member.live_handle,
                    account=member.account_state,
                    handle_state=member.handle_state,
                )
                for handle, member in people.members.items()
            }
        )
        exports["member_passwords"] = as_secret(
            pulumi.Output.all(**{handle: member.initial_password for handle, member in people.members.items()})
        )
    if people.invites:
        exports["invite_codes"] = as_secret(people.invites.codes)
    return exports


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
