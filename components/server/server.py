"""The PDS as a Nomad job, which `render/jobs/pds.py` renders, and the job that removes its unreferenced blobs."""

from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad

from components.nomad_target import JOB_TIMEOUTS, NomadTarget
from components.render.jobs.pds import VOLUME_CHECK_PATH, pds_job, volume_check_items
from components.render.jobs.unreferenced_blobs import UNREFERENCED_BLOBS_PATH, is_requested, unreferenced_blobs_job
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class PdsServerArgs:
    """Arguments of `PdsServer`: its Nomad, and the variable that must exist first."""

    settings: Settings
    stack: str
    target: NomadTarget
    secrets: nomad.Variable
    blobs: pulumi.Output[dict[str, str]] | None
    """The key of the bucket for blobs, for the job that removes what no account needs there; None without one."""
    blobs_moved: str = ""
    """See `PdsArgs`."""


class PdsServer(pulumi.ComponentResource):
    """The server's job. It is only registered here. `ServerReady` checks whether it is healthy."""

    job: nomad.Job
    jobspec: str

    def __init__(self, name: str, args: PdsServerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:PdsServer", name, None, opts)
        volume_check = nomad.Variable(
            f"{name}-volume-check",
            namespace=args.target.namespace,
            path=VOLUME_CHECK_PATH,
            items=volume_check_items(args.settings, args.blobs_moved),
            opts=args.target.options(self),
        )
        self.jobspec = pds_job(args.settings, args.stack)
        self.job = nomad.Job(
            f"{name}-job",
            jobspec=self.jobspec,
            # `ServerReady` waits for health. The provider would wait for the registration's own evaluation. If Nomad
            # restarts meanwhile, it cancels that evaluation in favour of a later one, and the provider does not know
            # this status.
            detach=True,
            purge_on_destroy=True,
            opts=args.target.options(self, depends_on=[args.secrets, volume_check], custom_timeouts=JOB_TIMEOUTS),
        )
        if args.blobs is not None:
            nomad.Variable(
                f"{name}-unreferenced-blobs-variable",
                namespace=args.target.namespace,
                path=UNREFERENCED_BLOBS_PATH,
                items=args.blobs,
                opts=args.target.options(self),
            )
        if is_requested(args.settings):
            nomad.Job(
                f"{name}-unreferenced-blobs-job",
                jobspec=unreferenced_blobs_job(args.settings, args.stack),
                detach=True,  # it runs later, on schedule
                purge_on_destroy=True,
                opts=args.target.options(self, depends_on=[self.job], custom_timeouts=JOB_TIMEOUTS),
            )
        self.register_outputs({})
