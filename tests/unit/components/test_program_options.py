"""Effects of stack file options on the graph: each test evaluates the real program with a changed dev stack."""

from typing import Any

import pulumi
import pulumi_digitalocean
import pytest

from components.settings.checks.warnings import warnings
from components.settings.fields.errors import SettingsError
from components.settings.stack_identity import BLOBS_COPIED, BLOBS_MOVED
from offline import mock_engine
from offline.hcl_reader import job_of, parse, task_of
from offline.mock_engine import RESERVED_IP, Evaluation
from policy.checks import find_open_operator_ports
from policy.secrets import find_secrets_in_texts, find_secrets_in_the_open, is_secret
from policy.view import of_evaluation
from tests.support.invariants import CHECKS, kind
from tests.support.programs import run, settings_of

ROTATION_KEY = "3174f736d554cb2d30e32120227fa8cc722bc378d18dd42bac32a47794f4af1f"
GIVEN = {"plc_rotation_key": ROTATION_KEY, "jwt_secret": "given jwt/secret+0123", "admin_password": "given pass word"}
MAIL = {"host": "smtp.my-relay.org", "user": "me@club", "password": "mail p/ss+word", "from": "pds@noted.at"}


def _kinds(evaluation: Evaluation) -> set[str]:
    return {kind(item) for item in evaluation.resources}


def _sound(evaluation: Evaluation, *without: str) -> None:
    for name, find in CHECKS.items():
        if name not in without:
            assert find(evaluation) == [], f"the invariant {name} does not hold for this stack"


def test_manual_dns_creates_no_records_and_lists_all_of_them() -> None:
    evaluation = run(dns={"provider": "manual", "caa": ["letsencrypt.org"]})
    assert "DnsRecord" not in _kinds(evaluation), "the operator creates them"
    assert [(row["type"], row["name"], row["value"]) for row in evaluation.outputs["records"]] == [
        ("A", "@", RESERVED_IP),
        ("A", "*", RESERVED_IP),
        ("CAA", "@", '0 issue "letsencrypt.org"'),
    ], "the table must list every record that the program would create"
    assert {row["zone"] for row in evaluation.outputs["records"]} == {"noted.at"}
    assert evaluation.one("pds-dns-ready").inputs["wait"] == 0, "records created by hand are checked once"
    _sound(evaluation)


def test_created_records_equal_the_records_output() -> None:
    changes: dict[str, Any] = {"zone": "noted.at", "caa": ["letsencrypt.org"], "create_zone": True, "ttl": 60}
    evaluation = run(hostname="pds.noted.at", dns=changes)
    records = [item.inputs for item in evaluation.of(":DnsRecord")]
    assert sorted((row["type"], row["name"]) for row in records) == [("A", "*.pds"), ("A", "pds"), ("CAA", "pds")]
    assert {row["ttl"] for row in records} == {60}
    table = evaluation.outputs["records"]
    assert sorted((row["type"], row["name"]) for row in table) == sorted((row["type"], row["name"]) for row in records)
    (caa,) = [row for row in records if row["type"] == "CAA"]
    assert (caa["value"], caa["tag"], caa["flags"]) == ("letsencrypt.org.", "issue", 0), "as the API returns it"
    assert evaluation.of(":Domain")[0].protected, "a zone has other records of the club, too"
    _sound(evaluation)


def test_without_the_wildcard_only_the_a_record_is_created() -> None:
    assert [item.name for item in run(dns={"wildcard": False}).of(":DnsRecord")] == ["pds-dns-a"]


def test_existing_volume_and_address_are_imported() -> None:
    volume, ip = "506f78a4-e098-11e5-ad9f-000f53306ae1", "203.0.113.77"
    evaluation = run(volume={"adopt": volume}, host={"reserved_ip_adopt": ip}, pds={"new": False})
    assert evaluation.one("pds-host-data-volume").options["importId"] == volume, "its data is adopted"
    assert evaluation.one("pds-host-network-ip").options["importId"] == ip
    variable = evaluation.one("pds-server-volume-check").inputs["items"]
    assert variable == {"PDS_VOLUME_CHECK_ADOPT": "true", "PDS_VOLUME_CHECK_NEW": "false"}, (
        "the volume check accepts such a volume"
    )
    _sound(evaluation)


