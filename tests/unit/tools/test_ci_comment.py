"""The comment on a pull request, at a test double of GitHub: what it contains of untrusted text, and where it is
posted."""

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
    """Answers as api.github.com does to these few calls, and records them."""

    def __init__(self) -> None:
        self.pulls: list[Any] = [{"number": 5, "head": {"sha": SHA}}]
        self.comments: list[Any] = []
        self.artifact: bytes | None = zipped("== stack dev\n")
        self.asked: list[tuple[str, str]] = []
        self.wrote: list[tuple[str, str, str]] = []
        self.tokens: dict[str, set[str | None]] = {"api": set(), "blob": set()}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
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
                where = "blob" if url.path == "/blob" else "api"
                github.tokens[where].add(self.headers.get("Authorization"))
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
        self.asked.append((method, path))
        path = path.removeprefix("/repos/club/pds")
        if method != "GET":
            self.wrote.append((method, path, json.loads(data)["body"]))
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
    found = GitHub()
    (tmp_path / "event.json").write_text(json.dumps(EVENT))
    for name, value in {
        "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
        "GITHUB_API_URL": found.url,
        "GITHUB_REPOSITORY": "club/pds",
        "GITHUB_TOKEN": TOKEN,
        "NO_PROXY": "*",
    }.items():
        monkeypatch.setenv(name, value)
    yield found
    found.stop()


def test_the_summary_becomes_a_comment_of_the_pull_request(github: GitHub) -> None:
    assert ci_comment.main([]) == 0
    [(method, path, text)] = github.wrote
    assert (method, path) == ("POST", "/issues/5/comments")
    assert text.startswith(ci_comment.COMMENT_MARK)
    assert f"commit {SHA}" in text
    assert "```text\n== stack dev\n```" in text


def test_the_token_goes_to_the_api_and_not_where_the_artifact_lies(github: GitHub) -> None:
    ci_comment.main([])
    assert github.tokens == {"api": {f"Bearer {TOKEN}"}, "blob": {None}}


def test_a_further_run_writes_the_same_comment_anew(github: GitHub) -> None:
    others = [{"id": number, "user": {"login": "ann"}, "body": "hello"} for number in range(100)]
    forged = {"id": 500, "user": {"login": "mallory"}, "body": ci_comment.COMMENT_MARK}
    ours = {"id": 600, "user": {"login": ci_comment.BOT}, "body": f"{ci_comment.COMMENT_MARK}\nold"}
    github.comments = [*others, forged, ours]
    assert ci_comment.main([]) == 0
    assert [(method, path) for method, path, _text in github.wrote] == [("PATCH", "/issues/comments/600")]


def test_nothing_is_said_where_the_pull_request_has_moved_on(github: GitHub) -> None:
    github.pulls = [{"number": 5, "head": {"sha": "f" * 40}}]
    assert ci_comment.main([]) == 0
    assert github.wrote == [], "its newest commit has a run of its own"


@pytest.mark.parametrize(
    "artifact",
    [None, b"no zip", zipped("x", "../preview.txt"), zipped("x", "number.txt"), b"PK\x03\x04 cut short"],
    ids=["none", "no zip", "another path", "another file", "cut short"],
)
def test_an_artifact_that_is_none_ends_with_a_sentence(
    artifact: bytes | None, github: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    github.artifact = artifact
    assert ci_comment.main([]) == 1
    assert github.wrote == []
    assert "artifact" in capsys.readouterr().err


def test_an_artifact_that_unpacks_to_gigabytes_is_read_up_to_a_size(github: GitHub) -> None:
    github.artifact = zipped(b"0" * 64 * 1024 * 1024)
    assert ci_comment.main([]) == 0
    [(_method, _path, text)] = github.wrote
    assert len(text) < 65_536, "GitHub takes no more"
    assert "characters more are in the summary of the run" in text


@pytest.mark.parametrize("event", [{}, {"workflow_run": {**EVENT["workflow_run"], "event": "push"}}])
def test_a_run_of_something_else_is_refused(event: Any, github: GitHub, tmp_path: Path) -> None:
    (tmp_path / "event.json").write_text(json.dumps(event))
    assert ci_comment.main([]) == 1
    assert github.asked == []


def test_a_fork_that_is_gone_is_said(github: GitHub, tmp_path: Path) -> None:
    (tmp_path / "event.json").write_text(
        json.dumps({"workflow_run": {**EVENT["workflow_run"], "head_repository": None}})
    )
    assert ci_comment.main([]) == 1


# Untrusted text stays in its block.


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
def test_no_text_ends_the_block_that_it_is_in(text: str) -> None:
    lines = ci_comment.body(text).splitlines()
    fence = lines[-1]
    assert set(fence) == {"`"}
    assert lines[3] == f"{fence}text"
    assert [line for line in lines[4:-1] if line.strip().startswith(fence)] == [], "the first such line would end it"


def test_what_cannot_be_seen_is_shown_as_such() -> None:
    text = "a\x1b[31mred\x00 \u202etxet desrever\u2066 \r\n\tindented"
    shown = ci_comment.body(text)
    assert not {"\x1b", "\x00", "\r", "\u202e", "\u2066"} & set(shown), "a reader sees what is there, in its order"
    assert "\tindented" in shown


def test_by_hand_it_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "preview.txt"
    file.write_text("== stack dev")
    assert ci_comment.main(["--show", str(file)]) == 0
    assert "```text\n== stack dev\n```" in capsys.readouterr().out
