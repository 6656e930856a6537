"""`./pds logs`: the last lines of a task, and further ones through broken streams, rotation and new allocations."""

import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cli import app
from cli.lib.stack import Stack
from cli.lib.subprocesses import child
from cli.observe import nomad_logs
from cli.observe.nomad_logs import LogLine, TaskRun
from cli.observe.terminal import printable
from components.clients.errors import PendingError, ServiceError
from components.clients.nomad import NomadApi
from offline.mock_engine import ROOT
from tests.support.fake_logs import FakeLogs
from tests.support.fake_nomad import FakeNomad, serve
from tests.support.fake_pulumi import FakePulumi

TOKEN = "06b05181-6ba5-a269-ae00-373e61ed46eb"
CLUB_TOKEN = "16b05181-6ba5-a269-ae00-373e61ed46eb"
FIRST = "11111111-0000-0000-0000-000000000000"
SECOND = "22222222-0000-0000-0000-000000000000"
STACK_FILE = (
    "config:\n  pds:hostname: noted.at\n  pds:operators: {cidrs: [203.0.113.7/32], ssh_keys: [laptop]}\n"
    "  pds:clubs: {chess: {port: 3101}}\n"
    "  pds:host: {size: s-4vcpu-8gb}\n"
)
CLUB_FILE = "config:\n  pds:hostname: chess.test\n  pds:on: dev\n  pds:pds: {port: 3101}\n"


def stub(allocation: str, index: int, job: str = "pds", **tasks: str) -> dict[str, Any]:
    """An allocation of the list; `tasks` maps names to their starts."""
    states = {
        name: {"StartedAt": started or None, "Events": [{"DisplayMessage": "Downloading image"}]}
        for name, started in (tasks or {"pds": "2026-06-01T12:00:00Z"}).items()
    }
    return {"ID": allocation, "JobID": job, "CreateIndex": index, "TaskStates": states}


@pytest.fixture
def nomad(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNomad]:
    """A Nomad whose job `pds` runs in one allocation and has written nothing."""
    monkeypatch.setattr(nomad_logs, "_LOOK", 0.03)
    fake = FakeNomad(tokens={TOKEN: "accessor"})
    fake.files = {FIRST: FakeLogs({"pds": True})}
    fake.every_allocation = {"default": [stub(FIRST, 10)]}
    with serve(fake):
        yield fake


@pytest.fixture
def stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nomad: FakeNomad) -> FakePulumi:
    """Stack `dev` with a host of its own, and the club `chess` on it with a token for its namespace."""
    pulumi = FakePulumi(tmp_path, monkeypatch)
    pem = {"nomad_ca_pem": "-", "nomad_client_cert_pem": "-", "nomad_client_key_pem": "-"}
    pulumi.outputs("dev", nomad_address=nomad.address, nomad_token=TOKEN, **pem)
    pulumi.outputs("chess", nomad_address=nomad.address, nomad_token=CLUB_TOKEN, nomad_namespace="chess", **pem)
    nomad.tokens[CLUB_TOKEN] = "club"
    nomad.namespaces[CLUB_TOKEN] = frozenset({"chess"})
    for name, text in (("dev", STACK_FILE), ("chess", CLUB_FILE)):
        (pulumi.root / f"Pulumi.{name}.yaml").write_text(text)
    for name in ("logs", "traffic"):
        monkeypatch.setattr(f"cli.commands.{name}.Stack", lambda name: Stack(name, pulumi.root))
    monkeypatch.setattr("cli.registry.ROOT", pulumi.root)
    return pulumi


def api_of(nomad: FakeNomad) -> NomadApi:
    return NomadApi(nomad.address, "", "", "", TOKEN)


def newest(nomad: FakeNomad, task: str = "pds") -> TaskRun:
    return nomad_logs.newest_run(api_of(nomad), task)


def following(nomad: FakeNomad, lines: int = 10, streams: tuple[str, ...] = ("stdout",)) -> Iterator[LogLine]:
    return nomad_logs.follow(api_of(nomad), newest(nomad), streams, lines)


def texts(lines: Iterator[LogLine], count: int) -> list[str]:
    """The next `count` lines; a notice begins with `-- `."""
    return [f"{'-- ' if line.notice else ''}{line.text}" for line in itertools.islice(lines, count)]


def soon(*acts: Callable[[], None]) -> None:
    """Do these in another thread, in turn, while the test waits for their effect."""
    threading.Thread(target=lambda: [act() for act in acts], daemon=True).start()


