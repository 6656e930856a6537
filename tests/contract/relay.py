"""A consumer of the PDS's event stream that follows a relay's rules, and answers queries as a relay does.

Owns: the rules that decide whether a relay continues after a restore. A cursor that the server takes for a future one
idles the host, which is not queried again from an earlier one (bluesky-social/indigo, relay/slurper.go); an event
with a number that was seen is skipped; a commit or sync at a revision that is not above the known one is dropped
(verify.go, ingest.go); a commit that does not follow on the known tree is not passed on (atproto.com/specs/sync). Does
not own: signatures, or the trees themselves.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import libipld
from websockets.sync.client import connect

from tests.support.serving import served
from tools.trial.process import LOOPBACK

_DEADLINE = 600.0
_MAX_FRAME = 8 * 1024 * 1024


@dataclass(frozen=True)
class Known:
    """A repository as the relay knows it: the revision, and the root of its tree."""

    rev: str
    data: str


@dataclass
class Relay:
    """The state of a relay for one host."""

    cursor: int = 0
    idle: bool = False
    repositories: dict[str, Known] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)
    """The status of inactive accounts."""
    dropped: list[str] = field(default_factory=list)

    def follow(self, base_url: str, to: int) -> None:
        """Read events from the cursor until event number `to`, or until the host is idle."""
        end = time.monotonic() + _DEADLINE
        url = f"{base_url.replace('http', 'ws', 1)}/xrpc/com.atproto.sync.subscribeRepos?cursor={self.cursor}"
        with connect(url, proxy=None, max_size=_MAX_FRAME, open_timeout=600) as stream:
            while self.cursor < to and not self.idle:
                frame = stream.recv(timeout=end - time.monotonic())
                assert isinstance(frame, bytes)
                header, body = libipld.decode_dag_cbor_multi(frame)
                self._hear(header, body)

    def _hear(self, header: dict[str, Any], body: dict[str, Any]) -> None:
        if header["op"] != 1:
            assert body["error"] == "FutureCursor", body
            self.idle = True  # the cursor is unchanged
            return
        if header["t"] == "#info" or body["seq"] <= self.cursor:
            return
        self.cursor = body["seq"]
        if header["t"] == "#account":
            self._account(body)
        elif header["t"] in ("#commit", "#sync"):
            self._repository(header["t"], body)

    def _account(self, body: dict[str, Any]) -> None:
        self.statuses.pop(body["did"], None)
        if not body["active"]:
            self.statuses[body["did"]] = body["status"]

    def _repository(self, kind: str, body: dict[str, Any]) -> None:
        did = body["repo"] if kind == "#commit" else body["did"]
        known = self.repositories.get(did)
        header, blocks = libipld.decode_car(body["blocks"])
        now = Known(body["rev"], libipld.encode_cid(blocks[header["roots"][0]]["data"]))
        if now == known:
            return  # a new account's commit is followed by a sync of the same
        if known and now.rev <= known.rev:
            self.dropped.append(f"{kind} of {did}: old revision {body['rev']}, known is {known.rev}")
            return
        if kind == "#commit" and known and libipld.encode_cid(body["prevData"]) != known.data:
            self.dropped.append(f"{kind} of {did} at {body['rev']} does not follow on {known.rev}")
            return
        self.repositories[did] = now

    @contextmanager
    def answering(self) -> Iterator[str]:
        """A URL at which it serves com.atproto.sync.getHostStatus and getRepoStatus, as relays do."""
        relay = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                where = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(where.query).items()}
                found = relay._answer(where.path.rpartition(".")[2], query)
                content = json.dumps(found or {"error": "RepoNotFound"}).encode()
                self.send_response(200 if found else 400)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        with served(Answers) as port:
            yield f"http://{LOOPBACK}:{port}"

    def _answer(self, method: str, query: dict[str, str]) -> dict[str, Any] | None:
        if method == "getHostStatus":
            return {"hostname": query["hostname"], "seq": self.cursor, "status": "idle" if self.idle else "active"}
        known = self.repositories.get(query["did"])
        if known is None:
            return None
        status = self.statuses.get(query["did"])
        said = {"did": query["did"], "active": status is None, "rev": known.rev}
        return said | ({"status": status} if status else {})
