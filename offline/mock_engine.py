"""A recording engine: it evaluates the real program with Pulumi's own runtime and records its requests.

Used by the tests, by `make preview` and by `make try`. It has no state, creates nothing and uses no network. `COMPUTED`
has the values that a provider would compute, type by type. A type without an entry is an error. Pulumi's mocks hide a
resource's options; the monitor here keeps them.
"""

import asyncio
import base64
import hashlib
import re
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pulumi
from google.protobuf import json_format
from pulumi.runtime import Mocks, mocks, rpc
from pulumi.runtime import resource as runtime_resource
from pulumi.runtime import settings as runtime_settings
from pulumi.runtime.proto import source_pb2
from pulumi.runtime.stack import Stack, run_pulumi_func

from offline import ROOT as ROOT
from offline.immediate_calls import ImmediateLoop, result_of

SecretSource = Callable[[str, int], str]
"""Resource name and number of digits to lower-case hex digits."""


@dataclass(frozen=True)
class Recorded:
    """One registered resource: its inputs and its options."""

    type: str
    name: str
    urn: str
    parent: str
    inputs: dict[str, Any]
    """In the engine's spelling; secrets unwrapped, unknown values None."""
    secret_inputs: frozenset[str]
    """Top-level inputs that are, or hold, a secret."""
    raw: dict[str, Any]
    """The inputs as sent on the wire, with their secret marks."""
    options: dict[str, Any]
    """protect, dependencies, deleteBeforeReplace, …: the request without its inputs."""
    outputs: dict[str, Any]
    id: str

    @property
    def protected(self) -> bool:
        """Whether the engine would refuse to delete it."""
        return bool(self.options.get("protect"))


