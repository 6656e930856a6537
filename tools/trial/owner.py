"""The first actions of a new server's owner, one step after the other.

Owns: the steps, in order, each with its observation. A second run finds the account of the first. A step that needs a
failed one reports that instead of an error of its own. Does not own: the display, or the processes.

The account's password is in a file that only its owner can read (mode 0600), below the folder that the caller keeps.
"""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from cli.check.plc_documents import directory_data, wrong_in
from cli.snapshot.did_keys import did_key
from tools.trial import LiveError
from tools.trial.firehose import Firehose, subscribe
from tools.trial.xrpc import Client, RefusedError

ACCOUNT = "alice"
BLOB_COLLECTION = "at.noted.try.blob"
"""A collection of our own: no lexicon limits its references (an image embed in a post stops at 2 MB)."""

_FIREHOSE_SECONDS = 15.0
_CHUNK = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Step:
    """One action of the owner: whether it succeeded, what was seen, and how long it took."""

    name: str
    ok: bool
    detail: str
    seconds: float


class _StepError(LiveError):
    """A step saw an unexpected result."""


@dataclass(kw_only=True)
class _Day:
    """Values that the steps pass on to each other."""

    client: Client
    hostname: str
    admin_password: str
    rotation_key_hex: str
    blob_limit: int
    plc_url: str
    password_file: Path
    open: ExitStack
    known: dict[str, str] = field(default_factory=dict)
    firehose: Firehose | None = None

    @property
    def handle(self) -> str:
        return f"{ACCOUNT}.{self.hostname}"

    def needs(self, name: str) -> str:
        """Return the result of an earlier step. Raises _StepError if that step failed."""
        if name not in self.known:
            raise _StepError(f"not tried: there is no {name}, because of a step above")
        return self.known[name]


def run_owner_day(
    base_url: str,
    hostname: str,
    admin_password: str,
    rotation_key_hex: str,
    blob_limit: int,
    plc_url: str,
    keep: Path,
    starting: Callable[[str], None] = lambda name: None,
) -> Iterator[Step]:
    """Run all steps, yielding each when it is done; never raises an error that a server causes.

    `base_url` is the PDS on loopback, `hostname` the name it serves, `blob_limit` its limit in bytes, `keep` the folder
    for the password. `starting` is called with the name of the step that begins.
    """
    keep.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        client = Client(base_url, hostname)
        stack.enter_context(client.http)
        day = _Day(
            client=client,
            hostname=hostname,
            admin_password=admin_password,
            rotation_key_hex=rotation_key_hex,
            blob_limit=blob_limit,
            plc_url=plc_url,
            password_file=keep / f"{ACCOUNT}.password",
            open=stack,
        )
        for name, do in _STEPS:
            starting(name)
            begun = time.monotonic()
            try:
                ok, detail = True, do(day)
            except (LiveError, httpx.HTTPError, KeyError, ValueError, OSError) as error:
                ok, detail = False, str(error) or type(error).__name__
            yield Step(name=name, ok=ok, detail=detail, seconds=time.monotonic() - begun)


def _health(day: _Day) -> str:
    version = day.client.query("_health", {})["version"]
    return f"version {version} answers"


def _invite(day: _Day) -> str:
    method = "com.atproto.server.createInviteCode"
    day.known["invite"] = day.client.procedure(method, {"useCount": 1}, admin_password=day.admin_password)["code"]
    return f"code {day.known['invite']}, good for one account"


def _account(day: _Day) -> str:
    existing = _did_of(day)
    if existing is not None:
        if day.password_file.is_file():
            day.known["password"] = day.password_file.read_text().strip()
            day.known["account"] = existing
            return f"{day.handle} is there from an earlier run: {existing}"
        _new_password(day)
        body = {"did": existing, "password": day.needs("password")}
        day.client.procedure("com.atproto.admin.updateAccountPassword", body, admin_password=day.admin_password)
        day.known["account"] = existing
        return f"{day.handle} is there from an earlier run, its password was lost, and a new one was set: {existing}"
    _new_password(day)
    body = {
        "handle": day.handle,
        "email": f"{ACCOUNT}@{day.hostname}",
        "password": day.needs("password"),
        "inviteCode": day.needs("invite"),
    }
    did = day.client.procedure("com.atproto.server.createAccount", body)["did"]
    day.known["account"] = did
    return f"{day.handle} is {did}"


def _did_of(day: _Day) -> str | None:
    try:
        did: str = day.client.query("com.atproto.identity.resolveHandle", {"handle": day.handle})["did"]
    except RefusedError as refusal:
        if refusal.status == httpx.codes.BAD_REQUEST:
            return None
        raise
    return did


