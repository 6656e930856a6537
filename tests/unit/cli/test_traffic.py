"""`./pds traffic`: Caddy's access log as lines, filtered; and the stacks for which it cannot be shown."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli import app
from cli.lib.stack import Stack
from cli.observe import nomad_logs
from cli.observe.access_log import EntryError, RequestFilter, parse_entry
from tests.support.fake_logs import FakeLogs
from tests.support.fake_nomad import FakeNomad, serve
from tests.support.fake_pulumi import FakePulumi

TOKEN = "06b05181-6ba5-a269-ae00-373e61ed46eb"
ALLOCATION = "11111111-0000-0000-0000-000000000000"


def entry(path: str = "/xrpc/_health", **changes: Any) -> str:
    """An entry as Caddy 2.6.2 writes it with the program's options."""
    request = {"remote_ip": "203.0.113.0", "remote_port": "54198", "proto": "HTTP/2.0", "method": "GET"}
    request |= {"host": "noted.at", "uri": path} | changes.pop("request", {})
    line = {"level": "info", "ts": 1780315200.25, "logger": "http.log.access.log0", "msg": "handled request"}
    return json.dumps(
        line | {"request": request, "user_id": "", "duration": 0.0126, "size": 1234, "status": 200} | changes
    )


def shown(line: str) -> str:
    return " ".join(str(parse_entry(line)).split())


def test_a_request_is_one_line() -> None:
    expected = "2026-06-01 12:00:00.250Z GET 200 13 ms 1,234 B 203.0.113.0 noted.at/xrpc/_health"
    assert shown(entry()) == expected
    newer = {"client_ip": "2001:db8:1::", "remote_ip": "127.0.0.1"}
    assert shown(entry(request=newer)) == expected.replace("203.0.113.0", "2001:db8:1::"), (
        "2.7 and later know the client"
    )
    slow = entry(duration=732.6, status=101, request={"method": "POST"})
    assert shown(slow) == expected.replace("13 ms", "733 s").replace("GET 200", "POST 101")


def test_control_characters_of_a_client_are_escapes() -> None:
    agent = {"headers": {"User-Agent": ["\x1b[2Jcurl\u202e"]}}
    assert shown(entry("/\x1b]0;owned\x07\n", request=agent)).endswith(
        "noted.at/\\x1b]0;owned\\x07\\n \\x1b[2Jcurl\\u202e"
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "it is not JSON"),
        ("Caddy says hello", "it is not JSON"),
        ("[]", "it lacks"),
        ("null", "it lacks"),
        ('"text"', "it lacks"),
        ('{"level":"info","msg":"handled request"}', "it lacks 'request'"),
        ('{"request":null}', "it lacks"),
        (entry(ts="yesterday"), "it is not JSON with numbers"),
        (entry(ts=1e300), "it is not JSON with numbers"),
        (entry(status=None), "it lacks"),
        (entry(request={"headers": []}), None),
        (entry(request={"headers": [1]}), "it lacks"),
    ],
)
def test_a_line_that_is_no_entry_is_refused_with_the_reason(line: str, why: str | None) -> None:
    if why is None:
        parse_entry(line)
        return
    with pytest.raises(EntryError, match=why):
        parse_entry(line)


@pytest.mark.parametrize(
    ("wanted", "admitted"),
    [
        (RequestFilter(), True),
        (RequestFilter(methods=("POST", "GET")), True),
        (RequestFilter(methods=("POST",)), False),
        (RequestFilter(path="/xrpc/"), True),
        (RequestFilter(path="xrpc"), False),
        (RequestFilter(path="*health"), True),
        (RequestFilter(statuses=("200",)), True),
        (RequestFilter(statuses=("404", "2xx")), True),
        (RequestFilter(statuses=("5xx", "20")), False),
        (RequestFilter(client="203.0.113.7"), True),
        (RequestFilter(client="203.0.113.0/24"), True),
        (RequestFilter(client="203.0.114.0/24"), False),
        (RequestFilter(client="2001:db8::/32"), False),
        (RequestFilter(host="noted.at"), True),
        (RequestFilter(host=".at"), True),
        (RequestFilter(host=".noted.at"), False),
    ],
)
def test_a_filter_admits_the_requests_it_names(wanted: RequestFilter, admitted: bool) -> None:
    assert wanted.admits(parse_entry(entry())) is admitted


def test_a_whole_address_is_compared_as_it_is() -> None:
    request = parse_entry(entry(request={"remote_ip": "203.0.113.9", "host": "noted.at:8443"}))
    assert not RequestFilter(client="203.0.113.7").admits(request), "only a masked one stands for its network"
    assert RequestFilter(client="203.0.113.9", host="noted.at").admits(request)
    odd = parse_entry(entry(request={"remote_ip": "@"}))
    assert not RequestFilter(client="203.0.113.7").admits(odd)


