"""The backup: a bucket that outlives all other resources, its own key, a password, and the jobs that use them.

`render/` renders the jobs. The first job's program, `render/scripts/snapshot.cjs`, decides the content of a snapshot.
"""

from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean
import pulumi_nomad as nomad

from components.nomad_target import NomadTarget
from components.render.jobs.registry import NOMAD_JOBS
from components.render.jobs.restic import bucket_name, repository
from components.secret_values import as_secret, random_hex
from components.settings.checks.endpoints import SPACES_REGION
from components.settings.sections import BackupOptions
from components.settings.sections.settings import Settings

_JOBS = tuple(job for job in NOMAD_JOBS if job.section == "backup")
"""The jobs that need the backups' credentials; each reads them from a variable of its own."""

VERSION_DAYS = 30
"""Days the bucket keeps overwritten or deleted objects. The key on the host can delete objects and could be stolen."""


@dataclass(frozen=True, kw_only=True)
class BackupArgs:
    """Arguments of `Backup`: its Nomad, and the server's job, whose first start identifies the volume."""

    settings: Settings
    stack: str
    target: NomadTarget
    server: nomad.Job


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
            items["AWS_ACCESS_KEY_ID"], items["AWS_SECRET_ACCESS_KEY"] = _configured_keys(section)
        elif not section.volume:
            key = self._key(name, args, self._bucket(name, args, section))
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

    def _bucket(self, name: str, args: BackupArgs, section: BackupOptions) -> digitalocean.SpacesBucket:
        # Spaces accepts keys of its own, not the API token. These keys may create buckets and never reach the host.
        access_id, secret_key = _configured_keys(section)
        spaces = digitalocean.Provider(
            f"{name}-spaces",
            spaces_access_id=access_id,
            spaces_secret_key=secret_key,
            opts=pulumi.ResourceOptions(parent=self),
        )
        bucket = bucket_name(args.settings, args.stack)
        region = section.region or SPACES_REGION
        return digitalocean.SpacesBucket(
            f"{name}-bucket",
            name=bucket,
            region=region,
            acl="private",
            force_destroy=False,
            versioning=digitalocean.SpacesBucketVersioningArgs(enabled=True),
            lifecycle_rules=[
                digitalocean.SpacesBucketLifecycleRuleArgs(
                    enabled=True,
                    abort_incomplete_multipart_upload_days=1,
                    # restic deletes a lock after each run. Without this, a marker would remain for each object whose
                    # versions have all expired, and each listing of locks would read them all.
                    expiration=digitalocean.SpacesBucketLifecycleRuleExpirationArgs(expired_object_delete_marker=True),
                    noncurrent_version_expiration=digitalocean.SpacesBucketLifecycleRuleNoncurrentVersionExpirationArgs(
                        days=VERSION_DAYS
                    ),
                )
            ],
            opts=pulumi.ResourceOptions(
                parent=self,
                provider=spaces,
                protect=True,
                retain_on_delete=True,
                import_=f"{region},{bucket}" if section.adopt else None,
                # The provider accepts another name as an update and does nothing (resource_spaces_bucket.go has no
                # ForceNew there), and the key's grants then name a bucket that does not exist.
                replace_on_changes=["name"],
            ),
        )

    def _key(self, name: str, args: BackupArgs, bucket: digitalocean.SpacesBucket) -> digitalocean.SpacesKey:
        return digitalocean.SpacesKey(
            f"{name}-key",
            name=f"pds-{args.stack}-backup",
            grants=[digitalocean.SpacesKeyGrantArgs(bucket=bucket.name, permission="readwrite")],
            # The API can change only a key's name (digitalocean/openapi, spaces/key_update.yml).
            opts=pulumi.ResourceOptions(parent=self, replace_on_changes=["grants"]),
        )


def _configured_keys(section: BackupOptions) -> tuple[pulumi.Output[str], pulumi.Output[str]]:
    """The keys of the stack file."""
    assert section.access_key_id
    assert section.secret_access_key
    return (
        pulumi.Output.secret(section.access_key_id.get_secret_value()),
        pulumi.Output.secret(section.secret_access_key.get_secret_value()),
    )
