"""A member moves to another real PDS with their identity, posts and blobs, without any mail server.

The calls and their order are those of the protocol's guide to account migration (atproto.com/guides/account-migration)
and of docs/guide/members.md. Mailed tokens are read as `./pds email-token` reads them.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from cli.check.plc_documents import directory_data
from cli.lib import nomad_exec
from cli.people import email_tokens as email_token
from cli.snapshot.did_keys import did_key
from components.clients.nomad import NomadApi
from tests.contract.two_servers import BLOB_RECORD, NEW, OTHER_SECRETS, PASSWORD, Side, World
from tests.unit.components.render.test_volume_check import VOLUME_CHECK
from tools.trial.xrpc import RefusedError

pytestmark = pytest.mark.contract

OWN_DOMAIN = "ann.her-domain.test"
MEMBER_KEY = did_key("3ee68ca0" * 8)
PREFERENCES = [{"$type": "app.bsky.actor.defs#adultContentPref", "enabled": True}]


def _token(side: Side, did: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The output of `./pds email-token`: this process is Nomad's exec endpoint, the server's folder its container."""
    container = {
        **{name: side.env[name] for name in ("PDS_HOSTNAME", "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX")},
        "PDS_DATA_DIRECTORY": str(Path(side.pds.log).with_suffix("")),
        "NODE_OPTIONS": f'--require="{VOLUME_CHECK}"',
        "PATH": os.pathsep.join([str(side.install.node.parent), os.defpath]),
    }

    def run(_nomad: Mapping[str, str], _allocation: str, command: list[str], _what: str, _task: str) -> str:
        done = subprocess.run(
            command, cwd=side.install.folder, env=container, capture_output=True, text=True, timeout=600, check=True
        )
        return done.stdout

    nomad = {"address": "http://127.0.0.1:1", **dict.fromkeys(("ca_pem", "client_cert_pem", "client_key_pem"), "")}
    with monkeypatch.context() as patch:
        patch.setattr(NomadApi, "get", lambda _self, _path: [{"ID": "its", "ClientStatus": "running"}])
        patch.setattr(nomad_exec, "_exec", run)
        [token] = email_token.read_tokens({**nomad, "token": ""}, did)
    assert token.purpose == "plc_operation"
    return token.token


def member_of(side: Side, name: str, **more: str) -> tuple[str, bytes]:
    """An account with posts, a blob and preferences; its DID, and the blob's bytes."""
    side.client.log_in("")
    body = {"handle": f"{name}.{side.hostname}", "email": f"{name}@her-mail.org", "password": PASSWORD, **more}
    did: str = side.client.procedure("com.atproto.server.createAccount", {**body, "inviteCode": side.invite()})["did"]
    side.log_in(did)
    for number in range(3):
        side.post(did, f"move {number}")
    blob_content = json.dumps([did] * 1000).encode()
    blob = side.client.upload_blob([blob_content], len(blob_content))
    record = {"$type": BLOB_RECORD, "blob": blob}
    album = {"repo": did, "collection": BLOB_RECORD, "record": record, "validate": False}
    side.client.procedure("com.atproto.repo.createRecord", album)
    side.client.procedure("app.bsky.actor.putPreferences", {"preferences": PREFERENCES})
    return did, blob_content


def arrive(old: Side, new: Side, did: str, handle: str) -> tuple[str, str]:
    """An account without records on the new server, deactivated; the sessions on both servers."""
    leaving = old.log_in(did)
    parameters: dict[str, str | int] = {"aud": f"did:web:{new.hostname}", "lxm": "com.atproto.server.createAccount"}
    proof = old.client.query("com.atproto.server.getServiceAuth", parameters)["token"]
    account = {"did": did, "handle": handle, "email": f"{did[-6:]}@her-mail.org", "password": PASSWORD}
    body = {**account, "inviteCode": new.invite()}
    new.client.log_in("")
    with pytest.raises(RefusedError, match="Missing auth to create account with did"):
        new.client.procedure("com.atproto.server.createAccount", body)
    new.client.log_in(proof)
    arriving = str(new.client.procedure("com.atproto.server.createAccount", body)["accessJwt"])
    new.client.log_in(arriving)
    assert new.status(did) == (False, "deactivated"), "only one server may be active for an account"
    return leaving, arriving


def import_records(old: Side, new: Side, did: str, arriving: str) -> None:
    """The repository of the old server on the new one."""
    repository = old.client.http.get("/xrpc/com.atproto.sync.getRepo", params={"did": did}).raise_for_status()
    new.send(arriving, "com.atproto.repo.importRepo", repository.content, "application/vnd.ipld.car")