# The command.


@pytest.fixture
def nomad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNomad]:
    """A host's Nomad that runs Caddy, and a stack `dev`."""
    monkeypatch.setattr(nomad_logs, "_LOOK", 0.03)
    fake = FakeNomad(tokens={TOKEN: "accessor"}, files={ALLOCATION: FakeLogs({"caddy": True})})
    states = {"caddy": {"StartedAt": "2026-06-01T12:00:00Z"}}
    fake.every_allocation = {
        "default": [{"ID": ALLOCATION, "JobID": "caddy", "CreateIndex": 1, "TaskStates": states}],
    }
    pulumi = FakePulumi(tmp_path, monkeypatch)
    monkeypatch.setattr("cli.commands.traffic.Stack", lambda name: Stack(name, pulumi.root))
    with serve(fake):
        pem = {"nomad_ca_pem": "-", "nomad_client_cert_pem": "-", "nomad_client_key_pem": "-"}
        pulumi.outputs(nomad_address=fake.address, nomad_token=TOKEN, ipv4="203.0.113.40", **pem)
        configure(pulumi.root, ingress={"kind": "caddy"})
        yield fake


def configure(root: Path, stack: str = "dev", **sections: Any) -> None:
    """Write the stack file."""
    config: dict[str, Any] = {"pds:hostname": f"{stack}.test"}
    if "on" not in sections:
        config["pds:operators"] = {"cidrs": ["203.0.113.7/32"], "ssh_keys": ["laptop"]}
    config |= {f"pds:{key}": value for key, value in sections.items()}
    (root / f"Pulumi.{stack}.yaml").write_text(json.dumps({"config": config}))


def test_the_earlier_requests_that_match_are_shown(nomad: FakeNomad, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [entry("/one", status=404), "no entry \x1b[31m", entry("/two"), entry("/three", status=502)]
    nomad.files[ALLOCATION].write("caddy", "stdout", "\n".join([*lines, ""]).encode())
    assert app.main(["traffic", "dev", "--no-follow", "--status", "4xx", "--status", "502", "--method", "get"]) == 0
    printed = capsys.readouterr()
    assert [line.rpartition("/")[2] for line in printed.out.splitlines()] == ["one", "three"]
    assert "-- No entry of the access log, it is not JSON" in printed.err
    assert "no entry \\x1b[31m" in printed.err
    assert app.main(["traffic", "dev", "--no-follow", "--lines", "1"]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_requests_are_shown_as_they_come(
    nomad: FakeNomad, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class EnoughError(Exception):
        """The test has seen what it needs."""

    follow = nomad_logs.follow

    def for_a_while(*arguments: Any) -> Iterator[nomad_logs.LogLine]:
        lines = follow(*arguments)
        yield next(lines)
        nomad.files[ALLOCATION].write("caddy", "stdout", f"{entry('/later')}\n".encode())
        yield next(lines)
        raise EnoughError

    nomad.files[ALLOCATION].write("caddy", "stdout", f"{entry('/earlier')}\n".encode())
    nomad.files[ALLOCATION].write("caddy", "stderr", b"a message of Caddy's own\n")
    monkeypatch.setattr(nomad_logs, "follow", for_a_while)
    with pytest.raises(EnoughError):
        app.main(["traffic", "dev"])
    assert [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()] == ["earlier", "later"]


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (
            {"ingress": {"kind": "none"}},
            "Pulumi.dev.yaml: ingress.kind is 'none'. Look at the log of your own ingress.",
        ),
        ({"ingress": {"kind": "caddy", "access_log": "off"}}, "ingress.access_log is 'off', so Caddy logs no request."),
        ({"on": "other", "pds": {"port": 3101}}, "Use `./pds traffic other --host dev.test`."),
    ],
)
def test_an_ingress_whose_traffic_is_not_here_is_said(
    nomad: FakeNomad, tmp_path: Path, sections: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(tmp_path / "project", **sections)
    assert app.main(["traffic", "dev"]) == 2
    assert sentence in capsys.readouterr().err
    assert nomad.asked == []


def test_a_client_that_is_no_address_is_refused(nomad: FakeNomad, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["traffic", "dev", "--client", "ann"]) == 2
    assert "'ann' does not appear to be an IPv4 or IPv6 network" in capsys.readouterr().err


def test_with_io_its_console_is_opened(
    nomad: FakeNomad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(tmp_path / "project", ingress={"kind": "io", "ssh_port": 2201})
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "ssh").write_text('#!/bin/sh\necho "$@"\nexit 7\n')
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr("cli.observe.ssh.SshEndpoint.require_open", lambda _self: None)
    assert app.main(["traffic", "dev", "--user", "tim"]) == 7
    assert capfd.readouterr().out == "-p 2201 -o HostKeyAlias=pds-dev-203.0.113.40-2201 tim@203.0.113.40\n"
