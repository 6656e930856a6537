"""An S3 service as strict as real ones, run as a program: a proxy in front of moto's server, which checks nothing.

`tests/support/s3.py` starts it; docs/test-doubles.md lists its checks, with the sources.

The proxy handles signatures and their region, keys and their rights, owners of buckets, virtual-hosted names, and S3's
requirements on every request. moto handles buckets, objects, versions, delete markers and their forms.
"""

import base64
import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from io import BytesIO
from itertools import pairwise
from typing import Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

from tests.support.s3_signature import Request, S3Error, access_denied, verify

CONTROL = "/_bench/"
"""Paths that control the service in tests; no bucket's name begins with an underscore."""
_BUCKET_PARTS = ("acl", "cors", "lifecycle", "logging", "policy", "versioning", "tagging", "website", "encryption")
_READ = frozenset({"HeadBucket", "ListObjects", "GetObject"})
_WRITE = _READ | {"PutObject", "DeleteObject", "AbortMultipartUpload", "ListParts", "ListMultipartUploads"}
PERMISSIONS: Mapping[str, frozenset[str]] = {"read": _READ, "readwrite": _WRITE}
"""The permissions of a key that is limited to a bucket. Seen in public reports: such a key is refused CreateBucket, and
HeadBucket works (parse-community/parse-server-s3-adapter#230); GET ?acl is refused (owncloud/files_primary_s3#690).
Nothing is published about bucket configuration, locations and versions, so they are refused and the project must not
need them."""
_NEED_A_DIGEST = ("DeleteObjects", "PutBucketlifecycle", "PutBucketcors", "PutBucketpolicy", "PutBuckettagging")
"""Requests whose body has to have a checksum (docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html)."""

Start = Callable[..., Any]
Environ = dict[str, Any]


@dataclass
class Key:
    """An access key: its account, and its limits by grants of (bucket, permission)."""

    secret: str
    account: str = "ours"
    grants: Sequence[tuple[str, str]] | None = None

    def may(self, operation: str, bucket: str) -> bool:
        """Whether this key may do that in a bucket of its account."""
        if self.grants is None:
            return True
        return any(name == bucket and operation in PERMISSIONS.get(permission, ()) for name, permission in self.grants)