@pytest.mark.parametrize("with_bucket", [True, False])
def test_the_volume_check_learns_where_the_operator_moved_the_blobs(
    monkeypatch: pytest.MonkeyPatch, with_bucket: bool
) -> None:
    """Else the preview accepts the place, and the server that `up` replaces does not start there."""
    s3 = {"bucket": "theirs", "region": "us-east-1", "endpoint": "https://s3.my-club.org"}
    options: dict[str, Any] = {"s3": s3 | {"access_key_id": "a", "secret_access_key": "b"}} if with_bucket else {}
    place, accepted = ("s3 bucket theirs at s3.my-club.org", "theirs") if with_bucket else ("disk", "disk")
    monkeypatch.setenv(BLOBS_MOVED, place)
    items = run(**options).one("pds-server-volume-check").inputs["items"]
    assert items["PDS_VOLUME_CHECK_BLOBS"] == accepted
    monkeypatch.setenv(BLOBS_MOVED, "s3 bucket others at s3.my-club.org")
    assert "PDS_VOLUME_CHECK_BLOBS" not in run(**options).one("pds-server-volume-check").inputs["items"]
    monkeypatch.delenv(BLOBS_MOVED)
    monkeypatch.setenv(BLOBS_COPIED, place)
    items = run(**options).one("pds-server-volume-check").inputs["items"]
    assert "PDS_VOLUME_CHECK_BLOBS" not in items, "the next preview would have a change"


def test_removing_new_from_the_stack_file_does_not_change_the_job(dev: Evaluation) -> None:
    evaluation = run(pds={"new": False})
    assert dev.one("pds-server-volume-check").inputs["items"]["PDS_VOLUME_CHECK_NEW"] == "true", "for the first start"
    assert evaluation.one("pds-server-volume-check").inputs["items"]["PDS_VOLUME_CHECK_NEW"] == "false"
    assert evaluation.jobspec("pds") == dev.jobspec("pds"), "removing it as advised must not restart the server"
    digests = {item.one("pds-server-ready").inputs["secrets_digest"] for item in (dev, evaluation)}
    assert len(digests) == 1, "and no restart is waited for"


def test_imports_nothing_by_default(dev: Evaluation) -> None:
    assert [item.name for item in dev.resources if item.options.get("importId")] == []


def test_configured_secrets_are_used_and_the_generated_ones_are_kept() -> None:
    evaluation = run(secrets=GIVEN)
    generated = {item.name for item in run().of(":RandomPassword")}
    assert {item.name for item in evaluation.of(":RandomPassword")} == generated, (
        "removing a protected resource stops `up` half-way: the operator could not change a password"
    )
    assert evaluation.one("pds-secrets-variable").inputs["items"] == {
        "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": ROTATION_KEY,
        "PDS_JWT_SECRET": GIVEN["jwt_secret"],
        "PDS_ADMIN_PASSWORD": GIVEN["admin_password"],
    }
    assert find_secrets_in_the_open(evaluation, GIVEN.values()) == []
    assert find_secrets_in_texts(evaluation, GIVEN.values()) == []
    _sound(evaluation)


def test_one_configured_secret_leaves_the_others_generated() -> None:
    items = run(secrets={"plc_rotation_key": ROTATION_KEY}).one("pds-secrets-variable").inputs["items"]
    generated = run().one("pds-secrets-variable").inputs["items"]
    changed = {name for name in generated if items[name] != generated[name]}
    assert changed == {"PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"}


def test_token_of_an_adopted_nomad_is_used_and_hidden() -> None:
    token = "0b51d0c4-7f1d-4a53-9d1e-1c7fb2f0a001"
    evaluation = run(secrets={"nomad_management_token": token})
    assert evaluation.one("pds-host-nomad-bootstrap").inputs["token"] == token
    assert find_secrets_in_the_open(evaluation, [token]) == []
    assert find_secrets_in_texts(evaluation, [token]) == []