@dataclass
class Evaluation:
    """All registrations of the program, in order."""

    stack: str
    resources: list[Recorded] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    secret_outputs: frozenset[str] = frozenset()
    registered: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The outputs of the stack and each component, by URN, as sent on the wire."""
    messages: list[tuple[str, str]] = field(default_factory=list)
    """Severity and text of each message to the user."""

    def of(self, type_end: str) -> list[Recorded]:
        """Return the resources whose type token ends with it. Never empty, since a check of nothing would pass."""
        found = [item for item in self.resources if item.type.endswith(type_end)]
        if not found:
            raise LookupError(f"the program registered no {type_end}")
        return found

    def jobspec(self, job: str) -> str:
        """Return the text of the Nomad job of this id."""
        found = [str(item.inputs["jobspec"]) for item in self.of("job:Job")]
        texts = [text for text in found if re.match(rf'(.*\n)*job "{re.escape(job)}" ', text)]
        if len(texts) != 1:
            raise LookupError(f"{len(texts)} jobs are called {job}")
        return texts[0]

    def one(self, name: str) -> Recorded:
        """Return the resource of this name."""
        found = [item for item in self.resources if item.name == name]
        if len(found) != 1:
            raise LookupError(f"{len(found)} resources are named {name}: {[item.name for item in self.resources]}")
        return found[0]


def fixed_secret(name: str, digits: int) -> str:
    """Return a secret that is the same at each evaluation, for text that must not change by itself. Never used in a
    real stack."""
    return hashlib.sha512(f"not a secret: {name}".encode()).hexdigest()[:digits]


def _number(name: str) -> str:
    return str(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))


def _uuid(name: str) -> str:
    digits = hashlib.sha256(name.encode()).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:32]}"


def _base32(name: str) -> str:
    return base64.b32encode(hashlib.sha256(name.encode()).digest()).decode().lower()[:24]


def _pem(kind: str, name: str) -> str:
    return f"-----BEGIN {kind}-----\nMADE-BY-THE-PROVIDER-{name}\n-----END {kind}-----\n"


def _same(_name: str, _inputs: dict[str, Any]) -> dict[str, Any]:
    return {}


RESERVED_IP = "203.0.113.10"
"""Stands in for the reserved address (RFC 5737)."""


def _address(name: str) -> str:
    # Each host of a cluster has one of its own.
    return f"203.0.113.{20 + int(_number(name)) % 200}" if "-hosts-" in name else RESERVED_IP


COMPUTED: dict[str, Callable[[str, dict[str, Any]], dict[str, Any]]] = {
    "digitalocean:index/tag:Tag": _same,
    "digitalocean:index/firewall:Firewall": lambda n, i: {"status": "succeeded"},
    "digitalocean:index/reservedIp:ReservedIp": lambda n, i: {
        "ipAddress": _address(n),
        "reservedIpUrn": f"do:reservedip:{_address(n)}",
    },
    "digitalocean:index/volume:Volume": lambda n, i: {"volumeUrn": f"do:volume:{_uuid(n)}", "dropletIds": []},
    "digitalocean:index/vpc:Vpc": lambda n, i: {"vpcUrn": f"do:vpc:{_uuid(n)}"},
    "digitalocean:index/droplet:Droplet": lambda n, i: {
        "dropletUrn": f"do:droplet:{_number(n)}",
        "ipv4Address": "198.51.100.20",
        "status": "active",
    },
    "digitalocean:index/reservedIpAssignment:ReservedIpAssignment": _same,
    "digitalocean:index/uptimeCheck:UptimeCheck": _same,
    "digitalocean:index/uptimeAlert:UptimeAlert": _same,
    "digitalocean:index/monitorAlert:MonitorAlert": lambda n, i: {"uuid": _uuid(n)},
    "digitalocean:index/project:Project": _same,
    "digitalocean:index/projectResources:ProjectResources": _same,
    "digitalocean:index/domain:Domain": lambda n, i: {"domainUrn": f"do:domain:{i.get('name')}"},
    "digitalocean:index/dnsRecord:DnsRecord": lambda n, i: {"fqdn": f"{i.get('name')}.{i.get('domain')}"},
    "digitalocean:index/spacesBucket:SpacesBucket": lambda n, i: {
        "bucketDomainName": f"{i.get('name')}.{i.get('region')}.digitaloceanspaces.com"
    },
    "digitalocean:index/spacesKey:SpacesKey": lambda n, i: {
        "accessKey": f"DO00{_number(n)}",
        "secretKey": _secret(hashlib.sha512(f"not a secret: {n}".encode()).hexdigest()[:43]),
    },
    "pulumi:providers:digitalocean": _same,
    "tls:index/privateKey:PrivateKey": lambda n, i: {"privateKeyPem": _secret(_pem("EC PRIVATE KEY", n))},
    "tls:index/selfSignedCert:SelfSignedCert": lambda n, i: {"certPem": _pem("CERTIFICATE", n)},
    "tls:index/certRequest:CertRequest": lambda n, i: {"certRequestPem": _pem("CERTIFICATE REQUEST", n)},
    "tls:index/locallySignedCert:LocallySignedCert": lambda n, i: {"certPem": _pem("CERTIFICATE", n)},
    "pulumi:providers:nomad": _same,
    "nomad:index/aclPolicy:AclPolicy": _same,
    "nomad:index/aclToken:AclToken": lambda n, i: {
        "accessorId": _uuid(f"{n}-accessor"),
        "secretId": _secret(_uuid(f"{n}-secret")),
    },
    "nomad:index/variable:Variable": _same,
    "nomad:index/namespace:Namespace": _same,
    "nomad:index/nodePool:NodePool": _same,
    "nomad:index/job:Job": lambda n, i: {"status": "running", "modifyIndex": "1"},
    "pulumi-python:dynamic/pds:NomadBootstrap": lambda n, i: {"cluster_id": _uuid(n)},
    "pulumi-python:dynamic/pds:StackIdentity": _same,
    "pulumi-python:dynamic/pds:HostInUse": _same,
    "pulumi-python:dynamic/pds:NomadRequirements": _same,
    "pulumi-python:dynamic/pds:PlacedHosts": _same,
    "pulumi-python:dynamic/pds:ClusterAccount": _same,
    "pulumi-python:dynamic/pds:ClubNamespace": lambda n, i: {"volume_id": _uuid(n)},
    "pulumi-python:dynamic/pds:DnsReady": lambda n, i: {
        "ingress_state": "open",
        "state": "evaluated without a network",
    },
    "pulumi-python:dynamic/pds:SoleRecords": _same,
    "pulumi-python:dynamic/pds:Account": lambda n, i: {
        "did": f"did:plc:{_base32(n)}",
        "live_handle": i.get("temporary") or i.get("handle"),
        "initial_password": _secret(i.get("password")),
        "state": "active",
    },
    "pulumi-python:dynamic/pds:Handle": lambda n, i: {"live_handle": i.get("handle"), "state": "set"},
    "pulumi-python:dynamic/pds:NomadJobRun": lambda n, i: {"state": "done"},
    "pulumi-python:dynamic/pds:AccountRemovals": lambda n, i: {"state": "done"},
    "pulumi-python:dynamic/pds:Invites": lambda n, i: {
        "codes": _secret([f"{_number(f'{n}-{item}')}-code" for item in range(int(i.get("count") or 0))]),
        "state": "created",
    },
    "pulumi-python:dynamic/pds:UnlistedAccounts": lambda n, i: {"unlisted": [], "state": "done"},
    "pulumi-python:dynamic/pds:ServerReady": lambda n, i: {
        "state": "serving",
        "host_configuration": i.get("configuration"),
    },
}


def _secret(value: Any) -> Any:
    return {rpc._special_sig_key: rpc._special_secret_sig, "value": value}


class _Providers(Mocks):
    """Stands in for every provider."""

    def __init__(self, secret: SecretSource, preview: bool, others: Mapping[str, "Evaluation"]) -> None:
        self._source, self._preview, self._others = secret, preview, others

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        inputs = dict(args.inputs)
        if args.typ.startswith("pds:index:"):
            return "", inputs
        if args.typ == "random:index/randomPassword:RandomPassword":
            # As the provider does: the id is constant, the result is secret.
            result = {} if self._preview else {"result": _secret(self._source(args.name, int(inputs["length"])))}
            return "none", {**inputs, **result}
        if args.typ == "pulumi:pulumi:StackReference":
            # The engine reads it at previews too; it knows a stack by ORGANIZATION/PROJECT/STACK.
            found = self._others[str(args.resource_id).rpartition("/")[2]]
            outputs = {
                key: _secret(value) if key in found.secret_outputs else value for key, value in found.outputs.items()
            }
            secret_names = sorted(found.secret_outputs)
            return str(args.resource_id), {**inputs, "outputs": outputs, "secretOutputNames": secret_names}
        if args.typ not in COMPUTED:
            raise KeyError(f"{args.typ} ({args.name}): say in offline/mock_engine.py what its provider computes")
        computed = {} if self._preview else COMPUTED[args.typ](args.name, inputs)
        identity = _number(args.name) if args.typ.endswith(":Droplet") else _uuid(args.name)
        return "" if self._preview else identity, {**inputs, **computed}

    def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        if args.token == "digitalocean:index/getSshKey:getSshKey":  # noqa: S105 (a function's name)
            digits = hashlib.sha256(args.args["name"].encode()).hexdigest()
            fingerprint = ":".join(digits[index : index + 2] for index in range(0, 32, 2))
            return {**args.args, "fingerprint": fingerprint, "id": 1, "publicKey": "ssh-ed25519 AAAA"}, []
        if args.token == "digitalocean:index/getSshKeys:getSshKeys":  # noqa: S105 (a function's name)
            (wanted,) = args.args["filters"]
            return {**args.args, "id": "keys", "sshKeys": [{"fingerprint": item} for item in wanted["values"]]}, []
        if args.token == "digitalocean:index/getTags:getTags":  # noqa: S105 (a function's name)
            return {**args.args, "id": "tags", "tags": []}, []
        raise KeyError(f"{args.token}: a function that no provider here answers")


class _Monitor(mocks.MockMonitor):
    """Records each registration completely."""

    def __init__(self, providers: _Providers, evaluation: Evaluation) -> None:
        super().__init__(providers)
        self._evaluation = evaluation

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 (the name of the call)
        response = super().RegisterResource(request)  # type: ignore[no-untyped-call]
        if request.type == "pulumi:pulumi:Stack":
            return response
        raw = json_format.MessageToDict(request.object)
        request.ClearField("object")
        options = json_format.MessageToDict(request)
        record = Recorded(
            type=request.type,
            name=request.name,
            urn=response.urn,
            parent=request.parent,
            inputs=_plain(raw),
            secret_inputs=frozenset(key for key, value in raw.items() if _holds_secret(value)),
            raw=raw,
            options=options,
            outputs=json_format.MessageToDict(response.object) if response.object else {},
            id=response.id,
        )
        self._evaluation.resources.append(record)
        return response

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802
        raw = json_format.MessageToDict(request.outputs)
        # `set_mocks` creates a stack that registers no outputs. The program's registers them, and either registration
        # may arrive first.
        known = self._evaluation.registered.setdefault(request.urn, {})
        known |= raw
        if "pulumi:pulumi:Stack" in request.urn:
            self._evaluation.outputs = _plain(known)
            self._evaluation.secret_outputs = frozenset(key for key, value in known.items() if _holds_secret(value))
        return super().RegisterResourceOutputs(request)  # type: ignore[no-untyped-call]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get(rpc._special_sig_key) == rpc._special_secret_sig:
            return _plain(value.get("value"))
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None if value == rpc.UNKNOWN else value


def _holds_secret(value: Any) -> bool:
    if isinstance(value, dict):
        if value.get(rpc._special_sig_key) == rpc._special_secret_sig:
            return True
        return any(_holds_secret(item) for item in value.values())
    return isinstance(value, list) and any(_holds_secret(item) for item in value)


class _Messages:
    """Stands in for the engine's log."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation

    def Log(self, request: Any) -> Any:  # noqa: N802
        severity = {1: "info", 2: "warning", 3: "error"}.get(request.severity, "debug")
        self._evaluation.messages.append((severity, request.message))


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


