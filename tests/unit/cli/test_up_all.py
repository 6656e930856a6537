"""`./pds preview-all` and `up-all`: which stacks they update, in which order, what stops them, and their logs."""

import io
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from cli import app
from cli.stacks import selection as stacks
from cli.stacks.progress import ProgressDisplay
from cli.stacks.stack_files import by_host, known_stacks
from policy import preflight
from tests.support.engine_json import preview_of, replaced
from tests.support.fake_project import FakeProject, club, host
from tests.support.programs import CLUSTER


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProject:
    """A host with two clubs and a host without one; no stack has a change."""
    fake = FakeProject(tmp_path, monkeypatch)
    monkeypatch.setattr(stacks, "ROOT", fake.root)
    monkeypatch.setattr(stacks, "_LOGS", fake.root / "build/logs")
    # The offline checks of the preflight have their own tests.
    monkeypatch.setattr(preflight, "evaluate_stack", lambda name, **_more: fake.evaluated(name))
    monkeypatch.setattr(preflight, "of_program", lambda _evaluation, _settings: [])
    fake.stack("dev", host("chess", "rooks"))
    fake.stack("chess", club("chess", 3101))
    fake.stack("rooks", club("rooks", 3102))
    fake.stack("alone", host())
    for name in ("alone", "chess", "dev", "rooks"):
        fake.previews(name, "")
    return fake


def change(project: FakeProject, *names: str) -> None:
    for name in names:
        project.previews(name, "pds-server-job")


def printed(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, str], str]:
    """Stack to outcome and count of changes, from the summary; and the whole output."""
    text = capsys.readouterr().out
    table = text.rpartition("\nstack")[2].partition("\n")[2].partition("\n\n")[0]
    rows = [re.split(r" {2,}", line.strip()) for line in table.splitlines()]
    return {row[0]: " ".join(part for part in row[1:] if not part.isdecimal()) for row in rows}, text


def test_orders_hosts_before_their_clubs_and_smaller_hosts_first(project: FakeProject) -> None:
    groups = by_host(known_stacks(project.root, ["alone", "chess", "dev", "rooks"]))
    assert [[stack.name for stack in group] for group in groups.values()] == [["alone"], ["dev", "chess", "rooks"]]


def test_runs_no_up_for_an_unchanged_stack(project: FakeProject, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["up-all"]) == 0
    rows, _ = printed(capsys)
    assert rows == dict.fromkeys(("alone", "chess", "dev", "rooks"), "unchanged")
    assert project.ups == []