def test_configured_secrets_are_only_in_the_nomad_variable() -> None:
    captcha = {"PDS_HCAPTCHA_SECRET_KEY": "captcha secret", "PDS_HCAPTCHA_TOKEN_SALT": "captcha salt"}
    extra = {"extra_env": {"PDS_HCAPTCHA_SITE_KEY": "a site key"}, "extra_secret_env": captcha}
    s3 = {"bucket": "blobs", "region": "fra1", "endpoint": "https://fra1.digitaloceanspaces.com"}
    keys = {"access_key_id": "DO00EXAMPLEKEYID", "secret_access_key": "s3 secret access key"}
    evaluation = run(mail=MAIL, s3=s3 | keys, pds=extra)
    items = evaluation.one("pds-secrets-variable").inputs["items"]
    assert items["PDS_EMAIL_SMTP_URL"] == "smtps://me%40club:mail%20p%2Fss%2Bword@smtp.my-relay.org:2465/"
    assert items["PDS_HCAPTCHA_SECRET_KEY"] == "captcha secret"
    assert items["PDS_BLOBSTORE_S3_SECRET_ACCESS_KEY"] == keys["secret_access_key"]
    env = task_of(job_of(evaluation.jobspec("pds"), "pds"), "pds")["env"][0]
    assert env.keys() & items.keys() == set(), "a name must not be in both"
    given = [MAIL["password"], *keys.values(), *captcha.values()]
    assert find_secrets_in_the_open(evaluation, given) == []
    assert find_secrets_in_texts(evaluation, given) == []
    _sound(evaluation)


def test_vpc_and_project_are_created_only_if_configured(dev: Evaluation) -> None:
    assert {"Vpc", "Project", "ProjectResources"} & _kinds(dev) == set(), "not by default"
    evaluation = run(host={"vpc_ip_range": "10.20.0.0/24", "project": "club"})
    assert evaluation.one("pds-host-droplet").inputs["vpcUuid"] == evaluation.of(":Vpc")[0].id
    moved = evaluation.of(":ProjectResources")[0].inputs["resources"]
    assert [urn.rpartition(":")[0] for urn in moved] == ["do:droplet"], "the rest follows it"
    _sound(evaluation)


def test_paused_stack_runs_no_server_and_keeps_every_resource(dev: Evaluation) -> None:
    evaluation = run(pds={"paused": True})
    job = job_of(evaluation.jobspec("pds"), "pds")
    assert job["group"][0]["pds"]["count"] == 0
    assert [item.name for item in evaluation.resources if item not in dev.resources] != []
    assert {item.name for item in evaluation.resources} == {item.name for item in dev.resources}
    assert evaluation.one("pds-server-ready").inputs["paused"] is True, "`ServerReady` must not wait for a server"
    _sound(evaluation)


def test_ingress_kind_none_creates_no_ingress_resources() -> None:
    evaluation = run(ingress={"kind": "none"})
    assert [item.name for item in evaluation.resources if "ingress" in item.name] == []
    assert "ingress_file" not in evaluation.outputs
    assert evaluation.outputs["files"].keys() == {"pds_job"}
    assert evaluation.one("pds-server-ready").inputs["ingress_state"] == "none", "the program must not wait for HTTPS"
    ports = {rule["portRange"] for rule in evaluation.of(":Firewall")[0].inputs["inboundRules"]}
    assert ports == {"80", "443", "22", "4650"}, "IO's console has no port"
    _sound(evaluation)


def test_licence_is_a_secret_variable_and_a_second_file_of_the_job() -> None:
    licence = 'license "club" {\n  key = "licence key 0123456789"\n}\n'
    evaluation = run(ingress={"license_hcl": licence})
    variable = evaluation.one("pds-ingress-license")
    assert variable.inputs == {"path": "io/license", "items": {"text": licence}}
    assert is_secret(variable.raw["items"]), "a licence is secret"
    task = task_of(job_of(evaluation.jobspec("io"), "io"), "io")
    assert task["config"][0]["args"] == ["-c", "/local/io.hcl", "-c", "/secrets/license.hcl"]
    assert variable.urn in evaluation.one("pds-ingress-job").options["dependencies"], "the template waits for it"
    assert find_secrets_in_the_open(evaluation, [licence, "licence key 0123456789"]) == []
    assert find_secrets_in_texts(evaluation, [licence, "licence key 0123456789"]) == []
    _sound(evaluation)


