"""The ingress: this stack's file, as a resource, and the job that runs IO or Caddy with all such files.

`render/io.py` and `render/caddy.py` render file and job. `open`, which says whether the hostname resolves, decides when
the ingress starts.
"""

from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad
from pydantic import SecretStr

from components.render.io import LICENSE
from components.render.policies import ingress_files
from components.target import PATIENCE, NomadTarget

_SHUT = "# This hostname does not resolve to this host yet.\n"
"""Content of the file until then; a comment for both ingresses."""


@dataclass(frozen=True, kw_only=True)
class IngressFileArgs:
    """Arguments of `IngressFile`. `open` is "1" once the hostname resolves; None if the ingress itself waits."""

    stack: str
    job: str
    text: str
    plain: str | None = None
    """The program's own part of `text`, for an ingress that refuses the operator's part; None if it tries none."""
    open: pulumi.Output[str] | None
    target: NomadTarget


class IngressFile(pulumi.ComponentResource):
    """One stack's part of the ingress's configuration: a file that no other stack writes."""

    text: pulumi.Output[str]
    """The file, in plain text: previews hide a variable's items, so this output shows its diff."""
    variable: nomad.Variable

    def __init__(self, name: str, args: IngressFileArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:IngressFile", name, None, opts)
        texts = {"text": args.text} | ({} if args.plain is None else {"plain": args.plain})
        items: dict[str, pulumi.Input[str]] = dict(texts)
        if (open_ := args.open) is not None:
            items = {key: _when_open(open_, text) for key, text in texts.items()}
        self.variable = nomad.Variable(
            f"{name}-variable",
            namespace=args.target.namespace,
            path=f"{args.job}/files/{args.stack}",
            items=items,
            opts=args.target.options(self),
        )
        self.text = pulumi.Output.from_input(args.text)
        self.register_outputs({"text": self.text})


def _when_open(open_: pulumi.Output[str], text: str) -> pulumi.Output[str]:
    return open_.apply(lambda value: text if value == "1" else _SHUT)


@dataclass(frozen=True, kw_only=True)
class IngressArgs:
    """Arguments of `Ingress`: the job's ID and text, and IO's licence. `open` is "1" once the hostname resolves."""

    job: str
    jobspec: str
    license_hcl: SecretStr | None
    open: pulumi.Output[str]
    target: NomadTarget
    admin: NomadTarget
    file: nomad.Variable


class Ingress(pulumi.ComponentResource):
    """The job that runs IO or Caddy, and its right to read the files."""

    job: nomad.Job

    def __init__(self, name: str, args: IngressArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Ingress", name, None, opts)
        policy = nomad.AclPolicy(
            f"{name}-policy",
            name=f"{args.job}-files",
            description="The ingress's job reads every stack's file.",
            rules_hcl=ingress_files(args.job, args.target.namespace or "default"),
            job_acl=nomad.AclPolicyJobAclArgs(namespace=args.target.namespace or "default", job_id=args.job),
            opts=args.admin.options(self),
        )
        before: list[pulumi.Resource] = [policy, args.file]
        if args.license_hcl is not None:
            text = pulumi.Output.secret(args.license_hcl.get_secret_value())
            before.append(
                nomad.Variable(
                    f"{name}-license",
                    namespace=args.target.namespace,
                    path=LICENSE,
                    items={"text": text},
                    opts=args.target.options(self),
                )
            )
        self.job = nomad.Job(
            f"{name}-job",
            jobspec=args.jobspec,
            hcl2=nomad.JobHcl2Args(vars={"open": args.open}),
            detach=False,
            purge_on_destroy=True,
            opts=args.target.options(self, depends_on=before, custom_timeouts=PATIENCE),
        )
        self.register_outputs({})
