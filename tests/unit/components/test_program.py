"""The real `__main__.py` with `Pulumi.dev.yaml`: its registrations, in order, with options and outputs."""

import ast
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from components.settings.checks.pds_env import read_env_file
from offline import hcl_reader
from offline.mock_engine import RESERVED_IP, ROOT, Evaluation
from tests.support.invariants import find_disorder, kind, waits_for
from tests.support.programs import ALERTS, BACKUP, CLUB, run

_DO, _TLS, _NOMAD = "digitalocean:index", "tls:index", "nomad:index"
GRAPH = {
    "pds": ("pds:index:Pds", "pulumi:pulumi:Stack"),
    "pds-host-network": ("pds:index:HostNetwork", "pds-host"),
    "pds-host-network-tag": (f"{_DO}/tag:Tag", "pds-host-network"),
    "pds-host-network-firewall": (f"{_DO}/firewall:Firewall", "pds-host-network"),
    "pds-host-network-ip": (f"{_DO}/reservedIp:ReservedIp", "pds-host-network"),
    "pds-host-data": ("pds:index:DataVolume", "pds-host"),
    "pds-host-data-volume": (f"{_DO}/volume:Volume", "pds-host-data"),
    "pds-host-certificates": ("pds:index:NomadCertificates", "pds-host"),
    "pds-host-certificates-ca-key": (f"{_TLS}/privateKey:PrivateKey", "pds-host-certificates"),
    "pds-host-certificates-ca": (f"{_TLS}/selfSignedCert:SelfSignedCert", "pds-host-certificates"),
    "pds-host-certificates-server-key": (f"{_TLS}/privateKey:PrivateKey", "pds-host-certificates"),
    "pds-host-certificates-server-request": (f"{_TLS}/certRequest:CertRequest", "pds-host-certificates"),
    "pds-host-certificates-server": (f"{_TLS}/locallySignedCert:LocallySignedCert", "pds-host-certificates"),
    "pds-host-certificates-client-key": (f"{_TLS}/privateKey:PrivateKey", "pds-host-certificates"),
    "pds-host-certificates-client-request": (f"{_TLS}/certRequest:CertRequest", "pds-host-certificates"),
    "pds-host-certificates-client": (f"{_TLS}/locallySignedCert:LocallySignedCert", "pds-host-certificates"),
    "pds-host": ("pds:index:OwnHost", "pds"),
    "pds-host-droplet": (f"{_DO}/droplet:Droplet", "pds-host"),
    "pds-host-address": (f"{_DO}/reservedIpAssignment:ReservedIpAssignment", "pds-host"),
    "pds-dns": ("pds:index:Dns", "pds"),
    "pds-dns-a": (f"{_DO}/dnsRecord:DnsRecord", "pds-dns"),
    "pds-dns-wildcard": (f"{_DO}/dnsRecord:DnsRecord", "pds-dns"),
    "pds-host-nomad": ("pds:index:NomadAccess", "pds-host"),
    "pds-host-nomad-management-token": ("random:index/randomPassword:RandomPassword", "pds-host-nomad"),
    "pds-host-nomad-bootstrap": ("pulumi-python:dynamic/pds:NomadBootstrap", "pds-host-nomad"),
    "pds-host-nomad-admin": ("pulumi:providers:nomad", "pds-host-nomad"),
    "pds-host-nomad-anonymous": (f"{_NOMAD}/aclPolicy:AclPolicy", "pds-host-nomad"),
    "pds-host-nomad-policy": (f"{_NOMAD}/aclPolicy:AclPolicy", "pds-host-nomad"),
    "pds-host-nomad-token": (f"{_NOMAD}/aclToken:AclToken", "pds-host-nomad"),
    "pds-host-nomad-provider": ("pulumi:providers:nomad", "pds-host-nomad"),
    "pds-secrets": ("pds:index:PdsSecrets", "pds"),
    "pds-secrets-plc-rotation-key": ("random:index/randomPassword:RandomPassword", "pds-secrets"),
    "pds-secrets-jwt-secret": ("random:index/randomPassword:RandomPassword", "pds-secrets"),
    "pds-secrets-admin-password": ("random:index/randomPassword:RandomPassword", "pds-secrets"),
    "pds-secrets-variable": (f"{_NOMAD}/variable:Variable", "pds-secrets"),
    "pds-server": ("pds:index:PdsServer", "pds"),
    "pds-server-volume-check": (f"{_NOMAD}/variable:Variable", "pds-server"),
    "pds-server-job": (f"{_NOMAD}/job:Job", "pds-server"),
    "pds-identity": ("pulumi-python:dynamic/pds:StackIdentity", "pds"),
    "pds-dns-ready": ("pulumi-python:dynamic/pds:DnsReady", "pds"),
    "pds-ingress-file": ("pds:index:IngressFile", "pds"),
    "pds-ingress-file-variable": (f"{_NOMAD}/variable:Variable", "pds-ingress-file"),
    "pds-ingress": ("pds:index:Ingress", "pds"),
    "pds-ingress-policy": (f"{_NOMAD}/aclPolicy:AclPolicy", "pds-ingress"),
    "pds-ingress-job": (f"{_NOMAD}/job:Job", "pds-ingress"),
    "pds-server-ready": ("pulumi-python:dynamic/pds:ServerReady", "pds"),
    "pds-people": ("pds:index:People", "pds"),
    "pds-people-removals": ("pulumi-python:dynamic/pds:AccountRemovals", "pds-people"),
}
"""Name to type and parent of every resource of the dev stack."""

