"""Checks of the server itself, through its ingress: health, certificate, WebSocket, OAuth, limits, invites."""

import random
import ssl
import time
from typing import Any

import httpx

from cli.check.site import Site
from cli.check.subject import CheckVerdict, Subject, failed, passed, skipped
from cli.snapshot.repository import is_hash_of
from components.settings.fields.images import package_of_health

_LEAST_DAYS = 7
"""As the alert: certificates are renewed well before."""
_SAMPLE = 5
_ACCOUNTS, _BLOBS = 20, 2
"""Accounts to look at for blobs, and blobs to request."""
_PAUSED = (
    "it is paused, and no alert reports that it does not answer. If no restore or move is under way, remove 'paused' "
    "from the section 'pds:pds' and run `pulumi up`."
)
DEFAULT_BLOB_LIMIT = 5 * 1024 * 1024
"""Bytes; the server's default for PDS_BLOB_UPLOAD_LIMIT (config.js of @atproto/pds)."""


def health(subject: Subject) -> CheckVerdict:
    """Check that it answers, with the version of the stack."""
    state = subject.outputs.get("state")
    try:
        answer = subject.site.request("GET", "/xrpc/_health")
    except httpx.ConnectError as error:
        if "certificate" in str(error).lower():
            return skipped("the certificate is refused: see below")
        return failed(_silent(subject, state, error))
    except httpx.HTTPError as error:
        return failed(_silent(subject, state, error))
    if state == "paused":
        return failed(_PAUSED)
    if answer.status_code != 200:
        return failed(f"/xrpc/_health answers {answer.status_code}. `./pds nomad {subject.stack} -- job status pds`.")
    running, expected = package_of_health(str(answer.json()["version"])), subject.outputs.get("package_version")
    if running != expected:
        return failed(f"version {running} runs, the stack requires {expected}. Run `pulumi up`.")
    return passed(f"version {running} answers")


def _silent(subject: Subject, state: object, error: Exception) -> str:
    if state == "paused":
        return _PAUSED
    return (
        f"nothing answers at {subject.site.address}:{subject.site.port} ({error or type(error).__name__}). "
        "See docs/guide/troubleshooting.md#slow-or-failing-resources."
    )