@dataclass
class S3Proxy:
    """The service; a signature may name any of `regions`, the first of which is the service's own."""

    inner: Callable[[Environ, Start], Iterable[bytes]]
    regions: Sequence[str]
    hosts: Sequence[str] = ()
    """The endpoint's names: in front of one of them a bucket can be the first label."""
    checksums: bool = True
    """Whether it supports the CRC checksums that newer SDKs send; not every S3 service does."""
    keys: dict[str, Key] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    """Accounts by bucket."""

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith(CONTROL):
            return self._control(environ, start)
        try:
            return self._answer(environ, start)
        except S3Error as error:
            return _refuse(environ, start, error, self.regions[0])

    def _answer(self, environ: Environ, start: Start) -> Iterable[bytes]:
        request = _request(environ)
        access_key = verify(request, {name: key.secret for name, key in self.keys.items()}, self.regions)
        bucket, path = self._place(request)
        operation = operation_of(request.method, bucket, path, dict(request.query))
        _check_body(request, operation, self.checksums)
        key = self.keys[access_key]
        source = unquote(request.headers.get("x-amz-copy-source", "")).removeprefix("/").partition("/")[0]
        if not key.may(operation, bucket) or (source and not key.may("GetObject", source)):
            raise access_denied()
        if source and self.owners.get(source, key.account) != key.account:
            raise access_denied()
        if operation == "CreateBucket":
            self._create(environ, bucket, key, request.body)
        elif bucket and self.owners.get(bucket, key.account) != key.account:
            raise access_denied()
        if operation == "GetBucketLocation" and bucket in self.owners:
            return self._location(start)
        environ["HTTP_HOST"] = f"127.0.0.1:{environ['SERVER_PORT']}"
        environ["PATH_INFO"] = f"/{bucket}/{path}" if bucket else "/"
        # moto reads the signed target again.
        target = quote(environ["PATH_INFO"], safe="/-_.~") + (f"?{environ['QUERY_STRING']}" if request.query else "")
        environ["RAW_URI"] = environ["REQUEST_URI"] = target
        environ["PATH_INFO"] = environ["PATH_INFO"].encode().decode("latin-1")

        def started(status: str, headers: Any, *more: Any) -> Any:
            if status.startswith("2") and operation == "CreateBucket":
                self.owners[bucket] = key.account
            if status.startswith("2") and operation == "DeleteBucket":
                del self.owners[bucket]
            return start(status, headers, *more)

        return self.inner(environ, started)

    def _place(self, request: Request) -> tuple[str, str]:
        """Bucket and key, from either form of address."""
        host = request.headers["host"].partition(":")[0].lower()
        path = unquote(request.path).removeprefix("/")
        own = (*self.hosts, "localhost")
        if host in own or re.fullmatch(r"[0-9.]+", host):
            bucket, _, key = path.partition("/")
            return bucket, key
        # At an unknown name a service takes the whole name as a bucket's (virtual hosting by CNAME).
        return next((host.removesuffix(f".{name}") for name in own if host.endswith(f".{name}")), host), path

    def _create(self, environ: Environ, bucket: str, key: Key, body: bytes) -> None:
        """Names are unique among all accounts. Spaces also refuses a second creation of an own bucket
        (parse-community/parse-server-s3-adapter#230)."""
        if self.owners.get(bucket, key.account) != key.account:
            raise S3Error(409, "BucketAlreadyExists", "The requested bucket name is not available.")
        if bucket in self.owners:
            code = "BucketAlreadyExists" if len(self.regions) > 1 else "BucketAlreadyOwnedByYou"
            raise S3Error(409, code, "The bucket that you tried to create already exists.")
        constraint = re.search(rb"<LocationConstraint[^>]*>([^<]*)<", body)
        if constraint and constraint[1].decode() not in self.regions:
            message = (
                f"The {constraint[1].decode()} location constraint is incompatible for the region specific endpoint."
            )
            raise S3Error(400, "IllegalLocationConstraintException", message)
        # moto has Amazon's regions only.
        environ.update({"wsgi.input": BytesIO(), "CONTENT_LENGTH": "0"})
        environ["HTTP_AUTHORIZATION"] = re.sub(r"/[^/]*/s3/", "/us-east-1/s3/", environ["HTTP_AUTHORIZATION"])

    def _location(self, start: Start) -> Iterable[bytes]:
        """The region is empty for us-east-1 (API_GetBucketLocation)."""
        region = "" if self.regions[0] == "us-east-1" else self.regions[0]
        text = f'<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{region}</LocationConstraint>'
        return _answered(start, "200 OK", text.encode())

    def _control(self, environ: Environ, start: Start) -> Iterable[bytes]:
        method, action = environ["REQUEST_METHOD"], environ["PATH_INFO"].removeprefix(CONTROL)
        body = json.loads(_body(environ) or b"null")
        response: Any = "ok"
        if (method, action) == ("GET", "buckets"):
            response = self.owners
        elif method == "PUT" and action.startswith("keys/"):
            self.keys[action.removeprefix("keys/")] = Key(**body)
        elif method == "DELETE" and action.startswith("keys/"):
            self.keys.pop(action.removeprefix("keys/"), None)
        elif method == "POST" and action == "days":
            pass_days(body)
        elif (method, action) == ("POST", "age"):
            age(**body)
        elif (method, action) != ("GET", "health"):
            return _answered(start, "404 Not Found", b"null")
        return _answered(start, "200 OK", json.dumps(response).encode())


def operation_of(method: str, bucket: str, key: str, query: Mapping[str, str]) -> str:
    """The API's name of the requested operation. Raises S3Error for operations that no client of this project uses."""
    if not bucket:
        return "ListBuckets"
    if key:
        return _object_operation(method, query)
    part = next((name for name in _BUCKET_PARTS if name in query), "")
    special = {
        ("GET", "versions"): "ListObjectVersions",
        ("GET", "uploads"): "ListMultipartUploads",
        ("GET", "location"): "GetBucketLocation",
        ("POST", "delete"): "DeleteObjects",
    }
    for (verb, name), operation in special.items():
        if method == verb and name in query:
            return operation
    if part:
        return f"{method.capitalize()}Bucket{part}"
    plain = {"GET": "ListObjects", "HEAD": "HeadBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket"}
    if method not in plain:
        raise S3Error(
            501,
            "NotImplemented",
            f"this S3 service does not know {method} of a bucket; see tests/support/s3_service.py",
        )
    return plain[method]


def _object_operation(method: str, query: Mapping[str, str]) -> str:
    for name in ("acl", "tagging", "retention", "legal-hold", "torrent", "attributes"):
        if name in query:
            return f"{method.capitalize()}Object{name}"
    if "versionId" in query:
        return {"DELETE": "DeleteObjectVersion"}.get(method, "GetObjectVersion")
    if "uploadId" in query and method in ("GET", "DELETE"):
        return "ListParts" if method == "GET" else "AbortMultipartUpload"
    return {"DELETE": "DeleteObject", "GET": "GetObject", "HEAD": "GetObject"}.get(method, "PutObject")


