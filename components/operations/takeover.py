"""The takeover's job on a cluster, its token, hosts, webhook and dead man's switch, and its rights."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad

from components.nomad_target import JOB_TIMEOUTS, NomadTarget
from components.render.acl_policies import TAKEOVER
from components.render.cluster.takeover import JOB, VARIABLE, takeover_job
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class TakeoverArgs:
    """Arguments of `Takeover`. `hosts` has `volume_id` and `address` of each host; `endpoint` is the address of the
    servers."""

    settings: Settings
    stack: str
    target: NomadTarget
    admin: NomadTarget
    hosts: Mapping[str, Mapping[str, pulumi.Output[str]]]
    endpoint: pulumi.Output[str]


class Takeover(pulumi.ComponentResource):
    """The job that brings a dead host back on a spare worker."""

    jobspec: str

    def __init__(self, name: str, args: TakeoverArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Takeover", name, None, opts)
        cluster = args.settings.cluster
        assert cluster
        assert cluster.takeover
        policy = nomad.AclPolicy(
            f"{name}-policy",
            name=JOB,
            description="The takeover reads the nodes, and writes which droplets lost a host.",
            rules_hcl=TAKEOVER,
            job_acl=nomad.AclPolicyJobAclArgs(namespace="default", job_id=JOB),
            opts=args.admin.options(self),
        )
        urls = {"TAKEOVER_NOTIFY_URL": cluster.takeover.notify_url, "TAKEOVER_PING_URL": cluster.takeover.ping_url}
        variable = nomad.Variable(
            f"{name}-variable",
            path=VARIABLE,
            items={
                "TAKEOVER_TOKEN": pulumi.Output.secret(cluster.takeover.token.get_secret_value()),
                "TAKEOVER_HOSTS": pulumi.Output.json_dumps(args.hosts),
                # A single server has no other one that the address could lead to.
                **({"TAKEOVER_ENDPOINT": args.endpoint} if cluster.servers.count > 1 else {}),
                **{name: pulumi.Output.secret(url.get_secret_value()) for name, url in urls.items() if url},
            },
            opts=args.target.options(self),
        )
        self.jobspec = takeover_job(args.settings, args.stack)
        nomad.Job(
            f"{name}-job",
            jobspec=self.jobspec,
            detach=False,
            purge_on_destroy=True,
            opts=args.target.options(self, depends_on=[policy, variable], custom_timeouts=JOB_TIMEOUTS),
        )
        self.register_outputs({})
