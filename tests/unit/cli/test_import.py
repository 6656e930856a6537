"""`./pds import`: what it imports from an installer's `pds.env`, what it refuses, and what it only reports.

`tests/e2e/scenarios/e2e_import.py` runs the script on a real machine with a real server's data.
"""

import re
import subprocess
from pathlib import Path

import pytest

from cli import app
from cli.backups import import_pds
from cli.lib.stack import Stack, StackError
from tests.support.host_machine import tool
from tests.support.programs import BACKUP, settings_of
from tests.unit.cli.test_restore import KEY, Owner
from tests.unit.cli.test_restore import alice as alice

OTHER = KEY[::-1]
ENV = {
    "PDS_HOSTNAME": "noted.at",
    "PDS_JWT_SECRET": "0123456789abcdef0123456789abcdef",
    "PDS_ADMIN_PASSWORD": "fedcba9876543210fedcba9876543210",
    "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": OTHER,
    "PDS_DATA_DIRECTORY": "/pds",
    "PDS_BLOBSTORE_DISK_LOCATION": "/pds/blocks",
    "PDS_BLOB_UPLOAD_LIMIT": "104857600",
    "PDS_DID_PLC_URL": "https://plc.directory",
    "PDS_CRAWLERS": "https://bsky.network",
    "PDS_EMAIL_SMTP_URL": "smtps://resend:a-secret@smtp.resend.com:465/",
    "LOG_ENABLED": "true",
}
"""As upstream's installer.sh writes it, with the mail option of its README."""


def _env(alice: Owner, **changes: str | None) -> Path:
    file = alice.pulumi.root / "pds.env"
    values = {name: value for name, value in {**ENV, **changes}.items() if value is not None}
    file.write_text("# secrets\n" + "".join(f"{name}={value}\n" for name, value in values.items()))
    return file


def test_writes_the_secrets_encrypted_and_pauses_the_stack(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    alice.write(backup=BACKUP, pds={"new": True})
    alice.pulumi.outputs(error="no stack named 'dev' found")
    assert import_pds.import_pds(alice.stack, _env(alice)) == 0
    written = (alice.pulumi.root / "Pulumi.dev.yaml").read_text()
    output = capsys.readouterr().out
    script = (alice.pulumi.root / "build/import-pds.sh").read_text()
    for name in ("PDS_JWT_SECRET", "PDS_ADMIN_PASSWORD", "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"):
        assert ENV[name] not in written + output + script
        assert not any(ENV[name] in word for command in alice.pulumi.ran for word in command), (
            "a command line is visible to other users"
        )
    settings = [command[2:-3] for command in alice.pulumi.ran]
    assert [words for words in settings if "--secret" in words] == [
        ["--secret", "--path", f"pds:secrets.{key}"] for key in ("plc_rotation_key", "jwt_secret", "admin_password")
    ]
    assert ["--path", "pds:pds.paused", "true"] in settings
    assert ["--path", "pds:pds.new", "false"] in settings
    assert "secure: '64'" in written, "the complete key, without a newline"
    assert "./pds restore dev --snapshot volume --sequence 1" in output
    assert "-C /srv/nomad/pds -x" in output


def test_lists_options_set_only_on_the_old_server_without_their_secrets() -> None:
    differences = list(import_pds.setting_differences(settings_of(backup=BACKUP), ENV))
    assert differences == [
        "note: PDS_EMAIL_SMTP_URL is set there and not here: see 'mail'",
    ]


def test_drops_a_comment_after_a_value(alice: Owner) -> None:
    alice.pulumi.outputs(error="no stack named 'dev' found")
    alice.write(backup=BACKUP)
    key, jwt = f'"{OTHER}" # the key', "0123456789abcdef # as it was"
    env = _env(alice, PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX=key, PDS_JWT_SECRET=jwt)
    import_pds.import_pds(alice.stack, env)
    written = (alice.pulumi.root / "Pulumi.dev.yaml").read_text()
    assert re.findall(r"secure: '([0-9]+)'", written) == ["32", "16", "64"], (
        "lengths: password, session key, rotation key"
    )


def test_accepts_short_secrets_of_the_old_server(alice: Owner) -> None:
    alice.pulumi.outputs(error="no stack named 'dev' found")
    alice.write(backup=BACKUP)
    assert (
        import_pds.import_pds(alice.stack, _env(alice, PDS_JWT_SECRET="thirteen-char", PDS_ADMIN_PASSWORD="short")) == 0
    )


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"PDS_HOSTNAME": "chess.at"}, "Write 'hostname: chess.at'"),
        ({"PDS_JWT_SECRET": None}, "PDS_JWT_SECRET is not in it"),
        ({"PDS_JWT_SECRET": '"never closed'}, "quotation mark in line 3 is never closed"),
        ({"PDS_ADMIN_PASSWORD": "$ELSEWHERE"}, r"ELSEWHERE\} is not set in this file"),
        ({"PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": "0" * 64}, "not a secp256k1 private key"),
        ({"PDS_PLC_ROTATION_KEY_KMS_KEY_ID": "k"}, "is in a KMS"),
        ({"PDS_BLOBSTORE_S3_BUCKET": "blobs"}, "write 's3: {bucket: blobs"),
    ],
)
def test_refuses_what_it_cannot_import_before_writing(alice: Owner, changes: dict[str, str | None], error: str) -> None:
    with pytest.raises(StackError, match=error):
        import_pds.import_pds(alice.stack, _env(alice, **changes))
    assert alice.pulumi.ran == []