def import_blobs(old: Side, new: Side, did: str) -> None:
    """The blobs, then the preferences."""
    missing = [blob["cid"] for blob in new.client.query("com.atproto.repo.listMissingBlobs", {})["blobs"]]
    assert len(missing) == 1, "one blob"
    for cid in missing:
        content = b"".join(old.client.stream_blob(did, cid))
        assert new.client.upload_blob([content], len(content))["ref"]["$link"] == cid
    assert new.client.query("com.atproto.repo.listMissingBlobs", {})["blobs"] == []
    preferences = old.client.query("app.bsky.actor.getPreferences", {})
    new.client.procedure("app.bsky.actor.putPreferences", preferences)


def _change_identity(old: Side, new: Side, leaving: str, token: str, member_keys: list[str]) -> None:
    """The old server signs the new one's recommendation, with the member's own key before it; the new one submits
    it."""
    credentials = new.client.query("com.atproto.identity.getRecommendedDidCredentials", {})
    credentials["rotationKeys"] = member_keys + credentials["rotationKeys"]
    old.client.log_in(leaving)
    signed = old.client.procedure("com.atproto.identity.signPlcOperation", {**credentials, "token": token})
    new.client.procedure("com.atproto.identity.submitPlcOperation", {"operation": signed["operation"]})


def activate(
    world: World, did: str, sessions: tuple[str, str], monkeypatch: pytest.MonkeyPatch, member_keys: list[str]
) -> None:
    """The identity names the new server, where the account is in use from now on."""
    old, new = world.old, world.new
    leaving, arriving = sessions
    assert new.client.query("com.atproto.server.checkAccountStatus", {})["validDid"] is False, (
        "everything is moved but the identity"
    )
    old.send(leaving, "com.atproto.identity.requestPlcOperationSignature")
    _change_identity(old, new, leaving, _token(old, did, monkeypatch), member_keys)
    new.send(arriving, "com.atproto.server.activateAccount")
    old.client.procedure("com.atproto.server.deactivateAccount", {})


def _move(world: World, did: str, handle: str, monkeypatch: pytest.MonkeyPatch, member_keys: list[str]) -> None:
    """The whole move, in the order of docs/guide/members.md."""
    sessions = arrive(world.old, world.new, did, handle)
    import_records(world.old, world.new, did, sessions[1])
    import_blobs(world.old, world.new, did)
    activate(world, did, sessions, monkeypatch, member_keys)


def _moved(world: World, did: str, records: dict[str, str], blob_content: bytes) -> None:
    """Assert that the records are unchanged, the DID names the new server, and the old server reports the move."""
    old, new = world.old, world.new
    data = directory_data(world.directory.url, did)
    assert data["services"]["atproto_pds"]["endpoint"] == f"https://{NEW}"
    new.log_in(did)  # with the password, after all tokens of the move
    assert new.client.query("com.atproto.server.checkAccountStatus", {})["validDid"] is True
    assert new.records(did) == records
    assert new.client.query("app.bsky.actor.getPreferences", {})["preferences"] == PREFERENCES
    [blob] = new.client.query("com.atproto.sync.listBlobs", {"did": did})["cids"]
    assert b"".join(new.client.stream_blob(did, blob)) == blob_content
    assert (old.status(did), new.status(did)) == ((False, "deactivated"), (True, None))
    new.post(did, "here now")


def test_member_moves_without_mail_and_keeps_identity_posts_and_blobs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    did, blob_content = member_of(world.old, "ann", recoveryKey=MEMBER_KEY)
    records = world.old.records(did)
    assert len(records) == 4
    handle = f"ann.{NEW}"
    _move(world, did, handle, monkeypatch, [MEMBER_KEY])
    _moved(world, did, records, blob_content)
    data = directory_data(world.directory.url, did)
    theirs = did_key(OTHER_SECRETS["PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"])
    assert data["rotationKeys"] == [MEMBER_KEY, theirs], "the member's key stays, and the old server's key is removed"
    assert data["alsoKnownAs"] == [f"at://{handle}"], "a handle under the old server stays with the old server"


def test_member_with_an_own_domain_keeps_the_handle(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    did, blob_content = member_of(world.old, "eve")
    world.dns[f"TXT _atproto.{OWN_DOMAIN}"] = [f"did={did}"]
    world.old.client.procedure("com.atproto.identity.updateHandle", {"handle": OWN_DOMAIN})
    records = world.old.records(did)
    _move(world, did, OWN_DOMAIN, monkeypatch, [])
    _moved(world, did, records, blob_content)
    assert directory_data(world.directory.url, did)["alsoKnownAs"] == [f"at://{OWN_DOMAIN}"]