def _new_password(day: _Day) -> None:
    # Written before it is used: an account with a lost password is worse than an unused file.
    day.known["password"] = secrets.token_urlsafe(18)
    day.password_file.unlink(missing_ok=True)
    descriptor = os.open(day.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(day.known["password"] + "\n")


def _document(day: _Day) -> str:
    did = day.needs("account")
    wrong = wrong_in(
        directory_data(day.plc_url, did),
        handle=day.handle,
        hostname=day.hostname,
        rotation_key_hex=day.rotation_key_hex,
    )
    if wrong:
        raise _StepError(wrong)
    return f"rotation key {did_key(day.rotation_key_hex)[:20]}… is ours, served from https://{day.hostname}"


def _handle(day: _Day) -> str:
    did = day.needs("account")
    answer = day.client.http.get("/.well-known/atproto-did", headers={"Host": day.handle})
    if answer.text.strip() != did:
        raise _StepError(f"https://{day.handle}/.well-known/atproto-did says {answer.text[:80]!r}, not {did}")
    if _did_of(day) != did:
        raise _StepError(f"resolveHandle does not know {day.handle} as {did}")
    return f"{day.handle} resolves, by its well-known address and by resolveHandle"


def _log_in(day: _Day) -> str:
    did = day.needs("account")
    body = {"identifier": day.handle, "password": day.needs("password")}
    session = day.client.procedure("com.atproto.server.createSession", body)
    if session["did"] != did:
        raise _StepError(f"logged in as {session['did']}, not as {did}")
    day.client.log_in(session["accessJwt"])
    day.known["session"] = session["did"]
    return f"as {session['handle']}"


def _post(day: _Day) -> str:
    did = day.needs("session")
    day.firehose = day.open.enter_context(subscribe(str(day.client.http.base_url).rstrip("/")))
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    record = {"$type": "app.bsky.feed.post", "text": f"Hello from {day.hostname}, {now}", "createdAt": now}
    body = {"repo": did, "collection": "app.bsky.feed.post", "record": record}
    made = day.client.procedure("com.atproto.repo.createRecord", body)
    day.known |= {"post": made["cid"], "path": made["uri"].split("/", 3)[3], "text": str(record["text"])}
    return f"{made['uri']}"


def _read_back(day: _Day) -> str:
    cid = day.needs("post")
    collection, rkey = day.needs("path").split("/")
    params = {"repo": day.needs("account"), "collection": collection, "rkey": rkey}
    found = day.client.query("com.atproto.repo.getRecord", params)
    if (found["cid"], found["value"]["text"]) != (cid, day.needs("text")):
        raise _StepError(f"got {found['cid']} {found['value']['text']!r}, wrote {cid} {day.needs('text')!r}")
    return f"the same text and CID {cid[:16]}…"


def _on_the_stream(day: _Day) -> str:
    cid, path = day.needs("post"), day.needs("path")
    if day.firehose is None:
        raise _StepError("not tried: there is no event stream, because of a step above")
    commit = day.firehose.find(day.needs("account"), path, _FIREHOSE_SECONDS)
    if commit.operations[path] != cid:
        raise _StepError(f"the stream carries {commit.operations[path]}, the post is {cid}")
    if commit.records.get(cid, {}).get("text") != day.needs("text"):
        raise _StepError(f"the commit {commit.seq} does not carry the record of {path}")
    return f"event {commit.seq} carries {path}"


def _blob_at_limit(day: _Day) -> str:
    did = day.needs("session")
    sent = hashlib.sha256()
    blob = day.client.upload_blob(_bytes(day.blob_limit, sent), day.blob_limit)
    record = {"$type": BLOB_COLLECTION, "blob": blob}
    body = {"repo": did, "collection": BLOB_COLLECTION, "rkey": "limit", "record": record, "validate": False}
    day.client.procedure("com.atproto.repo.putRecord", body)
    got = hashlib.sha256()
    for chunk in day.client.stream_blob(did, blob["ref"]["$link"]):
        got.update(chunk)
    if got.digest() != sent.digest():
        raise _StepError(f"read back with SHA-256 {got.hexdigest()}, sent with {sent.hexdigest()}")
    return f"{day.blob_limit:,} bytes uploaded, referenced, read back with SHA-256 {sent.hexdigest()[:16]}…"


def _blob_above_limit(day: _Day) -> str:
    day.needs("session")
    size = day.blob_limit + 1
    try:
        day.client.upload_blob(_bytes(size, hashlib.sha256()), size)
    except RefusedError as refusal:
        if refusal.status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            return f"{size:,} bytes refused: HTTP {refusal.status} {refusal.message}"
        raise
    raise _StepError(f"{size:,} bytes were accepted, the limit is {day.blob_limit:,}")


def _bytes(size: int, digest: Any) -> Iterator[bytes]:
    """The same `size` bytes every time, so that a second run stores no second blob; `digest` is fed with them."""
    source = random.Random(size)  # noqa: S311 - bytes to fill a blob, nothing secret
    for start in range(0, size, _CHUNK):
        chunk = source.randbytes(min(_CHUNK, size - start))
        digest.update(chunk)
        yield chunk


_STEPS: tuple[tuple[str, Callable[[_Day], str]], ...] = (
    ("the server answers", _health),
    ("an invite", _invite),
    ("an account", _account),
    ("DID document", _document),
    ("handle", _handle),
    ("log in", _log_in),
    ("a post", _post),
    ("the post read back", _read_back),
    ("the post on the firehose", _on_the_stream),
    ("a blob at the limit", _blob_at_limit),
    ("a blob one byte above", _blob_above_limit),
)

STEP_NAMES = tuple(name for name, _ in _STEPS)
