"""The second ingress: the rendered files for `ingress.kind: caddy`, checked by Debian's Caddy and by the invariants."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.render.ingress.caddy import caddy_job, caddyfile
from offline.hcl_reader import job_of, task_of
from offline.mock_engine import Evaluation
from tests.support.caddyfile import whole_caddyfile
from tests.support.host_machine import tool
from tests.support.invariants import CHECKS
from tests.support.programs import run, settings_of

CADDY = {"kind": "caddy"}


@pytest.fixture(scope="module")
def with_caddy() -> Evaluation:
    """The dev stack behind Caddy."""
    return run(ingress=CADDY)


def _adapted(folder: Path, **changes: Any) -> dict[str, Any]:
    """The configuration that Caddy derives from the whole file; fails with its error if it refuses the file."""
    settings = settings_of(**{"ingress": CADDY, **changes})
    file = folder / "Caddyfile"
    file.write_text(whole_caddyfile(caddy_job(settings, "dev"), caddyfile(settings)))
    command = [tool("caddy", "caddy"), "adapt", "--adapter", "caddyfile", "--config", str(file), "--validate"]
    folders = {"XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder), "HOME": str(folder)}
    done = subprocess.run(command, env=folders, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if '"warn"' in line and "not formatted" not in line]
    assert warnings == []
    config: dict[str, Any] = json.loads(done.stdout)
    return config


@pytest.mark.parametrize("invariant", CHECKS)
def test_invariant_holds_behind_caddy(invariant: str, with_caddy: Evaluation) -> None:
    assert CHECKS[invariant](with_caddy) == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ingress": CADDY | {"acme_email": "#a`b@my-club.org", "extra_caddyfile": "www.noted.at {\n\tabort\n}"}},
        {"ingress": CADDY | {"site_caddyfile": "\trespond / hi"}, "pds": {"max_import_size": 7}},
        {"service_handle_domains": [".noted.at", ".my-club.org"], "pds": {"max_import_size": 104857600, "port": 3007}},
        {"pds": {"image": "registry.my-club.org/our-pds:1.2.3", "package_version": "0.5.37", "blob_upload_limit": 1}},
        {"hostname": f"{'a' * 63}.noted.at", "dns": {"zone": "noted.at"}},
        {"hostname": "pds.noted.at", "dns": {"zone": "noted.at"}, "service_handle_domains": [".noted.at"]},
    ],
    ids=[
        "plain",
        "address and sites",
        "inside the site",
        "domains and limits",
        "own image",
        "long name",
        "among the handles",
    ],
)
def test_caddy_accepts_the_file_and_its_format(changes: dict[str, Any], tmp_path: Path) -> None:
    _adapted(tmp_path, **changes)
    formatted = subprocess.run(
        [tool("caddy", "caddy"), "fmt", str(tmp_path / "Caddyfile")], capture_output=True, text=True, timeout=600
    )
    written = (tmp_path / "Caddyfile").read_text()
    assert formatted.stdout.strip() == written.strip(), "only blank lines at the end, from the template, may differ"


def test_certificates_come_from_the_configured_ca_only(tmp_path: Path) -> None:
    automation = _adapted(tmp_path)["apps"]["tls"]["automation"]
    issuers = [issuer for policy in automation["policies"] for issuer in policy["issuers"]]
    assert {(issuer["module"], issuer["ca"]) for issuer in issuers} == {
        ("acme", "https://acme-v02.api.letsencrypt.org/directory")
    }, "a second CA would fail if a CAA record forbids it"
    on_demand = [policy["subjects"] for policy in automation["policies"] if policy.get("on_demand")]
    assert on_demand == [["*.noted.at"]], "the hostname's certificate is ordered at startup"
    on_demand_json = json.dumps(automation["on_demand"])  # Caddy 2.11 has another structure
    assert "http://127.0.0.1:2020/ask" in on_demand_json, (
        "certificates for every name would exhaust the CA's rate limit"
    )


def test_server_and_ask_endpoint_listen_on_loopback_and_quic_is_off(tmp_path: Path) -> None:
    config = _adapted(tmp_path)
    servers = {tuple(server["listen"]): server for server in config["apps"]["http"]["servers"].values()}
    assert servers.keys() == {("127.0.0.1:2020",), (":443",)}
    assert all(server["protocols"] == ["h1", "h2"] for server in servers.values()), "UDP port 443 is closed"
    assert config["admin"]["listen"].startswith("unix/"), "over TCP every program on the host could control it"
    dials = {line.strip() for line in json.dumps(config, indent=0).splitlines() if '"dial"' in line}
    assert dials == {'"dial": "127.0.0.1:3000"', '"dial": "127.0.0.1:2020"'}


def _access_logs(folder: Path, access_log: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The loggers beside the default one, and the logger of each host."""
    config = _adapted(folder, ingress=CADDY | {"access_log": access_log})
    (server,) = [item for item in config["apps"]["http"]["servers"].values() if item["listen"] == [":443"]]
    logs = config.get("logging", {}).get("logs", {})
    names = server.get("logs", {}).get("logger_names", {})
    # Caddy 2.11 names a list.
    return {name: log for name, log in logs.items() if name != "default"}, {
        host: name if isinstance(name, str) else name[0] for host, name in names.items()
    }


