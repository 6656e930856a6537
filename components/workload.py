"""The PDS as a Nomad job, which `render/pds_job.py` renders."""

from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad

from components.render.pds_job import GUARD_PATH, guard_items
from components.settings.settings import Settings
from components.target import PATIENCE, NomadTarget


@dataclass(frozen=True, kw_only=True)
class PdsJobArgs:
    """Arguments of `PdsJob`: the job's text, its Nomad, and the variable that must exist first."""

    settings: Settings
    jobspec: str
    target: NomadTarget
    secrets: nomad.Variable


class PdsJob(pulumi.ComponentResource):
    """The server's job. Only registered here; `Ready` checks whether it is healthy."""

    job: nomad.Job

    def __init__(self, name: str, args: PdsJobArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:PdsJob", name, None, opts)
        guard = nomad.Variable(
            f"{name}-guard",
            namespace=args.target.namespace,
            path=GUARD_PATH,
            items=guard_items(args.settings),
            opts=args.target.options(self),
        )
        self.job = nomad.Job(
            f"{name}-job",
            jobspec=args.jobspec,
            # `Ready` waits for health. The provider would wait for the registration's own evaluation. If Nomad restarts
            # meanwhile, that one is cancelled in favour of a later one, a status that the provider does not know.
            detach=True,
            purge_on_destroy=True,
            opts=args.target.options(self, depends_on=[args.secrets, guard], custom_timeouts=PATIENCE),
        )
        self.register_outputs({})