def _check_body(request: Request, operation: str, checksums: bool) -> None:
    headers, streamed = request.headers, request.headers.get("x-amz-content-sha256", "").startswith("STREAMING")
    newer = [name for name in headers if name.startswith(("x-amz-checksum-", "x-amz-sdk-checksum", "x-amz-trailer"))]
    if newer and not checksums:
        # The response of services that support only Content-MD5 (seen at Backblaze B2 and others in 2025).
        raise S3Error(400, "InvalidArgument", f"Unsupported header '{newer[0]}' received for this API call.")
    if request.method == "PUT" and "content-length" not in headers:
        raise S3Error(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
    digest = headers.get("content-md5")
    if operation in _NEED_A_DIGEST and not (digest or newer):
        raise S3Error(400, "InvalidRequest", "Missing required header for this request: Content-MD5")
    if (
        digest
        and not streamed
        and base64.b64encode(hashlib.md5(request.body, usedforsecurity=False).digest()) != (digest.encode())
    ):
        raise S3Error(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
    if operation == "DeleteObjects" and b"<VersionId>" in request.body:
        raise S3Error(
            501, "NotImplemented", "this S3 service deletes versions one by one; see tests/support/s3_service.py"
        )


def pass_days(days: int) -> None:
    """Apply every bucket's lifecycle rules as if this number of days had passed since the last write."""
    from moto.s3.models import FakeDeleteMarker, s3_backends

    now = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=days)

    def old(since: datetime, limit: Any) -> bool:
        return limit is not None and now - since.replace(tzinfo=None) >= timedelta(days=int(limit))

    for account in s3_backends.values():
        for bucket in account["aws"].buckets.values():
            for rule in (item for item in bucket.rules if item.status == "Enabled"):
                prefix = rule.prefix or (rule.filter.prefix if rule.filter else None) or ""
                for name in [item for item in bucket.keys if item.startswith(prefix)]:
                    versions = bucket.keys.getlist(name)
                    if old(versions[-1].last_modified, rule.expiration_days):
                        assert not bucket.is_versioned, "expiry of current versions leaves a marker; not known here"
                        versions = []
                    # A version is noncurrent since its successor came (API_NoncurrentVersionExpiration).
                    kept = [
                        item
                        for item, after in pairwise(versions)
                        if not old(after.last_modified, rule.nve_noncurrent_days)
                    ] + versions[-1:]
                    # A delete marker without an older version (API_LifecycleExpiration).
                    alone = len(kept) == 1 and isinstance(kept[0], FakeDeleteMarker)
                    if not kept or (alone and rule.expired_object_delete_marker == "true"):
                        dict.pop(bucket.keys, name)
                    else:
                        dict.__setitem__(bucket.keys, name, kept)


def age(bucket: str, name: str, days: int) -> None:
    """Set the time of the newest version of an object to this number of days ago. Raises KeyError if there is none."""
    from moto.s3.models import s3_backends

    [found] = [one for account in s3_backends.values() for one in account["aws"].buckets.values() if one.name == bucket]
    found.keys[name].last_modified -= timedelta(days=days)


def _body(environ: Environ) -> bytes:
    length = environ.get("CONTENT_LENGTH")
    source = environ["wsgi.input"]
    body: bytes = source.read(int(length)) if length else b""
    environ["wsgi.input"] = BytesIO(body)
    return body


def _request(environ: Environ) -> Request:
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): str(value)
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in ("CONTENT_LENGTH", "CONTENT_TYPE") and value)
    }
    return Request(method=environ["REQUEST_METHOD"], target=environ["RAW_URI"], headers=headers, body=_body(environ))


def _refuse(environ: Environ, start: Start, error: S3Error, region: str) -> Iterable[bytes]:
    about = {"Code": error.code, "Message": error.message, **error.more, "RequestId": "0"}
    inner = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in about.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'.encode()
    headers = [("x-amz-bucket-region", region)] if error.code == "AuthorizationHeaderMalformed" else []
    done = _answered(start, f"{error.status} {HTTPStatus(error.status).phrase}", body, headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else done


def _answered(start: Start, status: str, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> list[bytes]:
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body))), *headers])
    return [body]


def main() -> None:
    """Serve as the variable S3_SERVICE configures, until stopped."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    config = json.loads(os.environ["S3_SERVICE"])
    keys = {name: Key(**about) for name, about in config["keys"].items()}
    owners = dict(config["owners"])
    moto: Any = DomainDispatcherApplication(create_backend_app)
    proxy = S3Proxy(moto, config["regions"], config["hosts"], config["checksums"], keys)
    _fill(proxy, owners)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    run_simple(config["address"], config["port"], proxy, threaded=True, request_handler=MotoRequestHandler)


def _fill(proxy: S3Proxy, owners: Mapping[str, str]) -> None:
    """Create the initial buckets."""
    from moto.s3.models import s3_backends

    for bucket, account in owners.items():
        s3_backends["123456789012"]["aws"].create_bucket(bucket, "us-east-1")
        proxy.owners[bucket] = account


if __name__ == "__main__":
    main()