def test_updates_changed_stacks_with_the_smallest_host_first(
    project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    change(project, "alone", "chess", "dev")
    assert app.main(["up-all"]) == 0
    rows, _ = printed(capsys)
    assert (rows["rooks"], rows["chess"]) == ("unchanged", "up ~1")
    assert project.ups[0] == "alone", "the canary is the host with one PDS"
    assert project.ups == ["alone", "dev", "chess"]


def test_all_updates_unchanged_stacks_too(project: FakeProject) -> None:
    assert app.main(["up-all", "--all"]) == 0
    assert project.ups[0] == "alone"
    assert sorted(project.ups[1:]) == ["chess", "dev", "rooks"]
    assert project.ups.index("dev") == 1, "before its clubs"


def test_the_canary_runs_right_after_its_host_and_alone(project: FakeProject) -> None:
    change(project, "alone", "chess", "dev", "rooks")
    assert app.main(["up-all", "--canary", "rooks"]) == 0
    assert project.ups[:2] == ["dev", "rooks"]
    ran = [(item["stack"], "done" in item) for item in project.ran if item["verb"] == "up"]
    assert ran[:4] == [("dev", False), ("dev", True), ("rooks", False), ("rooks", True)]
    assert sorted(project.ups) == ["alone", "chess", "dev", "rooks"], "each stack once"


def test_chooses_another_canary_if_the_given_one_is_unchanged(
    project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    change(project, "chess")
    assert app.main(["up-all", "--canary", "rooks"]) == 0
    assert "rooks has no change; the canary is chess." in capsys.readouterr().out
    assert app.main(["up-all", "--canary", "unknown"]) == 2
    assert "There is no stack unknown here" in capsys.readouterr().err


def test_previews_only_the_named_stacks(project: FakeProject, capsys: pytest.CaptureFixture[str]) -> None:
    change(project, "alone", "chess", "rooks")
    assert app.main(["up-all", "rooks", "dev"]) == 0
    assert project.ups == ["rooks"]
    assert set(printed(capsys)[0]) == {"dev", "rooks"}
    assert app.main(["preview-all", "rooks", "unknown"]) == 2
    assert "There is no stack unknown here; there are: alone, chess, dev, rooks." in capsys.readouterr().err


def test_updates_stacks_of_different_hosts_in_parallel(project: FakeProject) -> None:
    project.stack("solo", host())
    change(project, "alone", "chess", "solo")
    project.up("chess", meets="solo")
    project.up("solo", meets="chess")
    assert app.main(["up-all"]) == 0, "each waits until the other has begun"
    assert project.ups[0] == "alone"


def test_updates_stacks_of_one_host_one_after_the_other(
    project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    change(project, "chess", "rooks")
    assert app.main(["up-all"]) == 0
    ran = [(item["stack"], "done" in item) for item in project.ran if item["verb"] == "up"]
    assert ran == [("chess", False), ("chess", True), ("rooks", False), ("rooks", True)]


def test_starts_nothing_after_the_first_failure(project: FakeProject, capsys: pytest.CaptureFixture[str]) -> None:
    change(project, "chess", "rooks")
    project.up("chess", fails="this volume belongs to a PDS with hostname another.test")
    assert app.main(["up-all"]) == 1
    rows, text = printed(capsys)
    assert (rows["chess"], rows["rooks"]) == ("up failed ~1", "not run")
    assert "\nchess: this volume belongs to" in text
    assert project.ups == ["chess"]


@pytest.mark.parametrize("state", ["pending: the name does not resolve", "unhealthy"])
def test_starts_nothing_after_the_first_stack_that_does_not_serve(
    state: str, project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.stack("chess", club("chess", 3101), state=state)
    change(project, "chess", "rooks")
    assert app.main(["up-all"]) == 1
    rows, text = printed(capsys)
    assert (rows["chess"], rows["rooks"]) == ("not healthy ~1", "not run")
    assert f"\nchess: after `up` it is {state}\n" in text


def test_a_paused_stack_counts_as_healthy(project: FakeProject) -> None:
    project.stack("chess", club("chess", 3101), state="paused")
    change(project, "chess", "rooks")
    assert app.main(["up-all"]) == 0
    assert project.ups == ["chess", "rooks"]


def test_a_cluster_has_no_state_and_counts_as_healthy(project: FakeProject) -> None:
    options = {**CLUSTER, "cluster": {"hosts": {"a": {}, "b": {}}}}
    config = {f"pds:{key}": value for key, value in options.items()}
    project.stack("fleet", yaml.safe_dump({"config": config}), None, worker_tag="pds-fleet-worker")
    project.previews("fleet", "pds-cluster-network-vpc")
    assert app.main(["up-all", "fleet"]) == 0
    assert project.ups == ["fleet"]


def test_a_failed_preflight_starts_nothing_unless_the_name_is_allowed(
    project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    change(project, "alone", "chess")
    evaluation = project.evaluated("dev")
    project.preview_texts("dev", preview_of(evaluation, replaced(evaluation.one("pds-host-droplet"), image="x")))
    assert app.main(["up-all"]) == 1
    rows, text = printed(capsys)
    assert (rows["dev"], rows["alone"], rows["chess"]) == ("preflight failed ±1", "not run", "not run")
    assert "\ndev: lost state: Droplet pds-host-droplet would be replaced" in text
    assert project.ups == []
    assert app.main(["preview-all"]) == 1, "preview-all finds the same"
    assert app.main(["up-all", "--allow", "pds-host-droplet"]) == 0
    assert project.ups == ["alone", "dev", "chess"]


def test_previews_a_club_again_after_its_host_was_updated(project: FakeProject) -> None:
    """The club's first preview fails, since the host's state does not have the grant yet."""
    change(project, "dev")
    early = '{"diagnostics": [{"severity": "error", "message": "Stack dev gives chess no room."}]}'
    project.preview_texts("chess", early, preview_of(project.evaluated("chess")))
    assert app.main(["up-all"]) == 0
    assert project.ups == ["dev"], "the second preview of the club has no change"


def test_exits_with_2_and_starts_nothing_if_a_preview_fails(
    project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.stack("solo", host())  # its preview fails
    change(project, "alone")
    for command in ("preview-all", "up-all"):
        assert app.main([command]) == 2
        rows, text = printed(capsys)
        assert rows["solo"] == "no preview"
        assert "\nsolo: The engine made no preview: no passphrase is set" in text
    assert project.ups == [], "a failed preview starts no `up`"


def test_names_stacks_without_a_file_and_files_without_a_stack(
    project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.made("elsewhere")
    (project.root / "Pulumi.draft.yaml").write_text(host())
    assert app.main(["preview-all"]) == 0
    _, text = printed(capsys)
    assert "elsewhere: left out, there is no Pulumi.elsewhere.yaml here." in text
    assert "draft: left out, it does not exist yet (`pulumi stack init draft`)." in text


def test_an_invalid_stack_file_starts_nothing(project: FakeProject, capsys: pytest.CaptureFixture[str]) -> None:
    project.stack("chess", "config:\n  pds:hostname: NOTED.AT\n")
    change(project, "alone")
    assert app.main(["up-all"]) == 2
    assert "Pulumi.chess.yaml has" in capsys.readouterr().err
    assert project.ran == []


def test_reports_missing_stacks_and_a_missing_pulumi_cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeProject(tmp_path, monkeypatch)
    monkeypatch.setattr(stacks, "ROOT", tmp_path / "project")
    for command in ("list", "preview-all", "up-all"):
        assert app.main([command]) == 2
        assert "no stack" in capsys.readouterr().err.lower()
    monkeypatch.setenv("PATH", str(tmp_path / "project"))
    assert app.main(["up-all"]) == 2
    assert "The Pulumi CLI is not on PATH" in capsys.readouterr().err


def test_writes_the_engine_s_output_to_a_log_with_mode_0600(project: FakeProject) -> None:
    change(project, "chess")
    app.main(["up-all"])
    log = project.root / "build/logs/chess.log"
    text = log.read_text()
    assert "~ Job pds-server-job" in text, "the output of the preflight"
    assert "Preflight passed." in text
    assert "pds-secrets-variable creating" in text, "and that of the engine"
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_terminal_shows_running_stacks_and_counts() -> None:
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


def test_prints_and_logs_no_secret(project: FakeProject, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "a-token-that-is-secret"
    project.stack("chess", club("chess", 3101), admin_password=secret, nomad_token=secret)
    change(project, "chess")
    app.main(["up-all"])
    written = "".join(file.read_text() for file in (project.root / "build/logs").iterdir())
    assert project.ups == ["chess"]
    assert secret not in capsys.readouterr().out + written


@pytest.mark.parametrize(("hangs", "outcome", "code"), [("until stopped", "up failed ~1", 1), ("finishes", "up ~1", 2)])
def test_sigint_is_passed_to_the_engine_and_nothing_more_starts(
    hangs: str, outcome: str, code: int, project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    change(project, "chess", "rooks")
    project.up("chess", hangs=hangs)

    def stop() -> None:
        end = time.monotonic() + 600
        while not project.ups and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    assert app.main(["up-all"]) == code
    thread.join(600)
    rows, _ = printed(capsys)
    assert any(item.get("canceled") or item.get("done") for item in project.ran), (
        "the engine got the signal and ended by itself"
    )
    assert (rows["chess"], rows["rooks"]) == (outcome, "not run")
    assert signal.getsignal(signal.SIGINT) is before
