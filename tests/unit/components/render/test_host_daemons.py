"""The host's systemd units and the configuration of its daemons, as text: Docker, stunnel, unattended upgrades, Nomad's
agent.

`test_cloud_init.py` has the document that carries them.
"""

import json
import re
from typing import Any

from components.render.host.nomad_agent import agent_config
from components.settings.checks.capacity import SYSTEM_RESERVE_MIB
from offline.hcl_reader import parse
from tests.unit.components.render.test_cloud_init import CERTIFICATES, document, files, settings

# Units


def unit(name: str) -> dict[str, list[str]]:
    """A unit's settings; systemd allows a name several times, and comments are not settings."""
    found: dict[str, list[str]] = {}
    for line in files()[f"/etc/systemd/system/{name}"].content.splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).extend([value] if key.startswith("Exec") else value.split())
    return found


def test_cloud_init_runs_only_the_setup_script() -> None:
    assert document()["runcmd"] == [["/usr/local/lib/pds/setup"]]


def test_nomad_requires_docker_the_volume_and_the_metadata_rules() -> None:
    nomad = unit("nomad.service")
    needed = {"docker.service", "pds-volume-claim.service", "pds-metadata.service"}
    assert needed <= set(nomad["Requires"])
    assert needed | {"srv-nomad.mount"} <= set(nomad["After"])
    assert nomad["BindsTo"] == ["srv-nomad.mount"]
    assert nomad["ExecStartPre"] == ["/usr/local/lib/pds/volume check"]


def test_units_fail_instead_of_being_skipped_if_the_volume_is_missing() -> None:
    # An unmet condition counts as a success: units that require this one would start nevertheless.
    for path, file in files().items():
        if path.startswith("/etc/systemd/system/"):
            assert not re.search(r"^Condition", file.content, re.MULTILINE), path


def test_units_ordered_after_cloud_init_are_ordered_after_their_target() -> None:
    # cloud-final.service comes after multi-user.target on Debian. A unit that is wanted by the target and ordered after
    # cloud-final is a cycle, unless it is ordered after the target itself.
    for name in ("nomad.service", "pds-metadata.service"):
        assert unit(name)["WantedBy"] == ["multi-user.target"]
        assert "multi-user.target" in unit(name)["After"]
    assert "cloud-final.service" in unit("pds-metadata.service")["After"]


def test_drain_stops_before_its_dependencies_and_not_with_docker() -> None:
    drain = unit("pds-drain.service")
    assert {"nomad.service", "docker.service", "srv-nomad.mount"} <= set(drain["After"])
    assert not {"Requires", "BindsTo", "PartOf"} & set(drain), "a restart of Docker would run the drain"
    assert drain["ExecStop"] == ["/usr/local/lib/pds/drain"]
    assert drain["TimeoutStopSec"] == ["90"]
    assert drain["WantedBy"] == ["nomad.service"]


def test_stopping_the_agent_leaves_tasks_running() -> None:
    nomad = unit("nomad.service")
    assert nomad["KillMode"] == ["process"]
    assert nomad["Restart"] == ["always"]


def test_agent_runs_without_the_variable_that_prevents_its_start() -> None:
    nomad = unit("nomad.service")
    assert nomad["UnsetEnvironment"] == ["AWS_CA_BUNDLE"]
    assert "EnvironmentFile" not in nomad


def test_volume_is_mounted_with_project_quotas_after_its_preparation() -> None:
    mount = unit("srv-nomad.mount")
    assert {"prjquota", "noatime"} <= set(mount["Options"][0].split(","))
    assert "nofail" not in mount["Options"][0]
    assert mount["Requires"] == ["pds-volume-prepare.service"]
    assert "pds-volume-prepare.service" in mount["After"]
    assert unit("pds-volume-claim.service")["BindsTo"] == ["srv-nomad.mount"]


def test_every_command_of_a_unit_is_on_the_host_and_executable() -> None:
    named = set()
    for path, file in files().items():
        if path.startswith(("/etc/systemd/system/", "/etc/udev/")):
            named |= set(re.findall(r"/usr/local/lib/pds/[a-z-]+", file.content))
    assert named >= {f"/usr/local/lib/pds/{script}" for script in ("volume", "metadata", "drain")}
    for path in named:
        assert files()[path].mode == "0755"


def test_metadata_rules_are_renewed_when_docker_or_the_monitoring_agent_starts() -> None:
    assert unit("docker.service.d/pds.conf")["ExecStartPost"] == ["/usr/local/lib/pds/metadata bridged"]
    # '+' is root: the monitoring agent's unit is not.
    assert unit("do-agent.service.d/pds.conf")["ExecStartPre"] == ["+/usr/local/lib/pds/metadata again"]


# Daemons


def test_docker_keeps_containers_over_its_restart_and_publishes_on_loopback() -> None:
    daemon = json.loads(files()["/etc/docker/daemon.json"].content)
    assert daemon["live-restore"] is True
    assert daemon["no-new-privileges"] is True
    assert daemon["icc"] is False
    assert daemon["ip"] == "127.0.0.1"
    assert daemon["log-opts"] == {"max-size": "10m", "max-file": "3"}
    # Nomad computes a container's control group itself, regardless of this setting.
    assert "cgroup-parent" not in daemon


