"""A club on a real PDS: members with posts and blobs, and a writer that never pauses and records every response.

Owns: creating the accounts, writing to them from threads, and the journal of the server's acknowledgements and their
times. Does not own: the server, or the queries on the journal.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tools.trial.xrpc import Client, RefusedError

POSTS = "app.bsky.feed.post"
BLOBS = "at.noted.try.blob"
PASSWORD = "correct horse battery"
_NOW = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A logged-in account."""

    did: str
    client: Client


@dataclass(kw_only=True)
class Journal:
    """Acknowledged writes, with the clock (`time.monotonic`) just after the response."""

    accounts: dict[str, float] = field(default_factory=dict)
    records: dict[str, tuple[str, float]] = field(default_factory=dict)
    """URI to CID and time."""
    deleting: set[str] = field(default_factory=set)
    """URIs whose deletion has begun: a copy may or may not have them."""

    def before(self, moment: float) -> tuple[set[str], dict[str, str]]:
        """Accounts, and records (URI to CID), that were acknowledged before `moment` and never deleted."""
        records = {uri: cid for uri, (cid, at) in list(self.records.items()) if at < moment}
        return (
            {did for did, at in list(self.accounts.items()) if at < moment},
            {uri: cid for uri, cid in records.items() if uri not in self.deleting},
        )


class Club:
    """The members of one PDS."""

    def __init__(self, base_url: str, hostname: str, mail: str | None = None) -> None:
        self._base_url, self._hostname, self._mail = base_url, hostname, mail or hostname
        self._numbers = itertools.count()
        self.members: list[Member] = []
        self.journal = Journal()

    def at(self, base_url: str) -> Club:
        """The same members, logged in again, and the same journal, where the PDS is now."""
        club = Club(base_url, self._hostname, self._mail)
        club._numbers, club.journal = self._numbers, self.journal
        club.members = [self.logged_in(member, base_url) for member in self.members]
        return club

    def logged_in(self, member: Member, base_url: str) -> Member:
        """The same member, logged in again at a PDS that has a copy of their account."""
        client = Client(base_url, self._hostname)
        body = {"identifier": member.did, "password": PASSWORD}
        client.log_in(client.procedure("com.atproto.server.createSession", body)["accessJwt"])
        return Member(did=member.did, client=client)

    def join(self) -> Member:
        """Create an account; it is acknowledged when this returns."""
        name = f"m{next(self._numbers)}-{os.getpid()}"
        client = Client(self._base_url, self._hostname)
        body = {"handle": f"{name}.{self._hostname}", "email": f"{name}@{self._mail}", "password": PASSWORD}
        made = client.procedure("com.atproto.server.createAccount", body)
        self.journal.accounts[made["did"]] = time.monotonic()
        client.log_in(made["accessJwt"])
        self.members.append(Member(did=made["did"], client=client))
        return self.members[-1]

    def post(self, member: Member, text: str) -> str:
        """Write a post; return its URI."""
        return self._create(member, POSTS, {"$type": POSTS, "text": text, "createdAt": _NOW})

    def post_blob(self, member: Member, content: bytes) -> str:
        """Upload a blob and write a record that refers to it; return the record's URI."""
        return self.refer(member, member.client.upload_blob([content], len(content)))

    def refer(self, member: Member, blob: dict[str, Any]) -> str:
        """Write a record that refers to an uploaded blob; return the record's URI."""
        return self._create(member, BLOBS, {"$type": BLOBS, "blob": blob})

    def delete(self, member: Member, uri: str) -> None:
        """Delete a record; the server deletes its blob soon after."""
        self.journal.deleting.add(uri)
        _, _, did, collection, rkey = uri.split("/")
        member.client.procedure("com.atproto.repo.deleteRecord", {"repo": did, "collection": collection, "rkey": rkey})

    def _create(self, member: Member, collection: str, record: dict[str, Any]) -> str:
        body = {"repo": member.did, "collection": collection, "record": record, "validate": False}
        made = member.client.procedure("com.atproto.repo.createRecord", body)
        self.journal.records[made["uri"]] = (made["cid"], time.monotonic())
        return str(made["uri"])

    @contextmanager
    def writing(self, *, patient: bool = False, joining: float = 0.3) -> Iterator[None]:
        """Let members write, delete and join until the block ends; raise their errors.

        `patient` members retry while the server does not answer, as apps do. A member joins every `joining` seconds.
        """
        stop, failures = threading.Event(), list[BaseException]()

        def without_pause(step: Any) -> None:
            try:
                for number in itertools.count():
                    if stop.is_set():
                        return
                    try:
                        step(number)
                    except httpx.HTTPError:
                        if not patient:
                            raise
                        stop.wait(0.1)
            except (httpx.HTTPError, RefusedError, KeyError) as error:
                failures.append(error)

        chance = random.Random(7)
        fleeting: list[tuple[Member, str]] = []
        settled = list(self.members)

        def write(number: int) -> None:
            member = chance.choice(settled[: len(settled) // 2])
            if number % 5 == 0:
                fleeting.append((member, self.post_blob(member, chance.randbytes(20_000))))
            elif number % 5 == 3 and number % 10 == 3 and fleeting:
                self.delete(*fleeting.pop())
            else:
                self.post(member, f"post {number}")

        def join(number: int) -> None:
            self.post(self.join(), f"hello {number}")
            stop.wait(joining)

        threads = [threading.Thread(target=without_pause, args=(step,), daemon=True) for step in (write, join)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(600)
        if failures:
            raise failures[0]


def cid_in(blob: dict[str, Any]) -> str:
    """The CID of an upload."""
    return str(blob["ref"]["$link"])


def cid_of(client: Client, uri: str) -> str:
    """The CID of the record at `uri`. Raises RefusedError if it does not exist."""
    _, _, did, collection, rkey = uri.split("/")
    parameters = {"repo": did, "collection": collection, "rkey": rkey}
    return str(client.query("com.atproto.repo.getRecord", parameters)["cid"])


def whole(client: Client, club: Club, moment: float) -> None:
    """Assert that old passwords work and everything acknowledged before `moment` has its original CID."""
    members, records = club.journal.before(moment)
    for did in members:
        client.procedure("com.atproto.server.createSession", {"identifier": did, "password": PASSWORD})
    assert len(records) > len(members)
    found: dict[str, str] = {}
    for did, collection in {tuple(uri.split("/")[2:4]) for uri in records}:
        found |= cids_of(client, did, collection)
    assert {uri: found.get(uri) for uri in records} == records


def cids_of(client: Client, did: str, collection: str) -> dict[str, str]:
    """The CID of each record of a collection by its URI. A server limits how many requests it answers, and a member may
    have thousands of records."""
    found: dict[str, str] = {}
    page: dict[str, Any] = {"cursor": ""}
    while "cursor" in page:
        cursor = {"cursor": page["cursor"]} if page["cursor"] else {}
        parameters = {"repo": did, "collection": collection, "limit": 100, **cursor}
        page = client.query("com.atproto.repo.listRecords", parameters)
        found |= {record["uri"]: record["cid"] for record in page["records"]}
    return found


def founded(base_url: str, hostname: str, members: int, posts: int, mail: str | None = None) -> Club:
    """A club with members, each with `posts` posts and one blob. `mail` is their addresses' domain, if it is not the
    hostname."""
    club = Club(base_url, hostname, mail)
    for number in range(members):
        member = club.join()
        for post in range(posts):
            club.post(member, f"{number} {post}")
        club.post_blob(member, random.Random(number).randbytes(50_000))
    return club
