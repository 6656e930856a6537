"""A cluster's resources: what outlives a droplet, what user_data holds, and what is decided at run time only."""

import json
import re
from dataclasses import replace
from typing import Any

import yaml

from components.takeover.decide import Droplet, Node
from components.takeover.endpoint import EndpointView, server_tag
from components.takeover.passes import cluster_of
from offline.mock_engine import RESERVED_IP, Evaluation, Recorded, evaluate
from policy.checks import findings
from policy.secrets import find_secrets_in_texts, find_secrets_in_the_open
from policy.view import of_evaluation
from tests.support.invariants import kind
from tests.support.programs import ALERTS, BACKUP, CLUB, CLUSTER, cluster, shared

TAKEOVER = CLUSTER["cluster"]["takeover"]
TOKEN, WEBHOOK, SWITCH = TAKEOVER["token"], TAKEOVER["notify_url"], TAKEOVER["ping_url"]


def _files(droplet: Recorded) -> dict[str, str]:
    document = yaml.load(str(droplet.inputs["userData"]), yaml.CSafeLoader)
    return {file["path"]: file["content"] for file in document["write_files"]}


def _droplets(role: str) -> list[Recorded]:
    found = [item for item in cluster().of("droplet:Droplet") if f"-{role}-" in item.name]
    return sorted(found, key=lambda item: item.name)


def test_has_three_servers_and_a_worker_for_each_host_and_spare() -> None:
    assert [item.inputs["name"] for item in _droplets("server")] == [f"pds-fleet-server-{n}" for n in (1, 2, 3)]
    assert [item.inputs["name"] for item in _droplets("worker")] == [f"pds-fleet-worker-{n}" for n in (1, 2, 3)]


def test_the_account_is_asked_about_the_droplets_that_there_are() -> None:
    (account,) = [item for item in cluster().resources if kind(item) == "ClusterAccount"]
    workers = account.inputs["workers"]
    names = [f"{workers['names']}{number}" for number, _ in enumerate(workers["generations"], 1)]
    assert names == [item.inputs["name"] for item in _droplets("worker")]
    assert all(item.inputs["tags"] == [workers["tag"]] for item in _droplets("worker"))


def test_hosts_are_protected_and_on_no_droplet() -> None:
    kept = [item for item in cluster().resources if kind(item) in ("Volume", "ReservedIp")]
    assert len(kept) == 5, "a volume and an address each, and the endpoint"
    assert all(item.protected and item.options.get("retainOnDelete") for item in kept)
    assert not any("volumeIds" in item.inputs for item in cluster().of("droplet:Droplet"))
    (assignment,) = cluster().of(":ReservedIpAssignment")
    assert assignment.name == "pds-cluster-address", "who carries a host is decided at run time, and is not a resource"


def test_user_data_holds_one_secret_the_machine_s_own_key() -> None:
    for droplet in cluster().of("droplet:Droplet"):
        text = str(droplet.inputs["userData"])
        assert "userData" in droplet.secret_inputs
        assert len(re.findall("-----BEGIN EC PRIVATE KEY-----", text)) == 1
        assert TOKEN not in text
        keys = [file for file in _files(droplet).values() if re.search(r'encrypt = "[^%]', file)]
        assert keys == [], "the gossip key is derived on the server"


def test_servers_and_workers_prove_themselves_with_certificates() -> None:
    requests = {item.name: item.inputs.get("dnsNames") for item in cluster().of(":CertRequest")}
    assert requests["pds-cluster-certificates-server-request"] == ["server.global.nomad"]
    assert requests["pds-cluster-droplets-worker-certificate-request"] == ["client.global.nomad"]
    for droplet, path in (
        (_droplets("server")[0], "/etc/nomad.d/agent.hcl"),
        (_droplets("worker")[0], "/etc/pds/agent.hcl"),
    ):
        agent = _files(droplet)[path]
        assert re.search(r"tls \{\s+rpc += true", agent)
        assert "verify_server_hostname = true" in agent
        assert RESERVED_IP in agent, "the address that leads to a server"


