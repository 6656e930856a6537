"""`./pds allow-ip` on a test account: what is opened, for which address, and that it is always closed again."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from cli import app
from cli.drift import orphans
from cli.lib import temporary_firewall as allow_ip
from cli.lib.digitalocean import DigitalOceanAccount, DigitalOceanError
from cli.lib.subprocesses import child
from cli.lib.temporary_firewall import FirewallError, TemporaryFirewalls
from offline.mock_engine import ROOT
from tests.e2e.environment.api_client import FIREWALL, TOKEN
from tests.support.leftover_account import Owner, owner
from tests.support.serving import LOOPBACK, served

HERE = "203.0.113.99"
_SOON = 20.0
"""Seconds for what another process does."""

Json = dict[str, Any]


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    monkeypatch.setattr(allow_ip, "_PAUSE", 0.01)
    monkeypatch.setattr(allow_ip, "_answers", lambda address: True)
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", TOKEN)
    with owner(tmp_path, monkeypatch) as found:
        monkeypatch.setenv("DIGITALOCEAN_API_URL", found.client.api.url)
        yield found


def firewalls(alice: Owner) -> dict[str, Json]:
    """All firewalls of the account, by name."""
    return {item["name"]: item for item in alice.client.ask("GET", "/firewalls")["firewalls"]}


def opened(alice: Owner) -> set[str]:
    """The temporary firewalls, by the part of their names after the stack; without the digits that distinguish runs."""
    names = [
        name.removeprefix("pds-dev-allow-ip-") for name in firewalls(alice) if name.startswith("pds-dev-allow-ip-")
    ]
    assert len(set(names)) == len(names)
    return {re.sub(r"-run\d+-[0-9a-f]{6}$", " of a run", name) for name in names}


def run(*arguments: str, label: str = "this-run") -> int:
    """The verb on the stack `dev`."""
    options = ["--label", label] if "--close" in arguments else ["--label", label, "--address", HERE]
    return app.main(["allow-ip", "dev", *options, *arguments])


def test_a_door_lets_one_address_in_to_one_port_of_this_stack_s_host(alice: Owner) -> None:
    before = firewalls(alice)
    assert run() == 0
    made = firewalls(alice).pop("pds-dev-allow-ip-this-run")
    assert made["tags"] == ["pds-dev"], "a droplet that comes later has it from its first second"
    assert made["inbound_rules"] == [{"protocol": "tcp", "ports": "4650", "sources": {"addresses": [f"{HERE}/32"]}}]
    assert made["outbound_rules"] == []
    assert run("--close") == 0
    assert firewalls(alice) == before, "the program's own firewall was never touched, so no `up` has anything to undo"


def test_the_door_is_open_while_the_command_runs_and_closed_afterwards(
    alice: Owner, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen = tmp_path / "seen"
    ask = (
        "import sys; from cli.lib.digitalocean import DigitalOceanAccount as Account; "
        "names = [item['name'] for item in Account(*sys.argv[2:])"
    )
    script = f"{ask}.list_all('firewalls')]; open(sys.argv[1], 'w').write(' '.join(names)); sys.exit(7)"
    command = [sys.executable, "-c", script, str(seen), TOKEN, alice.client.api.url]
    assert run("--", *command) == 7, "the exit code is the command's"
    [name] = [name for name in seen.read_text().split() if name.startswith("pds-dev-allow-ip-this-run-")]
    assert opened(alice) == set()
    assert capfd.readouterr().out == f"Nomad is open to {HERE}.\nClosed: {name}.\n"


def test_opening_again_moves_the_door_and_makes_no_second(alice: Owner) -> None:
    run()
    assert app.main(["allow-ip", "dev", "--label", "this-run", "--address", "203.0.113.98"]) == 0
    [door] = [item for name, item in firewalls(alice).items() if "-allow-ip-" in name]
    assert door["inbound_rules"][0]["sources"]["addresses"] == ["203.0.113.98/32"]


def test_closing_what_is_closed_is_no_error(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--close") == 0
    assert capsys.readouterr().out == "Closed: no firewall was open.\n"


def test_two_runs_do_not_close_each_other_s_doors(alice: Owner) -> None:
    run(label="one")
    run(label="two")
    run("--close", label="one")
    assert {name for name in firewalls(alice) if "-allow-ip-" in name} == {"pds-dev-allow-ip-two"}


def test_a_door_that_outlived_any_run_is_closed_by_the_next(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    run(label="killed")
    alike = {**FIREWALL, "name": "pds-dev-allow-ip-other", "tags": ["pds-other"]}
    alice.client.ask("POST", "/firewalls", alike, 202)
    monkeypatch.setattr(allow_ip, "LONGEST_RUN", timedelta(0))
    run("--close")
    assert "pds-dev-allow-ip-killed" not in firewalls(alice)
    assert "pds-dev-allow-ip-other" in firewalls(alice), "that of a stack called 'dev-allow-ip-other' is none of ours"


def test_before_the_first_up_the_tag_is_made(alice: Owner) -> None:
    alice.client.ask("DELETE", "/tags/pds-dev", status=204)
    assert run() == 0
    assert alice.client.ask("GET", "/tags/pds-dev")["tag"]["name"] == "pds-dev"


def test_the_documented_token_is_enough_and_not_too_much(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    documented = "The token needs *firewall* (read, create, delete), *tag* and *droplet* (read), *reserved_ip* (read)."
    assert documented in (ROOT / "docs/guide/ci.md").read_text()
    kinds = {"firewall": ("read", "create", "delete"), "tag": ("read",), "droplet": ("read",), "reserved_ip": ("read",)}
    scopes = {f"{kind}:{verb}" for kind, verbs in kinds.items() for verb in verbs}
    alice.client.api.world.scopes = frozenset(scopes)
    assert run("--", "true") == 0
    monkeypatch.setattr(allow_ip, "_PATIENCE", 0.0)
    alice.client.api.world.action_seconds = 0.0
    for scope in sorted(scopes):
        alice.client.api.world.scopes = frozenset(scopes - {scope})
        assert run("--", "true") == 2, f"without {scope}"
    alice.client.api.world.scopes = None
    run("--close")


def test_a_lost_answer_leaves_no_door_and_runs_nothing(
    alice: Owner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.client.api.fail("POST", "/v2/firewalls", "lost")
    assert run("--", "touch", str(tmp_path / "ran")) == 2
    assert not (tmp_path / "ran").exists()
    assert {name for name in firewalls(alice) if "-allow-ip-" in name} == set(), "it was made, and found by its name"
    assert "does not answer" in capsys.readouterr().err


def test_an_api_that_fails_is_asked_to_close_until_it_does(alice: Owner) -> None:
    run()
    for nth in (1, 2):
        alice.client.api.fail("DELETE", "/v2/firewalls/.*", "500", nth=nth)
    alice.client.api.fail("GET", "/v2/firewalls", "429")
    assert run("--close") == 0
    assert {name for name in firewalls(alice) if "-allow-ip-" in name} == set()


def test_a_door_that_cannot_be_closed_is_said_with_what_to_do(
    alice: Owner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    monkeypatch.setattr(allow_ip, "_PATIENCE", 0.0)

    def refused(self: DigitalOceanAccount, path: str) -> None:
        raise DigitalOceanError("The DigitalOcean token may not delete firewalls (403).")

    monkeypatch.setattr(DigitalOceanAccount, "delete", refused)
    assert run("--close") == 2
    said = capsys.readouterr().err
    assert "pds-dev-allow-ip-this-run may still be open" in said
    assert "`./pds allow-ip dev --close`" in said


@pytest.mark.parametrize("arguments", [["allow-ip", "dev", "--close", "--", "true"], ["check", "dev", "--", "true"]])
def test_a_command_that_would_not_be_run_is_refused(alice: Owner, arguments: list[str]) -> None:
    assert app.main(arguments) == 2
    assert opened(alice) == set()


def test_a_command_that_is_not_there_closes_the_door(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--", "no-such-command") == 2
    assert "no-such-command cannot be run" in capsys.readouterr().err
    assert {name for name in firewalls(alice) if "-allow-ip-" in name} == set()


def test_a_firewall_that_is_not_applied_is_no_open_door(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allow_ip, "_PATIENCE", 0.05)
    create, get, waiting = DigitalOceanAccount.create, DigitalOceanAccount.get, {"status": "waiting"}
    monkeypatch.setattr(DigitalOceanAccount, "create", lambda self, path, body: create(self, path, body) | waiting)
    monkeypatch.setattr(DigitalOceanAccount, "get", lambda self, path: (get(self, path) or {}) | waiting)
    with alice.account() as account, pytest.raises(FirewallError, match="does not apply it"):
        TemporaryFirewalls(account, "dev", "this-run").open(HERE)


def test_a_host_that_does_not_answer_is_said_and_the_command_runs(
    alice: Owner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(allow_ip, "_PATIENCE", 0.05)
    alice.client.api.world.action_seconds = 0.0
    monkeypatch.setattr(allow_ip, "_answers", lambda address: False)
    assert run("--", "true") == 0, "an `up` may be what brings the host back"
    ip = alice.made["pds-host-network-ip"][2]
    assert f"{ip}:4650 does not answer. Is {HERE} the address" in capsys.readouterr().err


def test_a_door_is_an_orphan_that_says_what_it_is(alice: Owner) -> None:
    run()
    door = alice.orphan("temporary firewall")
    assert f"opens Nomad to {HERE}/32 since" in door.about
    assert door.delete == (("doctl", "compute", "firewall", "delete", door.id),)
    assert not door.blocks
    assert [item.kind for item in alice.look().orphans] == ["temporary firewall"], "it is listed once"
    assert "A run may still need it" in orphans.text("dev", alice.look())


@pytest.mark.parametrize("label", ["fv-az1234-56", "Alice's laptop", "18230946723-1/2", "läppi"])
def test_whatever_a_machine_is_called_its_door_has_a_name(label: str, alice: Owner) -> None:
    assert run(label=label) == 0
    assert run("--close", label=label) == 0
    assert {name for name in firewalls(alice) if "-allow-ip-" in name} == set()


# As a process, with signals.


_STUBBORN = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def note(number, frame):
    with (folder / "signals").open("a") as file:
        print(signal.Signals(number).name, file=file)
    ended.append(time.monotonic() + 0.5)
ended = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, note)
(folder / "started").touch()
while not ended or time.monotonic() < ended[0]:
    time.sleep(0.02)
(folder / "done").touch()
"""


