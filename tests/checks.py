"""The laws of the design as plain functions: an evaluation in, findings out.

`test_laws.py` asks them about the program, `test_planted_defects.py` about a program with a defect put in on purpose. A
check that has nothing to look at raises LookupError: it must not pass for having seen nothing. Inputs against the SDK's
types are in `checks_inputs.py`, secrets in `checks_secrets.py`.
"""

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import yaml

from tests.checks_inputs import find_faulty_inputs
from tests.checks_secrets import find_forbidden_secret_types, find_secrets_in_texts, find_secrets_in_the_open
from tests.hcl_text import flat, job_of, parse, task_of
from tools.engine import Evaluation, Recorded

EVERYWHERE = ("0.0.0.0/0", "::/0")
OPEN_PORTS = frozenset({"80", "443"})
"""What every address may reach."""

PROTECTED = {"Volume", "ReservedIp", "Domain", "SpacesBucket", "RandomPassword", "SelfSignedCert"}
"""Types whose loss cannot be undone. A PrivateKey is one too, except the client's, which `up` may make anew."""
RETAINED = {"Volume", "ReservedIp", "Domain", "SpacesBucket"}
"""Of those, what exists outside the state. A key that is 'retained' is lost: the state is its only copy."""
LEFT_BEHIND = {"AclToken", "ReservedIpAssignment"}
"""Not state: an emptied Nomad would refuse to delete a token it does not know, and `Ready` sweeps what is left over; an
assignment ends with its droplet."""
REPLACEABLE = re.compile(r"pds-certificates-client-key|pds-member-.*-password")
"""A member's first password is hers to change, and an admin's to set anew."""

# Who waits for whom, by the end of the name; each by its own dependencies or by those of what it waits for.
ORDER = (
    ("-ground-firewall", "-ground-tag"),
    ("-host-droplet", "-ground-firewall"),
    ("-host-droplet", "-ground-volume"),
    ("-host-droplet", "-ground-ip"),
    ("-host-address", "-host-droplet"),
    ("-nomad-bootstrap", "-ground-firewall"),
    ("-nomad-bootstrap", "-host-address"),
    ("-nomad-admin", "-nomad-bootstrap"),
    ("-nomad-provider", "-nomad-bootstrap"),
    ("-secrets-variable", "-nomad-bootstrap"),
    ("-server-job", "-secrets-variable"),
    ("-server-job", "-server-guard"),
    ("-resolves", "-server-job"),
    ("-ready", "-server-job"),
)
AT_ONCE = (("-nomad-bootstrap", "-ground-firewall"), ("-nomad-bootstrap", "-host-address"))
"""Waits that must stand on the resource itself: a new operator address is let in although the droplet is untouched."""


def kind(item: Recorded) -> str:
    """The last part of the type token."""
    return item.type.rpartition(":")[2]


def everything(evaluation: Evaluation) -> list[Recorded]:
    """All resources; LookupError where there is none."""
    return evaluation.of("")


def waits_for(evaluation: Evaluation, item: Recorded) -> set[str]:
    """Names of all resources that come before `item`, through any number of others."""
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
    """The order of the design. Where the ingress is not ours, nothing is asked of it."""
    names = [item.name for item in everything(evaluation)]
    order = list(ORDER)
    for item in evaluation.resources:
        if kind(item) == "DnsRecord" and "-dns-" in item.name:
            order.append(("-resolves", item.name))
        elif kind(item) == "Account":
            order += [(item.name, "-ready"), (item.name, "-removals")]
            order += [(item.name.removesuffix("account") + "handle", item.name)]
        elif item.name.endswith("-proof"):
            order += [(item.name.removesuffix("proof") + "handle", item.name)]
    if any(name.endswith("-ingress-job") for name in names):
        order += [("-ingress-job", "-resolves"), ("-ingress-job", "-ingress-file-variable"), ("-ready", "-ingress-job")]
        order += [("-ready", "-resolves")]
    findings = []
    for end, before in order:
        later = [item for item in evaluation.resources if item.name.endswith(end)]
        earlier = {name for name in names if name.endswith(before)}
        if not later or not earlier:
            findings.append(f"{end} or {before} is not in the program")
        for item in later:
            there = waits_for(evaluation, item)
            if (end, before) in AT_ONCE:
                there = {
                    other.name for other in evaluation.resources if other.urn in item.options.get("dependencies", [])
                }
            findings += [f"{item.name} does not wait for {name}" for name in earlier - there]
    return findings