SECRET_OUTPUTS = {
    "admin_password",
    "pds_env",
    "nomad_token",
    "nomad_management_token",
    "nomad_client_key_pem",
    "escrow",
}
PLAIN_OUTPUTS = {
    "url",
    "state",
    "ipv4",
    "package_version",
    "records",
    "resolves",
    "nomad_address",
    "nomad_ca_pem",
    "nomad_client_cert_pem",
    "files",
    "ingress_file",
    "host_configuration",
}


def _parent(urn: str) -> str:
    types, _, name = urn.rpartition("::")
    return "pulumi:pulumi:Stack" if types.endswith("pulumi:pulumi:Stack") else name


@pytest.fixture(params=["up", "preview"])
def evaluation(request: pytest.FixtureRequest, dev: Evaluation, dev_preview: Evaluation) -> Evaluation:
    """The dev stack as `up` and as the first `preview`."""
    return dev if request.param == "up" else dev_preview


def test_graph_equals_the_documented_table(evaluation: Evaluation) -> None:
    graph = {item.name: (item.type, _parent(item.parent)) for item in evaluation.resources}
    assert len(graph) == len(evaluation.resources), "two resources have the same name"
    assert graph == GRAPH, "the graph changed: if that is intended, update this table"


def test_every_resource_depends_on_what_it_needs(evaluation: Evaluation) -> None:
    assert find_disorder(evaluation) == [], "a resource does not depend on what it needs"


def test_server_ready_depends_on_every_other_resource(evaluation: Evaluation) -> None:
    custom = {item.name for item in evaluation.resources if not item.type.startswith("pds:index:")}
    late = custom - waits_for(evaluation, evaluation.one("pds-server-ready")) - {"pds-server-ready"}
    assert late == {"pds-people-removals"}, "`up` would report a serving PDS while these are still being created"


def test_dependencies_have_no_cycle(evaluation: Evaluation) -> None:
    for item in evaluation.resources:
        assert item.name not in waits_for(evaluation, item), f"{item.name} depends on itself: `up` would never end"


def test_firewall_volume_and_address_do_not_depend_on_the_droplet(dev: Evaluation) -> None:
    for name in (
        "pds-host-network-firewall",
        "pds-host-data-volume",
        "pds-host-network-ip",
        "pds-host-certificates-server",
    ):
        assert "pds-host-droplet" not in waits_for(dev, dev.one(name)), f"{name} must exist before the droplet"


def _options(evaluation: Evaluation, name: str) -> dict[str, Any]:
    return evaluation.one(name).options


