"""The backup: a bucket that outlives all other resources, its own key, a password, and the jobs that use them.

`render/` renders the jobs. The first job's program, `render/files/snapshot.cjs`, decides the content of a snapshot.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean
import pulumi_nomad as nomad

from components.entropy import as_secret, hex_secret
from components.render.backup_job import BACKUP_PATH
from components.render.candidate_job import CANDIDATE_PATH
from components.render.drill_job import DRILL_PATH
from components.render.restic import bucket_name, repository
from components.render.restore_job import RESTORE_PATH
from components.settings.endpoints import SPACES_REGION
from components.settings.sections import Backup as Section
from components.settings.settings import Settings
from components.target import NomadTarget

PATHS = {"backup": BACKUP_PATH, "restore": RESTORE_PATH, "drill": DRILL_PATH, "candidate": CANDIDATE_PATH}
"""The jobs by role, and the variable of each with the backups' credentials."""

VERSION_DAYS = 30
"""Days the bucket keeps overwritten or deleted objects. The key on the host can delete objects and could be stolen."""


@dataclass(frozen=True, kw_only=True)
class BackupArgs:
    """Arguments of `Backup`: the jobs' texts, their Nomad, and the server's job, whose first start marks the volume."""

    settings: Settings
    stack: str
    jobspecs: Mapping[str, str]
    """By role, as in `PATHS`."""
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
        # Created even if one is given: removing a protected resource would fail `up` half-way.
        made = hex_secret(f"{name}-password", 64, self)
        password = pulumi.Output.secret(section.password.get_secret_value()) if section.password else made
        items: dict[str, pulumi.Input[str]] = {"RESTIC_PASSWORD": password}
        if section.endpoint:
            items["AWS_ACCESS_KEY_ID"], items["AWS_SECRET_ACCESS_KEY"] = _given(section)
        elif not section.volume:
            key = self._key(name, args, self._bucket(name, args, section))
            items["AWS_ACCESS_KEY_ID"], items["AWS_SECRET_ACCESS_KEY"] = key.access_key, as_secret(key.secret_key)
        self.repository = repository(args.settings, args.stack)
        self.items = pulumi.Output.secret(pulumi.Output.all(**items))
        for role, path in PATHS.items():
            prefix = name if role == "backup" else f"{name}-{role}"
            variable = nomad.Variable(
                f"{prefix}-variable",
                namespace=args.target.namespace,
                path=path,
                items=self.items,
                opts=args.target.options(self),
            )
            nomad.Job(
                f"{prefix}-job",
                jobspec=args.jobspecs[role],
                detach=True,  # each runs later, on schedule or when dispatched
                purge_on_destroy=True,
                opts=args.target.options(self, depends_on=[variable, args.server]),
            )
        self.register_outputs({"repository": self.repository})

    def _bucket(self, name: str, args: BackupArgs, section: Section) -> digitalocean.SpacesBucket:
        # Spaces takes keys of its own, not the API token. These may create buckets and never reach the host.
        access_id, secret_key = _given(section)
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
                    # versions have all expired, and a listing of locks reads them all.
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


def _given(section: Section) -> tuple[pulumi.Output[str], pulumi.Output[str]]:
    """The keys of the stack file."""
    assert section.access_key_id
    assert section.secret_access_key
    found = (section.access_key_id, section.secret_access_key)
    access_id, secret_key = (pulumi.Output.secret(item.get_secret_value()) for item in found)
    return access_id, secret_key
