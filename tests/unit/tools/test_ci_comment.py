"""The comment on a pull request, with a test double of GitHub: where it is posted, and how untrusted text is
escaped."""

import io
import json
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tools import ci_comment

SHA = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "of-the-workflow"
EVENT: dict[str, Any] = {
    "workflow_run": {
        "id": 77,
        "event": "pull_request",
        "html_url": "https://github.test/club/pds/actions/runs/77",
        "head_branch": "my-change?state=closed&x=#",
        "head_sha": SHA,
        "head_repository": {"owner": {"login": "stranger"}},
    }
}


def zipped(text: str | bytes, name: str = ci_comment.FILE) -> bytes:
    """An artifact."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return packed.getvalue()


class GitHub:
    """Answers these few calls as api.github.com does, and records them."""

    def __init__(self) -> None:
        self.pulls: list[Any] = [{"number": 5, "head": {"sha": SHA}}]
        self.comments: list[Any] = []
        self.artifact: bytes | None = zipped("== stack dev\n")
        self.requests: list[tuple[str, str]] = []
        self.written: list[tuple[str, str, str]] = []
        self.tokens: dict[str, set[str | None]] = {"api": set(), "blob": set()}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        github = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                url = urlsplit(self.path)
                host = "blob" if url.path == "/blob" else "api"
                github.tokens[host].add(self.headers.get("Authorization"))
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer, location = github.answer(self.command, url.path, parse_qs(url.query), data)
                self.send_response(status)
                if location:
                    self.send_header("Location", location)
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PATCH = _serve  # noqa: N815 (the names of the calls)

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler

    def answer(self, method: str, path: str, query: dict[str, list[str]], data: bytes) -> tuple[int, bytes, str | None]:
        self.requests.append((method, path))
        path = path.removeprefix("/repos/club/pds")
        if method != "GET":
            self.written.append((method, path, json.loads(data)["body"]))
            return 201, b"{}", None
        page = int(query.get("page", ["1"])[0])
        if path == "/pulls":
            assert query["head"] == ["stranger:my-change?state=closed&x=#"], "a branch's name is data"
            return 200, json.dumps(self.pulls if page == 1 else []).encode(), None
        if path == "/issues/5/comments":
            return 200, json.dumps(self.comments[(page - 1) * 100 : page * 100]).encode(), None
        if path == "/actions/runs/77/artifacts":
            return 200, json.dumps({"artifacts": [{"id": 9}] if self.artifact else []}).encode(), None
        if path == "/actions/artifacts/9/zip":
            return 302, b"", f"{self.url}/blob"
        assert path == "/blob", path
        return 200, self.artifact or b"", None


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    fake = GitHub()
    (tmp_path / "event.json").write_text(json.dumps(EVENT))
    for name, value in {
        "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
        "GITHUB_API_URL": fake.url,
        "GITHUB_REPOSITORY": "club/pds",
        "GITHUB_TOKEN": TOKEN,
        "NO_PROXY": "*",
    }.items():
        monkeypatch.setenv(name, value)
    yield fake
    fake.stop()


def test_posts_the_summary_as_a_comment_on_the_pull_request(github: GitHub) -> None:
    assert ci_comment.main([]) == 0
    [(method, path, text)] = github.written
    assert (method, path) == ("POST", "/issues/5/comments")
    assert text.startswith(ci_comment.COMMENT_MARK)
    assert f"commit {SHA}" in text
    assert "```text\n== stack dev\n```" in text


def test_sends_the_token_to_the_api_but_not_to_the_artifact_store(github: GitHub) -> None:
    ci_comment.main([])
    assert github.tokens == {"api": {f"Bearer {TOKEN}"}, "blob": {None}}


def test_a_further_run_updates_its_own_comment(github: GitHub) -> None:
    others = [{"id": number, "user": {"login": "ann"}, "body": "hello"} for number in range(100)]
    forged = {"id": 500, "user": {"login": "mallory"}, "body": ci_comment.COMMENT_MARK}
    ours = {"id": 600, "user": {"login": ci_comment.BOT}, "body": f"{ci_comment.COMMENT_MARK}\nold"}
    github.comments = [*others, forged, ours]
    assert ci_comment.main([]) == 0
    assert [(method, path) for method, path, _text in github.written] == [("PATCH", "/issues/comments/600")]


def test_posts_nothing_for_an_outdated_commit(github: GitHub) -> None:
    github.pulls = [{"number": 5, "head": {"sha": "f" * 40}}]
    assert ci_comment.main([]) == 0
    assert github.written == [], "the newest commit has its own run"


@pytest.mark.parametrize(
    "artifact",
    [None, b"no zip", zipped("x", "../preview.txt"), zipped("x", "number.txt"), b"PK\x03\x04 cut short"],
    ids=["none", "no zip", "another path", "another file", "cut short"],
)
def test_reports_a_missing_or_invalid_artifact(
    artifact: bytes | None, github: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    github.artifact = artifact
    assert ci_comment.main([]) == 1
    assert github.written == []
    assert "artifact" in capsys.readouterr().err


def test_limits_how_much_of_an_artifact_it_unpacks(github: GitHub) -> None:
    github.artifact = zipped(b"0" * 64 * 1024 * 1024)
    assert ci_comment.main([]) == 0
    [(_method, _path, text)] = github.written
    assert len(text) < 65_536, "GitHub's limit for a comment"
    assert "characters more are in the summary of the run" in text


@pytest.mark.parametrize("event", [{}, {"workflow_run": {**EVENT["workflow_run"], "event": "push"}}])
def test_refuses_a_run_that_is_not_of_a_pull_request(event: Any, github: GitHub, tmp_path: Path) -> None:
    (tmp_path / "event.json").write_text(json.dumps(event))
    assert ci_comment.main([]) == 1
    assert github.requests == []


def test_fails_if_the_fork_was_deleted(github: GitHub, tmp_path: Path) -> None:
    (tmp_path / "event.json").write_text(
        json.dumps({"workflow_run": {**EVENT["workflow_run"], "head_repository": None}})
    )
    assert ci_comment.main([]) == 1


# Untrusted text stays in its code block.


@pytest.mark.parametrize(
    "text",
    [
        "```\n@everyone, click [here](https://evil.test)",
        "````\n<img src=https://evil.test>",
        "~~~\n```text\n```",
        "a `code` and ``more``",
        "``````````",
    ],
)
def test_no_text_can_end_its_code_block(text: str) -> None:
    lines = ci_comment.body(text).splitlines()
    fence = lines[-1]
    assert set(fence) == {"`"}
    assert lines[3] == f"{fence}text"
    assert [line for line in lines[4:-1] if line.strip().startswith(fence)] == [], "such a line would end the block"


def test_makes_invisible_characters_visible() -> None:
    text = "a\x1b[31mred\x00 \u202etxet desrever\u2066 \r\n\tindented"
    shown = ci_comment.body(text)
    assert not {"\x1b", "\x00", "\r", "\u202e", "\u2066"} & set(shown), "no character may hide or reorder text"
    assert "\tindented" in shown


def test_show_prints_the_comment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "preview.txt"
    file.write_text("== stack dev")
    assert ci_comment.main(["--show", str(file)]) == 0
    assert "```text\n== stack dev\n```" in capsys.readouterr().out