def test_only_the_generation_replaces_the_droplet(evaluation: Evaluation) -> None:
    options = _options(evaluation, "pds-host-droplet")
    assert sorted(options["ignoreChanges"]) == ["image", "sshKeys", "userData"], "a text edit would rebuild the host"
    assert options["replacementTrigger"] == 1, "host.generation is what rebuilds it"
    assert options["deleteBeforeReplace"], "a volume is attached to one droplet at a time"
    assert options["deleteBeforeReplaceDefined"], "a volume is attached to one droplet at a time"
    assert options["customTimeouts"] == {"create": "20m", "delete": "10m"}, "the provider's delete waits 60 s only"
    assert not options.get("protect"), "a droplet holds nothing; protecting it would forbid the rebuild"


def test_address_assignment_is_deleted_with_the_droplet(evaluation: Evaluation) -> None:
    options = _options(evaluation, "pds-host-address")
    assert options["retainOnDelete"], "deleting it without a droplet panics, and the droplet's deletion ends it anyway"
    assert options["deleteBeforeReplace"], "an address is assigned once"


@pytest.mark.parametrize("name", ["pds-server-job", "pds-ingress-job"])
def test_jobs_are_registered_without_a_nomad_deployment(evaluation: Evaluation, name: str) -> None:
    item = evaluation.one(name)
    assert item.options["customTimeouts"] == {"create": "15m", "update": "15m", "delete": "5m"}
    ours = name == "pds-server-job"
    assert item.inputs["detach"] is ours, (
        "`ServerReady` waits; the provider waits for an evaluation that may be cancelled"
    )
    update = hcl_reader.parse(item.inputs["jobspec"])["job"]
    assert '"max_parallel": 0' in json.dumps(update), "after a failed deployment the same job is never tried again"


def test_both_nomad_providers_get_their_address_from_the_bootstrap(dev: Evaluation) -> None:
    bootstrap = dev.one("pds-host-nomad-bootstrap")
    for name in ("pds-host-nomad-admin", "pds-host-nomad-provider"):
        provider = dev.one(name)
        assert bootstrap.urn in provider.options["dependencies"], f"{name} would query a Nomad that does not exist yet"
        assert provider.inputs["address"] == f"https://{RESERVED_IP}:4650", "the endpoint on the reserved address"


def test_only_acl_resources_use_the_management_token(dev: Evaluation) -> None:
    for item in dev.resources:
        if item.type.startswith("nomad:"):
            provider = item.options["provider"].split("::")[-2]
            expected = "pds-host-nomad-admin" if kind(item) in ("AclPolicy", "AclToken") else "pds-host-nomad-provider"
            assert provider == expected, f"{item.name}: least privilege"


def test_certificates_in_cloud_init_never_renew_themselves(dev: Evaluation) -> None:
    for name in ("pds-host-certificates-ca", "pds-host-certificates-server"):
        inputs = dev.one(name).inputs
        assert inputs["validityPeriodHours"] == 20 * 365 * 24, f"{name} must outlive the host"
        assert "earlyRenewalHours" not in inputs, f"a renewed {name} would change cloud-init"
    assert dev.one("pds-host-certificates-client").inputs["earlyRenewalHours"] > 0, "`up` renews the client's"


def test_server_certificate_names_the_reserved_address(dev: Evaluation) -> None:
    assert dev.one("pds-host-certificates-server-request").inputs["ipAddresses"] == [RESERVED_IP]
    assert [record.inputs["value"] for record in dev.of(":DnsRecord")] == [RESERVED_IP] * 2, "so is every A record"


def test_first_preview_shows_the_whole_jobs_and_the_hash_of_cloud_init(
    dev: Evaluation, dev_preview: Evaluation
) -> None:
    for name in ("pds-server-job", "pds-ingress-job"):
        assert dev_preview.one(name).inputs["jobspec"] == dev.one(name).inputs["jobspec"], (
            "an Output is part of the job"
        )
    for key in ("files", "ingress_file", "url", "package_version"):
        assert dev_preview.outputs[key] == dev.outputs[key], f"the preview does not know {key}"
    known = dev_preview.one("pds-server-ready").inputs["configuration"]
    assert known == dev.one("pds-server-ready").inputs["configuration"], (
        "the preview reports whether cloud-init differs"
    )
    assert known == dev.outputs["host_configuration"], "a fresh host starts with it"