def last(nomad: FakeNomad, lines: int) -> list[str]:
    data = nomad_logs.last_bytes(api_of(nomad), newest(nomad), "stdout", lines)
    return nomad_logs.split_lines(data, lines)


def test_the_last_lines_are_read_from_the_end(nomad: FakeNomad) -> None:
    nomad.files[FIRST].write("pds", "stdout", b"".join(b"line %d\n" % number for number in range(5000)))
    assert last(nomad, 2) == ["line 4998", "line 4999"]
    assert last(nomad, 0) == []
    asked = [path for _, path, _ in nomad.asked if "/fs/logs/" in path]
    assert "origin=end" in asked[0]
    assert all("plain=true" in path for path in asked)


def test_long_lines_are_read_until_there_are_enough(nomad: FakeNomad) -> None:
    nomad.files[FIRST].write("pds", "stdout", b"".join(b"%d %s\n" % (n, b"x" * 9000) for n in range(30)))
    assert [line.partition(" ")[0] for line in last(nomad, 3)] == ["27", "28", "29"]
    assert len(last(nomad, 100)) == 30, "all there are"


def test_the_last_lines_span_rotated_files(nomad: FakeNomad) -> None:
    logs = nomad.files[FIRST]
    logs.write("pds", "stdout", b"one\ntwo\n")
    logs.rotate("pds", "stdout", keep=2)
    logs.write("pds", "stdout", b"three\n")
    assert last(nomad, 2) == ["two", "three"]


def test_a_log_line_that_is_json_is_shown_as_it_is(nomad: FakeNomad) -> None:
    nomad.files[FIRST].write("pds", "stdout", b'{"level": 30}\n')
    assert last(nomad, 1) == ['{"level": 30}']


def test_further_lines_are_shown_once_and_whole(nomad: FakeNomad) -> None:
    logs = nomad.files[FIRST]
    logs.write("pds", "stdout", b"old\nbegun ")
    lines = following(nomad)
    assert texts(lines, 1) == ["old"]
    soon(lambda: logs.wait_for_connections(1), lambda: logs.write("pds", "stdout", b"and ended\nnext\n"))
    assert texts(lines, 2) == ["begun and ended", "next"]


def test_half_a_character_at_the_border_of_a_frame_is_put_together(nomad: FakeNomad) -> None:
    logs = nomad.files[FIRST]
    text = "ü" * 40_000  # 80,000 bytes: one of them is at the end of a frame of 65,536 bytes
    logs.write("pds", "stdout", b"x" + text.encode() + b"\n")
    lines = following(nomad, lines=0)
    soon(lambda: logs.wait_for_connections(1), lambda: logs.write("pds", "stdout", b"x" + text.encode() + b"\nlast\n"))
    assert texts(lines, 2) == ["x" + text, "last"]
    half = "é".encode()
    soon(*(partial(logs.write, "pds", "stdout", part) for part in (half[:1], half[1:], b"\n", b"\xff\n")))
    assert texts(lines, 2) == ["é", "\\xff"]


def test_a_line_without_an_end_is_shown_in_parts(nomad: FakeNomad, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nomad_logs, "_LONGEST_LINE", 10)
    lines = following(nomad)
    soon(lambda: nomad.files[FIRST].write("pds", "stdout", b"x" * 25))
    assert texts(lines, 1) == ["x" * 25]


@pytest.mark.parametrize("error", ["", "failed to stream: input/output error"])
def test_a_stream_that_ends_is_continued_without_a_repeated_or_missing_line(nomad: FakeNomad, error: str) -> None:
    logs = nomad.files[FIRST]
    logs.write("pds", "stdout", b"one\ntwo\n")
    lines = following(nomad)
    assert texts(lines, 2) == ["one", "two"]

    def interrupt() -> None:
        logs.wait_for_connections(1)
        logs.cut(error)
        logs.write("pds", "stdout", b"three\n")

    soon(interrupt)
    assert texts(lines, 1) == ["three"]
    soon(lambda: logs.cut(), lambda: logs.write("pds", "stdout", b"four\n"))
    assert texts(lines, 1) == ["four"]


