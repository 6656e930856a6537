"""The host's cloud-init and Nomad's agent configuration, as text: content, file modes, and causes of a change.

`test_host_scripts.py` runs the scripts.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.render import cloud_init
from components.render.agent import agent_config
from components.render.cloud_init import (
    MAX_BYTES,
    Certificates,
    HostFile,
    UserDataTooLongError,
    configuration_hash,
    host_files,
    user_data,
)
from components.settings.checks import SYSTEM_RESERVE_MIB
from components.settings.read import read
from components.settings.settings import Settings
from tools.hcl_text import parse

CERTIFICATES = Certificates(
    ca_pem="-----BEGIN CERTIFICATE-----\nca\n-----END CERTIFICATE-----\n",
    server_cert_pem="-----BEGIN CERTIFICATE-----\nserver\n-----END CERTIFICATE-----\n",
    server_key_pem="-----BEGIN PRIVATE KEY-----\nkept-by-root\n-----END PRIVATE KEY-----\n",
)
TEXT_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDdlbW9rZXlkZW1va2V5ZGVtb2tleWRlbW9rZXlkZW1v alice@laptop"
FILES = Path(cloud_init.__file__).with_name("files")


def settings(**changes: Any) -> Settings:
    least = {
        "hostname": "pds.my-club.org",
        "dns": {"zone": "my-club.org"},
        "operators": {"cidrs": ["203.0.113.7/32"], "ssh_keys": ["laptop"]},
    }
    return read(least | changes, "Pulumi.dev.yaml", "dev")


def keys(*text: str) -> dict[str, Any]:
    return {"cidrs": ["203.0.113.7/32"], "ssh_keys": ["laptop", *text]}


def document(wanted: Settings | None = None) -> dict[str, Any]:
    parsed = yaml.safe_load(user_data(wanted or settings(), "dev", CERTIFICATES))
    assert isinstance(parsed, dict)
    return parsed


def files(wanted: Settings | None = None) -> dict[str, HostFile]:
    return {file.path: file for file in host_files(wanted or settings(), "dev", CERTIFICATES, "0123456789abcdef")}


def tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if not found:
        pytest.fail(f"'{name}' is missing: install Debian's package '{package}'.")
    return found


# The document


def test_the_document_begins_with_its_marker_in_the_first_column() -> None:
    # With anything before it, even a newline, cloud-init treats the text as something else and does nothing.
    assert user_data(settings(), "dev", CERTIFICATES).startswith("#cloud-config\n")


@pytest.mark.parametrize("text_keys", [(), (TEXT_KEY,)])
def test_cloud_init_itself_finds_the_document_valid(text_keys: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "user-data"
    file.write_text(user_data(settings(operators=keys(*text_keys)), "dev", CERTIFICATES))
    run = subprocess.run(
        [tool("cloud-init", "cloud-init"), "schema", "--config-file", file],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "deprecat" not in (run.stdout + run.stderr).lower()


def test_a_document_of_exactly_the_limit_is_taken_and_one_byte_more_is_refused() -> None:
    def with_key_of(length: int) -> str:
        return user_data(settings(operators=keys("ssh-ed25519 " + "A" * length)), "dev", CERTIFICATES)

    room = MAX_BYTES - len(with_key_of(5000).encode())
    assert len(with_key_of(5000 + room).encode()) == MAX_BYTES == 65_536
    with pytest.raises(UserDataTooLongError, match=r"65,537 bytes.*65,536.*'operators\.ssh_keys'"):
        with_key_of(5001 + room)


def test_a_plain_stack_leaves_a_third_of_the_limit_free() -> None:
    assert len(user_data(settings(), "dev", CERTIFICATES).encode()) < MAX_BYTES * 2 / 3


def test_files_stand_in_the_document_as_blocks_so_that_its_diff_reads_like_theirs() -> None:
    # A trailing blank or a tab would make YAML fall back to one quoted line.
    contents = re.findall(r"^  content: (.*)$", user_data(settings(), "dev", CERTIFICATES), re.MULTILINE)
    assert len(contents) == len(files())
    assert set(contents) == {"|"}


def test_what_cloud_init_reads_is_what_the_files_say() -> None:
    hashed = configuration_hash(settings(), "dev")
    written = {file["path"]: file["content"] for file in document()["write_files"]}
    assert written == {file.path: file.content for file in host_files(settings(), "dev", CERTIFICATES, hashed)}
    assert written["/usr/local/lib/pds/volume"] == (FILES / "volume.sh").read_text()


def test_every_host_file_of_this_folder_gets_onto_the_host() -> None:
    kinds = {".sh", ".service", ".timer", ".mount", ".rules", ".conf"}
    rendered = {file.content for file in files().values()}
    in_a_job = {"caddy.sh", "send.sh", "open.sh", "fetch.sh", "older.sh"}
    here = [file for file in FILES.iterdir() if file.suffix in kinds and file.name not in in_a_job]
    assert len(here) > 15
    for file in here:
        assert file.read_text().replace("@VOLUME@", "pds-dev") in rendered, file.name


def test_no_placeholder_is_left() -> None:
    assert "@VOLUME@" not in user_data(settings(), "dev", CERTIFICATES)


def test_a_volume_is_found_by_the_name_its_stack_gives_it() -> None:
    assert cloud_init.volume_name(settings(), "chess-club") == "pds-chess-club"
    text = user_data(settings(), "chess-club", CERTIFICATES)
    assert "What=/dev/disk/by-id/scsi-0DO_Volume_pds-chess-club\n" in text
    assert 'ENV{ID_SERIAL}=="0DO_Volume_pds-chess-club"' in text
    assert "VOLUME=pds-chess-club\n" in text


# Secrets


def test_the_endpoints_key_is_roots_alone_and_in_one_place() -> None:
    secret = [file for file in document()["write_files"] if "PRIVATE KEY" in file["content"]]
    assert [file["path"] for file in secret] == ["/etc/stunnel/pds/server.key"]
    assert secret[0]["permissions"] == "0600"
    assert secret[0]["owner"] == "root:root"
    assert user_data(settings(), "dev", CERTIFICATES).count("kept-by-root") == 1


def test_no_other_secret_of_a_stack_is_in_the_document() -> None:
    secrets = {
        "mail": "mail-password-x",
        "s3_id": "s3-key-id-x",
        "s3": "s3-secret-x",
        "env": "extra-secret-x",
        "license": 'license "ingress-licence-x" {}',
        "plc": "7" * 64,
        "jwt": "jwt-secret-of-the-stack",
        "admin": "admin-password-x",
    }
    everything = settings(
        mail={"host": "smtp.my-club.org", "user": "u", "password": secrets["mail"], "from": "pds@my-club.org"},
        s3={
            "bucket": "blobs",
            "region": "fra1",
            "endpoint": "https://fra1.digitaloceanspaces.com",
            "access_key_id": secrets["s3_id"],
            "secret_access_key": secrets["s3"],
        },
        pds={"extra_secret_env": {"PDS_RATE_LIMIT_BYPASS_KEY": secrets["env"]}},
        ingress={"license_hcl": secrets["license"]},
        secrets={
            "plc_rotation_key": secrets["plc"],
            "jwt_secret": secrets["jwt"],
            "admin_password": secrets["admin"],
        },
    )
    text = user_data(everything, "dev", CERTIFICATES)
    assert [name for name, secret in secrets.items() if secret in text] == []


def test_nothing_that_others_may_write_to_is_run_as_root() -> None:
    for file in document()["write_files"]:
        assert file["owner"] == "root:root", file["path"]
        assert file["permissions"] in {"0644", "0755", "0600"}, file["path"]


# The hash


def test_the_hash_is_the_same_for_other_certificates() -> None:
    # The server certificate must be able to change without a warning that the host is out of date.
    hashed = configuration_hash(settings(), "dev")
    assert re.fullmatch(r"[0-9a-f]{16}", hashed)
    for certificates in (CERTIFICATES, Certificates("other", "other", "other")):
        written = yaml.safe_load(user_data(settings(), "dev", certificates))["write_files"]
        config = parse(next(file["content"] for file in written if file["path"] == "/etc/nomad.d/agent.hcl"))
        assert config["client"][0]["meta"] == [{"pds_configuration": hashed}]


@pytest.mark.parametrize(
    "change",
    [
        {"time_zone": "Europe/Berlin"},
        {"host": {"swap_gib": 2}},
        {"nomad": {"version": "2.0.5", "sha256": "a" * 64}},
        {"nomad": {"mirror": "https://mirror.my-club.org/nomad"}},
        {"nomad": {"datacenter": "dc2"}},
        {"nomad": {"region": "europe"}},
        {"volume": {"adopt": "506f78a4-e098-11e5-ad9f-000f53306ae1"}},
        {"operators": keys(TEXT_KEY)},
    ],
)
def test_the_hash_changes_with_whatever_changes_the_host(change: dict[str, Any]) -> None:
    assert configuration_hash(settings(**change), "dev") != configuration_hash(settings(), "dev")


def test_the_hash_changes_with_the_stack() -> None:
    assert configuration_hash(settings(), "dev") != configuration_hash(settings(), "prod")


@pytest.mark.parametrize(
    "change",
    [
        {"host": {"generation": 2}},
        {"host": {"size": "s-2vcpu-4gb"}},
        {"volume": {"size_gib": 50}},
        {"pds": {"memory_mib": 640, "port": 3100}},
        {"operators": {"cidrs": ["198.51.100.1/32"], "ssh_keys": ["desktop"]}},
    ],
)
def test_the_hash_ignores_what_a_living_host_can_be_given(change: dict[str, Any]) -> None:
    # A changed hash warns that a rebuild would change the host. These need no warning.
    assert configuration_hash(settings(**change), "dev") == configuration_hash(settings(), "dev")


def test_the_same_stack_gives_the_same_document() -> None:
    assert user_data(settings(), "dev", CERTIFICATES) == user_data(settings(), "dev", CERTIFICATES)


# Accounts and SSH


def test_keys_given_as_text_reach_root_and_account_keys_are_digitaloceans_business() -> None:
    config = document(settings(operators=keys(TEXT_KEY)))
    assert config["ssh_authorized_keys"] == [TEXT_KEY]
    # Without this cloud-init puts a 'please log in as' command before root's keys.
    assert config["disable_root"] is False


def test_there_is_no_account_but_root() -> None:
    # cloud-init's default account would be uid 1000, the number that owns the server's files.
    assert document()["users"] == [{"name": "root", "lock_passwd": True}]


def test_sshd_takes_keys_only() -> None:
    drop_in = files()["/etc/ssh/sshd_config.d/10-pds.conf"].content
    said = dict(line.split(None, 1) for line in drop_in.splitlines() if line and not line.startswith("#"))
    assert said["PermitRootLogin"] == "prohibit-password"
    assert said["PasswordAuthentication"] == said["KbdInteractiveAuthentication"] == "no"
    assert said["AuthenticationMethods"] == "publickey"
    assert document()["ssh_pwauth"] is False


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


def test_the_agent_tells_nobody_anything() -> None:
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