def test_a_worker_knows_no_host_before_it_has_a_volume() -> None:
    files = _files(_droplets("worker")[0])
    assert "/etc/nomad.d/agent.hcl" not in files
    assert 'datacenter = "@HOST@"' in files["/etc/pds/agent.hcl"]
    assert "server {" not in files["/etc/pds/agent.hcl"]
    # Whose host a volume is stands on the volume: an adopted one keeps its name.
    assert 'ENV{ID_SERIAL}=="0DO_Volume_*"' in files["/etc/udev/rules.d/91-pds-carry.rules"]
    assert "scsi-0DO_Volume_@VOLUME@" in files["/etc/pds/srv-nomad.mount"]


def test_only_a_generation_rebuilds_or_resizes_a_droplet() -> None:
    for droplet in cluster().of("droplet:Droplet"):
        assert {"image", "size", "userData", "volumeIds"} <= set(droplet.options["ignoreChanges"]), (
            "a changed size would turn off every server, or every host, at once"
        )
        assert droplet.options["deleteBeforeReplace"]


def test_only_servers_run_programs_without_a_container() -> None:
    drivers = {
        role: re.search(r'"driver.allowlist" += "(\w+)"', agent)
        for role, agent in (
            ("server", _files(_droplets("server")[0])["/etc/nomad.d/agent.hcl"]),
            ("worker", _files(_droplets("worker")[0])["/etc/pds/agent.hcl"]),
        )
    }
    assert {role: found[1] for role, found in drivers.items() if found} == {"server": "raw_exec", "worker": "docker"}
    namespaces = cluster().of("nomad:index/namespace:Namespace")
    assert all(item.inputs["capabilities"] == {"enabledTaskDrivers": ["docker"]} for item in namespaces)


def test_the_ingress_of_a_host_runs_there_and_reads_its_own_clubs_files() -> None:
    jobs = {item.name: str(item.inputs["jobspec"]) for item in cluster().of("job:Job")}
    for host in ("a", "b"):
        assert f'datacenters = ["{host}"]' in jobs[f"pds-ingress-{host}-job"]
        assert f'"host-{host}"' in jobs[f"pds-ingress-{host}-job"]
    policies = {item.inputs["name"]: item.inputs for item in cluster().of(":AclPolicy")}
    assert policies["caddy-files-a"]["jobAcl"] == {"namespace": "host-a", "jobId": "caddy"}
    assert 'namespace "host-a"' in policies["pds-club-chess"]["rulesHcl"]
    assert 'namespace "default"' not in policies["pds-club-chess"]["rulesHcl"]


def test_the_takeover_s_token_and_urls_are_in_its_variable_only() -> None:
    variable = cluster().one("pds-takeover-variable")
    assert variable.inputs["items"]["TAKEOVER_TOKEN"] == TOKEN
    assert variable.inputs["items"]["TAKEOVER_NOTIFY_URL"] == WEBHOOK, "who has it can write to the channel"
    assert variable.inputs["items"]["TAKEOVER_PING_URL"] == SWITCH, "who has it can silence the alarm"
    hosts: dict[str, Any] = json.loads(variable.inputs["items"]["TAKEOVER_HOSTS"])
    assert sorted(hosts) == ["a", "b"]
    assert "items" in variable.secret_inputs
    assert TOKEN not in cluster().jobspec("pds-takeover")
    assert WEBHOOK not in cluster().jobspec("pds-takeover")
    assert SWITCH not in cluster().jobspec("pds-takeover")
    assert find_secrets_in_texts(cluster()) == []
    assert find_secrets_in_the_open(cluster()) == []


def test_the_takeover_knows_how_many_servers_and_spares_there_are_to_be() -> None:
    job = cluster().jobspec("pds-takeover")
    assert re.search(r'TAKEOVER_SERVERS += "3"', job)
    assert re.search(r'TAKEOVER_SPARES += "1"', job)


