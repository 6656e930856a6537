"""`./pds allow-ip` on a test account: which temporary firewall rule it creates, and that it always deletes it."""

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
_SOON = 600.0
"""Seconds to wait for another process."""

Json = dict[str, Any]


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    monkeypatch.setattr(allow_ip, "_PAUSE", 0.01)
    monkeypatch.setattr(allow_ip, "_answers", lambda address: True)
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", TOKEN)
    with owner(tmp_path, monkeypatch) as operator:
        monkeypatch.setenv("DIGITALOCEAN_API_URL", operator.client.api.url)
        yield operator


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
    """Run the command on the stack `dev`; returns its exit code."""
    options = ["--label", label] if "--close" in arguments else ["--label", label, "--address", HERE]
    return app.main(["allow-ip", "dev", *options, *arguments])


def test_firewall_allows_one_address_to_one_port_of_this_stack_s_host(alice: Owner) -> None:
    before = firewalls(alice)
    assert run() == 0
    firewall = firewalls(alice).pop("pds-dev-allow-ip-this-run")
    assert firewall["tags"] == ["pds-dev"], "a droplet created later is covered at once"
    assert firewall["inbound_rules"] == [{"protocol": "tcp", "ports": "4650", "sources": {"addresses": [f"{HERE}/32"]}}]
    assert firewall["outbound_rules"] == []
    assert run("--close") == 0
    assert firewalls(alice) == before, "the program's own firewall is unchanged, so `up` has nothing to undo"


