"""What a relay receives: the PDS's event stream, parsed far enough to recognise one commit.

Owns: frames of com.atproto.sync.subscribeRepos (two DAG-CBOR objects, header and body), their operations, and the
records in the CAR slice that a commit carries. Does not own: verifying signatures or repository trees, which is a
relay's work.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import libipld
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection

from cli.lib.websocket import connect
from tools.trial import LiveError

_MAX_FRAME = 8 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One commit on the stream: `operations` maps a record's path to its CID, `records` a CID to the record."""

    seq: int
    did: str
    operations: dict[str, str | None]
    records: dict[str, Any]


class Firehose:
    """An open subscription, from now on: earlier events are not repeated."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    def find(self, did: str, path: str, seconds: float) -> Commit:
        """Return the next commit of `did` that touches `path`. Raises LiveError if none comes within `seconds`."""
        end = time.monotonic() + seconds
        seen = 0
        while (left := end - time.monotonic()) > 0:
            try:
                frame = self._connection.recv(timeout=left)
            except TimeoutError:
                break
            except WebSocketException as error:
                raise LiveError(f"The event stream broke off: {error}") from error
            seen += 1
            commit = decode(frame.encode() if isinstance(frame, str) else frame)
            if commit is not None and commit.did == did and path in commit.operations:
                return commit
        raise LiveError(f"No commit of {path} on the event stream within {seconds:.0f} s ({seen} other events came).")


@contextmanager
def subscribe(base_url: str, **connection: Any) -> Iterator[Firehose]:
    """Return a subscription to the PDS at `base_url`; `connection` is for `connect`. Raises LiveError if it is
    refused."""
    url = base_url.replace("http", "ws", 1) + "/xrpc/com.atproto.sync.subscribeRepos"
    try:
        stream = connect(url, max_size=_MAX_FRAME, open_timeout=10, **connection)
    except (OSError, WebSocketException) as error:
        raise LiveError(f"The event stream at {url} was refused: {error}") from error
    with stream:
        yield Firehose(stream)


def decode(frame: bytes) -> Commit | None:
    """Return a frame as a commit, or None if it is another kind of event. Raises LiveError for an error frame."""
    header, body = libipld.decode_dag_cbor_multi(frame)
    if header["op"] != 1:
        raise LiveError(f"The event stream answers with an error: {body}")
    if header.get("t") != "#commit":
        return None
    _, blocks = libipld.decode_car(body["blocks"])
    return Commit(
        seq=body["seq"],
        did=body["repo"],
        operations={op["path"]: libipld.encode_cid(op["cid"]) if op["cid"] else None for op in body["ops"]},
        records={libipld.encode_cid(cid): block for cid, block in blocks.items()},
    )