def test_without_a_licence_the_job_has_no_licence_file(dev: Evaluation) -> None:
    task = task_of(job_of(dev.jobspec("io"), "io"), "io")
    assert task["config"][0]["args"] == ["-c", "/local/io.hcl"]
    assert len(task["template"]) == 1


def test_static_backend_uses_a_fixed_port_on_loopback() -> None:
    evaluation = run(ingress={"backend": "static"}, pds={"port": 3007})
    (port,) = (item["http"] for item in _network(evaluation)["port"])
    assert port == {"static": 3007, "to": 3007, "host_network": "loopback"}
    assert parse(evaluation.outputs["ingress_file"])["ingress"][0]["noted.at"]["backend"] == "127.0.0.1:3007"
    _sound(evaluation)


def _network(evaluation: Evaluation) -> dict[str, Any]:
    network: dict[str, Any] = job_of(evaluation.jobspec("pds"), "pds")["group"][0]["pds"]["network"][0]
    return network


def test_nomad_can_be_opened_to_all_addresses_and_ssh_cannot() -> None:
    evaluation = run(operators={"nomad_anywhere": True})
    assert find_open_operator_ports(of_evaluation(evaluation, nomad_anywhere=True)) == []
    assert find_open_operator_ports(of_evaluation(evaluation)) == ["port 4650 is open to 0.0.0.0/0, ::/0"]
    with pytest.raises(SettingsError, match=r"operators\.cidrs"):
        settings_of(operators={"cidrs": ["0.0.0.0/0"]})


def test_two_stacks_share_no_resource_name_at_digitalocean() -> None:
    names = [
        {
            item.inputs["name"]
            for item in run(stack=stack).resources
            if kind(item) in ("Tag", "Firewall", "Volume", "Droplet")
        }
        for stack in ("one", "two")
    ]
    assert names == [{"pds-one"}, {"pds-two"}], "names are unique in an account"


def test_raised_generation_is_the_replacement_trigger_of_the_droplet() -> None:
    assert run(host={"generation": 7}).one("pds-host-droplet").options["replacementTrigger"] == 7


def test_ingress_state_of_dns_ready_starts_the_ingress_job(dev: Evaluation) -> None:
    assert dev.one("pds-ingress-job").inputs["hcl2"]["vars"] == {
        "ingress_state": dev.one("pds-dns-ready").outputs["ingress_state"]
    }
    assert 'count          = var.ingress_state == "open" ? 1 : 0' in dev.jobspec("io")


def test_ssh_keys_are_accepted_by_name_by_fingerprint_and_as_text() -> None:
    fingerprint = "3b:16:bf:e4:8b:00:8b:b8:59:8c:a9:d3:f0:19:45:fa"
    text = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me"
    droplet = run(operators={"ssh_keys": ["laptop", fingerprint, text]}).one("pds-host-droplet").inputs
    assert len(droplet["sshKeys"]) == 2, "a key given as text is not looked up in the account"
    assert fingerprint in droplet["sshKeys"]
    assert text in droplet["userData"], "it goes into cloud-init"
    assert "ssh_authorized_keys" in droplet["userData"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("401 Unable to authenticate you", r"returns no key 'laptop' \(401 .*Set DIGITALOCEAN_TOKEN"),
        ("dial tcp: lookup api.digitalocean.com: no such host", r"cannot be reached .*'laptop' .*machine's network"),
    ],
)
def test_unreadable_ssh_key_fails_with_a_one_line_error(
    answer: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_named: str) -> Any:
        raise RuntimeError(f"invoking digitalocean:index/getSshKey:getSshKey\n\n  {answer}")

    monkeypatch.setattr(pulumi_digitalocean, "get_ssh_key", refused)
    with pytest.raises(pulumi.RunError, match=rf"pds:operators\.ssh_keys: .*{error}"):
        run()