def test_first_preview_leaves_values_that_up_creates_unknown(dev_preview: Evaluation) -> None:
    assert dev_preview.one("pds-dns-a").inputs["value"] is None, "the reserved address"
    assert dev_preview.one("pds-host-nomad-provider").inputs["address"] is None, (
        "so the provider's address is unknown too"
    )
    assert dev_preview.one("pds-host-droplet").inputs["userData"] is None, (
        "it contains a certificate that does not exist yet"
    )


def test_first_preview_reports_no_error(dev_preview: Evaluation) -> None:
    assert [text for severity, text in dev_preview.messages if severity == "error"] == []
    assert any("ESCROW" in text for severity, text in dev_preview.messages if severity == "warning"), (
        "`up` warns loudly"
    )


def test_outputs_are_complete_and_only_the_listed_ones_are_secret(evaluation: Evaluation) -> None:
    assert set(evaluation.outputs) == SECRET_OUTPUTS | PLAIN_OUTPUTS
    assert evaluation.secret_outputs == SECRET_OUTPUTS, "a plain output became secret, or a secret one plain"


def test_pds_env_output_has_the_job_environment_and_the_secrets(dev: Evaluation) -> None:
    env = read_env_file(dev.outputs["pds_env"])
    secrets = dev.one("pds-secrets-variable").inputs["items"]
    assert env == dev.outputs["escrow"]["environment"] | secrets, "pdsadmin reads the whole environment from this file"
    assert len(secrets) == 3, "the dev stack generates three secrets"
    assert env["PDS_ADMIN_PASSWORD"] == dev.outputs["admin_password"]
    assert env["PDS_HOSTNAME"] == "noted.at"


def test_escrow_output_has_everything_that_a_rebuild_needs(dev: Evaluation) -> None:
    escrow = dev.outputs["escrow"]
    assert escrow["secrets"] == dev.one("pds-secrets-variable").inputs["items"], "the keys of every identity"
    assert escrow["volume_id"] == dev.one("pds-host-data-volume").id, "where the data is"
    assert escrow["ipv4"] == RESERVED_IP
    assert escrow["nomad_ca_key_pem"].startswith("-----BEGIN"), "to create a new client certificate"
    assert set(escrow) == {
        "hostname", "stack", "package_version", "environment", "secrets", "ipv4", "volume_id",
        "nomad_management_token", "nomad_ca_pem", "nomad_ca_key_pem",
    }  # fmt: skip


def test_main_is_short_and_has_no_branch() -> None:
    source = Path(ROOT / "__main__.py").read_text()
    assert len(source.splitlines()) < 25, "the program's first page is a table of contents"
    branches = (ast.If, ast.IfExp, ast.Match, ast.Try, ast.While, ast.BoolOp, ast.comprehension)
    found = [type(node).__name__ for node in ast.walk(ast.parse(source)) if isinstance(node, branches)]
    assert found == [], "the settings and the components decide what a stack contains"


def test_no_output_contains_a_whole_script() -> None:
    evaluation = run(backup=BACKUP, alerts=ALERTS, **CLUB)
    large = {name: len(json.dumps(value)) for name, value in evaluation.outputs.items()}
    shown = {name: size for name, size in large.items() if name not in evaluation.secret_outputs}
    assert sum(shown.values()) < 5000, f"`pulumi stack output`, and each refresh of `rescue`, prints them: {shown}"
    jobs = [item for item in evaluation.resources if item.type.endswith(":Job")]
    digests = {f"sha256:{hashlib.sha256(item.inputs['jobspec'].encode()).hexdigest()}" for item in jobs}
    assert digests <= set(evaluation.outputs["files"].values()), "the digest identifies each version of a file"