def _filters(log: dict[str, Any]) -> tuple[set[str], dict[str, int]]:
    """The fields that a logger leaves out, and the addresses that it masks."""
    fields = log["encoder"]["fields"]
    assert (fields["request>uri"]["regexp"], fields["request>uri"].get("value", "")) == (r"\?.*", "")
    deleted = {name for name, field in fields.items() if field["filter"] == "delete"}
    return deleted, {name: field["ipv4_cidr"] for name, field in fields.items() if field["filter"] == "ip_mask"}


HEADERS = {"request>headers", "request>tls", "resp_headers"}
MASKED = {"request>remote_ip": 24, "request>client_ip": 24}


@pytest.mark.parametrize(("access_log", "addresses"), [("masked", MASKED), ("full", {})])
def test_requests_are_logged_without_headers_and_query(
    access_log: str, addresses: dict[str, int], tmp_path: Path
) -> None:
    logs, names = _access_logs(tmp_path, access_log)
    assert names.keys() == {"noted.at", "*.noted.at"}, "the question for certificates is not a request of a client"
    assert set(names.values()) == logs.keys()
    for log in logs.values():
        assert _filters(log) == (HEADERS, addresses)
        assert log["writer"] == {"output": "stdout"}, "Nomad rotates it"


@pytest.mark.parametrize(("access_log", "addresses"), [("masked", MASKED), ("full", {}), ("off", MASKED)])
def test_errors_are_logged_in_the_same_way(access_log: str, addresses: dict[str, int], tmp_path: Path) -> None:
    config = _adapted(tmp_path, ingress=CADDY | {"access_log": access_log})
    default = config["logging"]["logs"]["default"]
    assert _filters(default) == (HEADERS, addresses)
    assert "output" not in default.get("writer", {}), "standard error"


def test_without_an_access_log_no_request_is_logged(tmp_path: Path) -> None:
    assert _access_logs(tmp_path, "off") == ({}, {})
    assert "log {" not in caddyfile(settings_of(ingress=CADDY | {"access_log": "off"}))


def test_serves_every_handle_domain(tmp_path: Path) -> None:
    policies = _adapted(tmp_path, service_handle_domains=[".noted.at", ".my-club.org"])["apps"]["tls"]["automation"]
    on_demand = [policy["subjects"] for policy in policies["policies"] if policy.get("on_demand")]
    assert {name for subjects in on_demand for name in subjects} == {"*.noted.at", "*.my-club.org"}


def test_hostname_under_a_handle_domain_gets_an_on_demand_certificate() -> None:
    names = {"hostname": "pds.noted.at", "dns": {"zone": "noted.at"}, "service_handle_domains": [".noted.at"]}
    text = caddyfile(settings_of(ingress=CADDY, **names))
    assert text.startswith("pds.noted.at {\n\ttls {\n\t\ton_demand\n"), (
        "a wildcard site that covers it would replace it"
    )
    assert "http://pds.noted.at:2020 {\n\tbind 127.0.0.1\n\trespond 200\n}" in text
    deeper = names | {"service_handle_domains": [".pds.noted.at"]}
    assert text.count("on_demand") == 2, "hostname and handles"
    assert caddyfile(settings_of(ingress=CADDY, **deeper)).count("on_demand") == 1


def test_container_has_one_capability_and_does_not_run_as_root(with_caddy: Evaluation) -> None:
    task = task_of(job_of(with_caddy.jobspec("caddy"), "caddy"), "caddy")
    (config,) = task["config"]
    assert (config["cap_drop"], config["cap_add"]) == (["all"], ["net_bind_service"])
    assert config["readonly_rootfs"] is True
    assert task["user"] == "1001:1001", "only the owner of the volume's directory"
    assert task["env"] == [{"XDG_DATA_HOME": "/data", "XDG_CONFIG_HOME": "/local"}]
    assert task["volume_mount"][0]["destination"] == "/data", "a rebuilt host keeps its certificates"


