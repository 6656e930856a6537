"""`./pds import`: what it takes from an installer's `pds.env`, what it refuses, and what it reports of the rest.

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
"""As upstream's installer.sh writes it, with mail, as its README has it."""


def _env(alice: Owner, **changes: str | None) -> Path:
    file = alice.pulumi.root / "pds.env"
    values = {name: value for name, value in {**ENV, **changes}.items() if value is not None}
    file.write_text("# secrets\n" + "".join(f"{name}={value}\n" for name, value in values.items()))
    return file


def test_its_secrets_go_into_the_stack_file_encrypted_and_the_stack_waits(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.write(backup=BACKUP, pds={"new": True})
    alice.pulumi.outputs(error="no stack named 'dev' found")
    assert import_pds.import_pds(alice.stack, _env(alice)) == 0
    written = (alice.pulumi.root / "Pulumi.dev.yaml").read_text()
    said = capsys.readouterr().out
    script = (alice.pulumi.root / "build/import-pds.sh").read_text()
    for name in ("PDS_JWT_SECRET", "PDS_ADMIN_PASSWORD", "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"):
        assert ENV[name] not in written + said + script
        assert not any(ENV[name] in word for command in alice.pulumi.ran for word in command), "on no command line"
    settings = [command[2:-3] for command in alice.pulumi.ran]
    assert [words for words in settings if "--secret" in words] == [
        ["--secret", "--path", f"pds:secrets.{key}"] for key in ("plc_rotation_key", "jwt_secret", "admin_password")
    ]
    assert ["--path", "pds:pds.paused", "true"] in settings
    assert ["--path", "pds:pds.new", "false"] in settings
    assert "secure: '64'" in written, "the whole of the key, and no line end"
    assert "./pds restore dev --snapshot volume --sequence 1" in said
    assert "-C /srv/nomad/pds -x" in said


def test_what_the_old_server_was_told_and_the_new_one_is_not_is_listed_without_a_secret() -> None:
    told = list(import_pds.setting_differences(settings_of(backup=BACKUP), ENV))
    assert told == [
        "note: PDS_EMAIL_SMTP_URL is set there and not here: see 'mail'",
    ]


def test_a_value_with_a_comment_after_it_comes_without_it(alice: Owner) -> None:
    alice.pulumi.outputs(error="no stack named 'dev' found")
    alice.write(backup=BACKUP)
    key, jwt = f'"{OTHER}" # the key', "0123456789abcdef # as it was"
    env = _env(alice, PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX=key, PDS_JWT_SECRET=jwt)
    import_pds.import_pds(alice.stack, env)
    written = (alice.pulumi.root / "Pulumi.dev.yaml").read_text()
    assert re.findall(r"secure: '([0-9]+)'", written) == ["32", "16", "64"], (
        "lengths: password, session key, rotation key"
    )


def test_a_short_secret_that_the_server_took_comes_along(alice: Owner) -> None:
    alice.pulumi.outputs(error="no stack named 'dev' found")
    alice.write(backup=BACKUP)
    assert (
        import_pds.import_pds(alice.stack, _env(alice, PDS_JWT_SECRET="thirteen-char", PDS_ADMIN_PASSWORD="short")) == 0
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"PDS_HOSTNAME": "chess.at"}, "write 'hostname: chess.at'"),
        ({"PDS_JWT_SECRET": None}, "PDS_JWT_SECRET is not in it"),
        ({"PDS_JWT_SECRET": '"never closed'}, "quotation mark in line 3 is never closed"),
        ({"PDS_ADMIN_PASSWORD": "$ELSEWHERE"}, r"ELSEWHERE\} is not set in this file"),
        ({"PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": "0" * 64}, "not a secp256k1 private key"),
        ({"PDS_PLC_ROTATION_KEY_KMS_KEY_ID": "k"}, "lies in a KMS"),
        ({"PDS_BLOBSTORE_S3_BUCKET": "blobs"}, "write 's3: {bucket: blobs"),
    ],
)
def test_what_cannot_come_is_refused_before_anything_is_written(
    alice: Owner, changes: dict[str, str | None], why: str
) -> None:
    with pytest.raises(StackError, match=why):
        import_pds.import_pds(alice.stack, _env(alice, **changes))
    assert alice.pulumi.ran == []


def test_a_stack_with_members_of_its_own_keeps_its_key(alice: Owner) -> None:
    secrets = {"PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": KEY}
    alice.pulumi.outputs(state="serving", escrow={"secrets": secrets})
    with pytest.raises(StackError, match="a rotation key of its own"):
        import_pds.import_pds(alice.stack, _env(alice))
    assert alice.pulumi.ran == []


def test_without_backups_there_is_no_restore(alice: Owner) -> None:
    alice.write()
    with pytest.raises(StackError, match="has no 'backup'"):
        import_pds.import_pds(alice.stack, _env(alice))


def test_a_file_that_is_not_there_is_told(alice: Owner) -> None:
    with pytest.raises(StackError, match="cannot be read"):
        import_pds.import_pds(alice.stack, alice.pulumi.root / "nowhere")


def test_a_club_s_data_go_into_its_room(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"on": "dev", "dns": {"provider": "manual"}, "operators": None, "host": None, "volume": None}
    alice.write("chess", backup=BACKUP, pds={"port": 3101}, **options)
    alice.pulumi.outputs(error="no stack named 'chess' found")
    import_pds.import_pds(Stack("chess", alice.pulumi.root), _env(alice))
    assert "-C /srv/nomad/clubs/pds-chess -x" in capsys.readouterr().out


def test_the_script_is_whole_and_shellcheck_has_nothing_to_say(tmp_path: Path) -> None:
    text = import_pds.script_text()
    assert text.count("END-OF-PROGRAM") == 2 * len(import_pds.PROGRAMS)
    there = set(re.findall(r'cat >"\$work/([\w.-]+)"', text))
    assert set(re.findall(r'require\("\./([\w.-]+)"\)', text)) <= there, "a program finds what it requires"
    (tmp_path / "import-pds.sh").write_text(text)
    ran = subprocess.run(
        [tool("shellcheck", "shellcheck"), "--shell=sh", tmp_path / "import-pds.sh"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout


def test_the_verb_hands_on_what_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[tuple[str, Path]] = []

    def tell(stack: Stack, env: Path) -> int:
        told.append((stack.name, env))
        return 0

    monkeypatch.setattr(import_pds, "import_pds", tell)
    assert app.main(["import", "dev", "--env", str(tmp_path)]) == 0
    assert told == [("dev", tmp_path)]
