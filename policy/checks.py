"""The checks of preflight: a view in, findings out.

`CHECKS` run for every stack with a PDS, `CHECKS_OF_A_CLUSTER` for a cluster, `CHECKS_OF_A_HOST` for one that creates
its own host, `CHECKS_OF_BACKUPS` for one with a bucket. A check without anything to check raises LookupError: it must
not pass. Values that are hidden in the engine's preview, above all user_data, are checked in the offline evaluation,
where they are visible.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from components.render.host.cloud_init import MAX_BYTES
from components.settings.fields.errors import SECRET_NAME
from offline.hcl_reader import flat, only_job, task_of
from policy.view import SECRET, Item, View, texts, written_files

OPEN_PORTS = frozenset({"80", "443"})
"""Ports that every address may reach."""

PROTECTED = frozenset({"Volume", "ReservedIp", "Domain", "SpacesBucket", "RandomPassword", "SelfSignedCert"})
"""Types whose loss cannot be undone. A PrivateKey is one too, except the client's, which `up` may create again."""
RETAINED = frozenset({"Volume", "ReservedIp", "Domain", "SpacesBucket"})
"""Of those, the ones that exist outside the state. A key that is 'retained' is lost: the state is its only copy."""
LEFT_BEHIND = frozenset({"AclToken", "Namespace", "NodePool", "ReservedIpAssignment"})
"""Not state: an emptied Nomad would refuse to delete a token or a namespace it does not know, and `ServerReady` removes
left-over tokens; a node pool cannot be deleted while it has nodes; an assignment ends with its droplet."""
REPLACEABLE = re.compile(r"pds-(host|cluster)-certificates-client-key|pds-people-member-.*-password")
"""The member changes their first password, and an admin can set it again."""

FORBIDDEN = frozenset({"RandomBytes", "RandomUuid", "RandomId", "RandomString"})
"""Their resource id is the value, and ids are never encrypted."""

HOLDS_A_SECRET = re.compile(
    r"items|userData|.*(password|secret_?id|secret_?key|secrets_digest|token|key_?pem)", re.IGNORECASE
)
"""Inputs, by their full name, that are secret in every resource of this program."""
LITERALS = {
    "a private key": re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----"),
    "a DigitalOcean token": re.compile(r"\bdo[por]_v1_[0-9a-f]{64}\b"),
    "a URL with a password": re.compile(r"\b[a-z][a-z0-9+]*://[^\s/:@\"'{}]*:[^\s/:@\"'{}]+@"),
}
"""The form of a secret whose value is unknown."""

# The largest certificates and key of the endpoint, whose stand-ins in the offline evaluation are short.
_CERTIFICATES = 3 * 1024


def precious(item_type: str, name: str) -> bool:
    """Return whether the resource cannot be created again, or is the only copy of what cannot."""
    kind = item_type.rpartition(":")[2]
    return kind in PROTECTED | {"PrivateKey"} and not REPLACEABLE.fullmatch(name)


def protection_faults(item: Item) -> list[str]:
    """A resource that cannot be created again is protected, and one that can is not."""
    findings = []
    if precious(item.type, item.name) and not item.protected:
        findings.append(f"{item.kind} {item.name} is not protected")
    if REPLACEABLE.fullmatch(item.name) and item.protected:
        findings.append(f"{item.kind} {item.name} is protected, and `up` would fail when it is no longer declared")
    return findings


def find_missing_resources(view: View) -> list[str]:
    """A stack that creates a host has the resources that outlive it."""
    missing = {"Volume", "ReservedIp"} - {item.kind for item in view.items} if view.has("droplet:Droplet") else set()
    return [f"there is no {name}" for name in sorted(missing)]


def find_unprotected_state(view: View) -> list[str]:
    """Resources that cannot be created again are protected by their type, and retained if they exist outside the
    state."""
    findings = []
    for item in view.of(""):
        findings += protection_faults(item)
        if item.retained != (item.kind in RETAINED | LEFT_BEHIND):
            findings.append(f"{item.kind} {item.name} is {'' if item.retained else 'not '}retained on delete")
    return findings + find_missing_resources(view)


