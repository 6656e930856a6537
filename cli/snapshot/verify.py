"""Checks whether a snapshot of a PDS can be restored, account by account.

Owns: the required contents of a snapshot (`components/render/scripts/snapshot.cjs` makes them), and the words for
faults, which are those of `verify.cjs` and `account_check.cjs` on the host. Does not own: the repositories' format
(`repository`), fetching a snapshot, or starting a server on it. Nothing is written, and no library of the server's is
used. The only request to the network is one per account, to `document_key`.
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from cli.snapshot.did_keys import did_key
from cli.snapshot.repository import RepositoryFault, RepositoryStore, integrity, is_hash_of, open_unchanged

MANIFEST = "manifest.json"
IDENTITY_FILE = ".pds-identity.json"
WHOLE, LOSSES, NOT = "whole", "with losses", "not restorable"
_FIELDS = {"hostname", "package_version", "started", "counts", "blobs", "accounts", "repositories", "files"}
_KEY_BYTES = 32
_NAMED = 100  # lost records of one account

DocumentKey = Callable[[str], str | None]
"""From a DID to the did:key that its document names for signing; None if the directory does not answer."""


@dataclass(frozen=True, kw_only=True)
class SnapshotIdentity:
    """The expected owner of the snapshot: as in the identity file on the volume."""

    hostname: str
    rotation_public_key: str


@dataclass(kw_only=True)
class AccountVerdict:
    """The faults of one account: `why` it is not restorable, or what is lost. `rebuild` if its tree of records has to
    be made again; `changed` what differs from the manifest and is consistent; `key` its did:key."""

    why: list[str] = field(default_factory=list)
    records: list[str] = field(default_factory=list)
    lost: int = 0
    blobs: list[str] = field(default_factory=list)
    rebuild: bool = False
    changed: list[str] = field(default_factory=list)
    key: str | None = None

    @property
    def state(self) -> str:
        """`WHOLE`, `LOSSES` or `NOT`."""
        if self.why:
            return NOT
        return LOSSES if self.records or self.blobs or self.rebuild or self.changed else WHOLE

    def sentences(self) -> list[str]:
        """Return the faults, most important first."""
        more = self.lost - len(self.records)
        return [
            *self.why,
            *(f"record {name} is lost" for name in self.records),
            *([f"{more} more records are lost"] if more else []),
            *(f"blob {cid} is lost" for cid in self.blobs),
            *(["its tree of records is damaged and is made again from the table of records"] if self.rebuild else []),
            *self.changed,
        ]


@dataclass(frozen=True, kw_only=True)
class SnapshotReport:
    """The findings. `refusals` say why nothing of the snapshot can be restored, `accounts` has a verdict for each DID;
    `notes` are not faults."""

    manifest: dict[str, Any]
    refusals: tuple[str, ...] = ()
    accounts: Mapping[str, AccountVerdict] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Return all faults, a line each; none if every account is whole."""
        lines = (f"{did}: {one.state}: {text}" for did, one in self.accounts.items() for text in one.sentences())
        return (*self.refusals, *lines)


