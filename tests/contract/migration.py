"""A migration between the two real servers of a test: the command's parts with the answers of a member.

The mailed token is read from the old server's database, as `./pds email-token` reads it.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from cli.lib.edit_stackfile import StackFileEdit
from cli.migrate.run import migrate
from cli.migrate.state import ProgressFile
from cli.migrate.target import MigrationRequest, Target
from cli.migrate.xrpc import AccountClient
from cli.snapshot.did_keys import did_key
from components.clients import pds_admin
from offline.stackfile import read_settings
from tests.contract.two_servers import BLOB_RECORD, OTHER_SECRETS, PASSWORD, POST, Side, World
from tests.support.flawed_proxy import FlawedProxy, flawed_proxy
from tools.trial.node import PDS_LINES

STACK_FILE = """# Written by hand.
config:
  pds:hostname: rooks.test
  pds:operators: {cidrs: [203.0.113.7/32], ssh_keys: [laptop]}
"""
NEW_PASSWORD = "new-password-of-the-member"
PREFERENCES = [{"$type": "app.bsky.actor.defs#adultContentPref", "enabled": True}]


one_direction = pytest.mark.parametrize("line", PDS_LINES[:1], indirect=True)
"""For tests of the program rather than of a server's line; the other server is of the other line."""

MEMBER_KEY, OTHER_KEY = did_key("3ee68ca0" * 8), did_key("3ee68ca1" * 8)
OWN_DOMAIN = "pam.her-domain.test"
NEW_KEY = did_key(OTHER_SECRETS["PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"])


class Clock:
    """A clock in which only `sleep` passes, so that a wait for a limit takes no time."""

    def __init__(self) -> None:
        self.now, self.slept = 1_900_000_000.0, [0.0]

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds
        self.slept.append(seconds)


@dataclass
class Answers:
    """A member who answers. `token` returns what they type as the mailed token, `agrees` whether they agree."""

    token: Callable[[], str]
    agrees: bool = True
    old_password: str = PASSWORD
    factor: str = ""
    asked: list[str] = field(default_factory=list)

    def secret(self, text: str) -> str:
        self.asked.append(text)
        if text.startswith("Token"):
            return self.token()
        if text.startswith("Sign-in code"):
            return self.factor
        return NEW_PASSWORD if "rooks.test" in text else self.old_password

    def new_secret(self, text: str) -> str:
        self.asked.append(text)
        return NEW_PASSWORD

    def agree(self, text: str) -> bool:
        self.asked.append(text)
        return self.agrees


@dataclass
class Mover:
    """The command for one stack, and its output."""

    world: World
    root: Path
    old_url: str = ""
    said: list[str] = field(default_factory=list)

    @property
    def target(self) -> Target:
        new = self.world.new
        port = urlsplit(new.pds.url).port
        admin = pds_admin.Server(f"http://{new.hostname}:{port}", "127.0.0.1", new.env["PDS_ADMIN_PASSWORD"])
        settings = read_settings("club", self.root)
        return Target(stack="club", settings=settings, admin=admin, plc_url=self.world.directory.url, root=self.root)

    def answers(self, did: str, **more: Any) -> Answers:
        return Answers(lambda: mailed_token(self.world.old, did), **more)

    def run(self, handle: str, answers: Answers, clock: Any = None, **request: str) -> int:
        """Run the command; return the exit code."""
        clock = clock or Clock()
        old = self.world.old

        def connect(url: str) -> AccountClient:
            port = urlsplit(self.old_url or old.pds.url).port
            assert urlsplit(url).hostname == old.hostname, f"the command connects to {url}"
            return AccountClient(
                f"http://{old.hostname}:{port}", address="127.0.0.1", clock=clock, say=self.said.append
            )

        wanted = MigrationRequest(handle=handle, source=f"https://{old.hostname}", **request)
        return migrate(self.target, wanted, answers, connect=connect, clock=clock, say=self.said.append)

    @property
    def output(self) -> str:
        return "\n".join(self.said)

    @property
    def stack_file(self) -> str:
        return (self.root / "Pulumi.club.yaml").read_text()

    def log(self, did: str) -> list[Any]:
        """The identity's operations in the directory."""
        return list(httpx.get(f"{self.world.directory.url}/{did}/log/audit", trust_env=False).json())