_FIREWALLS = {
    "pds-cluster-network-server-firewall": (frozenset[str](), frozenset({"22", "4650"})),
    "pds-cluster-network-worker-firewall": (OPEN_PORTS, frozenset({"22"})),
}
"""Of a cluster: the ports that every address may reach, and those of the operators."""


def operator_port_faults(firewall: Item, *, nomad_anywhere: bool) -> list[str]:
    """Every client reaches 80 and 443; SSH, IO's console and Nomad's endpoint are for the operators."""
    public, own = _FIREWALLS.get(firewall.name, (OPEN_PORTS, frozenset({"22", "4650"})))
    open_ports = public | (own & {"4650"} if nomad_anywhere else set())
    findings = []
    for rule in firewall.inputs["inboundRules"]:
        port, sources = rule.get("portRange"), rule.get("sourceAddresses") or []
        wide = [source for source in sources if source.endswith("/0")]
        if wide and port not in open_ports:
            findings.append(f"port {port} is open to {', '.join(wide)}")
        if not wide and port in open_ports:
            findings.append(f"port {port} is not open to all")
    ruled = {rule.get("portRange") for rule in firewall.inputs["inboundRules"]}
    return findings + [f"no rule for port {port}" for port in sorted((own | open_ports) - ruled)]


def find_open_operator_ports(view: View) -> list[str]:
    """The firewall's rules are right, and it applies to the droplet."""
    (firewall,) = view.of("firewall:Firewall")
    findings = operator_port_faults(firewall, nomad_anywhere=view.nomad_anywhere)
    # None: the tag does not exist yet, and the engine shows no more of it.
    if firewall.inputs.get("tags") not in ([view.of("tag:Tag")[0].inputs["name"]], [None]):
        findings.append("the firewall does not use the program's tag, so it does not cover a droplet from its start")
    return findings


def find_open_cluster_ports(view: View) -> list[str]:
    """The rules of the servers' and of the workers' firewall are right."""
    firewalls = view.of("firewall:Firewall")
    return [fault for item in firewalls for fault in operator_port_faults(item, nomad_anywhere=view.nomad_anywhere)]


SERVER_JOB = "pds-server-job"
"""Name of the resource that is the PDS's Nomad job."""


def _job(item: Item) -> dict[str, Any]:
    return only_job(str(item.inputs["jobspec"]))


def server_port_faults(job: Item) -> list[str]:
    """The PDS speaks plain HTTP: its ports are on the loopback network, and that network is loopback."""
    attributes = flat(_job(job))
    ports = {match[1] for key in attributes if (match := re.search(r"\.network\.port\.([^.]+)\.", key))}
    findings = [] if ports else ["the PDS's job has no port"]
    for port in sorted(ports):
        networks = [value for key, value in attributes.items() if key.endswith(f".network.port.{port}.host_network")]
        if networks != ["loopback"]:
            findings.append(
                f"port {port} of the PDS is not on the loopback network but on {networks or 'every address'}"
            )
    if any(key.endswith(".config.network_mode") for key in attributes):
        findings.append("the PDS's container chooses a network mode of its own")
    return findings


def find_public_server_port(view: View) -> list[str]:
    """No client reaches the server past the ingress."""
    return server_port_faults(view.one(SERVER_JOB))


