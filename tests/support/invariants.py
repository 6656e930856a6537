"""The invariants of the design as functions from an evaluation to findings.

`test_invariants.py` runs them on the program, `test_planted_defects.py` on a program with a planted defect. A check
without anything to check raises LookupError, so that it cannot pass. These checks cover the structure of the program.
The preflight checks are in `policy`, the comparison of inputs with the SDK's types is in `input_types.py`.
"""

import re
from collections.abc import Callable
from fnmatch import fnmatchcase

from offline.hcl_reader import parse
from offline.mock_engine import Evaluation, Recorded
from policy import checks as preflight_checks
from policy.checks import LEFT_BEHIND
from policy.secrets import find_secrets_in_texts, find_secrets_in_the_open
from policy.view import of_evaluation
from tests.support.input_types import find_faulty_inputs

# A resource and one that it waits for, by the ends of their names; directly or through other resources.
ORDER = (
    ("-network-firewall", "-network-tag"),
    ("-host-droplet", "-network-firewall"),
    ("-host-droplet", "-data-volume"),
    ("-host-droplet", "-network-ip"),
    ("-host-address", "-host-droplet"),
    ("-nomad-bootstrap", "-network-firewall"),
    ("-nomad-bootstrap", "-host-address"),
    ("-nomad-admin", "-nomad-bootstrap"),
    ("-nomad-provider", "-nomad-bootstrap"),
    ("-secrets-variable", "-nomad-bootstrap"),
    ("-server-job", "-secrets-variable"),
    ("-server-job", "-server-volume-check"),
    ("-dns-ready", "-server-job"),
    ("-server-ready", "-server-job"),
)
AT_ONCE = (("-nomad-bootstrap", "-network-firewall"), ("-nomad-bootstrap", "-host-address"))
"""Direct dependencies: the firewall admits a new operator address even if the droplet does not change."""


def kind(item: Recorded) -> str:
    """The last part of the type token."""
    return item.type.rpartition(":")[2]


def everything(evaluation: Evaluation) -> list[Recorded]:
    """Return all resources; LookupError if there is none."""
    return evaluation.of("")


def waits_for(evaluation: Evaluation, item: Recorded) -> set[str]:
    """Return the names of all resources that `item` depends on, directly or through others."""
    by_urn = {other.urn: other for other in evaluation.resources}
    seen: set[str] = set()
    todo = [item.urn]
    while todo:
        for urn in _directly(by_urn[todo.pop()]):
            if urn in by_urn and urn not in seen:
                seen.add(urn)
                todo.append(urn)
    return {by_urn[urn].name for urn in seen}


def _directly(item: Recorded) -> set[str]:
    direct = set(item.options.get("dependencies", []))
    for named in item.options.get("propertyDependencies", {}).values():
        direct |= set(named.get("urns", []))
    if item.options.get("provider"):
        direct.add(item.options["provider"].rpartition("::")[0])
    return direct


def find_disorder(evaluation: Evaluation) -> list[str]:
    """Find missing dependencies. The ingress is not checked if the program does not create it."""
    names = [item.name for item in everything(evaluation)]
    order = list(ORDER)
    for item in evaluation.resources:
        if kind(item) == "DnsRecord" and "-dns-" in item.name:
            order.append(("-dns-ready", item.name))
        elif kind(item) == "Account":
            order += [(item.name, "-server-ready"), (item.name, "-removals")]
            order += [(item.name.removesuffix("account") + "handle", item.name)]
        elif item.name.endswith("-proof"):
            order += [(item.name.removesuffix("proof") + "handle", item.name)]
    if any(name.endswith("-ingress-job") for name in names):
        order += [
            ("-ingress-job", "-dns-ready"),
            ("-ingress-job", "-ingress-file-variable"),
            ("-server-ready", "-ingress-job"),
        ]
        order += [("-server-ready", "-dns-ready")]
    findings = []
    for end, before in order:
        later = [item for item in evaluation.resources if item.name.endswith(end)]
        earlier = {name for name in names if name.endswith(before)}
        if not later or not earlier:
            findings.append(f"{end} or {before} is not in the program")
        for item in later:
            dependencies = waits_for(evaluation, item)
            if (end, before) in AT_ONCE:
                dependencies = {
                    other.name for other in evaluation.resources if other.urn in item.options.get("dependencies", [])
                }
            findings += [f"{item.name} does not wait for {name}" for name in earlier - dependencies]
    return findings


