"""An S3 service on loopback, in memory: `tests/support/s3_service.py`, which is as strict as real services.

It checks the signature, its region, the rights of the key and the owner of the bucket, as Spaces and Amazon do;
docs/test-doubles.md has the list.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from offline.mock_engine import ROOT
from tests.support.s3_service import CONTROL
from tools.trial.process import LOOPBACK, ServerProcess, free_port

BUCKET = "copies"
"""The bucket of the backups."""
KEYS = {"AWS_ACCESS_KEY_ID": "DO00TEST", "AWS_SECRET_ACCESS_KEY": "only a test"}
"""Keys of the account that owns the buckets, without limits."""
LIMITED = {"AWS_ACCESS_KEY_ID": "DO00LIMITED", "AWS_SECRET_ACCESS_KEY": "limited to a bucket"}
"""Like the key that the program makes for backups: `readwrite` in the initial buckets."""
REGION = "ams3"
"""The backups' default region."""
STRANGER = "someone else"
"""An account without keys in these tests."""


@contextmanager
def s3_server(
    folder: Path,
    *buckets: str,
    hosts: Sequence[str] = (),
    address: str = LOOPBACK,
    region: str = REGION,
    spaces: bool = False,
    checksums: bool = True,
    strangers: Sequence[str] = (),
) -> Iterator[str]:
    """The URL of a service at `address` with these buckets, empty; `folder` gets its log.

    At `hosts`, and at an IP address, the first part of the path is the bucket; a label in front of a host is one, too.
    A signature has to be for `region`; with `spaces` us-east-1 is also valid, as its documentation has it for SDKs that
    support only Amazon's regions (docs.digitalocean.com/products/spaces/how-to/use-aws-sdks). Without `checksums` the
    service refuses the CRCs of newer SDKs. Buckets of `strangers` exist and belong to another account. Keys are `KEYS`
    and `LIMITED`; see `add_key`.
    """
    port = free_port()
    url = f"http://{address}:{port}"
    limited = {"secret": LIMITED["AWS_SECRET_ACCESS_KEY"], "grants": [(bucket, "readwrite") for bucket in buckets]}
    keys = {KEYS["AWS_ACCESS_KEY_ID"]: {"secret": KEYS["AWS_SECRET_ACCESS_KEY"]}, LIMITED["AWS_ACCESS_KEY_ID"]: limited}
    config = {
        "address": address,
        "port": port,
        "keys": keys,
        "owners": {**dict.fromkeys(buckets, "ours"), **dict.fromkeys(strangers, STRANGER)},
        "regions": [region, *(("us-east-1",) if spaces else ())],
        "hosts": list(hosts),
        "checksums": checksums,
    }
    with ServerProcess(
        name="S3 server",
        command=[sys.executable, "-m", "tests.support.s3_service"],
        folder=folder,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "S3_SERVICE": json.dumps(config)},
        log=folder / "s3.log",
        health=f"{url}{CONTROL}health",
    ):
        yield url


def ask(method: str, url: str, *, region: str = REGION) -> str:
    """The body of the response to a request that is signed with `KEYS`."""
    url = url.partition("?")[0] + "?" + quote(url.partition("?")[2], safe="=&")  # as signed
    request = AWSRequest(method=method, url=url, headers={})
    S3SigV4Auth(Credentials(KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"]), "s3", region).add_auth(request)
    with urlopen(Request(url, method=method, headers=dict(request.headers)), timeout=600) as answer:
        text: str = answer.read().decode()
        return text


def put(url: str, body: bytes, *, region: str = REGION) -> None:
    """Write an object, signed with `KEYS`."""
    request = AWSRequest(method="PUT", url=url, data=body, headers={"x-amz-content-sha256": sha256(body).hexdigest()})
    S3SigV4Auth(Credentials(KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"]), "s3", region).add_auth(request)
    # Without a type urllib sends that of a form, whose fields the service reads: the object would be empty.
    headers = {**dict(request.headers), "Content-Type": "application/octet-stream"}
    with urlopen(Request(url, method="PUT", data=body, headers=headers), timeout=600):
        pass


def add_key(url: str, access_key: str, secret: str, grants: Sequence[tuple[str, str]] | None, **more: str) -> None:
    """Add a key of the account, limited to `grants` of (bucket, permission), if there are any."""
    _control(url, "PUT", f"keys/{access_key}", {"secret": secret, "grants": grants, **more})


def drop_key(url: str, access_key: str) -> None:
    """Remove the key's access."""
    _control(url, "DELETE", f"keys/{access_key}")


def buckets_of(url: str) -> Mapping[str, str]:
    """The owners of all buckets."""
    owners: Mapping[str, str] = _control(url, "GET", "buckets")
    return owners


def pass_days(url: str, days: int) -> None:
    """Apply lifecycle rules as if this number of days had passed."""
    _control(url, "POST", "days", days)


def age(url: str, bucket: str, name: str, days: int) -> None:
    """Make the object of this name as if it were written so many days ago."""
    _control(url, "POST", "age", {"bucket": bucket, "name": name, "days": days})


def _control(url: str, method: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(f"{url}{CONTROL}{path}", method=method, data=data), timeout=600) as answer:
        return json.load(answer)