def user_data_faults(droplet: Item) -> list[str]:
    """DigitalOcean accepts 64 KiB of it; and the agent's network 'loopback', which has the PDS's port, is loopback."""
    document = droplet.inputs["userData"]
    if document in (SECRET, None):  # None: at a first preview the certificates do not exist yet
        return []
    size = len(document.encode()) + _CERTIFICATES
    findings = [f"user_data has up to {size:,} bytes of {MAX_BYTES:,}"] if size > MAX_BYTES else []
    (agent,) = [
        content for path, content in written_files(document) if path in ("/etc/nomad.d/agent.hcl", "/etc/pds/agent.hcl")
    ]
    if re.search(r'"driver.allowlist" += "raw_exec"', agent):
        return findings  # a server of a cluster, which runs no PDS
    # The agent's file is HCL 1, which the independent parser does not support.
    network = re.search(r'host_network "loopback" \{\s*cidr = "([^"]*)"\s*\}', agent)
    cidr = network[1] if network else "nowhere"
    return findings + ([] if cidr == "127.0.0.1/32" else [f"the network 'loopback' is {cidr}"])


def find_unsafe_user_data(view: View) -> list[str]:
    """The droplets' user_data is right."""
    return [fault for droplet in view.of("droplet:Droplet") for fault in user_data_faults(droplet)]


def image_faults(job: Item) -> list[str]:
    """The PDS's image is one exact tag or a digest, and the same for volume check and server."""
    images = {key: value for key, value in flat(_job(job)).items() if key.endswith(".config.image")}
    findings = [] if len(set(images.values())) == 1 else [f"the job runs {len(set(images.values()))} different images"]
    for key, image in images.items():
        exact = re.search(r"@sha256:[0-9a-f]{64}$", image) or re.search(r":[0-9]+\.[0-9]+\.[0-9]+$", image)
        if not exact:
            findings.append(f"{key} is {image}, which can change under the same name")
    return findings


def find_moving_images(view: View) -> list[str]:
    """The server's image is exact."""
    return image_faults(view.one(SERVER_JOB))


def registration_faults(job: Item, *, open_registration: bool) -> list[str]:
    """Accounts need an invite: XRPC sign-up has no captcha."""
    (env,) = task_of(_job(job), "pds")["env"]
    required = env.get("PDS_INVITE_REQUIRED")
    return [] if required == "true" or open_registration else [f"PDS_INVITE_REQUIRED is {required}"]


def find_open_registration(view: View) -> list[str]:
    """Accounts need an invite, unless the stack file says otherwise."""
    return registration_faults(view.one(SERVER_JOB), open_registration=view.open_registration)


def job_literal_faults(job: Item) -> list[str]:
    """No variable of a job's text is a secret."""
    return [
        f"{job.name}: {key} is a literal in the job's text"
        for key in flat(_job(job))
        if ".env." in key and SECRET_NAME.search(key.rpartition(".")[2])
    ]


def find_secret_literals(view: View) -> list[str]:
    """Secret values are hidden, and nothing in clear text looks like a secret."""
    findings = []
    for item in view.of(""):
        findings += [
            f"input {item.name}.{key} is in plain text"
            for key, value in item.shown.items()
            if HOLDS_A_SECRET.fullmatch(key) and value not in (SECRET, None, "")
        ]
        findings += [
            f"{where} holds {what}"
            for where, text in _open(item)
            for what, literal in LITERALS.items()
            if literal.search(text)
        ]
    # A cluster without ingress and takeover has no job.
    jobs = [item for item in view.of("") if item.type.endswith("job:Job")]
    return findings + [fault for job in jobs for fault in job_literal_faults(job)]


def _open(item: Item) -> Iterator[tuple[str, str]]:
    yield f"the id of {item.name}", item.id
    yield f"the URN of {item.name}", item.urn
    yield from texts(item.shown, f"input {item.name}")
    yield from texts(item.outputs, f"output {item.name}")


def secret_type_faults(item: Item) -> list[str]:
    """Only RandomPassword creates secrets, over hex digits alone, and its id reveals nothing."""
    if item.type.startswith("random:") and item.kind in FORBIDDEN:
        return [f"{item.name} is a {item.kind}"]
    if item.kind != "RandomPassword":
        return []
    expected = {"lower": False, "upper": False, "numeric": True, "special": True, "overrideSpecial": "abcdef"}
    findings = []
    alphabet = {key: item.inputs.get(key) for key in expected}
    if alphabet != expected or item.inputs.get("length") not in (32, 64):
        findings.append(f"{item.name} is not 32 or 64 hex digits")
    if item.id not in ("none", ""):
        findings.append(f"{item.name} has the id {item.id}")
    return findings


