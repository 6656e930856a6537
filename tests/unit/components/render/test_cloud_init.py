"""The host's cloud-init as text: content, file modes, and causes of a change.

`test_host_daemons.py` reads the units and the daemons' configuration; `test_host_scripts.py` runs the scripts.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.render.host import cloud_init
from components.render.host.cloud_init import (
    MAX_BYTES,
    Certificates,
    HostFile,
    UserDataTooLongError,
    configuration_hash,
    host_files,
    user_data,
)
from components.settings.parse import read
from components.settings.sections.settings import Settings
from offline.hcl_reader import parse

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
    parsed = yaml.load(user_data(wanted or settings(), "dev", CERTIFICATES), yaml.CSafeLoader)
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


def test_document_begins_with_its_marker_in_the_first_column() -> None:
    # With anything before it, even a newline, cloud-init treats the text as something else and does nothing.
    assert user_data(settings(), "dev", CERTIFICATES).startswith("#cloud-config\n")


@pytest.mark.parametrize("text_keys", [(), (TEXT_KEY,)])
def test_cloud_init_validates_the_document(text_keys: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "user-data"
    file.write_text(user_data(settings(operators=keys(*text_keys)), "dev", CERTIFICATES))
    run = subprocess.run(
        [tool("cloud-init", "cloud-init"), "schema", "--config-file", file],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "deprecat" not in (run.stdout + run.stderr).lower()


def test_accepts_a_document_of_the_maximum_size_and_refuses_one_byte_more() -> None:
    def with_key_of(length: int) -> str:
        return user_data(settings(operators=keys("ssh-ed25519 " + "A" * length)), "dev", CERTIFICATES)

    free_bytes = MAX_BYTES - len(with_key_of(5000).encode())
    assert len(with_key_of(5000 + free_bytes).encode()) == MAX_BYTES == 65_536
    with pytest.raises(UserDataTooLongError, match=r"65,537 bytes.*65,536.*'operators\.ssh_keys'"):
        with_key_of(5001 + free_bytes)


def test_minimal_stack_leaves_a_third_of_the_limit_free() -> None:
    assert len(user_data(settings(), "dev", CERTIFICATES).encode()) < MAX_BYTES * 2 / 3


def test_files_are_literal_blocks_so_that_diffs_are_readable() -> None:
    # A trailing blank or a tab would make YAML fall back to one quoted line.
    contents = re.findall(r"^  content: (.*)$", user_data(settings(), "dev", CERTIFICATES), re.MULTILINE)
    assert len(contents) == len(files())
    assert set(contents) == {"|"}


def test_document_contains_the_files_unchanged() -> None:
    hashed = configuration_hash(settings(), "dev")
    written = {file["path"]: file["content"] for file in document()["write_files"]}
    assert written == {file.path: file.content for file in host_files(settings(), "dev", CERTIFICATES, hashed)}
    assert written["/usr/local/lib/pds/volume"] == (FILES / "volume.sh").read_text()


def test_every_host_file_of_the_folder_is_in_the_document() -> None:
    kinds = {".sh", ".service", ".socket", ".timer", ".mount", ".rules", ".conf"}
    rendered = {file.content for file in files(settings(metrics={"store": True})).values()}
    in_a_job = {"caddy.sh", "send.sh", "restic_open.sh", "fetch.sh", "fetch_older.sh"}
    of_a_cluster = {
        *("carry.sh", "carry.rules", "gossip.sh", "nomad-server.service", "pds-carry.service"),
        *("volume-lost.sh", "pds-volume-lost.service", "forget-agent.sh"),
    }
    elsewhere = in_a_job | of_a_cluster
    host_files_of_folder = [file for file in FILES.iterdir() if file.suffix in kinds and file.name not in elsewhere]
    assert len(host_files_of_folder) > 15
    for file in host_files_of_folder:
        assert file.read_text().replace("@VOLUME@", "pds-dev") in rendered, file.name


def test_leaves_no_placeholder() -> None:
    assert "@VOLUME@" not in user_data(settings(), "dev", CERTIFICATES)


def test_volume_is_found_by_the_name_of_its_stack() -> None:
    assert cloud_init.volume_name(settings(), "chess-club") == "pds-chess-club"
    text = user_data(settings(), "chess-club", CERTIFICATES)
    assert "What=/dev/disk/by-id/scsi-0DO_Volume_pds-chess-club\n" in text
    assert 'ENV{ID_SERIAL}=="0DO_Volume_pds-chess-club"' in text
    assert "VOLUME=pds-chess-club\n" in text


def test_volume_becomes_read_only_after_an_error_of_its_file_system() -> None:
    """By default ext4 goes on, and writes to damaged structures."""
    unit = files()["/etc/systemd/system/srv-nomad.mount"].content
    assert "errors=remount-ro" in unit.partition("Options=")[2].partition("\n")[0].split(",")


# Secrets


def test_only_root_can_read_the_endpoint_key_and_it_is_in_one_file() -> None:
    secret = [file for file in document()["write_files"] if "PRIVATE KEY" in file["content"]]
    assert [file["path"] for file in secret] == ["/etc/stunnel/pds/server.key"]
    assert secret[0]["permissions"] == "0600"
    assert secret[0]["owner"] == "root:root"
    assert user_data(settings(), "dev", CERTIFICATES).count("kept-by-root") == 1


def test_contains_no_other_secret_of_the_stack() -> None:
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


def test_only_root_can_write_the_files() -> None:
    for file in document()["write_files"]:
        assert file["owner"] == "root:root", file["path"]
        assert file["permissions"] in {"0644", "0755", "0600"}, file["path"]


# The configuration hash


def test_hash_does_not_depend_on_the_certificates() -> None:
    # The server certificate must be able to change without a warning that the host is out of date.
    hashed = configuration_hash(settings(), "dev")
    assert re.fullmatch(r"[0-9a-f]{16}", hashed)
    for certificates in (CERTIFICATES, Certificates("other", "other", "other")):
        written = yaml.load(user_data(settings(), "dev", certificates), yaml.CSafeLoader)["write_files"]
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
def test_hash_changes_with_every_option_that_changes_the_host(change: dict[str, Any]) -> None:
    assert configuration_hash(settings(**change), "dev") != configuration_hash(settings(), "dev")


def test_hash_changes_with_the_stack() -> None:
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
def test_hash_ignores_options_that_apply_to_a_running_host(change: dict[str, Any]) -> None:
    # A changed hash warns that a rebuild would change the host. These need no warning.
    assert configuration_hash(settings(**change), "dev") == configuration_hash(settings(), "dev")


def test_same_stack_gives_the_same_document() -> None:
    assert user_data(settings(), "dev", CERTIFICATES) == user_data(settings(), "dev", CERTIFICATES)


# Accounts and SSH


def test_ssh_keys_given_as_text_are_written_for_root() -> None:
    config = document(settings(operators=keys(TEXT_KEY)))
    assert config["ssh_authorized_keys"] == [TEXT_KEY]
    # Without this cloud-init puts a 'please log in as' command before root's keys.
    assert config["disable_root"] is False


def test_creates_no_account_but_root() -> None:
    # cloud-init's default account would be uid 1000, the number that owns the server's files.
    assert document()["users"] == [{"name": "root", "lock_passwd": True}]


def test_sshd_accepts_keys_only() -> None:
    drop_in = files()["/etc/ssh/sshd_config.d/10-pds.conf"].content
    sshd_options = dict(line.split(None, 1) for line in drop_in.splitlines() if line and not line.startswith("#"))
    assert sshd_options["PermitRootLogin"] == "prohibit-password"
    assert sshd_options["PasswordAuthentication"] == sshd_options["KbdInteractiveAuthentication"] == "no"
    assert sshd_options["AuthenticationMethods"] == "publickey"
    assert document()["ssh_pwauth"] is False
