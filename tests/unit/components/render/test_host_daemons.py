"""The host's systemd units and the configuration of its daemons, as text: Docker, stunnel, unattended upgrades, Nomad's
agent.

`test_cloud_init.py` has the document that carries them.
"""

import json
import re
from typing import Any

from components.render.host.nomad_agent import agent_config
from components.settings.capacity import SYSTEM_RESERVE_MIB
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


def test_cloud_init_starts_one_script_and_that_one_starts_everything_else() -> None:
    assert document()["runcmd"] == [["/usr/local/lib/pds/setup"]]


def test_nomad_needs_docker_the_volume_and_the_metadata_rules_before_it() -> None:
    nomad = unit("nomad.service")
    needed = {"docker.service", "pds-volume-claim.service", "pds-metadata.service"}
    assert needed <= set(nomad["Requires"])
    assert needed | {"srv-nomad.mount"} <= set(nomad["After"])
    assert nomad["BindsTo"] == ["srv-nomad.mount"]
    assert nomad["ExecStartPre"] == ["/usr/local/lib/pds/volume check"]


def test_a_missing_volume_makes_units_fail_and_not_be_skipped() -> None:
    # A condition that does not hold counts as a success: units that require this one would start all the same.
    for path, file in files().items():
        if path.startswith("/etc/systemd/system/"):
            assert not re.search(r"^Condition", file.content, re.MULTILINE), path


def test_units_after_cloud_init_name_the_target_they_are_in() -> None:
    # cloud-final.service comes after multi-user.target on Debian. A unit that is wanted by the target and ordered after
    # cloud-final is a cycle, unless it is ordered after the target itself.
    for name in ("nomad.service", "pds-metadata.service"):
        assert unit(name)["WantedBy"] == ["multi-user.target"]
        assert "multi-user.target" in unit(name)["After"]
    assert "cloud-final.service" in unit("pds-metadata.service")["After"]


def test_the_drain_stops_before_everything_it_needs_and_not_with_docker() -> None:
    drain = unit("pds-drain.service")
    assert {"nomad.service", "docker.service", "srv-nomad.mount"} <= set(drain["After"])
    assert not {"Requires", "BindsTo", "PartOf"} & set(drain), "a restart of Docker would run the drain"
    assert drain["ExecStop"] == ["/usr/local/lib/pds/drain"]
    assert drain["TimeoutStopSec"] == ["90"]
    assert drain["WantedBy"] == ["nomad.service"]


def test_the_agents_stop_leaves_tasks_running() -> None:
    nomad = unit("nomad.service")
    assert nomad["KillMode"] == ["process"]
    assert nomad["Restart"] == ["always"]


def test_the_agent_is_not_given_the_variable_it_does_not_start_with() -> None:
    nomad = unit("nomad.service")
    assert nomad["UnsetEnvironment"] == ["AWS_CA_BUNDLE"]
    assert "EnvironmentFile" not in nomad


def test_the_volume_is_mounted_with_project_quotas_and_after_it_was_prepared() -> None:
    mount = unit("srv-nomad.mount")
    assert {"prjquota", "noatime"} <= set(mount["Options"][0].split(","))
    assert "nofail" not in mount["Options"][0]
    assert mount["Requires"] == ["pds-volume-prepare.service"]
    assert "pds-volume-prepare.service" in mount["After"]
    assert unit("pds-volume-claim.service")["BindsTo"] == ["srv-nomad.mount"]


def test_every_command_that_a_unit_runs_is_on_the_host_and_executable() -> None:
    named = set()
    for path, file in files().items():
        if path.startswith(("/etc/systemd/system/", "/etc/udev/")):
            named |= set(re.findall(r"/usr/local/lib/pds/[a-z-]+", file.content))
    assert named >= {f"/usr/local/lib/pds/{script}" for script in ("volume", "metadata", "drain")}
    for path in named:
        assert files()[path].mode == "0755"


def test_the_rules_are_made_again_when_docker_and_the_monitoring_agent_start() -> None:
    assert unit("docker.service.d/pds.conf")["ExecStartPost"] == ["/usr/local/lib/pds/metadata bridged"]
    # '+' is root: the monitoring agent's unit is not.
    assert unit("do-agent.service.d/pds.conf")["ExecStartPre"] == ["+/usr/local/lib/pds/metadata again"]


# Daemons