def certificate(subject: Subject) -> CheckVerdict:
    """Check that it is for this name, from a public CA, and does not expire soon."""
    if subject.site.tls is None:
        return skipped("plain HTTP has none")
    try:
        certificate = subject.site.certificate()
    except ssl.SSLCertVerificationError as error:
        return failed(
            f"it is refused: {error.verify_message}. Look at the ingress's log; `ServerReady` of `up` waits for one."
        )
    except OSError as error:
        return failed(f"no TLS connection: {error}. Look at the ingress's log.")
    ends = str(certificate["notAfter"])
    days = int((ssl.cert_time_to_seconds(ends) - time.time()) // 86400)
    if days < _LEAST_DAYS:
        return failed(f"it ends on {ends}, in {days} days, and was not renewed. Look at the ingress's log.")
    return passed(f"good until {ends}, {days} days")


def websocket(subject: Subject) -> CheckVerdict:
    """Check that a relay can subscribe."""
    path = "/xrpc/com.atproto.sync.subscribeRepos"
    try:
        code = subject.site.upgrade(path)
    except OSError as error:
        return failed(f"{path} cannot be subscribed to: {error}. Let the ingress pass WebSockets.")
    if code != httpx.codes.SWITCHING_PROTOCOLS:
        return failed(
            f"{path} answers {code} instead of an upgrade: let the ingress pass WebSockets, or no relay gets posts."
        )
    return passed("subscribeRepos upgrades")


def oauth(subject: Subject) -> CheckVerdict:
    """Check that apps find the login, and find it here."""
    expected = f"https://{subject.hostname}"
    resource = _json(subject.site, "/.well-known/oauth-protected-resource")
    server = _json(subject.site, "/.well-known/oauth-authorization-server")
    published = {
        "resource": resource.get("resource"),
        "authorization_servers": (resource.get("authorization_servers") or [None])[0],
        "issuer": server.get("issuer"),
    }
    for name, value in published.items():
        if value != expected:
            return failed(
                f"{name} is {value}, not {expected}: apps cannot log in. Let the ingress pass /.well-known/oauth-*."
            )
    return passed(f"the issuer is {expected}")


def _json(site: Site, path: str) -> dict[str, Any]:
    """Return the JSON object there, empty if there is none."""
    answer = site.request("GET", path)
    try:
        content = answer.json() if answer.status_code == 200 else {}
    except ValueError:
        content = {}
    return content if isinstance(content, dict) else {}


def invites(subject: Subject) -> CheckVerdict:
    """Check that accounts need an invite."""
    required = _json(subject.site, "/xrpc/com.atproto.server.describeServer").get("inviteCodeRequired")
    expected = subject.environment.get("PDS_INVITE_REQUIRED", "true") == "true"
    if bool(required) != expected:
        stack_file = "requires invites" if expected else "has 'invite_required: false'"
        return failed(f"the server reports inviteCodeRequired = {required}, the stack {stack_file}. Run `pulumi up`.")
    return passed("required" if required else "not required, as configured in the stack file")


def blob_limit(subject: Subject) -> CheckVerdict:
    """Check that the ingress passes a blob of the largest size. Sent without a login, so that the server keeps none of
    it.

    This detects an ingress that checks the announced length or collects the body; not one that counts while it streams,
    because the server requires a login before it reads.
    """
    limit = int(subject.environment.get("PDS_BLOB_UPLOAD_LIMIT", DEFAULT_BLOB_LIMIT))
    status = subject.site.upload("/xrpc/com.atproto.repo.uploadBlob", limit)
    if status == 401:
        return passed(f"{limit:,} bytes reach the server, which requires a login")
    if status == 413:
        return failed(
            f"{limit:,} bytes are refused before the server requires a login: raise the ingress's limit of a body."
        )
    return failed(f"{limit:,} bytes are answered with {status}, not with the server's 401. Check the ingress.")


def blobs(subject: Subject) -> CheckVerdict:
    """Check that the server serves a blob that it lists, with the content of its name: a lost volume or bucket, or a
    key that the bucket does not accept, leaves the server running."""
    page = _json(subject.site, f"/xrpc/com.atproto.sync.listRepos?limit={_ACCOUNTS}")
    for did in (repo["did"] for repo in page.get("repos", []) if repo.get("active", True)):
        cids = _json(subject.site, f"/xrpc/com.atproto.sync.listBlobs?did={did}&limit={_BLOBS}").get("cids", [])
        # One may be lost or taken down: that is the business of backups.
        answers = [_blob(subject.site, did, cid) for cid in cids]
        if None in answers:
            return passed(f"a blob of {did} is served, with the content of its name")
        if answers:
            return failed(
                f"{len(answers)} blobs of {did} were requested: {answers[0]}. Look at the server's log"
                + (f"; `./pds blobs {subject.stack}` counts what the bucket has." if _in_bucket(subject) else ".")
            )
    return skipped(f"none of {len(page.get('repos', []))} accounts has a blob")


def _in_bucket(subject: Subject) -> bool:
    return bool(subject.settings and subject.settings.blobs_in_bucket)


def _blob(site: Site, did: str, cid: str) -> str | None:
    """Return what is wrong with a blob; None if the server sends it whole."""
    answer = site.request("GET", "/xrpc/com.atproto.sync.getBlob", params={"did": did, "cid": cid})
    if answer.status_code != 200:
        return f"{cid} is answered with {answer.status_code}"
    return None if is_hash_of(cid, answer.content) else f"{cid} has other content than its name says"


def rate_limit(subject: Subject) -> CheckVerdict:
    """Check that the server distinguishes clients. Each response has the remaining requests of its client.

    A second address proves it: requests from one are not counted for the other. One address only shows that forged
    client addresses (X-Forwarded-For) are ignored, and that no other client is counted with it.
    """
    if subject.environment.get("PDS_RATE_LIMITS_ENABLED") != "true":
        return skipped("the stack file turns rate limits off")
    for _attempt in range(2):  # the count restarts every five minutes
        before, middle, after = _left(subject.site), _left(subject.second), None
        if before is None:
            return failed("answers carry no RateLimit-Remaining: the server does not limit. Run `pulumi up`.")
        for _request in range(_SAMPLE):
            _left(subject.site, claimed=f"198.51.100.{random.randint(1, 254)}")  # noqa: S311
        after, other = _left(subject.site), _left(subject.second)
        if after is not None and after < before:
            break
    else:
        return failed("the count of requests does not fall. Try again; if it stays so, check the ingress.")
    counted = before - after
    if counted < _SAMPLE + 1:
        return failed(
            "a client that claims another address (X-Forwarded-For) is believed, so no client is limited: let the "
            "ingress replace that header."
        )
    if middle is not None and other is not None:
        if middle - other > 1:
            return failed(
                "requests of one address are counted as another's: the server sees one client. Let the ingress set "
                "X-Forwarded-For."
            )
        return passed(f"two addresses are distinguished; {after} requests left for this one")
    if counted > _SAMPLE + 1:
        return failed(
            f"{counted} requests were counted instead of {_SAMPLE + 1}: others share your count. Either they "
            "share your address, or the ingress hides all addresses: try again from another network."
        )
    return passed(
        f"claimed addresses are not believed, and no other client is counted with you ({after} left); a second "
        "address shows whether two clients are distinguished: --source ADDRESS"
    )


def _left(site: Site | None, claimed: str | None = None) -> int | None:
    """Return the requests that the server still allows this client, by a request of its own."""
    if site is None:
        return None
    headers = {"X-Forwarded-For": claimed} if claimed else {}
    answer = site.request("GET", "/xrpc/com.atproto.server.describeServer", headers=headers)
    remaining = answer.headers.get("RateLimit-Remaining")
    return int(remaining) if remaining is not None else None
