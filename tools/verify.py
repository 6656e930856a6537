"""Whether a snapshot of a PDS can be restored: everything in it is opened, hashed and held against everything else.

Owns: what has to be in a snapshot (`components/render/files/snapshot.cjs` makes them), and the words for what is wrong.
Does not own: the repositories' format (`repository`), fetching a snapshot, or starting a server on it. Nothing is
written, and no library of the server's is used. The only question to the network is one per account, to `document_key`.
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tools.live.keys import did_key
from tools.repository import Store, integrity, is_hash_of, open_unchanged

MANIFEST = "manifest.json"
MARK = ".pds-identity.json"
_FIELDS = {"hostname", "package_version", "started", "counts", "blobs", "accounts", "repositories", "files"}
_DATABASES = ("account.sqlite", "sequencer.sqlite")

DocumentKey = Callable[[str], str | None]
"""From a DID to the did:key that its document names for signing; None where it cannot be asked."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whose snapshot it should be: as in the mark that the guard leaves on the volume."""

    hostname: str
    rotation_public_key: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found. `problems` is empty for a snapshot that can be restored; `notes` are no faults."""

    manifest: dict[str, Any]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def verify(folder: Path, document_key: DocumentKey, whose: Identity | None = None) -> Report:
    """Check the snapshot in `folder`; it should be that of `whose`, if given."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return Report(manifest={}, problems=(f"{MANIFEST} cannot be read: {error}",), notes=())
    if not isinstance(manifest, dict) or manifest.get("format") != 1 or not manifest.keys() >= _FIELDS:
        return Report(manifest={}, problems=(f"{MANIFEST} is of an unknown format",), notes=())
    check = _Check(folder, manifest, document_key)
    problems = (*check.identity(whose), *check.files(), *check.databases(), *check.accounts(), *check.blobs())
    return Report(manifest=manifest, problems=tuple(dict.fromkeys(problems)), notes=tuple(check.notes))


def from_plc(url: str, client: httpx.Client) -> DocumentKey:
    """Ask the PLC directory at `url`; other methods of DIDs are not asked."""

    def ask(did: str) -> str | None:
        if not did.startswith("did:plc:"):
            return None
        answer = client.get(f"{url}/{did}/data")
        answer.raise_for_status()
        return str(answer.json()["verificationMethods"]["atproto"])

    return ask


def home(did: str) -> Path:
    """Where a repository lies below the data directory (`getLocation` in the server's actor-store)."""
    return Path("actors", hashlib.sha256(did.encode()).hexdigest()[:2], did)