def find_forbidden_secret_types(view: View) -> list[str]:
    """The stack has generated secrets, all of one type."""
    view.of(":RandomPassword")
    return [fault for item in view.of("") for fault in secret_type_faults(item)]


def bucket_faults(bucket: Item) -> list[str]:
    """Versions of objects are kept, and only the owner reads the bucket."""
    findings = []
    if not (bucket.inputs.get("versioning") or {}).get("enabled"):
        findings.append(f"{bucket.name} keeps no versions: what the host's key deletes is gone")
    if bucket.inputs.get("acl") != "private" or bucket.inputs.get("forceDestroy"):
        findings.append(f"{bucket.name} is readable by others, or emptied by a delete")
    return findings


def key_faults(key: Item, bucket: Item | None = None) -> list[str]:
    """The key on the host reads and writes one bucket: `bucket`, if it is given."""
    grants = key.inputs.get("grants") or []
    names = [grant.get("bucket") for grant in grants if grant.get("permission") == "readwrite"]
    one = len(grants) == len(names) == 1 and names != [""]
    if one and (bucket is None or names[0] in (bucket.inputs["name"], None)):
        return []
    return [f"{key.name} may do more than read and write {bucket.name if bucket else 'one bucket'}: {grants}"]


def find_unsafe_bucket(view: View) -> list[str]:
    """Backups and blobs survive a thief on the host: versions are kept, and a key there can access only one bucket."""
    keys = {key.name: key for key in view.of(":SpacesKey")}
    findings = []
    for bucket in view.of(":SpacesBucket"):
        key = keys.get(f"{bucket.name.removesuffix('-bucket')}-key")
        findings += bucket_faults(bucket) + (key_faults(key, bucket) if key else [f"{bucket.name} has no key"])
    owners = {item.inputs.get("spacesAccessId") for item in view.of("pulumi:providers:digitalocean")} - {None, SECRET}
    for variable in view.of(":Variable"):
        items = variable.inputs["items"]
        if isinstance(items, Mapping) and owners & set(items.values()):
            findings.append(f"the host has the owner's own key, which reaches every bucket: {variable.name}")
    return findings


PolicyCheck = Callable[[View], list[str]]

CHECKS: dict[str, PolicyCheck] = {
    "protected state": find_unprotected_state,
    "server port": find_public_server_port,
    "images": find_moving_images,
    "registration": find_open_registration,
    "secret literals": find_secret_literals,
    "secret types": find_forbidden_secret_types,
}
CHECKS_OF_A_HOST: dict[str, PolicyCheck] = {
    "operator ports": find_open_operator_ports,
    "user_data": find_unsafe_user_data,
}
CHECKS_OF_A_CLUSTER: dict[str, PolicyCheck] = {
    "protected state": find_unprotected_state,
    "secret literals": find_secret_literals,
    "secret types": find_forbidden_secret_types,
    "operator ports": find_open_cluster_ports,
    "user_data": find_unsafe_user_data,
}
"""A cluster has no PDS of its own."""
CHECKS_OF_BACKUPS: dict[str, PolicyCheck] = {"backup bucket": find_unsafe_bucket}


def findings(view: View) -> dict[str, list[str]]:
    """Return the findings of each check that concerns this view, by the check's name. Raises LookupError."""
    checks = CHECKS
    if view.has(":PlacedHosts"):
        checks = CHECKS_OF_A_CLUSTER
    elif view.has("droplet:Droplet"):
        checks = checks | CHECKS_OF_A_HOST
    if view.has(":SpacesBucket"):
        checks = checks | CHECKS_OF_BACKUPS
    return {name: find(view) for name, find in checks.items()}
