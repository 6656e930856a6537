"""The bucket for blobs, which outlives all other resources, a key for it alone, and the job that moves blobs.

`render/scripts/blobs.cjs` owns how they are moved; `./pds blobs` and `./pds restore` dispatch the job.
"""

from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad

from components.nomad_target import JOB_TIMEOUTS, NomadTarget
from components.operations.backup import Backup
from components.operations.spaces import bucket_key, configured_keys, spaces_provider, versioned_bucket
from components.render.jobs.backup import BLOBS_PATH as BACKUP_BLOBS_PATH
from components.render.jobs.blobs import BLOBS_PATH, blobs_job
from components.secret_values import as_secret
from components.settings.checks.endpoints import blob_region, spaces_keys
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class BlobBucketArgs:
    """Arguments of `BlobBucket`."""

    settings: Settings
    stack: str
    identity: pulumi.Resource
    """Refuses another bucket, before anything changes."""


class BlobBucket(pulumi.ComponentResource):
    """The bucket and its key."""

    items: pulumi.Output[dict[str, str]]
    """The key, by the server's names; secret."""
    server_items: pulumi.Output[dict[str, str]] | None
    """The same for the server; None while it serves blobs from the disk."""

    def __init__(self, name: str, args: BlobBucketArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:BlobBucket", name, None, opts)
        section, keys = args.settings.blobs, spaces_keys(args.settings)
        assert section
        assert keys
        spaces = spaces_provider(f"{name}-spaces", *configured_keys(*keys), self)
        bucket = versioned_bucket(
            f"{name}-bucket",
            section.bucket,
            blob_region(args.settings),
            pulumi.ResourceOptions(parent=self, provider=spaces, depends_on=[args.identity]),
            adopt=section.adopt,
        )
        key = bucket_key(f"{name}-key", f"pds-{args.stack}-blobs", bucket, self)
        self.items = pulumi.Output.secret(
            pulumi.Output.all(
                PDS_BLOBSTORE_S3_ACCESS_KEY_ID=key.access_key,
                PDS_BLOBSTORE_S3_SECRET_ACCESS_KEY=as_secret(key.secret_key),
            )
        )
        self.server_items = self.items if args.settings.blobs_in_bucket else None
        self.register_outputs({"bucket": bucket.name})


@dataclass(frozen=True, kw_only=True)
class BlobJobArgs:
    """Arguments of `BlobJob`: its Nomad, the server's job, the bucket, and the backups, which it may read."""

    settings: Settings
    stack: str
    target: NomadTarget
    server: pulumi.Resource
    bucket: BlobBucket
    backup: Backup | None


class BlobJob(pulumi.ComponentResource):
    """The job that moves and repairs blobs, and the variable with its keys."""

    def __init__(self, name: str, args: BlobJobArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:BlobJob", name, None, opts)
        backups = args.backup.items if args.backup else pulumi.Output.from_input({})
        items = pulumi.Output.all(backups, args.bucket.items).apply(lambda both: both[0] | both[1])
        variable = nomad.Variable(
            f"{name}-variable",
            namespace=args.target.namespace,
            path=BLOBS_PATH,
            items=pulumi.Output.secret(items),
            opts=args.target.options(self),
        )
        if args.backup:
            nomad.Variable(
                f"{name}-backup-variable",
                namespace=args.target.namespace,
                path=BACKUP_BLOBS_PATH,
                items=args.bucket.items,
                opts=args.target.options(self),
            )
        nomad.Job(
            f"{name}-job",
            jobspec=blobs_job(args.settings, args.stack),
            detach=True,  # it runs when dispatched
            purge_on_destroy=True,
            opts=args.target.options(self, depends_on=[variable, args.server], custom_timeouts=JOB_TIMEOUTS),
        )
        self.register_outputs({})


def blob_bucket(
    name: str, settings: Settings, stack: str, identity: pulumi.Resource, opts: pulumi.ResourceOptions
) -> BlobBucket | None:
    """The bucket of a stack with `blobs`."""
    args = BlobBucketArgs(settings=settings, stack=stack, identity=identity)
    return BlobBucket(name, args, opts) if settings.blobs else None
