"""The script that confirms e-mail addresses, run by a real Node beside a real PDS that continues to serve."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cli.people.email_tokens import PURPOSES
from cli.people.email_tokens import TOKEN_SCRIPT as SCRIPT_OF_TOKENS
from components.clients import pds_admin
from tests.contract.conftest import StartPds
from tests.unit.components.render.test_volume_check import VOLUME_CHECK
from tools.trial.node import Install
from tools.trial.pds import PdsProcess
from tools.trial.xrpc import Client, RefusedError

pytestmark = pytest.mark.contract

SCRIPT = VOLUME_CHECK.with_name("confirm_email.cjs")
PASSWORD = "5f" * 16


@pytest.fixture(scope="module")
def pds(start_pds: StartPds, program_env: dict[str, str]) -> Iterator[PdsProcess]:
    with start_pds(program_env, {}) as running:
        yield running


@pytest.fixture(scope="module")
def server(pds: PdsProcess, program_env: dict[str, str]) -> pds_admin.Server:
    url = f"http://noted.at:{urlsplit(pds.url).port}"
    return pds_admin.Server(url, "127.0.0.1", program_env["PDS_ADMIN_PASSWORD"])


def _made(server: pds_admin.Server, name: str) -> str:
    made = pds_admin.create(
        server, handle=f"{name}.noted.at", email=f"{name}@noted.at", password=PASSWORD, recovery_key=None
    )
    return made.did


def _confirm(install: Install, pds: PdsProcess, dids: str) -> subprocess.CompletedProcess[str]:
    """As the job runs it: in the folder of the server's package."""
    data = Path(pds.log).with_suffix("")
    env = {"PDS_DATA_DIRECTORY": str(data), "PDS_CONFIRM_DIDS": dids}
    return subprocess.run(
        [str(install.node), str(SCRIPT)],
        cwd=install.folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def _confirmed(server: pds_admin.Server, did: str) -> bool:
    info: dict[str, Any] = server.query("com.atproto.admin.getAccountInfo", did=did)
    return "emailConfirmedAt" in info


def test_only_the_listed_accounts_are_confirmed(
    pds: PdsProcess, server: pds_admin.Server, pds_installs: dict[str, Install], line: str
) -> None:
    ann, bob = _made(server, "ann"), _made(server, "bob")
    done = _confirm(pds_installs[line], pds, f"{ann} did:plc:unknown")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{ann} is confirmed now", "did:plc:unknown is not an account here"]
    assert (_confirmed(server, ann), _confirmed(server, bob)) == (True, False), "the server reads it without a restart"
    again = _confirm(pds_installs[line], pds, ann)
    assert again.stdout.splitlines() == [f"{ann} was confirmed before"]
    pds_admin.change_email(server, ann, "other@noted.at")
    assert not _confirmed(server, ann), "a changed address is not confirmed"
    assert _confirm(pds_installs[line], pds, ann).returncode == 0
    assert _confirmed(server, ann), "the next run confirms it again"


def test_empty_list_confirms_no_account(pds: PdsProcess, pds_installs: dict[str, Install], line: str) -> None:
    done = _confirm(pds_installs[line], pds, "none")
    assert (done.returncode, done.stdout) == (0, "")


def test_runs_while_the_server_writes_and_does_not_disturb_it(
    pds: PdsProcess, server: pds_admin.Server, pds_installs: dict[str, Install], line: str
) -> None:
    failures: list[BaseException] = []
    stop = threading.Event()

    def writes() -> None:
        while not stop.is_set():
            try:
                pds_admin.invite_codes(server, 5, 1)
            except Exception as error:
                failures.append(error)

    cat, dog = _made(server, "cat"), _made(server, "dog")
    writer = threading.Thread(target=writes, daemon=True)
    writer.start()
    try:
        for did in (cat, dog):
            assert _confirm(pds_installs[line], pds, did).returncode == 0
    finally:
        stop.set()
        writer.join(600)
    assert failures == []
    assert _confirmed(server, cat)
    assert _confirmed(server, dog)


def test_missing_database_is_a_failure_and_not_created(
    pds_installs: dict[str, Install], line: str, tmp_path: Path
) -> None:
    install = pds_installs[line]
    env = {"PDS_DATA_DIRECTORY": str(tmp_path), "PDS_CONFIRM_DIDS": "did:plc:a"}
    done = subprocess.run(
        [str(install.node), str(SCRIPT)], cwd=install.folder, env=env, capture_output=True, timeout=600, check=False
    )
    assert done.returncode != 0
    assert list(tmp_path.iterdir()) == [], "an empty database would look like a server without accounts"


def test_token_that_was_not_mailed_can_be_read_and_works(
    pds: PdsProcess, server: pds_admin.Server, pds_installs: dict[str, Install], line: str
) -> None:
    """A move to another server needs a signature of this server, which requires a token that it would mail."""
    did = _made(server, "eve")
    assert _confirm(pds_installs[line], pds, did).returncode == 0, "the server mails to confirmed addresses"
    client = Client(pds.url, "noted.at")
    with client.http:
        body = {"identifier": did, "password": PASSWORD}
        session = client.procedure("com.atproto.server.createSession", body)["accessJwt"]
        client.log_in(session)
        assert _tokens(pds_installs[line], pds, did) == []
        request = "/xrpc/com.atproto.identity.requestPlcOperationSignature"
        client.http.post(request, headers={"Authorization": f"Bearer {session}"}).raise_for_status()
        [token] = _tokens(pds_installs[line], pds, did)
        assert token["purpose"] == "plc_operation"
        assert set(PURPOSES) >= {token["purpose"]}
        with pytest.raises(RefusedError, match="Token is invalid"):
            client.procedure("com.atproto.identity.signPlcOperation", {"token": "AAAAA-AAAAA"})
        signed = client.procedure("com.atproto.identity.signPlcOperation", {"token": token["token"]})
        assert signed["operation"]["sig"], "the member can move away"


def _tokens(install: Install, pds: PdsProcess, did: str) -> list[dict[str, str]]:
    env = {"PDS_DATA_DIRECTORY": str(Path(pds.log).with_suffix(""))}
    command = [str(install.node), "-e", SCRIPT_OF_TOKENS.read_text(), did]
    done = subprocess.run(command, cwd=install.folder, env=env, capture_output=True, text=True, timeout=600, check=True)
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found
