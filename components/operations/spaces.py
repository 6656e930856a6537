"""Buckets in Spaces and keys that are limited to one, for backups and for blobs."""

import pulumi
import pulumi_digitalocean as digitalocean
from pydantic import SecretStr

VERSION_DAYS = 30
"""Days a bucket keeps overwritten or deleted objects. The key on the host can delete objects and could be stolen."""

Key = tuple[pulumi.Output[str], pulumi.Output[str]]
"""An access key and its secret."""


def configured_keys(access_key: SecretStr, secret_key: SecretStr) -> Key:
    """A key of the stack file, as secret outputs."""
    return (
        pulumi.Output.secret(access_key.get_secret_value()),
        pulumi.Output.secret(secret_key.get_secret_value()),
    )


def spaces_provider(
    name: str, access_id: pulumi.Output[str], secret_key: pulumi.Output[str], parent: pulumi.Resource
) -> digitalocean.Provider:
    """A provider with the owner's key. Spaces accepts keys of its own, not the API token. This key may create buckets
    and never reaches the host."""
    return digitalocean.Provider(
        name,
        spaces_access_id=access_id,
        spaces_secret_key=secret_key,
        opts=pulumi.ResourceOptions(parent=parent),
    )


def versioned_bucket(
    resource: str, name: str, region: str, opts: pulumi.ResourceOptions, *, adopt: bool
) -> digitalocean.SpacesBucket:
    """A private bucket that outlives the stack, or the existing one of that name."""
    kept = pulumi.ResourceOptions(
        protect=True,
        retain_on_delete=True,
        import_=f"{region},{name}" if adopt else None,
        # The provider accepts another name as an update and does nothing (resource_spaces_bucket.go has no ForceNew
        # there), and the key's grants then name a bucket that does not exist.
        replace_on_changes=["name"],
    )
    return digitalocean.SpacesBucket(
        resource,
        name=name,
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
        opts=pulumi.ResourceOptions.merge(opts, kept),
    )


def bucket_key(
    resource: str, name: str, bucket: digitalocean.SpacesBucket, parent: pulumi.Resource
) -> digitalocean.SpacesKey:
    """A key that reads and writes this bucket alone."""
    return digitalocean.SpacesKey(
        resource,
        name=name,
        grants=[digitalocean.SpacesKeyGrantArgs(bucket=bucket.name, permission="readwrite")],
        # The API can change only a key's name (digitalocean/openapi, spaces/key_update.yml).
        opts=pulumi.ResourceOptions(parent=parent, replace_on_changes=["grants"]),
    )
