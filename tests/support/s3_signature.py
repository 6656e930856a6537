"""Verifies signature version 4 of an S3 request as S3 does.

Written from the public documentation, not from a client, so that it does not repeat a client's mistake:
docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html and sigv4-streaming.html; the codes are those of
docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. Presigned URLs and version 2 are not supported: no client
of this project sends them.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote, unquote_to_bytes

ALGORITHM = "AWS4-HMAC-SHA256"
_UNSIGNED = "UNSIGNED-PAYLOAD"
_SIGNED_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
_STREAMING = (_SIGNED_CHUNKS, f"{_SIGNED_CHUNKS}-TRAILER", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
_EMPTY = hashlib.sha256(b"").hexdigest()
_SKEW = timedelta(minutes=15)
_CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/(\d{8})/([^/,\s]*)/([^/,\s]+)/aws4_request")


class S3Error(Exception):
    """An error response; `more` are further elements of its body."""

    def __init__(self, status: int, code: str, message: str, **more: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message, self.more = status, code, message, more


def access_denied() -> S3Error:
    """The key may not do this, or there is none."""
    return S3Error(403, "AccessDenied", "Access Denied")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a signature covers. `target` is the request's target as sent, header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The path as sent; a proxy gets the whole URL."""
        return re.sub(r"^https?://[^/?]*", "", self.target.partition("?")[0]) or "/"

    @property
    def query(self) -> list[tuple[str, str]]:
        """The decoded parameters."""
        parts = [item.partition("=") for item in self.target.partition("?")[2].split("&") if item]
        return [(unquote(name), unquote(value)) for name, _, value in parts]


@dataclass(frozen=True)
class _Claim:
    """The content of an Authorization header."""

    access_key: str
    date: str
    region: str
    service: str
    signed: Sequence[str]
    signature: str

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def verify(request: Request, secrets: Mapping[str, str], regions: Sequence[str]) -> str:
    """The access key of a request that one of `secrets` signed for one of `regions`, the first of which is the
    bucket's. Raises S3Error."""
    claim = _claim(request)
    at = _time(request)
    if claim.access_key not in secrets:
        raise S3Error(
            403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.",
            AWSAccessKeyId=claim.access_key,
        )  # fmt: skip
    if claim.region not in regions:
        raise _malformed(f"the region '{claim.region}' is wrong; expecting '{regions[0]}'", Region=regions[0])
    if claim.service != "s3":
        raise _malformed(f'incorrect service "{claim.service}". This endpoint belongs to "s3".')
    if claim.date != at.strftime("%Y%m%d"):
        raise _malformed(f"Invalid credential date {claim.date!r}. This date is not the same as X-Amz-Date.")
    if abs(datetime.now(UTC) - at) > _SKEW:
        raise S3Error(
            403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."
        )
    key = _key(secrets[claim.access_key], claim)
    payload = _payload(request)
    text = _to_sign(ALGORITHM, request, claim, hashlib.sha256(_canonical(request, claim, payload)).hexdigest())
    if not hmac.compare_digest(_sign(key, text), claim.signature):
        raise _mismatch()
    if payload.startswith(_SIGNED_CHUNKS):
        _verify_chunks(request, claim, key, payload)
    return claim.access_key


def _claim(request: Request) -> _Claim:
    text = request.headers.get("authorization", "")
    if not text:
        raise access_denied()
    if not text.startswith(f"{ALGORITHM} "):
        raise S3Error(
            400, "InvalidRequest",
            f"The authorization mechanism you have provided is not supported. Please use {ALGORITHM}.",
        )  # fmt: skip
    credential, signed = _CREDENTIAL.search(text), re.search(r"SignedHeaders=([a-z0-9;._-]+)", text)
    signature = re.search(r"Signature=([0-9a-f]{64})\b", text)
    if not (credential and signed and signature):
        raise _malformed("it needs a Credential, SignedHeaders and a Signature")
    names = signed[1].split(";")
    # "There were headers present in the request which were not signed": the host and each x-amz header have to be.
    unsigned = [name for name in ("host", *request.headers) if name == "host" or name.startswith("x-amz-")]
    if set(unsigned) - set(names):
        raise S3Error(403, "AccessDenied", "There were headers present in the request which were not signed")
    access_key, date, region, service = credential.groups()
    return _Claim(access_key, date, region, service, names, signature[1])


def _time(request: Request) -> datetime:
    try:
        return datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except (KeyError, ValueError):
        raise S3Error(403, "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header") from None


def _payload(request: Request) -> str:
    digest = request.headers.get("x-amz-content-sha256")
    if digest is None:
        raise S3Error(400, "InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    if digest in (_UNSIGNED, *_STREAMING):
        return digest
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise S3Error(
            400,
            "InvalidArgument",
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-… or a valid sha256 value.",
        )
    if hashlib.sha256(request.body).hexdigest() != digest:
        raise S3Error(
            400,
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        )
    return digest


def _canonical(request: Request, claim: _Claim, payload: str) -> bytes:
    path = quote(unquote_to_bytes(request.path), safe="/-_.~")
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in request.query)
    lines = [request.method, path, "&".join(f"{name}={value}" for name, value in pairs)]
    lines += [f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in claim.signed]
    lines += ["", ";".join(claim.signed), payload]
    return "\n".join(lines).encode()


def _to_sign(algorithm: str, request: Request, claim: _Claim, *rest: str) -> str:
    return "\n".join((algorithm, request.headers["x-amz-date"], claim.scope, *rest))


def _key(secret: str, claim: _Claim) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in claim.scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _sign(key: bytes, text: str) -> str:
    return hmac.digest(key, text.encode(), "sha256").hex()


def _verify_chunks(request: Request, claim: _Claim, key: bytes, payload: str) -> None:
    """Each chunk's signature covers the one before it; the last chunk is empty. Trailers are signed likewise."""
    rest, before, size = request.body, claim.signature, -1
    while size != 0:
        head, _, rest = rest.partition(b"\r\n")
        match = re.fullmatch(rb"([0-9a-fA-F]+);chunk-signature=([0-9a-f]{64})", head)
        if not match:
            raise S3Error(400, "IncompleteBody", "The request body terminated unexpectedly")
        size = int(match[1], 16)
        data, rest = rest[:size], rest[size:]
        digest = hashlib.sha256(data).hexdigest()
        text = _to_sign(f"{ALGORITHM}-PAYLOAD", request, claim, before, _EMPTY, digest)
        if _sign(key, text) != match[2].decode():
            raise _mismatch()
        before = match[2].decode()
        if size or not payload.endswith("-TRAILER"):
            rest = rest.removeprefix(b"\r\n")
    if payload.endswith("-TRAILER"):
        lines, _, signature = rest.rstrip(b"\r\n").rpartition(b"x-amz-trailer-signature:")
        trailer = lines.replace(b"\r\n", b"\n")
        digest = hashlib.sha256(trailer).hexdigest()
        text = _to_sign(f"{ALGORITHM}-TRAILER", request, claim, before, digest)
        if _sign(key, text) != signature.decode().strip():
            raise _mismatch()


def _malformed(why: str, **more: str) -> S3Error:
    return S3Error(400, "AuthorizationHeaderMalformed", f"The authorization header is malformed; {why}", **more)


def _mismatch() -> S3Error:
    return S3Error(
        403, "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided.",
    )  # fmt: skip
