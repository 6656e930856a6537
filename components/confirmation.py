"""Marks e-mail addresses as confirmed if no mail can be sent: a job in the PDS's own image, dispatched by `up`.

`render/confirm_job.py` renders the job. docs/operating.md describes the limits of a PDS without mail.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad

from components.entropy import as_secret
from components.facts import Dispatched
from components.render.confirm_job import DIDS_PATH, JOB
from components.target import PATIENCE, NomadTarget


@dataclass(frozen=True, kw_only=True)
class ConfirmationArgs:
    """Arguments of `Confirmation`. `dids` are the members' by e-mail address, empty while pending; `nomad` the inputs
    for Nomad's API; `paused` whether the server is stopped."""

    jobspec: str
    target: NomadTarget
    dids: Mapping[str, pulumi.Output[str]]
    nomad: Mapping[str, pulumi.Input[str]]
    paused: bool


class Confirmation(pulumi.ComponentResource):
    """The job, the list of accounts that it reads, and a run of it for each change of list or address."""

    state: pulumi.Output[str]

    def __init__(self, name: str, args: ConfirmationArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Confirmation", name, None, opts)
        dids = pulumi.Output.all(*args.dids.values()).apply(lambda found: " ".join(sorted(filter(None, found))))
        variable = nomad.Variable(
            f"{name}-variable",
            namespace=args.target.namespace,
            path=DIDS_PATH,
            items={"dids": dids.apply(lambda text: text or "none")},
            opts=args.target.options(self),
        )
        job = nomad.Job(
            f"{name}-job",
            jobspec=args.jobspec,
            detach=False,
            purge_on_destroy=True,
            opts=args.target.options(self, depends_on=[variable], custom_timeouts=PATIENCE),
        )
        digest = hashlib.sha256(json.dumps(sorted(args.dids)).encode()).hexdigest()
        run = Dispatched(
            f"{name}-run",
            {
                **args.nomad,
                "job": JOB,
                "list": dids,
                "paused": args.paused,
                # A changed address is confirmed again. A plain digest of it could be guessed.
                "addresses": as_secret(pulumi.Output.from_input(digest)),
                "jobspec_sha256": hashlib.sha256(args.jobspec.encode()).hexdigest(),
            },
            pulumi.ResourceOptions(parent=self, depends_on=[variable, job]),
        )
        self.state = run.state
        self.register_outputs({"state": self.state})