def test_the_takeover_knows_the_address_of_several_servers() -> None:
    (endpoint,) = (item for item in cluster().of(":ReservedIp") if item.name.endswith("-endpoint"))
    assert endpoint.name == "pds-cluster-network-endpoint"
    assert cluster().one("pds-takeover-variable").inputs["items"]["TAKEOVER_ENDPOINT"] == RESERVED_IP
    options = {**CLUSTER, "cluster": {**CLUSTER["cluster"], "servers": {"count": 1}}}
    config = {f"pds:{key}": json.dumps(value) for key, value in options.items()}
    single = evaluate("fleet", config, secret_keys=frozenset({"pds:cluster"}))
    assert "TAKEOVER_ENDPOINT" not in single.one("pds-takeover-variable").inputs["items"], "nowhere to move it to"


def test_the_takeover_finds_the_servers_by_tag_and_name() -> None:
    for number, droplet in enumerate(_droplets("server"), 1):
        assert droplet.inputs["tags"] == [server_tag(cluster_of("pds-fleet-worker"))]
        view = EndpointView(RESERVED_IP, "fleet", 5, {5: Droplet(5, True, frozenset(), droplet.inputs["name"])}, {})
        assert view.server(5) == f"server {number} (droplet 5)"
        (name,) = re.findall(r'^name += "(.+)"$', _files(droplet)["/etc/nomad.d/agent.hcl"], re.MULTILINE)
        node = Node(True, 0.0)
        assert replace(view, nodes={name: node}).node(5) == node


def test_namespaces_are_not_deleted_because_an_emptied_nomad_refuses_that() -> None:
    for host in "ab":
        assert cluster().one(f"pds-cluster-namespace-{host}").options["retainOnDelete"]


def test_jobs_of_the_servers_come_after_their_node_pool() -> None:
    pool = cluster().one("pds-cluster-servers-pool")
    assert pool.inputs["name"] == "servers"
    assert pool.options["retainOnDelete"], "Nomad deletes no pool that has nodes"
    for name in ("pds-takeover", "pds-snapshots"):
        # A component is registered after what it depends on exists, and its resources after it.
        assert pool.urn in cluster().one(name).options["dependencies"], (
            "Nomad refuses a job in a pool that is not there"
        )


def test_snapshots_go_encrypted_to_a_bucket_with_a_key_and_a_right_of_their_own() -> None:
    job = cluster().jobspec("pds-nomad-snapshots")
    assert 'node_pool   = "servers"' in job
    assert re.search(
        r"RESTIC_REPOSITORY += \"s3:https://ams3\.digitaloceanspaces\.com/fleet-nomad-backup/nomad-fleet\"", job
    )
    variable = cluster().one("pds-snapshots-variable")
    assert sorted(variable.inputs["items"]) == [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "PING_URL",
        "RESTIC_PASSWORD",
    ]
    assert "items" in variable.secret_inputs
    assert CLUSTER["cluster"]["snapshots"]["secret_access_key"] not in str(variable.inputs), (
        "the owner's key stays here"
    )
    policy = cluster().one("pds-snapshots-policy").inputs
    assert policy["jobAcl"] == {"namespace": "default", "jobId": "pds-nomad-snapshots"}
    assert re.findall(r"capabilities = (.*)", policy["rulesHcl"]) == ['["snapshot-save"]', '["write", "read"]']
    assert re.findall(r"path (.*) {", policy["rulesHcl"]) == ['"nomad/jobs/pds-nomad-snapshots/repository"'], (
        "not the variable with its secrets, nor a PDS's"
    )
    bucket = cluster().one("pds-snapshots-bucket")
    assert bucket.protected
    assert bucket.options["retainOnDelete"]
    assert bucket.inputs["versioning"] == {"enabled": True}


def test_the_takeover_carries_the_files_of_this_program() -> None:
    job = cluster().jobspec("pds-takeover")
    assert "local/components/takeover/decide.py" in job
    assert "def decide(" in job
    assert 'node_pool   = "servers"' in job


def test_passes_the_preflight_checks_of_a_cluster() -> None:
    found = findings(of_evaluation(cluster()))
    assert found.keys() >= {"protected state", "secret literals", "operator ports", "user_data"}
    assert {name: faults for name, faults in found.items() if faults} == {}