def mover(world: World, root: Path, more: str = "") -> Mover:
    """A stack file of the new server in `root`, with `more` options, and the command for it."""
    (root / "Pulumi.club.yaml").write_text(STACK_FILE + more)
    return Mover(world, root)


def data_of(side: Side) -> Path:
    """The server's data directory."""
    return Path(side.pds.log).with_suffix("")


def mailed_token(side: Side, did: str) -> str:
    """The token in the server's last mail to the member; empty if none was requested."""
    with closing(sqlite3.connect(f"file:{data_of(side) / 'account.sqlite'}?mode=ro", uri=True)) as db:
        row = db.execute("select token from email_token where did = ? and purpose = 'plc_operation'", (did,)).fetchone()
    return str(row[0]) if row else ""


def member(side: Side, name: str, *, posts: int = 3, blobs: int = 2, **more: str) -> str:
    """An account with posts, blobs and preferences; its DID."""
    side.client.log_in("")
    body = {"handle": f"{name}.{side.hostname}", "email": f"{name}@her-mail.org", "password": PASSWORD, **more}
    did: str = side.client.procedure("com.atproto.server.createAccount", {**body, "inviteCode": side.invite()})["did"]
    side.log_in(did)
    for first in range(0, posts, 200):
        writes = [
            {"$type": "com.atproto.repo.applyWrites#create", "collection": POST, "value": _post(number)}
            for number in range(first, min(first + 200, posts))
        ]
        side.client.procedure("com.atproto.repo.applyWrites", {"repo": did, "writes": writes})
    for number in range(blobs):
        content = json.dumps([did, number] * 1000).encode()
        record = {"$type": BLOB_RECORD, "blob": side.client.upload_blob([content], len(content))}
        side.client.procedure(
            "com.atproto.repo.createRecord",
            {"repo": did, "collection": BLOB_RECORD, "record": record, "validate": False},
        )
    side.client.procedure("app.bsky.actor.putPreferences", {"preferences": PREFERENCES})
    return did


def _post(number: int) -> dict[str, str]:
    return {"$type": POST, "text": f"post {number}", "createdAt": "2026-06-01T12:00:00.000Z"}


_POINTS: Sequence[tuple[Any, str, Callable[..., str | None]]] = (
    (AccountClient, "_send", lambda _self, verb, method, *_a, **_k: _mutation(verb, method)),
    (pds_admin.Server, "procedure", lambda _self, method, **_k: method),
    (ProgressFile, "update", lambda _self, **changes: f"progress {' '.join(sorted(changes))}"),
    (StackFileEdit, "write", lambda _self: "stack file"),
)


def _mutation(verb: str, method: str) -> str | None:
    return method if verb == "POST" and not method.endswith("createSession") else None


@contextmanager
def _killed_after(wanted: Callable[[str], bool], tell: Callable[[str], object]) -> Iterator[None]:
    """Kill this process after the first step that changes something and is `wanted`."""
    for owner, name, label_of in _POINTS:
        real = getattr(owner, name)

        def step(*arguments: Any, _real: Any = real, _label: Any = label_of, **more: Any) -> Any:
            label = _label(*arguments, **more)
            result = _real(*arguments, **more)
            if label and wanted(label):
                tell(label)
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, step)
    yield


def run_killed(run: Callable[[], int], wanted: Callable[[str], bool]) -> tuple[str, int]:
    """Run in a child process that is killed (SIGKILL) right after the first `wanted` step; return the step, "" if none
    came, and the exit code."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.close(reader)
            with _killed_after(wanted, lambda label: os.write(writer, label.encode())):
                code = run()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        label = pipe.read()
    _, status = os.waitpid(child, 0)
    return label, os.waitstatus_to_exitcode(status)


@pytest.fixture
def here(world: World, tmp_path: Path) -> Mover:
    """The command for a stack whose PDS is the new server."""
    return mover(world, tmp_path)


@pytest.fixture
def proxy(here: Mover) -> Iterator[FlawedProxy]:
    """A proxy through which the command reaches the old server."""
    with flawed_proxy(here.world.old.pds.url) as running:
        here.old_url = running.url
        yield running


def nothing_final(here: Mover, did: str) -> None:
    """Assert that the account is the old server's, as before."""
    assert len(here.log(did)) == 1
    assert here.world.old.status(did) == (True, None)
    assert "members" not in here.stack_file