class _Check:
    def __init__(self, folder: Path, manifest: dict[str, Any], document_key: DocumentKey) -> None:
        self._folder, self._manifest, self._document_key = folder, manifest, document_key
        self._broken: set[str] = set()
        self.notes: list[str] = []

    def identity(self, whose: Identity | None) -> Iterator[str]:
        named = {key: self._manifest.get(key) for key in ("hostname", "rotation_public_key")}
        for key in named:
            if whose is not None and named[key] != getattr(whose, key):
                yield f"this is the snapshot of another PDS: its {key} is {named[key]}, not {getattr(whose, key)}"
        try:
            mark = json.loads((self._folder / MARK).read_text())
        except (OSError, ValueError) as error:
            yield f"{MARK} cannot be read: {error}"
        else:
            if {key: mark.get(key) for key in named} != named:
                yield f"{MARK} and {MANIFEST} name two PDSes"

    def files(self) -> Iterator[str]:
        """Every file of the manifest is there as it was written, and there is no other."""
        named: dict[str, dict[str, Any]] = self._manifest["files"]
        found = {
            str(path.relative_to(self._folder))
            for path in self._folder.rglob("*")
            if path.is_file() and path.relative_to(self._folder).parts[0] != "blocks"
        }
        for name in sorted(found - named.keys() - {MANIFEST}):
            yield f"{name} is not in the manifest"
        for name in sorted(named.keys() - found):
            yield f"{name} is missing"
        for name in sorted(found & named.keys()):
            path = self._folder / name
            if path.stat().st_size != named[name]["size"]:
                yield f"{name} has {path.stat().st_size} bytes, the manifest says {named[name]['size']}"
            elif _sha256(path) != named[name]["sha256"]:
                yield f"{name} is not what was written: its SHA-256 differs from the manifest's"

    def databases(self) -> Iterator[str]:
        """SQLite's own check of each database."""
        stores = [str(home(did) / "store.sqlite") for did in self._manifest["repositories"]]
        for name in (*_DATABASES, *stores):
            if (self._folder / name).exists() and (verdict := integrity(self._folder / name)) != "ok":
                self._broken.add(name)
                yield f"{name} is damaged: {verdict}"

    def accounts(self) -> Iterator[str]:
        """Every account has a repository that holds together, and the key that its DID document names."""
        try:
            accounts = self._accounts()
        except sqlite3.DatabaseError as error:
            yield f"account.sqlite cannot be read: {error}"
            return
        if sorted(accounts) != self._manifest["accounts"]:
            yield "account.sqlite has other accounts than the manifest"
        keys: dict[str, str] = {}
        for did in sorted({*accounts, *self._manifest["repositories"]}):
            path = self._folder / home(did)
            if not (path / "store.sqlite").exists():
                yield f"{did} has no repository"
            if not (path / "key").exists():
                yield f"{did} has no signing key"
                continue
            key = (path / "key").read_bytes()
            try:
                keys[did] = did_key(key.hex())
            except ValueError:
                yield f"{did}: its signing key is no secp256k1 key"
                continue
            yield from self._repository(did, key)
        yield from self._documents({did: key for did, key in keys.items() if did in accounts}, accounts)

    def _repository(self, did: str, key: bytes) -> Iterator[str]:
        name = str(home(did) / "store.sqlite")
        if not (self._folder / name).exists():
            return
        try:
            with closing(Store(self._folder / name, did)) as store:
                yield from (f"{did}: {problem}" for problem in store.problems(key))
                known = self._manifest["repositories"].get(did)
                if known is None:
                    yield f"{did}: its repository is not in the manifest"
                elif (known["cid"], known["rev"]) != store.root():
                    yield f"{did}: its repository is at {store.root()[1]}, the manifest says {known['rev']}"
        except (sqlite3.DatabaseError, LookupError) as error:
            if name not in self._broken:
                yield f"{did}: its repository cannot be read: {error}"

    def _documents(self, keys: dict[str, str], active: dict[str, bool]) -> Iterator[str]:
        for did, key in keys.items():
            try:
                wanted = self._document_key(did)
            except (httpx.HTTPError, KeyError, ValueError) as error:
                yield f"{did}: its DID document could not be read: {error}"
                continue
            if wanted is None:
                self.notes.append(f"{did}: its DID document was not asked for")
            elif wanted != key and active[did]:
                owner = next((other for other, theirs in keys.items() if theirs == wanted), None)
                where = f"which is the key that {owner} has here" if owner else "which is not in this snapshot"
                yield f"{did}: its DID document names the key {wanted}, {where}"
            elif wanted != key:
                self.notes.append(f"{did}: deactivated, and its DID document names another server's key")

    def blobs(self) -> Iterator[str]:
        """Every blob that a repository keeps is there, and every one that is there is what its name says."""
        if self._manifest["blobs"] != "disk":
            self.notes.append("blobs are in a bucket, not in the snapshot")
            return
        found: set[tuple[str, str]] = set()
        blocks = self._folder / "blocks"
        for path in sorted((*blocks.glob("did:*/*"), *blocks.glob("quarantine/did:*/*"))):
            if is_hash_of(path.name, path.read_bytes()):
                found.add((path.parent.name, path.name))
            else:
                yield f"{path.relative_to(self._folder)} does not hash to its name"
        for did in self._manifest["repositories"]:
            try:
                with closing(Store(self._folder / home(did) / "store.sqlite", did)) as store:
                    wanted = store.blobs()
            except sqlite3.DatabaseError:
                continue  # said before
            for cid in sorted(wanted):
                if (did, cid) not in found:
                    yield f"{did}: blob {cid} is missing"

    def _accounts(self) -> dict[str, bool]:
        """DID to whether the account is in use here: one that moved away, or has yet to arrive, is deactivated."""
        with closing(open_unchanged(self._folder / "account.sqlite")) as db:
            rows = db.execute('select did, "deactivatedAt" is null from actor').fetchall()
            return {did: bool(active) for did, active in rows}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
