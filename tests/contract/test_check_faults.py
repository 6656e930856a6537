"""`./pds check` with the real server: each fault of the server, the ingress or a document fails its check."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.snapshot.did_keys import did_key
from tests.contract.checked_host import EMAIL, HANDLE, HOST, HostConnection, repos, with_env
from tests.contract.lines import one_line
from tests.support import fake_dns
from tests.support.certificates import Authority, server_context
from tests.support.ingress_stand_in import Ingress, Planted
from tests.support.programs import settings_of
from tools.trial.directory import PlcDirectory

pytestmark = [pytest.mark.contract, one_line]

OTHER = did_key("5d" * 32)
P256 = "did:key:zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169"


@pytest.fixture(scope="module")
def place(checked_host: HostConnection) -> HostConnection:
    return checked_host


PLANTED: dict[str, tuple[str, Planted, str]] = {
    "an unhealthy server": (f"{HOST}/xrpc/_health", Planted(503, "{}"), "health"),
    "a server of another version": (f"{HOST}/xrpc/_health", Planted(200, '{"version": "0.4.1"}'), "health"),
    "no OAuth metadata": (f"{HOST}/.well-known/oauth-authorization-server", Planted(404, ""), "OAuth"),
    "another's OAuth metadata": (
        f"{HOST}/.well-known/oauth-protected-resource",
        Planted(200, '{"resource": "https://other.at"}'),
        "OAuth",
    ),
    "an answer for every handle": ("*/.well-known/atproto-did", Planted(200, "did:plc:x", "text/plain"), "handles"),
    "a handle of another account": (
        f"{HANDLE}/.well-known/atproto-did",
        Planted(200, "did:plc:somebodyelse", "text/plain"),
        "handles",
    ),
    "a handle that does not resolve": (f"{HANDLE}/.well-known/atproto-did", Planted(404, ""), "handles"),
    "invites not required": (
        f"{HOST}/xrpc/com.atproto.server.describeServer",
        Planted(200, '{"inviteCodeRequired": false}'),
        "invites",
    ),
    "a server without rate limits": (
        f"{HOST}/xrpc/com.atproto.server.describeServer",
        Planted(200, '{"inviteCodeRequired": true}'),
        "rate limit",
    ),
    "blobs that are lost": (
        f"{HOST}/xrpc/com.atproto.sync.getBlob",
        Planted(400, '{"error": "BlobNotFound"}'),
        "blobs",
    ),
    "a blob with other content": (f"{HOST}/xrpc/com.atproto.sync.getBlob", Planted(200, "another picture"), "blobs"),
    "a malformed answer": (f"{HOST}/xrpc/com.atproto.sync.listRepos", Planted(200, "{}"), "DID documents"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_fault_fails_its_check(place: HostConnection, fault: str) -> None:
    where, planted, name = PLANTED[fault]
    place.ingress.planted[where] = planted
    try:
        red = place.red()
    finally:
        place.ingress.planted.clear()
    assert name in red, f"{fault} was not found"
    assert red.keys() - {name} <= {"rate limit", "handles"}, "only checks that use the same answer may fail, too"
    assert len(red[name]) > 30, "the message must name a remedy"


def test_handle_that_resolves_only_by_dns_passes(place: HostConnection) -> None:
    (did,) = (repo["did"] for repo in repos(place))
    place.ingress.planted[f"{HANDLE}/.well-known/atproto-did"] = Planted(404, "")
    try:
        with fake_dns.serve({f"TXT _atproto.{HANDLE}": [f"did={did}"]}) as known:
            assert "by DNS" in place.results(nameservers=(known,))["handles"].remark
        with fake_dns.serve({f"TXT _atproto.{HANDLE}": ["did=did:plc:somebodyelse"]}) as wrong:
            assert "did:plc:somebodyelse" in place.red(nameservers=(wrong,))["handles"]
    finally:
        place.ingress.planted.clear()


INGRESSES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no WebSockets": ({"websockets": False}, "WebSocket", "let the ingress pass WebSockets"),
    "a limit of its own": ({"body_limit": 1_000_000}, "blob limit", "raise the ingress's limit"),
    "claimed addresses believed": ({"forwarded": "pass"}, "rate limit", "let the ingress replace that header"),
    "addresses hidden": ({"forwarded": "drop"}, "rate limit", "the server sees one client"),
}


@pytest.mark.parametrize("fault", INGRESSES)
def test_fault_of_the_ingress_fails_its_check(place: HostConnection, fault: str) -> None:
    changes, name, message = INGRESSES[fault]
    before = {key: getattr(place.ingress, key) for key in changes}
    vars(place.ingress).update(changes)
    try:
        red = place.red()
    finally:
        vars(place.ingress).update(before)
    assert list(red) == [name]
    assert message in red[name]


@pytest.mark.parametrize(
    ("issue", "message"),
    [
        (lambda authority: authority.issue(HOST, days=-0.5), "expired"),
        (lambda authority: authority.issue("other.at", days=60), "ostname mismatch"),
        (lambda _authority: Authority("a stranger").issue(HOST, days=60), "issuer"),
        (lambda authority: authority.issue(HOST, f"*.{HOST}", days=3.5), "in 3 days"),
    ],
    ids=["expired", "another name's", "an unknown CA's", "about to end"],
)
def test_bad_certificate_is_one_failed_check(
    place: HostConnection, tmp_path: Path, issue: Callable[[Authority], Any], message: str
) -> None:
    with Ingress(place.ingress.upstream, server_context(issue(place.authority), tmp_path)) as ingress:
        red = place.red(site=place.behind(ingress), second=None)
    assert list(red) == ["certificate"], "checks that need the certificate are skipped"
    assert message in red["certificate"]


def test_reports_did_documents_that_the_rotation_key_cannot_change(place: HostConnection) -> None:
    red = place.red(outputs=with_env(place, PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX="5d" * 32))
    assert list(red) == ["DID documents"]
    assert "our rotation key" in red["DID documents"]


def test_reports_an_account_whose_did_document_names_another_server(
    place: HostConnection, directory: PlcDirectory
) -> None:
    (did,) = (repo["did"] for repo in repos(place))
    document = {"rotationKeys": [], "alsoKnownAs": [f"at://{HANDLE}"], "services": {}}
    with Ingress(int(directory.url.rpartition(":")[2]), planted={}) as other:
        genuine = place.results(outputs=with_env(place, PDS_DID_PLC_URL=other.url))["DID documents"]
        assert genuine.ok, genuine
        keys = _directory_data(other.url, did)["rotationKeys"]
        moved = {**document, "rotationKeys": keys, "services": {"atproto_pds": {"endpoint": "https://other.at"}}}
        other.planted[f"127.0.0.1/{did}/data"] = Planted(200, json.dumps(moved))
        red = place.red(outputs=with_env(place, PDS_DID_PLC_URL=other.url))
    assert list(red) == ["DID documents"]
    assert "points at https://other.at" in red["DID documents"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verificationMethods": {"atproto": OTHER}}, f"names the key {OTHER}, which did not sign"),
        ({"verificationMethods": {"atproto": P256}}, f"names the key {P256}, which did not sign"),
        ({"verificationMethods": {}}, "names no signing key"),
    ],
    ids=["another key", "a key of the other curve", "no key"],
)
def test_reports_an_account_whose_posts_relays_drop(
    place: HostConnection, directory: PlcDirectory, change: dict[str, Any], message: str
) -> None:
    """The document names this server, but not the key with which it signs: no member sees an error."""
    (did,) = (repo["did"] for repo in repos(place))
    with Ingress(int(directory.url.rpartition(":")[2]), planted={}) as other:
        changed = _directory_data(other.url, did) | change
        other.planted[f"127.0.0.1/{did}/data"] = Planted(200, json.dumps(changed))
        red = place.red(outputs=with_env(place, PDS_DID_PLC_URL=other.url))
    assert list(red) == ["DID documents"]
    assert message in red["DID documents"]


def test_names_the_accounts_that_lost_their_recovery_key(place: HostConnection) -> None:
    """A move to this server drops the key unless the member puts it back, and nothing else shows that."""
    own = did_key("21" * 32)
    member = {"handle": HANDLE, "email": EMAIL, "recovery_key": own}
    red = place.red(settings=settings_of(members=[member]))
    assert f"missing for {HANDLE} ({own}): its holder cannot" in red["DID documents"]
    assert "add-rotation-key --first" in red["DID documents"]
    red = place.red(settings=settings_of(members=[{"handle": HANDLE, "email": EMAIL}]))
    assert "DID documents" not in red, "without a key in the stack file none is missing"


def test_an_account_that_is_older_than_the_recovery_key_of_new_accounts_is_no_fault(place: HostConnection) -> None:
    """The server adds the key to new accounts only, so the line would be red for ever."""
    settings = settings_of(pds={"recovery_did_key": did_key("22" * 32)})
    line = place.results(settings=settings)["DID documents"]
    assert line.ok is True, line
    assert f"1 are older than 'pds.recovery_did_key' or came from another server, and lack it: {HANDLE}" in line.remark


def _directory_data(url: str, did: str) -> dict[str, Any]:
    from cli.check.plc_documents import directory_data

    return directory_data(url, did)