def _forget_what_is_outstanding() -> None:
    """After an error, or another user of the runtime, many futures are pending; no caller may wait for them on a closed
    loop."""
    runtime_settings.SETTINGS.rpc_manager.clear()
    runtime_settings.SETTINGS.outputs.clear()


def evaluate(
    stack: str,
    config: Mapping[str, str],
    *,
    secret_keys: frozenset[str] = frozenset(),
    preview: bool = False,
    secret: SecretSource = fixed_secret,
    others: Mapping[str, Evaluation] | None = None,
    program: Callable[[], object] | None = None,
    root: Path = ROOT,
) -> Evaluation:
    """Run `__main__.py` of `root` (or `program`) for `stack` and return everything that it registered and exported.

    `config` maps full keys ("pds:hostname") to values as the engine passes them; `others` are stacks that it may refer
    to. With `preview`, values computed by a provider are unknown, as at a first `pulumi preview`. Raises what the
    program raises.
    """
    evaluation = Evaluation(stack)
    loop = ImmediateLoop()
    # The first error is raised; asyncio would print each of the futures that fail with it.
    loop.set_exception_handler(lambda _loop, _context: None)
    asyncio.set_event_loop(loop)
    try:
        runtime_settings.set_root_resource(None)  # type: ignore[arg-type]  # a fresh stack for each evaluation
        pulumi.runtime.set_all_config(dict(config), list(secret_keys))
        monitor = _Monitor(_Providers(secret, preview, others or {}), evaluation)
        mocks.set_mocks(monitor.mocks, project="pds", stack=stack, preview=preview, monitor=monitor)
        runtime_settings.SETTINGS.engine = _Messages(evaluation)
        _forget_what_is_outstanding()
        run = program or (lambda: runpy.run_path(str(root / "__main__.py"), run_name="__main__"))

        def whole() -> None:
            run()
            stack_resource = runtime_settings.get_root_resource()
            assert isinstance(stack_resource, Stack)
            stack_resource.register_outputs(stack_resource.outputs)

        # The engine shows where in the program a resource was registered. Nothing here does, and it takes a sixth of
        # the time to find out.
        with (
            patch.object(runtime_resource, "_get_stack_trace", source_pb2.StackTrace),
            patch.object(mocks, "_sync_await", result_of),
        ):
            loop.run_until_complete(run_pulumi_func(whole))
    finally:
        _forget_what_is_outstanding()
        _end_tasks(loop)
        asyncio.set_event_loop(None)
        loop.close()
    return evaluation
