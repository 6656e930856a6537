"""The check that a PDS serves after any change of its host, job, secrets or ingress."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

from components.connection import HostConnection
from components.dynamic.resources import ServerReady
from components.render.jobs.pds import JOB, SECRETS_PATH
from components.server.secrets import PdsSecrets
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ServerReadyArgs:
    """Arguments of `server_ready`."""

    settings: Settings
    host: HostConnection
    secrets: PdsSecrets
    files: Mapping[str, str]
    """The rendered jobs and the ingress's file, by role: the check runs again if one of them changes."""
    ingress_state: pulumi.Input[str]
    """An `IngressState`."""


def server_ready(name: str, args: ServerReadyArgs, opts: pulumi.ResourceOptions) -> ServerReady:
    """Wait until the PDS answers on the host and, if its name resolves, over HTTPS."""
    settings, host = args.settings, args.host
    caddyfile = args.files["ingress_file"] if settings.ingress.kind == "caddy" else None
    return ServerReady(
        name,
        {
            **host.api,
            "management_token": host.management_token,
            "tokens": dict(host.tokens),
            "hostname": settings.hostname,
            "ip": host.ipv4,
            "ingress_state": args.ingress_state,
            "paused": settings.pds.paused,
            "job": JOB,
            # IO does not report what it reads.
            "ingress_sha256": hashlib.sha256(caddyfile.encode()).hexdigest() if caddyfile else "",
            "files_sha256": _sha256_of(list(args.files.items())),
            "secrets_path": SECRETS_PATH,
            "secrets_digest": args.secrets.digest,
            "host_id": host.host_id,
            "configuration": host.configuration,
        },
        opts,
    )


def _sha256_of(files: Sequence[tuple[str, str]]) -> str:
    return hashlib.sha256("\0".join(part for pair in files for part in pair).encode()).hexdigest()