def test_refuses_a_stack_that_has_its_own_rotation_key(alice: Owner) -> None:
    secrets = {"PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": KEY}
    alice.pulumi.outputs(state="serving", escrow={"secrets": secrets})
    with pytest.raises(StackError, match="a rotation key of its own"):
        import_pds.import_pds(alice.stack, _env(alice))
    assert alice.pulumi.ran == []


def test_refuses_a_stack_without_backups(alice: Owner) -> None:
    alice.write()
    with pytest.raises(StackError, match="has no 'backup'"):
        import_pds.import_pds(alice.stack, _env(alice))


def test_refuses_a_missing_file(alice: Owner) -> None:
    with pytest.raises(StackError, match="cannot be read"):
        import_pds.import_pds(alice.stack, alice.pulumi.root / "nowhere")


def test_script_copies_a_club_s_data_into_the_club_s_directory(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"on": "dev", "dns": {"provider": "manual"}, "operators": None, "host": None, "volume": None}
    alice.write("chess", backup=BACKUP, pds={"port": 3101}, **options)
    alice.pulumi.outputs(error="no stack named 'chess' found")
    import_pds.import_pds(Stack("chess", alice.pulumi.root), _env(alice))
    assert "-C /srv/nomad/clubs/pds-chess -x" in capsys.readouterr().out


def test_script_contains_every_program_it_requires_and_passes_shellcheck(tmp_path: Path) -> None:
    text = import_pds.script_text()
    assert text.count("END-OF-PROGRAM") == 2 * len(import_pds.PROGRAMS)
    contained = set(re.findall(r'cat >"\$work/([\w.-]+)"', text))
    assert set(re.findall(r'require\("\./([\w.-]+)"\)', text)) <= contained, "the script contains every required file"
    (tmp_path / "import-pds.sh").write_text(text)
    shellcheck = subprocess.run(
        [tool("shellcheck", "shellcheck"), "--shell=sh", tmp_path / "import-pds.sh"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert shellcheck.returncode == 0, shellcheck.stdout


def test_command_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[str, Path]] = []

    def record(stack: Stack, env: Path) -> int:
        calls.append((stack.name, env))
        return 0

    monkeypatch.setattr(import_pds, "import_pds", record)
    assert app.main(["import", "dev", "--env", str(tmp_path)]) == 0
    assert calls == [("dev", tmp_path)]