def test_lines_that_were_rotated_away_meanwhile_are_said_to_be_missing(nomad: FakeNomad) -> None:
    logs = nomad.files[FIRST]
    logs.write("pds", "stdout", b"one\n")
    lines = following(nomad)
    assert texts(lines, 1) == ["one"]

    def lose() -> None:
        logs.wait_for_connections(1)
        with logs.changed:
            logs.cut()
            logs.write("pds", "stdout", b"lost\n")
            logs.rotate("pds", "stdout")
            logs.write("pds", "stdout", b"three\n")

    soon(lose)
    assert sorted(texts(lines, 2)) == [
        "-- The connection was lost, and lines of stdout may be missing here.",
        "three",
    ]


def test_a_rotation_while_a_client_follows_loses_no_line(nomad: FakeNomad) -> None:
    logs = nomad.files[FIRST]
    lines = following(nomad)

    def rotate() -> None:
        logs.wait_for_connections(1)
        logs.write("pds", "stdout", b"one\ntw")
        logs.rotate("pds", "stdout", keep=2)
        logs.write("pds", "stdout", b"o\n")

    soon(rotate)
    assert texts(lines, 2) == ["one", "two"]


def test_following_goes_on_with_the_next_allocation_from_its_first_line(nomad: FakeNomad) -> None:
    logs = nomad.files[FIRST]
    logs.write("pds", "stdout", b"old\n")
    lines = following(nomad)
    assert texts(lines, 1) == ["old"]

    def replace() -> None:
        logs.wait_for_connections(1)
        nomad.files[SECOND] = FakeLogs({"pds": True})
        nomad.files[SECOND].write("pds", "stdout", b"first line\n")
        logs.write("pds", "stdout", b"going away")
        nomad.every_allocation["default"].insert(0, stub(SECOND, 20, pds="2026-06-01T13:00:00Z"))

    soon(replace)
    assert texts(lines, 3) == [
        "going away",
        "-- The next one: job pds, task pds, allocation 22222222, started at 2026-06-01T13:00:00Z",
        "first line",
    ]


def test_a_next_allocation_that_has_not_started_is_not_switched_to(nomad: FakeNomad) -> None:
    nomad.every_allocation["default"].append(stub(SECOND, 20, pds=""))
    nomad.files[SECOND] = FakeLogs({"pds": False})
    assert newest(nomad).allocation == FIRST
    nomad.every_allocation["default"].pop(0)
    with pytest.raises(PendingError, match=r"pds has not started yet \(Downloading image\)"):
        newest(nomad)


def test_a_nomad_that_is_away_is_waited_for(nomad: FakeNomad) -> None:
    logs = nomad.files[FIRST]
    lines = following(nomad)

    def restart() -> None:
        logs.wait_for_connections(1)
        nomad.leaderless_answers = 3
        logs.cut()
        logs.write("pds", "stdout", b"back\n")

    soon(restart)
    assert texts(lines, 2) == [
        f"-- Nomad at {nomad.address} answered 500 to /v1/allocations?resources=false: No cluster leader Waiting.",
        "back",
    ]


def test_a_token_that_nomad_forgets_ends_the_command(nomad: FakeNomad) -> None:
    lines = following(nomad)
    soon(lambda: nomad.files[FIRST].wait_for_connections(1), lambda: nomad.empty(), lambda: nomad.files[FIRST].cut())
    with pytest.raises(ServiceError, match="answered 403"):
        texts(lines, 1)


def test_a_task_that_is_not_there_is_refused_with_those_that_are(nomad: FakeNomad) -> None:
    nomad.every_allocation["default"].append(stub(SECOND, 11, job="caddy", caddy="2026-06-01T12:00:00Z"))
    with pytest.raises(ServiceError, match=r"has a task 'sever'\. Tasks that have run: caddy, pds"):
        newest(nomad, "sever")


def test_the_newest_run_of_a_periodic_job_s_task_is_shown(nomad: FakeNomad) -> None:
    for index, allocation in ((11, "33333333"), (30, "44444444"), (20, "55555555")):
        run = stub(allocation, index, job=f"pds-backup/periodic-{index}", snapshot="2026-06-01T12:00:00Z")
        nomad.every_allocation["default"].append(run)
    assert newest(nomad, "snapshot").job == "pds-backup/periodic-30"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("task=pds&type=stdout", 200),
        ("type=stdout", 400),
        ("task=pds", 400),
        ("task=pds&type=stdout&origin=middle", 400),
        ("task=pds&type=stdout&offset=x", 400),
        ("task=pds&type=stdout&offset=-1", 200),
        ("task=pds&type=stdout&follow=maybe", 400),
        ("task=caddy&type=stdout", 400),
    ],
)
def test_the_double_refuses_what_nomad_refuses(nomad: FakeNomad, query: str, status: int) -> None:
    assert api_of(nomad).request("GET", f"/v1/client/fs/logs/{FIRST}?{query}")[0] == status


