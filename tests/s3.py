"""An S3 server on loopback: moto's. It keeps buckets and objects in memory, takes any key and checks no signature."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from tools.live.process import LOOPBACK, ServerProcess, free_port

BUCKET = "copies"
"""Of backups."""
KEYS = {"AWS_ACCESS_KEY_ID": "DO00TEST", "AWS_SECRET_ACCESS_KEY": "only a test"}
_SIGNED = "AWS4-HMAC-SHA256 Credential=DO00TEST/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
"""The server reads the service out of this."""


@contextmanager
def s3_server(folder: Path, *buckets: str, hosts: Sequence[str] = (), address: str = LOOPBACK) -> Iterator[str]:
    """The URL of a server at `address` with these buckets, empty; `folder` gets its log.

    At `hosts` a bucket is the path's first part; at any other name, but for loopback's, it is the first label.
    """
    port = free_port()
    url = f"http://{address}:{port}"
    with ServerProcess(
        name="S3 server",
        command=[sys.executable, "-m", "moto.server", "-H", address, "-p", str(port)],
        folder=folder,
        env={"PATH": os.defpath, "MOTO_S3_CUSTOM_ENDPOINTS": ",".join(hosts)},
        log=folder / "s3.log",
        health=f"{url}/moto-api/",
    ):
        for bucket in buckets:
            ask("PUT", f"{url}/{bucket}")
        yield url


def ask(method: str, url: str) -> str:
    """The body of an answer."""
    with urlopen(Request(url, method=method, headers={"Authorization": _SIGNED}), timeout=60) as answer:
        text: str = answer.read().decode()
        return text