def test_fingerprint_that_the_account_lacks_is_refused_before_anything_is_created(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lookup = mock_engine._Providers.call
    answers: dict[str, Any] = {"id": "keys", "sshKeys": []}
    monkeypatch.setattr(
        mock_engine._Providers,
        "call",
        lambda self, args: (answers, []) if "getSshKeys" in args.token else lookup(self, args),
    )
    fingerprint = "3b:16:bf:e4:8b:00:8b:b8:59:8c:a9:d3:f0:19:45:fa"
    with pytest.raises(pulumi.RunError, match=rf"no key '{fingerprint}' \(no key of the account.*ssh-key list"):
        run(operators={"ssh_keys": ["laptop", fingerprint]})


def test_tag_is_written_with_the_capitals_of_the_existing_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    others = mock_engine._Providers.call
    existing_tags = {"id": "tags", "tags": [{"name": "PROD"}, {"name": "other"}]}
    monkeypatch.setattr(
        mock_engine._Providers,
        "call",
        lambda self, args: (existing_tags, []) if "getTags" in args.token else others(self, args),
    )
    tags = run(host={"tags": ["prod", "Club"]}).one("pds-host-droplet").inputs["tags"]
    assert tags == ["pds-dev", "PROD", "Club"], "otherwise each `up` would remove the tag and add it again"


def test_unreadable_tags_fail_with_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> Any:
        raise RuntimeError("403 You are not authorized to perform this operation")

    monkeypatch.setattr(pulumi_digitalocean, "get_tags", refused)
    with pytest.raises(pulumi.RunError, match=r"pds:host\.tags: .*403.*tag:read"):
        run(host={"tags": ["prod"]})
    assert run().one("pds-host-droplet").inputs["tags"] == ["pds-dev"], "without the option the account is not queried"


def test_each_handle_domain_in_the_zone_has_a_wildcard_record() -> None:
    names: dict[str, Any] = {"hostname": "pds.my-club.org", "dns": {"zone": "my-club.org"}}
    found = run(**names, service_handle_domains=[".my-club.org"])
    records = {item.name: (item.inputs["type"], item.inputs["name"]) for item in found.of(":DnsRecord")}
    assert records == {"pds-dns-a": ("A", "pds"), "pds-dns-wildcard-my-club-org": ("A", "*")}, (
        "a handle created with an invite needs an address; there are no handles under *.pds"
    )
    own = run(**names)
    assert {item.inputs["name"] for item in own.of(":DnsRecord")} == {"pds", "*.pds"}


def test_handle_domain_in_another_zone_is_listed_and_warned_about() -> None:
    domains = [".noted.at", ".my-club.org"]
    found = run(service_handle_domains=domains)
    assert {item.inputs["name"] for item in found.of(":DnsRecord")} == {"@", "*"}
    (line,) = [record for record in found.outputs["records"] if "my-club" in record["name"]]
    assert line | {"value": "", "ttl": ""} == {
        "zone": "(my-club.org)", "name": "*.my-club.org", "type": "A", "value": "", "ttl": "",
    }  # fmt: skip
    assert line["value"] == found.outputs["ipv4"]
    warning_text = "\n".join(warnings(settings_of(service_handle_domains=domains)))
    assert "Create 'A *.my-club.org' with this stack's address" in warning_text
    manual = run(service_handle_domains=domains, dns={"provider": "manual", "zone": "noted.at"})
    assert {record["name"] for record in manual.outputs["records"]} >= {"@", "*", "*.my-club.org"}


def test_member_under_a_handle_domain_has_an_address_record_too() -> None:
    names: dict[str, Any] = {"hostname": "pds.my-club.org", "dns": {"zone": "my-club.org"}}
    names["service_handle_domains"] = [".my-club.org"]
    found = run(**names, members=[{"handle": "ann.my-club.org", "email": "ann@my-club.org"}])
    records = {(item.inputs["type"], item.inputs["name"]) for item in found.of(":DnsRecord")}
    assert {("TXT", "_atproto.ann"), ("A", "ann")} <= records, "the wildcard no longer covers a name that exists"


def test_warns_about_invites_without_a_wildcard_record() -> None:
    warning_text = "\n".join(warnings(settings_of(dns={"wildcard": False}, invites={"count": 1})))
    assert "has no address" in warning_text