def find_unprotected_state(evaluation: Evaluation) -> list[str]:
    """Law 5: what cannot be made again is protected by its type, and retained where it exists outside the state."""
    items = everything(evaluation)
    findings = []
    for item in items:
        replaceable = bool(REPLACEABLE.fullmatch(item.name))
        precious = kind(item) in PROTECTED | {"PrivateKey"} and not replaceable
        if precious and not item.protected:
            findings.append(f"{kind(item)} {item.name} is not protected")
        if replaceable and item.protected:
            findings.append(f"{kind(item)} {item.name} is protected, and `up` would end where it is no longer wanted")
        retained = bool(item.options.get("retainOnDelete"))
        if retained != (kind(item) in RETAINED | LEFT_BEHIND):
            findings.append(f"{kind(item)} {item.name} is {'' if retained else 'not '}retained on delete")
    missing = {"Volume", "ReservedIp"} - {kind(item) for item in items}
    return findings + [f"there is no {name}" for name in missing]


def find_unsafe_bucket(evaluation: Evaluation) -> list[str]:
    """Backups survive a thief on the host: versions are kept, and the key there reaches this bucket alone."""
    (bucket,), (key,) = evaluation.of(":SpacesBucket"), evaluation.of(":SpacesKey")
    findings = []
    if not (bucket.inputs.get("versioning") or {}).get("enabled"):
        findings.append(f"{bucket.name} keeps no versions: what the host's key deletes is gone")
    if bucket.inputs.get("acl") != "private" or bucket.inputs.get("forceDestroy"):
        findings.append(f"{bucket.name} is readable by others, or emptied by a delete")
    grants = key.inputs.get("grants")
    if grants != [{"bucket": bucket.inputs["name"], "permission": "readwrite"}]:
        findings.append(f"{key.name} may do more than read and write {bucket.name}: {grants}")
    (items,) = [item.inputs["items"] for item in evaluation.of(":Variable") if item.name.endswith("-backup-variable")]
    owners = {item.inputs.get("spacesAccessId") for item in evaluation.of("pulumi:providers:digitalocean")}
    if items["AWS_ACCESS_KEY_ID"] in owners:
        findings.append("the host has the owner's own key, which reaches every bucket")
    return findings


def find_nomad_resources_without_refill(evaluation: Evaluation) -> list[str]:
    """Every resource in Nomad: refilled when Nomad was emptied, deleted before replaced, gone with its droplet."""
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
        if options.get("deletedWith") != droplet.urn:
            findings.append(f"{item.name}: it is not deleted with the droplet")
        if options.get("provider", "").split("::")[:4] not in [urn.split("::")[:4] for urn in providers]:
            findings.append(f"{item.name}: it does not use a Nomad provider of the program")
    return findings


def _pds_job(evaluation: Evaluation) -> dict[str, Any]:
    return job_of(evaluation.one("pds-server-job").inputs["jobspec"], "pds")


def find_public_server_port(evaluation: Evaluation) -> list[str]:
    """The PDS speaks plain HTTP: its ports are on the loopback network, and that network is loopback."""
    attributes = flat(_pds_job(evaluation))
    ports = {match[1] for key in attributes if (match := re.search(r"\.network\.port\.([^.]+)\.", key))}
    findings = [] if ports else ["the PDS's job has no port"]
    for port in sorted(ports):
        found = [value for key, value in attributes.items() if key.endswith(f".network.port.{port}.host_network")]
        if found != ["loopback"]:
            findings.append(f"port {port} of the PDS is not on the loopback network but on {found or 'every address'}")
    if any(key.endswith(".config.network_mode") for key in attributes):
        findings.append("the PDS's container chooses a network mode of its own")
    # The agent's file is HCL 1, which the independent parser does not read.
    network = re.search(r'host_network "loopback" \{\s*cidr = "([^"]*)"\s*\}', _agent(evaluation))
    cidr = network[1] if network else "nowhere"
    return findings + ([] if cidr == "127.0.0.1/32" else [f"the network 'loopback' is {cidr}"])