def test_endpoint_requires_a_certificate_of_the_stack_ca() -> None:
    lines = files()["/etc/stunnel/nomad.conf"].content.splitlines()
    stunnel_options = dict(line.split(" = ", 1) for line in lines if " = " in line and not line.startswith(";"))
    assert stunnel_options["accept"] == "0.0.0.0:4650"
    assert stunnel_options["connect"] == "127.0.0.1:4646"
    assert stunnel_options["requireCert"] == stunnel_options["verifyChain"] == "yes"
    assert stunnel_options["sslVersionMin"] == "TLSv1.3"
    assert stunnel_options["foreground"] == "yes", "Debian's stunnel@.service waits for no fork"
    for name, content in (
        ("CAfile", CERTIFICATES.ca_pem), ("cert", CERTIFICATES.server_cert_pem), ("key", CERTIFICATES.server_key_pem)
    ):  # fmt: skip
        assert files()[stunnel_options[name]].content == content


def test_security_updates_are_automatic_and_reboots_are_not() -> None:
    upgrades = files()["/etc/apt/apt.conf.d/52pds-unattended-upgrades"].content
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in upgrades
    assert re.findall(r'"origin=.*"', upgrades) == [
        '"origin=Debian,codename=${distro_codename}-security,label=Debian-Security"'
    ]


# The agent


def agent(**changes: Any) -> dict[str, Any]:
    return parse(agent_config(settings(**changes), "0123456789abcdef"))


def test_agent_binds_to_loopback_and_advertises_it() -> None:
    # Nomad does not start if it binds to loopback and has no advertise addresses.
    assert agent()["bind_addr"] == "127.0.0.1"
    assert agent()["advertise"] == [{"http": "127.0.0.1", "rpc": "127.0.0.1", "serf": "127.0.0.1"}]


def test_nomad_state_is_on_the_volume() -> None:
    assert agent()["data_dir"] == "/srv/nomad/agent"


def test_region_and_datacenter_come_from_the_settings() -> None:
    moved = agent(nomad={"region": "europe", "datacenter": "fra1"})
    assert (moved["region"], moved["datacenter"]) == ("europe", "fra1")


def test_agent_requires_tokens_and_runs_one_server() -> None:
    assert agent()["acl"] == [{"enabled": True}]
    assert agent()["server"] == [{"enabled": True, "bootstrap_expect": 1}]


def test_agent_sends_no_telemetry() -> None:
    assert agent()["disable_update_check"] is True
    assert agent()["disable_anonymous_signature"] is True
    assert not any(agent()["telemetry"][0].values())


def test_agent_shows_its_metrics_only_to_a_store_on_the_host() -> None:
    shown = agent(metrics={"store": True})["telemetry"][0]
    assert shown == dict.fromkeys(("prometheus_metrics", "publish_allocation_metrics", "publish_node_metrics"), True), (
        "and sends them nowhere"
    )
    elsewhere = {"otlp": {"endpoint": "https://otlp.test/v1/metrics"}}
    assert agent(metrics=elsewhere) == agent()


def test_client_has_the_loopback_network_and_a_volume_for_each_job() -> None:
    client = agent()["client"][0]
    # By range, not by interface: 'lo' would take ::1 too, to which Docker cannot forward.
    assert client["host_network"] == [{"loopback": {"cidr": "127.0.0.1/32"}}]
    paths = {name: volume["path"] for block in client["host_volume"] for name, volume in block.items()}
    assert paths == {name: f"/srv/nomad/{name}" for name in ("pds", "io", "caddy", "metrics")}, (
        "no job needs a new host"
    )
    plugin = f"{client['host_volume_plugin_dir']}/pds-dir"
    assert files()[plugin].mode == "0755"


def test_client_allows_long_kill_timeouts_and_retries_templates_forever() -> None:
    client = agent()["client"][0]
    assert client["max_kill_timeout"] == "120s"
    assert client["template"] == [{"nomad_retry": [{"attempts": 0}]}]


def test_client_reserves_the_memory_that_the_settings_count_for_the_system() -> None:
    reserved = agent()["client"][0]["reserved"][0]
    assert reserved["memory"] == SYSTEM_RESERVE_MIB
    assert reserved["reserved_ports"] == "22,4650"


def test_docker_is_the_only_driver_and_is_restricted() -> None:
    drivers = {name: block["config"][0] for plugin in agent()["plugin"] for name, block in plugin.items()}
    assert drivers["raw_exec"] == {"enabled": False}
    assert agent()["client"][0]["options"]["driver.allowlist"] == "docker"
    docker = drivers["docker"]
    assert docker["allow_privileged"] is False
    assert docker["volumes"] == [{"enabled": False}]
    assert docker["gc"][0]["image_delay"] == "72h"
    assert "net_bind_service" in docker["allow_caps"]
    assert not {"net_raw", "net_admin", "sys_admin", "sys_ptrace", "mknod", "all"} & set(docker["allow_caps"])
    assert docker["pids_limit"] > 0
