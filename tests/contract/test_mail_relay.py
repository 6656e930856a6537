"""`cli/check/send_mail.cjs` with the server's own mail library, against a strict relay on loopback."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli.check.mail import SEND_SCRIPT
from tests.contract.checked_host import HOST, MAIL_LOGIN, mail_environment
from tests.support.certificates import Authority, server_context
from tests.support.smtp_relay import SmtpRelay, serve
from tools.trial.node import Install

pytestmark = pytest.mark.contract

TO = "ann@her-domain.org"


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SmtpRelay, Path]]:
    """A relay that requires TLS and a login and knows one sender, and the CA of its certificate."""
    folder = tmp_path_factory.mktemp("relay")
    authority = Authority()
    (folder / "ca.pem").write_text(authority.pem)
    context = server_context(authority.issue("127.0.0.1"), folder)
    with serve(SmtpRelay(tls="starttls", context=context, login=MAIL_LOGIN, senders=frozenset({HOST}))) as running:
        yield running, folder / "ca.pem"


@pytest.fixture
def state(relay: tuple[SmtpRelay, Path]) -> Iterator[SmtpRelay]:
    """The relay, which the test may change."""
    before = {name: getattr(relay[0], name) for name in ("tls", "senders", "busy")}
    relay[0].taken.clear()
    yield relay[0]
    vars(relay[0]).update(before)


def send(install: Install, relay: SmtpRelay, ca: Path | None, to: str = TO, **changes: str) -> dict[str, Any]:
    """The script's answer, from a process with the server's variables."""
    env = {"PATH": os.environ["PATH"], "PDS_HOSTNAME": HOST, **mail_environment(relay), **changes}
    env |= {"NODE_EXTRA_CA_CERTS": str(ca)} if ca else {}
    done = subprocess.run(
        [install.node, "-e", SEND_SCRIPT.read_text(), *([to] if to else [])],
        cwd=install.folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stderr == ""
    assert MAIL_LOGIN[1] not in done.stdout
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_message_goes_out_with_either_tls_mode(
    state: SmtpRelay, relay: tuple[SmtpRelay, Path], pds_installs: dict[str, Install], line: str, tls: Any
) -> None:
    state.tls = tls
    answer = send(pds_installs[line], state, relay[1])
    assert answer == {"sent": True, "response": "250 2.0.0 Ok: queued as 1"}
    [message] = state.taken
    assert (message.sender, message.recipients) == (f"pds@{HOST}", (TO,))
    assert f"Subject: Test message of {HOST}" in message.text


def test_a_wrong_password_a_refused_sender_and_a_refused_recipient_name_the_command(
    state: SmtpRelay, relay: tuple[SmtpRelay, Path], pds_installs: dict[str, Install], line: str
) -> None:
    install, ca = pds_installs[line], relay[1]
    wrong = send(install, state, ca, **mail_environment(state, password="another"))
    assert (wrong["sent"], wrong["code"]) == (False, "EAUTH")
    assert wrong["response"].startswith("535")
    stranger = send(install, state, ca, PDS_EMAIL_FROM_ADDRESS="pds@elsewhere.org")
    assert stranger["command"] == "MAIL FROM"
    assert "elsewhere.org is not verified" in stranger["response"]
    state.busy = True
    assert send(install, state, ca)["command"] == "RCPT TO"
    assert state.taken == []


def test_the_wrong_tls_mode_an_unknown_ca_and_a_relay_without_tls_send_no_password(
    state: SmtpRelay, relay: tuple[SmtpRelay, Path], pds_installs: dict[str, Install], line: str
) -> None:
    install, ca = pds_installs[line], relay[1]
    state.commands.clear()
    wrong_mode = mail_environment(replace(state, tls="implicit"))
    assert not send(install, state, ca, **wrong_mode)["sent"]
    assert "certificate" in send(install, state, None)["response"]
    state.tls = "none"
    bare = send(install, state, ca)
    assert (bare["sent"], bare["code"]) == (False, "ETLS")
    assert [command for command in state.commands if command.startswith("AUTH")] == []


def test_a_port_that_nothing_answers_is_a_sentence(
    state: SmtpRelay, relay: tuple[SmtpRelay, Path], pds_installs: dict[str, Install], line: str
) -> None:
    answer = send(pds_installs[line], replace(state, port=1), relay[1])
    assert (answer["sent"], answer["command"]) == (False, "CONN")
    assert "ECONNREFUSED" in answer["response"]


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_login_alone_sends_nothing(
    state: SmtpRelay, relay: tuple[SmtpRelay, Path], pds_installs: dict[str, Install], line: str, tls: Any
) -> None:
    state.tls = tls
    state.commands.clear()
    before = len(state.taken)
    assert send(pds_installs[line], state, relay[1], to="") == {"sent": True, "response": ""}
    assert any(command.startswith("AUTH") for command in state.commands)
    assert not any(command.startswith("MAIL") for command in state.commands)
    assert len(state.taken) == before


def test_a_refused_login_or_no_answer_is_a_sentence_without_a_message(
    state: SmtpRelay, relay: tuple[SmtpRelay, Path], pds_installs: dict[str, Install], line: str
) -> None:
    """Credentials expire while no test message is sent."""
    install, ca = pds_installs[line], relay[1]
    refused = send(install, state, ca, to="", **mail_environment(state, password="another"))
    assert (refused["sent"], refused["code"]) == (False, "EAUTH")
    assert refused["response"].startswith("535")
    away = send(install, replace(state, port=1), ca, to="")
    assert (away["sent"], away["command"]) == (False, "CONN")
    assert "ECONNREFUSED" in away["response"]