def find_nomad_resources_without_refill(evaluation: Evaluation) -> list[str]:
    """Find Nomad resources that are not recreated after Nomad was emptied, not deleted before they are replaced, or not
    deleted with the droplet."""
    droplet = evaluation.of("droplet:Droplet")[0]
    (bootstrap,) = evaluation.of(":NomadBootstrap")
    providers = {f"{item.urn}::{item.id}" for item in evaluation.of("pulumi:providers:nomad")}
    findings = []
    for item in evaluation.of(""):
        if not item.type.startswith("nomad:"):
            continue
        options = item.options
        trigger = options.get("replacementTrigger")
        if not trigger or trigger != bootstrap.outputs.get("cluster_id", trigger):
            findings.append(f"{item.name}: its replacement is not triggered by the cluster id")
        if not (options.get("deleteBeforeReplace") and options.get("deleteBeforeReplaceDefined")):
            findings.append(f"{item.name}: it is not deleted before it is replaced")
        left = kind(item) in LEFT_BEHIND
        if options.get("deletedWith") != (None if left else droplet.urn):
            findings.append(f"{item.name}: it is {'' if left else 'not '}deleted with the droplet")
        if options.get("provider", "").split("::")[:4] not in [urn.split("::")[:4] for urn in providers]:
            findings.append(f"{item.name}: it does not use a Nomad provider of the program")
    return findings


def find_unreadable_variables(evaluation: Evaluation) -> list[str]:
    """Find templates that name a variable their task may not read: such a task blocks and never starts.

    A task may read the paths of its job, its group and its own (Nomad's documentation, concepts/variables), and those
    granted by a policy that is bound to its job.
    """
    findings = []
    for item in evaluation.of("job:Job"):
        [(name, job)] = parse(item.inputs["jobspec"])["job"][0].items()
        granted = [
            path
            for policy in evaluation.of("aclPolicy:AclPolicy")
            if (policy.inputs.get("jobAcl") or {}).get("jobId") == name
            for path in re.findall(r'path "([^"]+)"', policy.inputs["rulesHcl"])
        ]
        [(group, body)] = job["group"][0].items()
        for task, text in ((task, str(tasks[task])) for tasks in body["task"] for task in tasks):
            own = {f"nomad/jobs/{name}", f"nomad/jobs/{name}/{group}", f"nomad/jobs/{name}/{group}/{task}"}
            findings += [
                f"task {task} of job {name} may not read {path}"
                for path in re.findall(r'nomadVar(?:List)? "([^"]+)"', text)
                if path not in own and not any(fnmatchcase(f"{path}/", grant) for grant in granted)
            ]
    return findings


def preflight_check(name: str) -> Callable[[Evaluation], list[str]]:
    """A preflight check that takes an evaluation."""
    find = (preflight_checks.CHECKS | preflight_checks.CHECKS_OF_A_HOST | preflight_checks.CHECKS_OF_BACKUPS)[name]
    return lambda evaluation: find(of_evaluation(evaluation))


CHECKS: dict[str, Callable[[Evaluation], list[str]]] = {
    "order": find_disorder,
    "Nomad resources": find_nomad_resources_without_refill,
    "readable variables": find_unreadable_variables,
    "inputs": find_faulty_inputs,
    "secrets in the open": find_secrets_in_the_open,
    "secrets in texts": find_secrets_in_texts,
    **{name: preflight_check(name) for name in preflight_checks.CHECKS | preflight_checks.CHECKS_OF_A_HOST},
}
"""Every check of an evaluation of the dev stack."""
