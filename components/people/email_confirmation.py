"""Marks e-mail addresses as confirmed if no mail can be sent. `up` dispatches a job in the PDS's own image.

`render/jobs/confirm_email.py` renders the job. docs/guide/members.md describes the limits of a PDS without mail.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad

from components.dynamic.resources import NomadJobRun
from components.nomad_target import JOB_TIMEOUTS, NomadTarget
from components.render.jobs.confirm_email import DIDS_PATH, JOB, confirm_email_job
from components.secret_values import as_secret
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class EmailConfirmationArgs:
    """Arguments of `EmailConfirmation`. `dids` are the members' by e-mail address, empty while pending; `nomad` the
    inputs for Nomad's API."""

    settings: Settings
    stack: str
    target: NomadTarget
    dids: Mapping[str, pulumi.Output[str]]
    nomad: Mapping[str, pulumi.Input[str]]


class EmailConfirmation(pulumi.ComponentResource):
    """The job, the list of accounts that it reads, and a run of it for each change of list or address."""

    state: pulumi.Output[str]
    jobspec: str

    def __init__(self, name: str, args: EmailConfirmationArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:EmailConfirmation", name, None, opts)
        dids = pulumi.Output.all(*args.dids.values()).apply(lambda known: " ".join(sorted(filter(None, known))))
        variable = nomad.Variable(
            f"{name}-variable",
            namespace=args.target.namespace,
            path=DIDS_PATH,
            items={"dids": dids.apply(lambda text: text or "none")},
            opts=args.target.options(self),
        )
        self.jobspec = confirm_email_job(args.settings, args.stack)
        job = nomad.Job(
            f"{name}-job",
            jobspec=self.jobspec,
            detach=False,
            purge_on_destroy=True,
            opts=args.target.options(self, depends_on=[variable], custom_timeouts=JOB_TIMEOUTS),
        )
        digest = hashlib.sha256(json.dumps(sorted(args.dids)).encode()).hexdigest()
        run = NomadJobRun(
            f"{name}-run",
            {
                **args.nomad,
                "job": JOB,
                "list": dids,
                "paused": args.settings.pds.paused,
                # A changed address is confirmed again. A plain digest of it could be guessed.
                "addresses": as_secret(pulumi.Output.from_input(digest)),
                "jobspec_sha256": hashlib.sha256(self.jobspec.encode()).hexdigest(),
            },
            pulumi.ResourceOptions(parent=self, depends_on=[variable, job]),
        )
        self.state = run.state
        self.register_outputs({"state": self.state})