def test_docker_keeps_containers_over_its_own_restart_and_publishes_on_loopback() -> None:
    daemon = json.loads(files()["/etc/docker/daemon.json"].content)
    assert daemon["live-restore"] is True
    assert daemon["no-new-privileges"] is True
    assert daemon["icc"] is False
    assert daemon["ip"] == "127.0.0.1"
    assert daemon["log-opts"] == {"max-size": "10m", "max-file": "3"}
    # Nomad computes a container's control group itself, regardless of this setting.
    assert "cgroup-parent" not in daemon


def test_the_endpoint_demands_a_certificate_of_the_stacks_ca() -> None:
    lines = files()["/etc/stunnel/nomad.conf"].content.splitlines()
    said = dict(line.split(" = ", 1) for line in lines if " = " in line and not line.startswith(";"))
    assert said["accept"] == "0.0.0.0:4650"
    assert said["connect"] == "127.0.0.1:4646"
    assert said["requireCert"] == said["verifyChain"] == "yes"
    assert said["sslVersionMin"] == "TLSv1.3"
    assert said["foreground"] == "yes", "Debian's stunnel@.service waits for no fork"
    for name, content in (
        ("CAfile", CERTIFICATES.ca_pem), ("cert", CERTIFICATES.server_cert_pem), ("key", CERTIFICATES.server_key_pem)
    ):  # fmt: skip
        assert files()[said[name]].content == content


def test_security_fixes_come_by_themselves_and_a_reboot_never_does() -> None:
    upgrades = files()["/etc/apt/apt.conf.d/52pds-unattended-upgrades"].content
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in upgrades
    assert re.findall(r'"origin=.*"', upgrades) == [
        '"origin=Debian,codename=${distro_codename}-security,label=Debian-Security"'
    ]


# The agent


def agent(**changes: Any) -> dict[str, Any]:
    return parse(agent_config(settings(**changes), "0123456789abcdef"))


def test_the_agent_is_on_loopback_and_says_so() -> None:
    # Nomad does not start with a loopback bind and nothing advertised.
    assert agent()["bind_addr"] == "127.0.0.1"
    assert agent()["advertise"] == [{"http": "127.0.0.1", "rpc": "127.0.0.1", "serf": "127.0.0.1"}]


def test_all_of_nomads_state_is_on_the_volume() -> None:
    assert agent()["data_dir"] == "/srv/nomad/agent"


def test_the_agents_place_comes_from_the_settings() -> None:
    moved = agent(nomad={"region": "europe", "datacenter": "fra1"})
    assert (moved["region"], moved["datacenter"]) == ("europe", "fra1")


def test_the_agent_asks_for_tokens_and_is_one_server() -> None:
    assert agent()["acl"] == [{"enabled": True}]
    assert agent()["server"] == [{"enabled": True, "bootstrap_expect": 1}]


def test_the_agent_sends_no_telemetry() -> None:
    assert agent()["disable_update_check"] is True
    assert agent()["disable_anonymous_signature"] is True
    assert not any(agent()["telemetry"][0].values())


def test_the_client_has_the_loopback_network_and_a_volume_for_the_server_and_each_ingress() -> None:
    client = agent()["client"][0]
    # By range, not by interface: 'lo' would take ::1 too, to which Docker cannot forward.
    assert client["host_network"] == [{"loopback": {"cidr": "127.0.0.1/32"}}]
    paths = {name: volume["path"] for block in client["host_volume"] for name, volume in block.items()}
    assert paths == {name: f"/srv/nomad/{name}" for name in ("pds", "io", "caddy")}, "another ingress needs no new host"
    plugin = f"{client['host_volume_plugin_dir']}/pds-dir"
    assert files()[plugin].mode == "0755"


def test_the_client_lets_a_task_end_in_its_own_time_and_keeps_templates_alive() -> None:
    client = agent()["client"][0]
    assert client["max_kill_timeout"] == "120s"
    assert client["template"] == [{"nomad_retry": [{"attempts": 0}]}]


def test_the_client_keeps_back_what_the_settings_count_as_the_systems() -> None:
    reserved = agent()["client"][0]["reserved"][0]
    assert reserved["memory"] == SYSTEM_RESERVE_MIB
    assert reserved["reserved_ports"] == "22,4650"


def test_docker_is_the_only_driver_and_a_narrow_one() -> None:
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
