"""The checks as a CrossGuard policy pack, without the pack's SDK: which policy reads which resource.

A policy gets the inputs of one resource, before the engine creates or updates it, and with secrets in clear text: the
SDK removes the engine's marks (pulumi-policy 1.21, deserialize.py). It gets neither `retain_on_delete` nor the old
state. So three kinds of checks stay with preflight: secrets in plain text, what a change would replace or delete, and
what is retained. An input that is unknown in a preview is None here; a policy whose input is unknown does not apply.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from policy import checks
from policy.view import Item, View, blinded

PACK = "pulumi-pds"
"""The pack's name."""
_OF_THE_PROGRAM = "pds:index:Pds"
"""A stack with this type is one of this program's."""

Choices = Mapping[str, bool]
"""The policy's configuration: what a team allows."""


class Resource(Protocol):
    """What the SDK passes, as far as it is used: `ResourceValidationArgs` or `PolicyResource`."""

    resource_type: str
    name: str
    urn: str
    props: Mapping[str, Any]
    opts: Any


@dataclass(frozen=True, kw_only=True)
class PackPolicy:
    """One policy over single resources."""

    name: str
    description: str
    types: tuple[str, ...]
    """Endings of the type tokens that it applies to."""
    check: Callable[[Item, Choices], list[str]]
    needs: tuple[str, ...] = ()
    """Inputs without which it does not apply."""
    only: str = ""
    """The one resource that it applies to; empty for all of its types."""
    choices: tuple[tuple[str, str], ...] = ()
    """Its configuration: the name of each boolean, and its description."""

    def findings(self, resource: Resource, choices: Choices, unknown: type[Exception]) -> list[str]:
        """Return the faults of a resource. `unknown` is what an access to an unknown input raises."""
        if not resource.resource_type.endswith(self.types) or (self.only and resource.name != self.only):
            return []
        item = item_of(resource, unknown)
        if any(item.inputs.get(name) is None for name in self.needs):
            return []
        return self.check(item, choices)


POLICIES: tuple[PackPolicy, ...] = (
    PackPolicy(
        name="protected-state",
        description="Volumes, addresses, zones, buckets and keys are protected from deletion.",
        types=("",),
        check=lambda item, _: checks.protection_faults(item),
    ),
    PackPolicy(
        name="operator-ports",
        description="SSH, IO's console and Nomad's endpoint are open to the operators' addresses only.",
        types=("firewall:Firewall",),
        check=lambda item, choices: checks.operator_port_faults(
            item, nomad_anywhere=choices.get("nomadAnywhere", False)
        ),
        needs=("inboundRules",),
        choices=(("nomadAnywhere", "Allow 'operators.nomad_anywhere'."),),
    ),
    PackPolicy(
        name="server-port",
        description="The PDS speaks plain HTTP on loopback only.",
        types=("job:Job",),
        check=lambda item, _: checks.server_port_faults(item),
        needs=("jobspec",),
        only=checks.SERVER_JOB,
    ),
    PackPolicy(
        name="exact-images",
        description="The PDS's image is one exact tag or a digest.",
        types=("job:Job",),
        check=lambda item, _: checks.image_faults(item),
        needs=("jobspec",),
        only=checks.SERVER_JOB,
    ),
    PackPolicy(
        name="invites",
        description="An account needs an invite.",
        types=("job:Job",),
        check=lambda item, choices: checks.registration_faults(
            item, open_registration=choices.get("openRegistration", False)
        ),
        needs=("jobspec",),
        only=checks.SERVER_JOB,
        choices=(("openRegistration", "Allow 'pds.open_registration'."),),
    ),
    PackPolicy(
        name="job-secrets",
        description="No variable in a job's text is a secret.",
        types=("job:Job",),
        check=lambda item, _: checks.job_literal_faults(item),
        needs=("jobspec",),
    ),
    PackPolicy(
        name="user-data",
        description="The droplet's user_data fits, and Nomad's network 'loopback' is loopback.",
        types=("droplet:Droplet",),
        check=lambda item, _: checks.user_data_faults(item),
        needs=("userData",),
    ),
    PackPolicy(
        name="secret-types",
        description="Only RandomPassword generates secrets: the id of the other types is the secret.",
        types=tuple(f":{kind}" for kind in sorted(checks.FORBIDDEN | {"RandomPassword"})),
        check=lambda item, _: checks.secret_type_faults(item),
    ),
    PackPolicy(
        name="backup-bucket",
        description="Each bucket keeps versions and is private.",
        types=(":SpacesBucket",),
        check=lambda item, _: checks.bucket_faults(item),
    ),
    PackPolicy(
        name="backup-key",
        description="A key of the host reads and writes one bucket only.",
        types=(":SpacesKey",),
        check=lambda item, _: checks.key_faults(item),
        needs=("grants",),
    ),
)

COMPLETE_NAME = "complete-stack"
COMPLETE_DESCRIPTION = "The stack has the resources that the other policies check."


def missing_resources(resources: Iterable[Resource]) -> list[str] | None:
    """Return what a whole stack lacks; None for a stack of another program. A policy over nothing would pass."""
    items = tuple(_named(resource) for resource in resources)
    view = View(items=items)
    if not view.has(_OF_THE_PROGRAM):
        return None
    findings = checks.find_missing_resources(view)
    if not view.has(":PlacedHosts") and not any(item.name == checks.SERVER_JOB for item in items):
        findings.append(f"there is no job {checks.SERVER_JOB}")
    if view.has("droplet:Droplet") and not view.has("firewall:Firewall"):
        findings.append("there is no Firewall")
    return findings


def item_of(resource: Resource, unknown: type[Exception]) -> Item:
    """Return the resource as an input of the checks."""
    item = _named(resource)
    inputs = blinded(_known(resource.props, unknown))
    return Item(**{**vars(item), "inputs": inputs, "shown": inputs})


def _named(resource: Resource) -> Item:
    return Item(
        type=resource.resource_type,
        name=resource.name,
        urn=resource.urn,
        id="",
        inputs={},
        shown={},
        outputs={},
        protected=bool(resource.opts.protect),
        retained=False,
    )


def _known(value: Any, unknown: type[Exception]) -> Any:
    """Return the value as plain Python. The SDK's maps and lists raise `unknown` when an unknown entry is read."""

    def entry(key: Any) -> Any:
        try:
            return _known(value[key], unknown)
        except unknown:
            return None

    if isinstance(value, Mapping):
        return {key: entry(key) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [entry(index) for index in range(len(value))]
    return value
