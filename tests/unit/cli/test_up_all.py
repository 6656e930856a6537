"""`./pds preview-all` and `up-all`: the updated stacks, their order, what stops it, and the logs."""

import io
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from cli import app
from cli.stacks import selection as stacks
from cli.stacks.progress import ProgressDisplay
from cli.stacks.stack_files import by_host, known_stacks
from policy import preflight
from tests.support.engine_json import preview_of, replaced
from tests.support.fake_project import FakeProject, club, host


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProject:
    """A host with two clubs, and one alone; nothing changes."""
    found = FakeProject(tmp_path, monkeypatch)
    monkeypatch.setattr(stacks, "ROOT", found.root)
    monkeypatch.setattr(stacks, "_LOGS", found.root / "build/logs")
    # The gate's offline checks have their own tests.
    monkeypatch.setattr(preflight, "evaluate_stack", lambda name, **_more: found.evaluated(name))
    monkeypatch.setattr(preflight, "of_program", lambda _evaluation, _settings: [])
    found.stack("dev", host("chess", "rooks"))
    found.stack("chess", club("chess", 3101))
    found.stack("rooks", club("rooks", 3102))
    found.stack("alone", host())
    for name in ("alone", "chess", "dev", "rooks"):
        found.previews(name, "")
    return found


def change(project: FakeProject, *names: str) -> None:
    for name in names:
        project.previews(name, "pds-server-job")


def said(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, str], str]:
    """From the summary, stack to outcome and count of changes; and the whole output."""
    text = capsys.readouterr().out
    table = text.rpartition("\nstack")[2].partition("\n")[2].partition("\n\n")[0]
    rows = [re.split(r" {2,}", line.strip()) for line in table.splitlines()]
    return {row[0]: " ".join(part for part in row[1:] if not part.isdecimal()) for row in rows}, text


def test_hosts_come_before_their_clubs_and_small_hosts_first(project: FakeProject) -> None:
    groups = by_host(known_stacks(project.root, ["alone", "chess", "dev", "rooks"]))
    assert [[stack.name for stack in group] for group in groups.values()] == [["alone"], ["dev", "chess", "rooks"]]


def test_what_has_no_change_is_left_alone(project: FakeProject, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["up-all"]) == 0
    rows, _ = said(capsys)
    assert rows == dict.fromkeys(("alone", "chess", "dev", "rooks"), "unchanged")
    assert project.ups == []


