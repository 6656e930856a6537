"""The metrics store: its password, and its job. `render/metrics/` has the job and the files that it reads."""

from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad

from components.nomad_target import JOB_TIMEOUTS, NomadTarget
from components.render.metrics.job import METRICS_PATH, metrics_job
from components.secret_values import random_hex
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class MetricsArgs:
    """Arguments of `Metrics`: its Nomad, and the server's job, before which the host is ready."""

    settings: Settings
    stack: str
    target: NomadTarget
    server: nomad.Job


class Metrics(pulumi.ComponentResource):
    """The store on the host, with its dashboard."""

    password: pulumi.Output[str]
    """Opens the store; secret. A new one harms nothing."""

    def __init__(self, name: str, args: MetricsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Metrics", name, None, opts)
        self.password = random_hex(f"{name}-password", 32, self, protect=False)
        variable = nomad.Variable(
            f"{name}-variable",
            namespace=args.target.namespace,
            path=METRICS_PATH,
            items={"METRICS_PASSWORD": self.password},
            opts=args.target.options(self),
        )
        nomad.Job(
            f"{name}-job",
            jobspec=metrics_job(args.settings, args.stack),
            detach=True,  # no PDS waits for its metrics
            purge_on_destroy=True,
            opts=args.target.options(self, depends_on=[variable, args.server], custom_timeouts=JOB_TIMEOUTS),
        )
        self.register_outputs({})