def until(what: Callable[[], bool]) -> None:
    """Wait for it."""
    end = time.monotonic() + _SOON
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@pytest.fixture
def process(alice: Owner, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """The command, in its own session, whose child takes half a second to end in order. It is running."""
    # The host's address leads nowhere here: `bool` makes it answer.
    imports = "import sys; from cli import app; from cli.lib import temporary_firewall"
    start = f"{imports}; temporary_firewall._answers = bool; sys.exit(app.main(sys.argv[1:]))"
    verb = ["allow-ip", "dev", "--label", "this-run", "--address", HERE, "--"]
    command = [sys.executable, "-c", start, *verb, sys.executable, "-c", _STUBBORN, str(tmp_path)]
    with child(command, 120, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE) as running:
        until(lambda: (tmp_path / "started").exists())
        assert opened(alice) == {"this-run of a run"}
        yield running


def test_ctrl_c_is_the_command_s_and_comes_once(alice: Owner, process: "subprocess.Popen[str]", tmp_path: Path) -> None:
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    until(lambda: (tmp_path / "signals").exists())
    assert opened(alice) == {"this-run of a run"}, "the engine needs its way to Nomad to end in order"
    assert process.wait(_SOON) == 0
    assert (tmp_path / "done").exists()
    assert (tmp_path / "signals").read_text().split() == ["SIGINT"], "a second one would end `pulumi up` at once"
    assert opened(alice) == set()


def test_asked_to_end_it_ends_the_command_and_closes(
    alice: Owner, process: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    process.terminate()
    assert process.wait(_SOON) == 0
    assert (tmp_path / "signals").read_text().split() == ["SIGTERM"]
    assert opened(alice) == set()


def test_killed_it_leaves_a_door_that_a_step_after_it_closes(alice: Owner, process: "subprocess.Popen[str]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(_SOON)
    assert opened(alice) == {"this-run of a run"}
    assert run("--close", label="another") == 0
    assert opened(alice) == {"this-run of a run"}, "whether it runs on is known where it ran"
    assert run("--close") == 0
    assert opened(alice) == set()


def test_of_two_runs_on_one_machine_the_first_to_end_leaves_the_other_s_door(
    alice: Owner, process: "subprocess.Popen[str]"
) -> None:
    assert run("--", "true") == 0
    assert opened(alice) == {"this-run of a run"}, "that of the run that goes on"
    assert run() == 0
    assert opened(alice) == {"this-run of a run", "this-run"}
    assert run("--close") == 0
    assert opened(alice) == {"this-run of a run"}, "what a run opened it closes itself"
    process.terminate()
    assert process.wait(_SOON) == 0
    assert opened(alice) == set()


# This machine's address.


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Returns the one text in the list, and nothing if there is none."""
    says: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if says else 503)
            self.end_headers()
            self.wfile.write(says[0] if says else b"")

    with served(Handler) as port:
        monkeypatch.setattr(allow_ip, "WHO_AM_I", f"http://{LOOPBACK}:{port}/ip")
        yield says


def test_the_address_is_asked_for(mirror: list[bytes]) -> None:
    mirror.append(b"203.0.113.7\n")
    assert allow_ip.own_address() == "203.0.113.7"


@pytest.mark.parametrize("answer", [b"", b"<html>", b"2001:db8::1", b"203.0.113.7/0", b"0.0.0.0/0"])
def test_what_is_no_address_is_not_let_in(answer: bytes, mirror: list[bytes]) -> None:
    if answer:
        mirror.append(answer)
    with pytest.raises(FirewallError, match="Give it with `--address`"):
        allow_ip.own_address()