def test_passes_the_preflight_checks_of_a_cluster_without_jobs() -> None:
    options = {**CLUSTER, "cluster": {"hosts": {"a": {}, "b": {}}}, "ingress": {"kind": "none"}}
    config = {f"pds:{key}": json.dumps(value) for key, value in options.items()}
    found = findings(of_evaluation(evaluate("fleet", config)))
    assert {name: faults for name, faults in found.items() if faults} == {}


def test_a_club_s_stack_uses_its_host_s_datacenter_and_namespace() -> None:
    club = _club()
    assert all('datacenters = ["a"]' in str(item.inputs["jobspec"]) for item in club.of("job:Job"))
    assert club.one("pds-ingress-file-variable").inputs["namespace"] == "host-a"


def test_every_job_of_a_club_runs_on_its_host() -> None:
    """Backup, drill, restore, trial of an upgrade and alerts too: each needs the host's volume or its loopback."""
    club = _club(backup=BACKUP, alerts=ALERTS, members=CLUB["members"])
    jobs = {item.name: str(item.inputs["jobspec"]) for item in club.of("job:Job")}
    for role in ("server", "backup", "drill", "restore", "alerts"):
        assert any(role in name for name in jobs), jobs.keys()
    for name, job in jobs.items():
        assert 'datacenters = ["a"]' in job, name
        assert re.search(r'namespace += "chess"', job), name
    kinds = {kind(item) for item in club.resources}
    assert "UptimeCheck" in kinds
    assert "MonitorAlert" not in kinds, "the droplets are the cluster's"


def test_a_club_that_moves_has_rights_and_a_volume_on_both_hosts() -> None:
    chess = {"host": "b", "port": 3102, "leaving": {"host": "a", "port": 3101}}
    config = {f"pds:{key}": json.dumps(value) for key, value in {**CLUSTER, "clubs": {"chess": chess}}.items()}
    moving = evaluate("fleet", config, secret_keys=frozenset({"pds:cluster"}))
    rules = moving.one("pds-cluster-clubs-chess-policy").inputs["rulesHcl"]
    assert 'namespace "host-a"' in rules
    assert 'namespace "host-b"' in rules
    inputs = moving.one("pds-cluster-clubs-chess-namespace").inputs
    assert (inputs["datacenter"], inputs["leaving"]) == ("b", "a")
    assert cluster().one("pds-cluster-clubs-chess-namespace").inputs["leaving"] == "", "a missing one is not a change"
    for place, port in (("a", 3101), ("b", 3102)):
        club = _club(moving, place, port)
        assert club.one("pds-ingress-file-variable").inputs["namespace"] == f"host-{place}"
        assert f'datacenters = ["{place}"]' in club.jobspec("pds")


def _club(host: Evaluation | None = None, place: str = "a", port: int = 3101, **options: Any) -> Evaluation:
    return shared(
        on="fleet",
        host=host or cluster(),
        nomad={"datacenter": place},
        ingress={"kind": "caddy"},
        hostname="pds.chess-club.org",
        pds={"port": port, "memory_mib": 256},
        **options,
    )


def test_an_adopted_host_has_its_volume_and_its_address() -> None:
    adopt = {"volume": "506f78a4-e098-11e5-ad9f-000f53306ae1", "address": "203.0.113.77"}
    hosts = {"a": {"volume_gib": 25, "adopt": adopt}, "b": {"volume_gib": 60}}
    options = CLUSTER | {"cluster": {**CLUSTER["cluster"], "hosts": hosts}}
    config = {f"pds:{key}": json.dumps(value) for key, value in options.items()}
    found = evaluate("fleet", config, secret_keys=frozenset({"pds:cluster"}))
    volume, address = found.one("pds-cluster-hosts-a-volume"), found.one("pds-cluster-hosts-a-ip")
    assert volume.options["importId"] == adopt["volume"]
    assert volume.options["ignoreChanges"] == ["name"], "DigitalOcean renames no volume"
    assert address.options["importId"] == adopt["address"]
    assert not found.one("pds-cluster-hosts-b-volume").options.get("importId")