def test_what_has_one_is_brought_up_and_the_least_that_can_be_harmed_first(
    project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    change(project, "alone", "chess", "dev")
    assert app.main(["up-all"]) == 0
    rows, _ = said(capsys)
    assert (rows["rooks"], rows["chess"]) == ("unchanged", "up ~1")
    assert project.ups[0] == "alone", "the canary: one PDS is on that host"
    assert project.ups == ["alone", "dev", "chess"]


def test_with_all_everything_is(project: FakeProject) -> None:
    assert app.main(["up-all", "--all"]) == 0
    assert project.ups[0] == "alone"
    assert sorted(project.ups[1:]) == ["chess", "dev", "rooks"]
    assert project.ups.index("dev") == 1, "before its clubs"


def test_a_canary_goes_first_after_its_host_and_ends_before_anybody_else_begins(project: FakeProject) -> None:
    change(project, "alone", "chess", "dev", "rooks")
    assert app.main(["up-all", "--canary", "rooks"]) == 0
    assert project.ups[:2] == ["dev", "rooks"]
    ran = [(item["stack"], "done" in item) for item in project.ran if item["verb"] == "up"]
    assert ran[:4] == [("dev", False), ("dev", True), ("rooks", False), ("rooks", True)]
    assert sorted(project.ups) == ["alone", "chess", "dev", "rooks"], "none of them twice"


def test_a_canary_without_a_change_is_told_and_another_taken(
    project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    change(project, "chess")
    assert app.main(["up-all", "--canary", "rooks"]) == 0
    assert "rooks has no change; the canary is chess." in capsys.readouterr().out
    assert app.main(["up-all", "--canary", "unknown"]) == 2
    assert "There is no stack unknown here" in capsys.readouterr().err


def test_named_ones_are_looked_at_alone(project: FakeProject, capsys: pytest.CaptureFixture[str]) -> None:
    change(project, "alone", "chess", "rooks")
    assert app.main(["up-all", "rooks", "dev"]) == 0
    assert project.ups == ["rooks"]
    assert set(said(capsys)[0]) == {"dev", "rooks"}
    assert app.main(["preview-all", "rooks", "unknown"]) == 2
    assert "There is no stack unknown here; there are: alone, chess, dev, rooks." in capsys.readouterr().err


def test_different_hosts_are_brought_up_at_once(project: FakeProject) -> None:
    project.stack("solo", host())
    change(project, "alone", "chess", "solo")
    project.up("chess", meets="solo")
    project.up("solo", meets="chess")
    assert app.main(["up-all"]) == 0, "each waits until the other has begun"
    assert project.ups[0] == "alone"


def test_one_host_s_are_not(project: FakeProject, capsys: pytest.CaptureFixture[str]) -> None:
    change(project, "chess", "rooks")
    assert app.main(["up-all"]) == 0
    ran = [(item["stack"], "done" in item) for item in project.ran if item["verb"] == "up"]
    assert ran == [("chess", False), ("chess", True), ("rooks", False), ("rooks", True)]


def test_at_the_first_that_fails_nothing_further_is_begun(
    project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    change(project, "chess", "rooks")
    project.up("chess", fails="this volume belongs to a PDS with hostname another.test")
    assert app.main(["up-all"]) == 1
    rows, text = said(capsys)
    assert (rows["chess"], rows["rooks"]) == ("up failed ~1", "not run")
    assert "\nchess: this volume belongs to" in text
    assert project.ups == ["chess"]


@pytest.mark.parametrize("state", ["pending: the name does not resolve", "unhealthy"])
def test_nor_at_the_first_that_does_not_serve(
    state: str, project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.stack("chess", club("chess", 3101), state=state)
    change(project, "chess", "rooks")
    assert app.main(["up-all"]) == 1
    rows, text = said(capsys)
    assert (rows["chess"], rows["rooks"]) == ("not healthy ~1", "not run")
    assert f"\nchess: after `up` it is {state}\n" in text


def test_a_paused_one_is_well(project: FakeProject) -> None:
    project.stack("chess", club("chess", 3101), state="paused")
    change(project, "chess", "rooks")
    assert app.main(["up-all"]) == 0
    assert project.ups == ["chess", "rooks"]


def test_a_gate_that_is_shut_begins_nothing_unless_it_is_allowed(
    project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    change(project, "alone", "chess")
    evaluation = project.evaluated("dev")
    project.preview_texts("dev", preview_of(evaluation, replaced(evaluation.one("pds-host-droplet"), image="x")))
    assert app.main(["up-all"]) == 1
    rows, text = said(capsys)
    assert (rows["dev"], rows["alone"], rows["chess"]) == ("preflight failed ±1", "not run", "not run")
    assert "\ndev: lost state: Droplet pds-host-droplet would be replaced" in text
    assert project.ups == []
    assert app.main(["preview-all"]) == 1, "and the same is seen before"
    assert app.main(["up-all", "--allow", "pds-host-droplet"]) == 0
    assert project.ups == ["alone", "dev", "chess"]


def test_a_club_that_waits_for_its_host_is_looked_at_again_after_it(project: FakeProject) -> None:
    """Its first preview fails: the host's state does not name it yet."""
    change(project, "dev")
    early = '{"diagnostics": [{"severity": "error", "message": "Stack dev gives chess no room."}]}'
    project.preview_texts("chess", early, preview_of(project.evaluated("chess")))
    assert app.main(["up-all"]) == 0
    assert project.ups == ["dev"], "then there was nothing to do for the club"


def test_what_cannot_be_looked_at_is_told_apart_from_what_failed(
    project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.stack("solo", host())  # the engine makes no preview of it
    change(project, "alone")
    for verb in ("preview-all", "up-all"):
        assert app.main([verb]) == 2
        rows, text = said(capsys)
        assert rows["solo"] == "no preview"
        assert "\nsolo: The engine made no preview: no passphrase is set" in text
    assert project.ups == [], "what can be seen beforehand begins nothing"


def test_stacks_without_a_file_and_files_without_a_stack_are_left_out_and_named(
    project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.made("elsewhere")
    (project.root / "Pulumi.draft.yaml").write_text(host())
    assert app.main(["preview-all"]) == 0
    _, text = said(capsys)
    assert "elsewhere: left out, there is no Pulumi.elsewhere.yaml here." in text
    assert "draft: left out, it does not exist yet (`pulumi stack init draft`)." in text


def test_a_file_that_is_refused_begins_nothing(project: FakeProject, capsys: pytest.CaptureFixture[str]) -> None:
    project.stack("chess", "config:\n  pds:hostname: NOTED.AT\n")
    change(project, "alone")
    assert app.main(["up-all"]) == 2
    assert "Pulumi.chess.yaml has" in capsys.readouterr().err
    assert project.ran == []


def test_without_a_stack_or_a_cli_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeProject(tmp_path, monkeypatch)
    monkeypatch.setattr(stacks, "ROOT", tmp_path / "project")
    for verb in ("list", "preview-all", "up-all"):
        assert app.main([verb]) == 2
        assert "no stack" in capsys.readouterr().err.lower()
    monkeypatch.setenv("PATH", str(tmp_path / "project"))
    assert app.main(["up-all"]) == 2
    assert "The Pulumi CLI is not on PATH" in capsys.readouterr().err


def test_what_the_engine_said_is_in_a_file_for_its_owner_alone(project: FakeProject) -> None:
    change(project, "chess")
    app.main(["up-all"])
    log = project.root / "build/logs/chess.log"
    text = log.read_text()
    assert "~ Job pds-server-job" in text, "what the gate saw"
    assert "Preflight passed." in text
    assert "pds-secrets-variable creating" in text, "and what the engine did"
    assert log.stat().st_mode & 0o777 == 0o600


def test_on_a_terminal_one_screen_shows_what_runs_and_how_many_are_done() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, emoji=False)
    screen = ProgressDisplay(console, ["chess", "dev", "rooks"])
    screen.end("dev", "up")
    screen.begin("chess", "up")
    screen.line("chess", " +  nomad:index:Job pds-server-job creating (3s) ")
    with console.capture() as shown:
        console.print(screen)
    counts, running = shown.get().splitlines()
    assert counts.split() == ["1", "done", "1", "running", "1", "waiting"]
    assert running.split()[:2] == ["chess", "up"]
    assert "pds-server-job creating (3s)" in running
    screen.end("chess", "up failed")
    with console.capture() as shown:
        console.print(screen)
    assert shown.get().split() == ["2", "done", "0", "running", "1", "waiting"]


def test_no_secret_is_said_or_written(project: FakeProject, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "a-token-that-is-secret"
    project.stack("chess", club("chess", 3101), admin_password=secret, nomad_token=secret)
    change(project, "chess")
    app.main(["up-all"])
    written = "".join(file.read_text() for file in (project.root / "build/logs").iterdir())
    assert project.ups == ["chess"]
    assert secret not in capsys.readouterr().out + written


@pytest.mark.parametrize(("hangs", "outcome", "code"), [("until told", "up failed ~1", 1), ("finishes", "up ~1", 2)])
def test_told_to_stop_it_tells_the_engine_waits_for_it_and_begins_nothing_more(
    hangs: str, outcome: str, code: int, project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    change(project, "chess", "rooks")
    project.up("chess", hangs=hangs)

    def stop() -> None:
        end = time.monotonic() + 30
        while not project.ups and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.3)  # until it listens to the signal
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    assert app.main(["up-all"]) == code
    thread.join(60)
    rows, _ = said(capsys)
    assert any(item.get("canceled") or item.get("done") for item in project.ran), "it was asked, and ended by itself"
    assert (rows["chess"], rows["rooks"]) == (outcome, "not run")
    assert signal.getsignal(signal.SIGINT) is before