def verify(folder: Path, document_key: DocumentKey, whose: SnapshotIdentity | None = None) -> SnapshotReport:
    """Check the snapshot in `folder`; it should be that of `whose`, if given."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return SnapshotReport(manifest={}, refusals=(f"{MANIFEST} cannot be read: {error}",))
    if not isinstance(manifest, dict) or manifest.get("format") != 1 or not manifest.keys() >= _FIELDS:
        return SnapshotReport(manifest={}, refusals=(f"{MANIFEST} is of an unknown format",))
    check = _Check(folder, manifest)
    refusals = (*check.identity(whose), *check.damage("account.sqlite"))
    if refusals:
        return SnapshotReport(manifest=manifest, refusals=refusals, notes=tuple(check.notes))
    check.notes += [f"{text}; events begin anew" for text in check.damage("sequencer.sqlite")]
    check.strays()
    accounts = check.accounts()
    check.documents(accounts, document_key)
    return SnapshotReport(manifest=manifest, accounts=accounts, notes=tuple(check.notes))


def from_plc(url: str, client: httpx.Client) -> DocumentKey:
    """Query the PLC directory at `url`; other methods of DIDs are not queried."""

    def ask(did: str) -> str | None:
        if not did.startswith("did:plc:"):
            return None
        answer = client.get(f"{url}/{did}/data")
        answer.raise_for_status()
        return str(answer.json()["verificationMethods"]["atproto"])

    return ask


def counted(states: list[str]) -> list[str]:
    """Return for example '3 whole', '1 with losses'."""
    return [f"{count} {state}" for state in (WHOLE, LOSSES, NOT) if (count := states.count(state))]


def repo_path(did: str) -> Path:
    """Return the location of a repository below the data directory (`getLocation` in the server's actor-store)."""
    return Path("actors", hashlib.sha256(did.encode()).hexdigest()[:2], did)


class _Check:
    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self._folder, self._manifest = folder, manifest
        self.notes: list[str] = []

    def identity(self, whose: SnapshotIdentity | None) -> Iterator[str]:
        named = {key: self._manifest.get(key) for key in ("hostname", "rotation_public_key")}
        for key in named:
            if whose is not None and named[key] != getattr(whose, key):
                yield f"this is the snapshot of another PDS: its {key} is {named[key]}, not {getattr(whose, key)}"
        try:
            identity = json.loads((self._folder / IDENTITY_FILE).read_text())
        except (OSError, ValueError) as error:
            self.notes.append(
                f"{IDENTITY_FILE} cannot be read: {'ENOENT' if isinstance(error, FileNotFoundError) else error}"
            )
        else:
            if {key: identity.get(key) for key in named} != named:
                yield f"{IDENTITY_FILE} and {MANIFEST} name two PDSes"

    def strays(self) -> None:
        """Files that are not in the manifest are not part of the snapshot."""
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder)
            known = str(name) in self._manifest["files"] or name.parts[0] in (MANIFEST, "blocks")
            if path.is_file() and not known and path.suffix != ".left":
                self.notes.append(f"{name} is not in the manifest")

    def damage(self, name: str) -> Iterator[str]:
        """Return why a database of the whole server cannot be used."""
        path = self._folder / name
        if not path.exists():
            yield f"{name} is missing"
        elif (verdict := integrity(path)) != "ok":
            yield f"{name} is damaged: {verdict}"
        elif not self._as_written(name):
            self.notes.append(f"{name} is not what was written: its SHA-256 differs from the manifest's")

    def accounts(self) -> dict[str, AccountVerdict]:
        """Return a verdict for every account and every repository."""
        known = self._active()
        if sorted(known) != sorted(self._manifest["accounts"]):
            self.notes.append("account.sqlite has other accounts than the manifest")
        if self._manifest["blobs"] != "disk":
            self.notes.append("blobs are in a bucket, not in the snapshot")
        return {did: self._account(did) for did in sorted({*known, *self._manifest["repositories"]})}

    def _account(self, did: str) -> AccountVerdict:
        verdict = AccountVerdict()
        store, key = (str(repo_path(did) / name) for name in ("store.sqlite", "key"))
        if not (self._folder / store).exists():
            verdict.why.append("it has no repository")
        private = self._key(key, verdict)
        if private and not verdict.why:
            self._store(did, store, private, verdict)
        if not verdict.why:
            verdict.changed += [
                f"{name} is not what was written" for name in (store, key) if not self._as_written(name)
            ]
        return verdict

    def _key(self, name: str, verdict: AccountVerdict) -> bytes | None:
        try:
            private = (self._folder / name).read_bytes()
            if len(private) != _KEY_BYTES:
                raise ValueError("it has another length")
            verdict.key = did_key(private.hex())
        except OSError:
            verdict.why.append("it has no signing key")
        except ValueError:
            verdict.why.append("its signing key is not a secp256k1 key")
        else:
            return private
        return None

    def _store(self, did: str, name: str, private: bytes, verdict: AccountVerdict) -> None:
        if (damage := integrity(self._folder / name)) != "ok":
            verdict.why.append(f"store.sqlite is damaged: {damage}")
            return
        try:
            with closing(RepositoryStore(self._folder / name, did)) as store:
                known = self._manifest["repositories"].get(did)
                cid, rev = store.root()
                if known and (known["cid"], known["rev"]) != (cid, rev):
                    verdict.changed.append(f"its repository is at {rev}, not at {known['rev']}")
                for fault in store.problems(private):
                    _count(fault, store, verdict)
                verdict.records.sort()
                if self._manifest["blobs"] == "disk":
                    verdict.blobs = [blob for blob in sorted(store.blobs()) if not self._has(did, blob)]
        except LookupError as error:
            verdict.why.append(str(error.args[0]))
        except sqlite3.DatabaseError as error:
            verdict.why.append(f"store.sqlite is damaged: {error}")

    def _has(self, did: str, cid: str) -> bool:
        places = (self._folder / "blocks" / place / did / cid for place in ("", "quarantine"))
        return any(path.is_file() and is_hash_of(cid, path.read_bytes()) for path in places)

    def documents(self, accounts: Mapping[str, AccountVerdict], document_key: DocumentKey) -> None:
        """Compare the keys with the DID documents: an account that moved away is not a fault of a snapshot."""
        active = self._active()
        owners = {verdict.key: did for did, verdict in accounts.items() if verdict.key}
        for did, verdict in accounts.items():
            if verdict.key is None:
                continue
            try:
                published = document_key(did)
            except (httpx.HTTPError, KeyError, ValueError) as error:
                self.notes.append(f"{did}: its DID document cannot be read: {error}")
                continue
            if published is None:
                self.notes.append(f"{did}: its DID document was not queried")
            elif published != verdict.key and (owner := owners.get(published)):
                verdict.why.append(
                    f"its DID document names the key {published}, which is the key that {owner} has here"
                )
            elif published != verdict.key:
                here = "" if active.get(did) else "deactivated, and "
                self.notes.append(
                    f"{did}: {here}its DID document names the key {published}, which is not in this snapshot"
                )

    def _as_written(self, name: str) -> bool:
        written, path = self._manifest["files"].get(name), self._folder / name
        return bool(written) and path.stat().st_size == written["size"] and _sha256(path) == written["sha256"]

    def _active(self) -> dict[str, bool]:
        """Map DID to whether the account is in use here: one that moved away, or has yet to arrive, is deactivated."""
        with closing(open_unchanged(self._folder / "account.sqlite")) as db:
            rows = db.execute('select did, "deactivatedAt" is null from actor').fetchall()
            return {did: bool(active) for did, active in rows}


def _count(fault: RepositoryFault, store: RepositoryStore, verdict: AccountVerdict) -> None:
    """Count a repository's fault against its account (`checkRepository` in account_check.cjs)."""
    leaves = store.records_of(fault.cid) if fault.kind == "block" else []
    if fault.kind == "signature":
        verdict.why.append(fault.text)
    for name in [*([fault.record] if fault.kind == "record" or fault.lost else []), *leaves]:
        verdict.lost += 1
        if len(verdict.records) < _NAMED and name not in verdict.records:
            verdict.records.append(name)
    if fault.kind in ("tree", "index") or (fault.kind == "block" and not leaves):
        verdict.rebuild = True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
