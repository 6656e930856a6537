"""A PDS with posts, backups and restores, and a consumer of its events."""

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from tests.contract.club import PASSWORD, POSTS, Club, cid_of, whole
from tests.contract.relay import Relay
from tests.contract.restores import newest
from tests.e2e.environment.environment import HOSTNAME, E2eEnvironment, Run
from tools.trial.xrpc import Client, RefusedError

UP = ("up", "--yes", "--skip-preview")


@dataclass
class Scenario:
    """The e2e environment, and the members' actions in it."""

    e2e_env: E2eEnvironment
    relay: Relay
    club: Club | None = None
    began: float = 0.0
    """Start of the newest good backup, on the journal's clock."""
    late: str = ""
    """A post that is in no backup."""

    @property
    def data(self) -> Path:
        """The server's files."""
        [machine] = self.e2e_env.machines.machines()
        return machine.volume / "pds"

    def follow(self) -> None:
        """The relay receives the present events."""
        self.relay.follow(self.e2e_env.health_url(), newest(self.data))

    def do(self, command: str) -> Run:
        """A command of the guide, if no terminal prompts for confirmation."""
        program, name, *rest = shlex.split(command)
        if program == "pulumi":
            return self.e2e_env.pulumi(*(UP if name == "up" else (name, *rest)))
        assert (program, rest[0]) == ("./pds", "main"), command
        return self.e2e_env.pds(name, *rest[1:], "--yes")

    def whole(self) -> None:
        """Assert that old passwords work and everything acknowledged before the newest backup has its original CID."""
        assert self.club
        whole(Client(self.e2e_env.health_url(), HOSTNAME), self.club, self.began)

    def lost(self) -> bool:
        """Whether the post after the newest backup is missing."""
        return lost(Client(self.e2e_env.health_url(), HOSTNAME), self.late)

    def back_it_up(self) -> None:
        """Make a backup, then a post that is not in it."""
        assert self.club
        self.began = time.monotonic()
        self.e2e_env.pds("backup")
        self.post_late()

    def post_late(self) -> None:
        """Write a post that will be in no backup; it is not in the journal of data to restore."""
        assert self.club
        writer = self.club.members[0]
        client = Client(self.e2e_env.health_url(), HOSTNAME)
        session = client.procedure("com.atproto.server.createSession", {"identifier": writer.did, "password": PASSWORD})
        client.log_in(session["accessJwt"])
        record = {"$type": POSTS, "text": "after the backup", "createdAt": "2026-01-01T00:00:00.000Z"}
        body = {"repo": writer.did, "collection": POSTS, "record": record}
        self.late = client.procedure("com.atproto.repo.createRecord", body)["uri"]


def lost(client: Client, uri: str) -> bool:
    """Whether a post is missing."""
    try:
        cid_of(client, uri)
    except RefusedError:
        return True
    return False
