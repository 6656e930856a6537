"""The snapshots of a cluster's Nomad: bucket, key, password, rights, and the job that takes them."""

from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad

from components.nomad_target import NomadTarget
from components.operations.spaces import bucket_key, configured_keys, spaces_provider, versioned_bucket
from components.render.acl_policies import SNAPSHOTS
from components.render.cluster.snapshots import JOB, VARIABLE, snapshots_job
from components.render.jobs.restic import bucket_name, repository
from components.secret_values import as_secret, random_hex
from components.settings.checks.endpoints import SPACES_REGION
from components.settings.cluster_hosts import snapshot_settings
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class NomadSnapshotsArgs:
    """Arguments of `NomadSnapshots`."""

    settings: Settings
    stack: str
    target: NomadTarget
    admin: NomadTarget


class NomadSnapshots(pulumi.ComponentResource):
    """The periodic job, and what it needs. The bucket outlives the stack."""

    jobspec: str
    repository: str
    """restic's address of the snapshots."""
    items: pulumi.Output[dict[str, str]]
    """Credentials of the snapshots, by restic's names; secret. For the escrow file."""

    def __init__(self, name: str, args: NomadSnapshotsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:NomadSnapshots", name, None, opts)
        cluster = args.settings.cluster
        assert cluster
        assert cluster.snapshots
        section = cluster.snapshots
        # Created even if one is configured: removing a protected resource would fail `up` half-way.
        generated = random_hex(f"{name}-password", 64, self)
        password = pulumi.Output.secret(section.password.get_secret_value()) if section.password else generated
        credentials = {"RESTIC_PASSWORD": password, **self._keys(name, args)}
        self.repository = repository(snapshot_settings(args.settings, args.stack), args.stack)
        self.items = pulumi.Output.secret(pulumi.Output.all(**credentials))
        ping = {"PING_URL": pulumi.Output.secret(section.ping_url.get_secret_value())} if section.ping_url else {}
        policy = nomad.AclPolicy(
            f"{name}-policy",
            name=JOB,
            description="The job takes snapshots of Nomad's state.",
            rules_hcl=SNAPSHOTS,
            job_acl=nomad.AclPolicyJobAclArgs(namespace="default", job_id=JOB),
            opts=args.admin.options(self),
        )
        variable = nomad.Variable(
            f"{name}-variable", path=VARIABLE, items={**credentials, **ping}, opts=args.target.options(self)
        )
        self.jobspec = snapshots_job(args.settings, args.stack)
        nomad.Job(
            f"{name}-job",
            jobspec=self.jobspec,
            detach=True,  # it runs later
            purge_on_destroy=True,
            opts=args.target.options(self, depends_on=[policy, variable]),
        )
        self.register_outputs({"repository": self.repository})

    def _keys(self, name: str, args: NomadSnapshotsArgs) -> dict[str, pulumi.Output[str]]:
        settings = snapshot_settings(args.settings, args.stack)
        section = settings.backup
        assert section
        assert section.access_key_id
        assert section.secret_access_key
        own = configured_keys(section.access_key_id, section.secret_access_key)
        if section.endpoint:
            return {"AWS_ACCESS_KEY_ID": own[0], "AWS_SECRET_ACCESS_KEY": own[1]}
        spaces = spaces_provider(f"{name}-spaces", *own, self)
        bucket = versioned_bucket(
            f"{name}-bucket",
            bucket_name(settings, args.stack),
            section.region or SPACES_REGION,
            pulumi.ResourceOptions(parent=self, provider=spaces),
            adopt=section.adopt,
        )
        key = bucket_key(f"{name}-key", f"pds-{args.stack}-nomad-snapshots", bucket, self)
        return {"AWS_ACCESS_KEY_ID": key.access_key, "AWS_SECRET_ACCESS_KEY": as_secret(key.secret_key)}
