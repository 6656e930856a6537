"""The two servers of a migration, as the member's account sees them.

Endpoints are those of `api/com/atproto` in @atproto/pds, in both version lines.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from cli.migrate import car
from cli.migrate.xrpc import AccountClient, CallRefusedError
from components.clients import pds_admin

Json = Any

_PAGE = 500
_LOST = ("BlobNotFound", "NotFound", "RepoNotFound")


@dataclass(frozen=True)
class Head:
    """The newest commit of a repository: CID, revision, and the root of its tree of records, which is the same on two
    servers if and only if they have the same records. `data` is empty if the server does not serve single blocks."""

    cid: str
    rev: str
    data: str
    signed_rev: str = ""
    """The revision in the commit itself. An imported commit keeps the old server's, with its signature."""


@dataclass(frozen=True, kw_only=True)
class AccountServer:
    """A server with a session of the account."""

    client: AccountClient
    did: str

    @property
    def host(self) -> str:
        """The server's name."""
        return self.client.host

    def status(self) -> Json:
        """Return what the server counts: records, blobs, whether the account is active. Raises ServiceError."""
        return self.client.query("com.atproto.server.checkAccountStatus")

    def head(self) -> Head:
        """Return the newest commit. Raises ServiceError."""
        latest = self.client.query("com.atproto.sync.getLatestCommit", did=self.did)
        cid, file = str(latest["cid"]), BytesIO()
        try:
            self.client.download("com.atproto.sync.getBlocks", file, did=self.did, cids=[cid])
            file.seek(0)
            car.header(file)
            commit = next((content for name, content in car.blocks(file) if name == cid), b"")
            return Head(cid, str(latest["rev"]), *car.commit_of(commit, cid))
        except (CallRefusedError, car.CarError, ValueError, KeyError):
            return Head(cid, str(latest["rev"]), "")

    def credentials(self) -> Json:
        """Return the keys and names that the server recommends for the identity. Raises ServiceError."""
        return self.client.query("com.atproto.identity.getRecommendedDidCredentials")

    def preferences(self) -> list[Json]:
        """Return the account's private preferences. Raises ServiceError."""
        return list(self.client.query("app.bsky.actor.getPreferences")["preferences"])


@dataclass(frozen=True, kw_only=True)
class OldServer(AccountServer):
    """The server that the account leaves. `session` is the server's answer to the login."""

    session: Json = field(default_factory=dict)

    def service_token(self, audience: str) -> str:
        """Return a proof of the identity for the new server, valid for a minute. Raises ServiceError."""
        lxm = "com.atproto.server.createAccount"
        return str(self.client.query("com.atproto.server.getServiceAuth", aud=audience, lxm=lxm)["token"])

    def export(self, path: Path, since: str = "") -> None:
        """Write the repository to a file. Raises ServiceError."""
        with path.open("wb") as file:
            more: dict[str, Json] = {"since": since} if since else {}
            self.client.download("com.atproto.sync.getRepo", file, did=self.did, **more)

    def blob(self, cid: str, into: IO[bytes], limit: int) -> str:
        """Write a blob to a file; return its media type. Raises ServiceError."""
        return self.client.download("com.atproto.sync.getBlob", into, limit=limit, did=self.did, cid=cid)

    def app_passwords(self) -> list[str]:
        """Return the names of the app passwords. Raises ServiceError."""
        answer = self.client.query("com.atproto.server.listAppPasswords")
        return [str(item["name"]) for item in answer["passwords"]]

    def deactivate(self) -> None:
        """Deactivate the account; its data stay. Raises ServiceError."""
        self.client.procedure("com.atproto.server.deactivateAccount", {})


@dataclass(frozen=True, kw_only=True)
class NewServer(AccountServer):
    """The stack's PDS, with a session of the account and the admin's rights."""

    admin: pds_admin.Server

    def missing_blobs(self) -> Iterator[tuple[str, str]]:
        """Return the CID of each blob that a record names and the server lacks, and a record. Raises ServiceError."""
        cursor = ""
        while True:
            more = {"cursor": cursor} if cursor else {}
            page = self.client.query("com.atproto.repo.listMissingBlobs", limit=_PAGE, **more)
            yield from ((str(blob["cid"]), str(blob["recordUri"])) for blob in page["blobs"])
            cursor = page.get("cursor") or ""
            if not cursor or not page["blobs"]:
                return


def spooled() -> IO[bytes]:
    """Return a temporary file, in memory as long as it is small."""
    return tempfile.SpooledTemporaryFile(max_size=4 * 1024 * 1024)


def is_lost(refusal: CallRefusedError) -> bool:
    """Whether the server says that it does not have a blob (`getBlob` in @atproto/pds: 400 "Blob not found")."""
    return refusal.status in (404, 410) or refusal.error in _LOST or "not found" in refusal.message.lower()
