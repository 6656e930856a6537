"""The backup: a bucket that outlives all other resources, its own key, a password, and the jobs that use them.

`render/` renders the jobs. The first job's program, `render/scripts/snapshot.cjs`, decides the content of a snapshot.
"""

from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean
import pulumi_nomad as nomad

from components.nomad_target import NomadTarget
from components.operations.spaces import bucket_key, configured_keys, spaces_provider, versioned_bucket
from components.render.jobs.registry import NOMAD_JOBS
from components.render.jobs.restic import bucket_name, repository
from components.secret_values import as_secret, random_hex
from components.settings.checks.endpoints import SPACES_REGION
from components.settings.sections import BackupOptions
from components.settings.sections.settings import Settings

_JOBS = tuple(job for job in NOMAD_JOBS if job.section == "backup")
"""The jobs that need the backups' credentials; each reads them from a variable of its own."""


@dataclass(frozen=True, kw_only=True)
class BackupArgs:
    """Arguments of `Backup`: its Nomad, and the server's job, whose first start identifies the volume."""

    settings: Settings
    stack: str
    target: NomadTarget
    server: pulumi.Resource


class Backup(pulumi.ComponentResource):
    """Bucket, key, password, the periodic job, and the jobs of restore, drill and upgrade."""

    repository: str
    """restic's address of the backups."""
    items: pulumi.Output[dict[str, str]]
    """Credentials of the backups, by restic's names; secret. For the escrow file."""

    def __init__(self, name: str, args: BackupArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Backup", name, None, opts)
        section = args.settings.backup
        assert section
        # Created even if one is configured: removing a protected resource would fail `up` half-way.
        generated = random_hex(f"{name}-password", 64, self)
        password = pulumi.Output.secret(section.password.get_secret_value()) if section.password else generated
        items: dict[str, pulumi.Input[str]] = {"RESTIC_PASSWORD": password}
        if section.endpoint:
            items["AWS_ACCESS_KEY_ID"], items["AWS_SECRET_ACCESS_KEY"] = _keys(section)
        elif not section.volume:
            key = self._key(name, args, section)
            items["AWS_ACCESS_KEY_ID"], items["AWS_SECRET_ACCESS_KEY"] = key.access_key, as_secret(key.secret_key)
        self.repository = repository(args.settings, args.stack)
        self.items = pulumi.Output.secret(pulumi.Output.all(**items))
        for job in _JOBS:
            assert job.variable_path
            prefix = name if job.role == "backup" else f"{name}-{job.role.replace('_', '-')}"
            variable = nomad.Variable(
                f"{prefix}-variable",
                namespace=args.target.namespace,
                path=job.variable_path,
                items=self.items,
                opts=args.target.options(self),
            )
            nomad.Job(
                f"{prefix}-job",
                jobspec=job.render(args.settings, args.stack),
                detach=True,  # each runs later, on schedule or when dispatched
                purge_on_destroy=True,
                opts=args.target.options(self, depends_on=[variable, args.server]),
            )
        self.register_outputs({"repository": self.repository})

    def _key(self, name: str, args: BackupArgs, section: BackupOptions) -> digitalocean.SpacesKey:
        spaces = spaces_provider(f"{name}-spaces", *_keys(section), self)
        bucket = versioned_bucket(
            f"{name}-bucket",
            bucket_name(args.settings, args.stack),
            section.region or SPACES_REGION,
            pulumi.ResourceOptions(parent=self, provider=spaces),
            adopt=section.adopt,
        )
        return bucket_key(f"{name}-key", f"pds-{args.stack}-backup", bucket, self)


def _keys(section: BackupOptions) -> tuple[pulumi.Output[str], pulumi.Output[str]]:
    """The keys of the stack file."""
    assert section.access_key_id
    assert section.secret_access_key
    return configured_keys(section.access_key_id, section.secret_access_key)