def _agent(evaluation: Evaluation) -> str:
    document = yaml.safe_load(evaluation.of("droplet:Droplet")[0].inputs["userData"])
    (content,) = [file["content"] for file in document["write_files"] if file["path"].startswith("/etc/nomad.d/")]
    return str(content)


def find_open_operator_ports(evaluation: Evaluation, nomad_anywhere: bool = False) -> list[str]:
    """Everyone reaches 80 and 443; SSH, IO's console and Nomad's endpoint are for the operators."""
    (firewall,) = evaluation.of("firewall:Firewall")
    open_ports = OPEN_PORTS | ({"4650"} if nomad_anywhere else set())
    findings = []
    for rule in firewall.inputs["inboundRules"]:
        port, sources = rule.get("portRange"), rule.get("sourceAddresses") or []
        wide = [source for source in sources if source.endswith("/0")]
        if wide and port not in open_ports:
            findings.append(f"port {port} is open to {', '.join(wide)}")
        if not wide and port in open_ports:
            findings.append(f"port {port} is not open to all")
    ruled = {rule.get("portRange") for rule in firewall.inputs["inboundRules"]}
    findings += [f"no rule for port {port}" for port in ({"22", "4650"} | open_ports) - ruled]
    if firewall.inputs.get("tags") != evaluation.of("tag:Tag")[0].inputs["name"].split():
        findings.append("the firewall does not apply by the program's tag, so not from the droplet's first second")
    return findings


def find_moving_images(evaluation: Evaluation) -> list[str]:
    """The PDS's image is one exact tag or a digest, and the same for guard and server."""
    job = _pds_job(evaluation)
    images = {key: value for key, value in flat(job).items() if key.endswith(".config.image")}
    findings = [] if len(set(images.values())) == 1 else [f"the job runs {len(set(images.values()))} different images"]
    for key, image in images.items():
        exact = re.search(r"@sha256:[0-9a-f]{64}$", image) or re.search(r":[0-9]+\.[0-9]+\.[0-9]+$", image)
        if not exact:
            findings.append(f"{key} is {image}, which can change under the same name")
    return findings


def find_open_registration(evaluation: Evaluation) -> list[str]:
    """Accounts need an invite: XRPC sign-up has no captcha."""
    (env,) = task_of(_pds_job(evaluation), "pds")["env"]
    required = env.get("PDS_INVITE_REQUIRED")
    return [] if required == "true" else [f"PDS_INVITE_REQUIRED is {required}"]


def find_unreadable_variables(evaluation: Evaluation) -> list[str]:
    """A template that names a variable its task may not read waits for ever, and the task never starts.

    A task may read the paths of its job, its group and its own (Nomad's documentation, concepts/variables), and what a
    policy grants that is bound to its job.
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
        for task, text in ((task, str(found[task])) for found in body["task"] for task in found):
            own = {f"nomad/jobs/{name}", f"nomad/jobs/{name}/{group}", f"nomad/jobs/{name}/{group}/{task}"}
            findings += [
                f"task {task} of job {name} may not read {path}"
                for path in re.findall(r'nomadVar(?:List)? "([^"]+)"', text)
                if path not in own and not any(fnmatchcase(f"{path}/", grant) for grant in granted)
            ]
    return findings


CHECKS: dict[str, Callable[[Evaluation], list[str]]] = {
    "order": find_disorder,
    "protected state": find_unprotected_state,
    "Nomad resources": find_nomad_resources_without_refill,
    "server port": find_public_server_port,
    "operator ports": find_open_operator_ports,
    "images": find_moving_images,
    "registration": find_open_registration,
    "readable variables": find_unreadable_variables,
    "inputs": find_faulty_inputs,
    "secrets in the open": find_secrets_in_the_open,
    "secrets in texts": find_secrets_in_texts,
    "secret types": find_forbidden_secret_types,
}
"""Every check that looks at an evaluation of the dev stack."""