def test_the_double_answers_for_rights_and_states_as_nomad_does(nomad: FakeNomad) -> None:
    def status(allocation: str = FIRST, token: str = TOKEN) -> int:
        path = f"/v1/client/fs/logs/{allocation}?task=pds&type=stdout"
        return NomadApi(nomad.address, "", "", "", token).request("GET", path)[0]

    assert (status(SECOND), status("no-uuid"), status(token="another")) == (404, 500, 500)
    nomad.namespaces[TOKEN] = frozenset({"chess"})
    assert status() == 403
    nomad.files[FIRST].namespace = "chess"
    assert status() == 200
    nomad.files[FIRST].tasks["pds"] = False
    assert status() == 404
    nomad.files[FIRST].is_destroyed = True
    assert status() == 404


def test_control_characters_are_shown_as_escapes() -> None:
    assert (
        printable("a\x1b[31m\tb\x07 \x9b2J \u202e\u2028 ü 日本") == "a\\x1b[31m\tb\\x07 \\x9b2J \\u202e\\u2028 ü 日本"
    )


def test_the_command_shows_both_streams_and_names_the_run_beside_them(
    nomad: FakeNomad, stacks: FakePulumi, capsys: pytest.CaptureFixture[str]
) -> None:
    nomad.files[FIRST].write("pds", "stdout", b"one\ntwo \x1b]0;title\x07\n")
    nomad.files[FIRST].write("pds", "stderr", b"a warning\r\n")
    assert app.main(["logs", "dev", "--lines", "1"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "two \\x1b]0;title\\x07\na warning\n"
    assert printed.err == "-- job pds, task pds, allocation 11111111, started at 2026-06-01T12:00:00Z\n"


def test_a_club_reads_its_own_namespace_with_its_own_token(
    nomad: FakeNomad, stacks: FakePulumi, capsys: pytest.CaptureFixture[str]
) -> None:
    nomad.files[SECOND] = FakeLogs({"pds": True}, namespace="chess")
    nomad.files[SECOND].write("pds", "stdout", b"of chess\n")
    nomad.every_allocation["chess"] = [stub(SECOND, 11)]
    assert app.main(["logs", "chess"]) == 0
    assert capsys.readouterr().out == "of chess\n"
    assert {token for _, _, token in nomad.asked} == {CLUB_TOKEN}


@pytest.mark.parametrize("task", ["caddy", "io"])
def test_the_ingress_of_a_club_is_the_host_s(
    nomad: FakeNomad, stacks: FakePulumi, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    assert app.main(["logs", "chess", "--task", task]) == 2
    assert capsys.readouterr().err == (
        "The ingress of chess runs on the host of stack dev. The club's token does not reach it. "
        f"Use `./pds logs dev --task {task}`.\n"
    )
    assert nomad.asked == []


_PROCESS = """
import signal
import sys
from pathlib import Path
from cli import app
from cli.commands import logs
from cli.lib.stack import Stack
logs.Stack = lambda name: Stack(name, Path(sys.argv[1]))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background starts with an ignored one
sys.exit(app.main(["logs", "dev", "--follow"]))
"""


def test_ctrl_c_ends_it_without_a_traceback(nomad: FakeNomad, stacks: FakePulumi) -> None:
    nomad.files[FIRST].write("pds", "stdout", b"one\n")
    command = [sys.executable, "-c", _PROCESS, str(stacks.root)]
    with child(command, 600, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "one\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(600) == 130
        assert "Traceback" not in process.stderr.read()


def test_a_reader_that_has_seen_enough_ends_it_without_a_traceback(nomad: FakeNomad, stacks: FakePulumi) -> None:
    nomad.files[FIRST].write("pds", "stdout", b"one\n")
    command = [sys.executable, "-c", _PROCESS, str(stacks.root)]
    with child(command, 600, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "one\n"
        process.stdout.close()
        nomad.files[FIRST].wait_for_connections(2)
        nomad.files[FIRST].write("pds", "stdout", b"two\nthree\n")
        assert process.wait(600) == 1
        assert process.stderr.read().count("\n") == 1, "the name of the run alone"
        process.stdout = None
