"""The ingress: this stack's file, as a resource, and the job that runs IO or Caddy with all such files.

`render/ingress/` renders file and job. The ingress starts once its state is OPEN, which means that the hostname
resolves.
"""

from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad

from components.connection import HostConnection
from components.nomad_target import JOB_TIMEOUTS, NomadTarget
from components.render.acl_policies import ingress_files
from components.render.ingress.agent_io import LICENSE, ingress_file, io_job
from components.render.ingress.caddy import caddy_job, caddyfile
from components.settings.ingress_state import IngressState
from components.settings.sections.settings import Settings

_CLOSED_TEXT = "# This hostname does not resolve to this host yet.\n"
"""Content of the file until the hostname resolves. A comment for both ingresses."""


@dataclass(frozen=True, kw_only=True)
class IngressFileArgs:
    """Arguments of `IngressFile`. `ingress_state` is None if the ingress itself waits for the hostname."""

    settings: Settings
    stack: str
    ingress_state: pulumi.Output[str] | None
    target: NomadTarget
    namespace: pulumi.Output[str] | None = None
    """The namespace of the host's ingress, if it is not the target's."""


class IngressFile(pulumi.ComponentResource):
    """One stack's part of the ingress's configuration: a file that no other stack writes."""

    text: str
    """The file, in plain text: previews hide a variable's items, so a stack output shows its diff."""
    variable: nomad.Variable

    def __init__(self, name: str, args: IngressFileArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:IngressFile", name, None, opts)
        settings, kind = args.settings, args.settings.ingress.kind
        self.text = caddyfile(settings) if kind == "caddy" else ingress_file(settings, args.stack)
        # The program's own part, for Caddy if it refuses the operator's part.
        texts = {"text": self.text} | ({"plain": caddyfile(settings, plain=True)} if kind == "caddy" else {})
        items: dict[str, pulumi.Input[str]] = dict(texts)
        if args.ingress_state is not None:
            items = {key: _if_open(args.ingress_state, text) for key, text in texts.items()}
        self.variable = nomad.Variable(
            f"{name}-variable",
            namespace=args.target.namespace if args.namespace is None else args.namespace,
            path=f"{kind}/files/{args.stack}",
            items=items,
            opts=args.target.options(self),
        )
        self.register_outputs({"text": self.text})


def _if_open(ingress_state: pulumi.Output[str], text: str) -> pulumi.Output[str]:
    return ingress_state.apply(lambda state: text if state == IngressState.OPEN else _CLOSED_TEXT)


@dataclass(frozen=True, kw_only=True)
class IngressArgs:
    """Arguments of `Ingress`."""

    settings: Settings
    stack: str
    ingress_state: pulumi.Output[str]
    target: NomadTarget
    admin: NomadTarget
    file: nomad.Variable | None
    """The stack's own file; None for a cluster, which has none."""
    policy: str = ""
    """Name of the ACL policy, if several ingresses share a Nomad."""
    after: tuple[pulumi.Resource, ...] = ()
    """Resources that the job needs, such as its namespace and its node."""


class Ingress(pulumi.ComponentResource):
    """The job that runs IO or Caddy, and its right to read the files."""

    job: nomad.Job
    jobspec: str

    def __init__(self, name: str, args: IngressArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Ingress", name, None, opts)
        kind = args.settings.ingress.kind
        policy = nomad.AclPolicy(
            f"{name}-policy",
            name=args.policy or f"{kind}-files",
            description="The ingress's job reads every stack's file.",
            rules_hcl=ingress_files(kind, args.target.namespace or "default"),
            job_acl=nomad.AclPolicyJobAclArgs(namespace=args.target.namespace or "default", job_id=kind),
            opts=args.admin.options(self, depends_on=list(args.after)) if args.after else args.admin.options(self),
        )
        before: list[pulumi.Resource] = [policy, *([args.file] if args.file else []), *args.after]
        if (license_hcl := args.settings.ingress.license_hcl) is not None:
            text = pulumi.Output.secret(license_hcl.get_secret_value())
            before.append(
                nomad.Variable(
                    f"{name}-license",
                    namespace=args.target.namespace,
                    path=LICENSE,
                    items={"text": text},
                    opts=args.target.options(self),
                )
            )
        self.jobspec = (caddy_job if kind == "caddy" else io_job)(args.settings, args.stack)
        self.job = nomad.Job(
            f"{name}-job",
            jobspec=self.jobspec,
            hcl2=nomad.JobHcl2Args(vars={"ingress_state": args.ingress_state}),
            detach=False,
            purge_on_destroy=True,
            opts=args.target.options(self, depends_on=before, custom_timeouts=JOB_TIMEOUTS),
        )
        self.register_outputs({})


@dataclass(frozen=True, kw_only=True)
class IngressParts:
    """What a stack has of an ingress: nothing, its own file, or the job as well."""

    file: IngressFile | None = None
    ingress: Ingress | None = None

    @property
    def texts(self) -> dict[str, str]:
        """The rendered texts by role, as in the output `files`."""
        texts = {"ingress_file": self.file.text} if self.file else {}
        return texts | ({"ingress_job": self.ingress.jobspec} if self.ingress else {})

    @property
    def last(self) -> list[pulumi.Resource]:
        """The resources after which the ingress can serve the PDS."""
        return [*([self.file.variable] if self.file else []), *([self.ingress.job] if self.ingress else [])]


def create_ingress(
    name: str,
    settings: Settings,
    stack: str,
    host: HostConnection,
    ingress_state: pulumi.Output[str],
    opts: pulumi.ResourceOptions,
) -> IngressParts:
    """This stack's file for the ingress, and the ingress's job if this stack runs it.

    `ingress_state` is that of `DnsReady`.
    """
    if settings.ingress.kind == "none":
        return IngressParts()
    file = IngressFile(
        f"{name}-file",
        IngressFileArgs(
            settings=settings,
            stack=stack,
            # The host's ingress is running already, and would order a certificate at once.
            ingress_state=None if settings.ingress_is_ours else ingress_state,
            target=host.files,
            namespace=host.files_namespace,
        ),
        opts,
    )
    if not (host.admin and settings.ingress_is_ours):
        return IngressParts(file=file)
    args = IngressArgs(
        settings=settings,
        stack=stack,
        ingress_state=ingress_state,
        target=host.target,
        admin=host.admin,
        file=file.variable,
    )
    return IngressParts(file=file, ingress=Ingress(name, args, opts))