def test_changed_file_is_reloaded_without_a_restart(with_caddy: Evaluation) -> None:
    task = task_of(job_of(with_caddy.jobspec("caddy"), "caddy"), "caddy")
    by_name = {item["destination"]: item for item in task["template"]}
    assert [name for name, item in by_name.items() if item["change_mode"] != "noop"] == ["local/parts"]
    (script,) = by_name["local/parts"]["change_script"]
    assert [script["command"], *script["args"]] == ["/bin/sh", "/local/caddy.sh", "reload"]
    assert script["fail_on_error"] is False, "one stack's bad file must not stop the ingress of all stacks"
    (config,) = task["config"]
    assert [*config["entrypoint"], *config["args"]] == ["/bin/sh", "/local/caddy.sh", "start"]


def test_each_stack_has_its_own_file_and_the_job_reads_all_of_them(with_caddy: Evaluation) -> None:
    variable = with_caddy.one("pds-ingress-file-variable").inputs
    text = with_caddy.outputs["ingress_file"]
    assert variable == {"path": "caddy/files/dev", "items": {"text": text, "plain": text}}
    policy = with_caddy.one("pds-ingress-policy").inputs
    assert (policy["name"], policy["jobAcl"]["jobId"]) == ("caddy-files", "caddy")
    assert 'path "caddy/*"' in policy["rulesHcl"]
    templates = task_of(job_of(with_caddy.jobspec("caddy"), "caddy"), "caddy")["template"]
    (parts,) = [item["data"] for item in templates if item["destination"] == "local/parts"]
    assert 'range $file := nomadVarList "caddy/files"' in parts
    assert ".V | base64Encode" in parts, "no line of a text may be read as another stack's"


def test_ingress_state_of_dns_ready_starts_the_caddy_job(with_caddy: Evaluation) -> None:
    open_ = with_caddy.one("pds-dns-ready").outputs["ingress_state"]
    assert with_caddy.one("pds-ingress-job").inputs["hcl2"]["vars"] == {"ingress_state": open_}
    assert 'count          = var.ingress_state == "open" ? 1 : 0' in with_caddy.jobspec("caddy")


def test_server_has_a_fixed_port_and_no_port_is_opened_for_a_console(with_caddy: Evaluation) -> None:
    (network,) = job_of(with_caddy.jobspec("pds"), "pds")["group"][0]["pds"]["network"]
    assert network["port"] == [{"http": {"static": 3000, "to": 3000, "host_network": "loopback"}}]
    ports = {rule["portRange"] for rule in with_caddy.of(":Firewall")[0].inputs["inboundRules"]}
    assert ports == {"80", "443", "22", "4650"}


def test_caddy_replaces_io_under_the_same_resource_names(dev: Evaluation, with_caddy: Evaluation) -> None:
    assert {item.name for item in with_caddy.resources} == {item.name for item in dev.resources}
    assert with_caddy.one("pds-ingress-job").urn == dev.one("pds-ingress-job").urn, "both listen on ports 80 and 443"
    boot = [item.one("pds-host-droplet").inputs["userData"] for item in (dev, with_caddy)]
    assert boot[0] == boot[1], "the host is the same"


def test_custom_image_is_asked_for_did_documents_instead_of_tls_check() -> None:
    upstreams = ("ghcr.io/bluesky-social/pds:0.4.5037", "registry.my-club.org/bluesky-social/pds@sha256:" + "a" * 64)
    for image in upstreams:
        changes = {"image": image, "package_version": "0.5.37"}
        assert "/tls-check?domain={host}" in caddyfile(settings_of(ingress=CADDY, pds=changes))
    own = caddyfile(settings_of(ingress=CADDY, pds={"image": "my-club.org/pds:1.2.3", "package_version": "0.5.37"}))
    assert "tls-check" not in own
    assert "rewrite * /.well-known/atproto-did" in own


def test_up_waits_for_the_digest_of_the_text_and_a_plain_text_is_the_fallback() -> None:
    own = {"site_caddyfile": 'respond / "hi"', "extra_caddyfile": "www.noted.at {\n\tabort\n}"}
    found = run(ingress=CADDY | own)
    items = found.one("pds-ingress-file-variable").inputs["items"]
    assert items["plain"] == run(ingress=CADDY).outputs["ingress_file"], "served if Caddy refuses the lines"
    assert items["text"] == found.outputs["ingress_file"]
    sha256 = hashlib.sha256(items["text"].encode()).hexdigest()
    assert found.one("pds-server-ready").inputs["ingress_sha256"] == sha256
    assert run().one("pds-server-ready").inputs["ingress_sha256"] == "", "IO does not report what it has read"
