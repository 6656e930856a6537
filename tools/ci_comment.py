"""Posts the summary of a pull request as a comment: `python3 -m tools.ci_comment`, in a separate workflow.

A pull request from a fork gets a read-only token, and must get no other: it runs its author's code. So that run saves
its summary as an artifact. When it has ended, this one starts (`workflow_run`) and runs the code of the default branch
with a token that may comment. The artifact is untrusted: it is read as text, from memory, up to a size, and put into a
block in which nothing is a mention, a link or a picture. The pull request is found at GitHub by the run's branch and
commit, never from the artifact.

`--show FILE` prints the comment for a file's text without any request. Standard library only: nothing has to be
installed next to the token.
"""

import argparse
import io
import json
import os
import re
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

ARTIFACT, FILE = "preview", "preview.txt"
COMMENT_MARK = "<!-- what this pull request changes -->"
"""Identifies the comment, if it is the bot's own."""
BOT = "github-actions[bot]"

_LIMIT = 60_000
"""Characters; GitHub accepts 65,536 in a comment."""
_LARGEST = 8 * 1024 * 1024
"""The maximum of bytes read from the artifact's file."""
_PATIENCE = 30.0
# Control characters, and those that reorder text.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

Json = dict[str, Any]


class CommentError(Exception):
    """There is nothing to comment, or GitHub refuses; the text names which."""


def body(text: str, about: str = "") -> str:
    """Return the comment for the text of an artifact; `about` names its source."""
    shown = _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text).strip()
    cut = f"\n… {len(shown) - _LIMIT:,} characters more are in the summary of the run." if len(shown) > _LIMIT else ""
    shown = shown[:_LIMIT] + cut
    # A longer row of backticks than any in the text, so that nothing in it ends the block.
    fence = "`" * (max([2, *(len(row) for row in re.findall(r"`+", shown))]) + 1)
    return f"{COMMENT_MARK}\n{about}\n\n{fence}text\n{shown}\n{fence}\n"


@dataclass(frozen=True)
class Run:
    """The run that has ended, from the event."""

    id: int
    url: str
    owner: str
    branch: str
    commit: str


def run_of(event: Json) -> Run:
    """Return the run of the event. Raises CommentError if it belongs to no pull request."""
    run = event.get("workflow_run") or {}
    if run.get("event") != "pull_request":
        raise CommentError("That run was not a pull request's.")
    if not run.get("head_repository"):
        raise CommentError("The repository that the pull request came from is gone.")
    return Run(
        id=int(run["id"]),
        url=str(run["html_url"]),
        owner=str(run["head_repository"]["owner"]["login"]),
        branch=str(run["head_branch"]),
        commit=str(run["head_sha"]),
    )


class _Stay(urllib.request.HTTPRedirectHandler):
    """Returns a redirect as the response, so that the token is not sent to its target."""

    def redirect_request(self, *arguments: Any, **more: Any) -> None:
        return None


class GitHub:
    """One repository, with a token that may comment."""

    def __init__(self, url: str, repository: str, token: str) -> None:
        self._url = f"{url}/repos/{repository}"
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        self._opener = urllib.request.build_opener(_Stay)

    def ask(self, method: str, path: str, wish: Json | None = None) -> Any:
        """Return the decoded response. Raises CommentError."""
        return json.loads(self._send(method, self._url + path, wish)[1])

    def pages(self, path: str, **query: str) -> Iterator[Json]:
        """Return all items of a list, over its pages. Raises CommentError."""
        page = 1
        while found := self.ask("GET", f"{path}?{urlencode({**query, 'per_page': '100', 'page': str(page)})}"):
            yield from found
            page += 1

    def artifact(self, run: Run) -> str:
        """Return the text that the run left. Raises CommentError."""
        listed = self.ask("GET", f"/actions/runs/{run.id}/artifacts?{urlencode({'name': ARTIFACT})}")["artifacts"]
        if not listed:
            raise CommentError(f"The run left no artifact '{ARTIFACT}': it was cut short.")
        status, answer = self._send("GET", f"{self._url}/actions/artifacts/{int(listed[0]['id'])}/zip")
        if status != 302:
            raise CommentError(f"GitHub returned no address of the artifact ({status}).")
        with urllib.request.urlopen(answer.decode(), timeout=_PATIENCE) as body:  # noqa: S310 (GitHub's own word)
            packed = body.read(_LARGEST)
        return unpacked(packed)

    def _send(self, method: str, url: str, wish: Json | None = None) -> tuple[int, bytes]:
        """Return status and body, or the target of a redirect."""
        data = json.dumps(wish).encode() if wish else None
        request = urllib.request.Request(url, data, self._headers, method=method)  # noqa: S310 (always the API)
        try:
            with self._opener.open(request, timeout=_PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 302:
                return error.code, error.headers["Location"].encode()
            raise CommentError(f"GitHub answered {error.code} to {method} {url}.") from None
        except OSError as error:
            raise CommentError(f"GitHub does not answer ({error}).") from None


def unpacked(packed: bytes) -> str:
    """Return the one file of an artifact, from memory and up to a size: nothing is unpacked to a disk. Raises
    CommentError."""
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive, archive.open(FILE) as file:
            return file.read(_LARGEST).decode(errors="replace")
    except (zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError, OSError) as error:
        raise CommentError(f"The artifact does not hold a {FILE} that can be read: {error}") from None


def pull_requests(github: GitHub, run: Run) -> list[int]:
    """Return the open pull requests whose newest commit this run was about. Raises CommentError."""
    listed = github.pages("/pulls", state="open", head=f"{run.owner}:{run.branch}")
    return [int(item["number"]) for item in listed if item["head"]["sha"] == run.commit]


def say(github: GitHub, number: int, text: str) -> None:
    """Create the comment, or update it. Raises CommentError."""
    for item in github.pages(f"/issues/{number}/comments"):
        if item["user"]["login"] == BOT and item["body"].startswith(COMMENT_MARK):
            github.ask("PATCH", f"/issues/comments/{int(item['id'])}", {"body": text})
            return
    github.ask("POST", f"/issues/{number}/comments", {"body": text})


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0 if the comment is posted, or if there is no open pull request any more."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.ci_comment", description=__doc__)
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the comment for this file's text")
    options = parser.parse_args(arguments)
    if options.show:
        print(body(options.show.read_text(errors="replace"), "What this pull request changes, without a state:"))
        return 0
    try:
        run = run_of(json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text()))
        github = GitHub(os.environ["GITHUB_API_URL"], os.environ["GITHUB_REPOSITORY"], os.environ["GITHUB_TOKEN"])
        numbers = pull_requests(github, run)
        if not numbers:
            print("No open pull request is at that commit any more.")
            return 0
        text = body(github.artifact(run), about(run))
        for number in numbers:
            say(github, number, text)
            print(f"Commented on pull request {number}.")
    except CommentError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def about(run: Run) -> str:
    """Return the source of the text, and how far to trust it."""
    return (
        f"What commit {run.commit} changes, by its own code, which has seen no secret and no state "
        f"([run]({run.url})). Read it as its author's word."
    )


if __name__ == "__main__":
    sys.exit(main())