def test_firewall_exists_only_while_the_command_runs(
    alice: Owner, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names_file = tmp_path / "names_file"
    listing = "from pathlib import Path; import sys; from urllib.request import Request, urlopen; import json"
    request = "Request(sys.argv[2] + '/v2/firewalls', headers={'Authorization': 'Bearer ' + sys.argv[3]})"
    names = f"[item['name'] for item in json.load(urlopen({request}, timeout=600))['firewalls']]"
    script = f"{listing}; Path(sys.argv[1]).write_text(' '.join({names})); sys.exit(7)"
    # -I and -S: it starts in a fifth of the time.
    command = [sys.executable, "-ISc", script, str(names_file), alice.client.api.url, TOKEN]
    assert run("--", *command) == 7, "the exit code is the command's"
    [name] = [name for name in names_file.read_text().split() if name.startswith("pds-dev-allow-ip-this-run-")]
    assert opened(alice) == set()
    assert capfd.readouterr().out == f"Nomad is open to {HERE}.\nClosed: {name}.\n"


def test_a_second_call_with_the_same_label_replaces_the_address(alice: Owner) -> None:
    run()
    assert app.main(["allow-ip", "dev", "--label", "this-run", "--address", "203.0.113.98"]) == 0
    [firewall] = [item for name, item in firewalls(alice).items() if "-allow-ip-" in name]
    assert firewall["inbound_rules"][0]["sources"]["addresses"] == ["203.0.113.98/32"]


def test_close_succeeds_if_no_firewall_is_open(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--close") == 0
    assert capsys.readouterr().out == "Closed: no firewall was open.\n"


def test_close_removes_only_the_firewall_with_its_own_label(alice: Owner) -> None:
    run(label="one")
    run(label="two")
    run("--close", label="one")
    assert {name for name in firewalls(alice) if "-allow-ip-" in name} == {"pds-dev-allow-ip-two"}


def test_close_removes_firewalls_older_than_the_longest_run(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    run(label="killed")
    similar = {**FIREWALL, "name": "pds-dev-allow-ip-other", "tags": ["pds-other"]}
    alice.client.ask("POST", "/firewalls", similar, 202)
    monkeypatch.setattr(allow_ip, "LONGEST_RUN", timedelta(0))
    run("--close")
    assert "pds-dev-allow-ip-killed" not in firewalls(alice)
    assert "pds-dev-allow-ip-other" in firewalls(alice), "it belongs to the stack 'dev-allow-ip-other'"


def test_creates_the_tag_before_the_first_up(alice: Owner) -> None:
    alice.client.ask("DELETE", "/tags/pds-dev", status=204)
    assert run() == 0
    assert alice.client.ask("GET", "/tags/pds-dev")["tag"]["name"] == "pds-dev"


def test_needs_exactly_the_documented_token_scopes(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_lost_response_leaves_no_firewall_and_runs_no_command(
    alice: Owner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.client.api.fail("POST", "/v2/firewalls", "lost")
    assert run("--", "touch", str(tmp_path / "ran")) == 2
    assert not (tmp_path / "ran").exists()
    assert {name for name in firewalls(alice) if "-allow-ip-" in name} == set(), (
        "it was created, and is found by its name"
    )
    assert "does not answer" in capsys.readouterr().err


def test_close_retries_until_the_api_succeeds(alice: Owner) -> None:
    run()
    for nth in (1, 2):
        alice.client.api.fail("DELETE", "/v2/firewalls/.*", "500", nth=nth)
    alice.client.api.fail("GET", "/v2/firewalls", "429")
    assert run("--close") == 0
    assert {name for name in firewalls(alice) if "-allow-ip-" in name} == set()


def test_close_reports_a_firewall_that_it_cannot_delete_and_the_next_command(
    alice: Owner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    monkeypatch.setattr(allow_ip, "_PATIENCE", 0.0)

    def refused(self: DigitalOceanAccount, path: str) -> None:
        raise DigitalOceanError("The DigitalOcean token may not delete firewalls (403).")

    monkeypatch.setattr(DigitalOceanAccount, "delete", refused)
    assert run("--close") == 2
    error = capsys.readouterr().err
    assert "pds-dev-allow-ip-this-run may still be open" in error
    assert "`./pds allow-ip dev --close`" in error


@pytest.mark.parametrize("arguments", [["allow-ip", "dev", "--close", "--", "true"], ["check", "dev", "--", "true"]])
def test_refuses_a_command_that_it_would_not_run(alice: Owner, arguments: list[str]) -> None:
    assert app.main(arguments) == 2
    assert opened(alice) == set()


def test_deletes_the_firewall_if_the_command_does_not_exist(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--", "no-such-command") == 2
    assert "no-such-command cannot be run" in capsys.readouterr().err
    assert {name for name in firewalls(alice) if "-allow-ip-" in name} == set()


def test_fails_if_the_firewall_is_not_applied(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allow_ip, "_PATIENCE", 0.05)
    create, get, waiting = DigitalOceanAccount.create, DigitalOceanAccount.get, {"status": "waiting"}
    monkeypatch.setattr(DigitalOceanAccount, "create", lambda self, path, body: create(self, path, body) | waiting)
    monkeypatch.setattr(DigitalOceanAccount, "get", lambda self, path: (get(self, path) or {}) | waiting)
    with alice.account() as account, pytest.raises(FirewallError, match="does not apply it"):
        TemporaryFirewalls(account, "dev", "this-run").open(HERE)


def test_runs_the_command_with_a_warning_if_the_host_does_not_answer(
    alice: Owner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(allow_ip, "_PATIENCE", 0.05)
    alice.client.api.world.action_seconds = 0.0
    monkeypatch.setattr(allow_ip, "_answers", lambda address: False)
    assert run("--", "true") == 0, "the command may be the `up` that repairs the host"
    ip = alice.made["pds-host-network-ip"][2]
    assert f"{ip}:4650 does not answer. Is {HERE} the address" in capsys.readouterr().err


def test_orphans_lists_a_temporary_firewall_and_its_purpose(alice: Owner) -> None:
    run()
    firewall = alice.orphan("temporary firewall")
    assert f"opens Nomad to {HERE}/32 since" in firewall.about
    assert firewall.delete == (("doctl", "compute", "firewall", "delete", firewall.id),)
    assert not firewall.blocks
    assert [item.kind for item in alice.look().orphans] == ["temporary firewall"], "it is listed once"
    assert "A run may still need it" in orphans.text("dev", alice.look())


@pytest.mark.parametrize("label", ["fv-az1234-56", "Alice's laptop", "18230946723-1/2", "läppi"])
def test_a_firewall_name_is_valid_for_any_host_name(label: str, alice: Owner) -> None:
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
    """Wait until `what()` is true."""
    end = time.monotonic() + _SOON
    while not what():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.02)


@pytest.fixture
def process(alice: Owner, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """The running command, in its own session; its child needs half a second to end after a signal."""
    # No host has the address: `bool` counts it as reachable.
    imports = "import sys; from cli import app; from cli.lib import temporary_firewall"
    start = f"{imports}; temporary_firewall._answers = bool; sys.exit(app.main(sys.argv[1:]))"
    arguments = ["allow-ip", "dev", "--label", "this-run", "--address", HERE, "--"]
    command = [sys.executable, "-c", start, *arguments, sys.executable, "-ISc", _STUBBORN, str(tmp_path)]
    with child(command, 600, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE) as running:
        until(lambda: (tmp_path / "started").exists())
        assert opened(alice) == {"this-run of a run"}
        yield running


def test_ctrl_c_reaches_the_command_once(alice: Owner, process: "subprocess.Popen[str]", tmp_path: Path) -> None:
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    until(lambda: (tmp_path / "signals").exists())
    assert opened(alice) == {"this-run of a run"}, "the engine needs Nomad until it ends"
    assert process.wait(_SOON) == 0
    assert (tmp_path / "done").exists()
    assert (tmp_path / "signals").read_text().split() == ["SIGINT"], "a second one would end `pulumi up` at once"
    assert opened(alice) == set()


def test_sigterm_ends_the_command_and_deletes_the_firewall(
    alice: Owner, process: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    process.terminate()
    assert process.wait(_SOON) == 0
    assert (tmp_path / "signals").read_text().split() == ["SIGTERM"]
    assert opened(alice) == set()


def test_close_deletes_the_firewall_of_a_killed_run(alice: Owner, process: "subprocess.Popen[str]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(_SOON)
    assert opened(alice) == {"this-run of a run"}
    assert run("--close", label="another") == 0
    assert opened(alice) == {"this-run of a run"}, "only a call with the same label knows whether that run goes on"
    assert run("--close") == 0
    assert opened(alice) == set()


def test_a_run_that_ends_keeps_the_firewall_of_a_concurrent_run(alice: Owner, process: "subprocess.Popen[str]") -> None:
    assert run("--", "true") == 0
    assert opened(alice) == {"this-run of a run"}, "the other run is still active"
    assert run() == 0
    assert opened(alice) == {"this-run of a run", "this-run"}
    assert run("--close") == 0
    assert opened(alice) == {"this-run of a run"}, "each run deletes its own firewall"
    process.terminate()
    assert process.wait(_SOON) == 0
    assert opened(alice) == set()


# This machine's address.


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """A service that returns the text in the list, or 503 if the list is empty."""
    responses: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if responses else 503)
            self.end_headers()
            self.wfile.write(responses[0] if responses else b"")

    with served(Handler) as port:
        monkeypatch.setattr(allow_ip, "WHO_AM_I", f"http://{LOOPBACK}:{port}/ip")
        yield responses


def test_queries_this_machine_s_address(mirror: list[bytes]) -> None:
    mirror.append(b"203.0.113.7\n")
    assert allow_ip.own_address() == "203.0.113.7"


@pytest.mark.parametrize("answer", [b"", b"<html>", b"2001:db8::1", b"203.0.113.7/0", b"0.0.0.0/0"])
def test_refuses_a_response_that_is_not_an_ipv4_address(answer: bytes, mirror: list[bytes]) -> None:
    if answer:
        mirror.append(answer)
    with pytest.raises(FirewallError, match="Give it with `--address`"):
        allow_ip.own_address()
