"""The services outside of a virtual droplet: the metadata service, Nomad's mirror and an image registry.

All three only return files, so here they are a folder of files. QEMU runs this program once for each connection of the
droplet to a forwarded address, with the connection as standard input:

    python -m tests.e2e.environment.outside FOLDER [CERTIFICATE]

With CERTIFICATE, a PEM file of certificate and key, it is HTTPS. Each request is a line in `FOLDER.log`. An image
registry that only serves pulls is such a folder too (OCI distribution specification, "Pull"): `lay_out_image` creates
it from the output of `docker save`.
"""

import gzip
import hashlib
import json
import os
import shutil
import socket
import ssl
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.e2e.environment.tools import run

_CHUNK = 1 << 20


class _Files(BaseHTTPRequestHandler):
    """Answers from the folder; a directory is `{}`, with which a registry identifies itself."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        file = (self.folder / self.path.partition("?")[0].strip("/")).resolve()
        if not file.is_relative_to(self.folder) or not file.exists():
            self._begin(HTTPStatus.NOT_FOUND, "application/json", 2)
            return self._end(b"{}")
        if file.is_dir():
            self._begin(HTTPStatus.OK, "application/json", 2)
            return self._end(b"{}")
        self._begin(HTTPStatus.OK, _media_type(file), file.stat().st_size)
        if self.command == "GET":
            with file.open("rb") as source:
                shutil.copyfileobj(source, self.wfile, _CHUNK)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _begin(self, status: HTTPStatus, kind: str, size: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def _end(self, body: bytes) -> None:
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        # Standard error is the connection.
        with self.folder.with_suffix(".log").open("a") as log:
            log.write(f"{self.log_date_time_string()} {format % arguments}\n")


def _media_type(file: Path) -> str:
    """The media type that a manifest names; everything else is bytes."""
    if file.parent.name == "manifests":
        return str(json.loads(file.read_text())["mediaType"])
    return "application/json" if file.suffix == ".json" else "application/octet-stream"


def lay_out_image(folder: Path, image: str, docker_host: str) -> None:
    """Make `image` (REGISTRY/NAME:TAG) one that a registry in `folder` serves. Raises E2eError."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        run(["docker", "save", "--output", f"{work}/image.tar", image], docker_host)
        with tarfile.open(f"{work}/image.tar") as tar:
            tar.extractall(work, filter="data")
        # Older engines write this file only, newer ones beside OCI's; both name config and layers in it.
        [saved] = json.loads(Path(work, "manifest.json").read_text())
        lay_out_parts(folder, image, Path(work, saved["Config"]), [Path(work, layer) for layer in saved["Layers"]])


def lay_out_parts(folder: Path, image: str, config: Path, layers: Sequence[Path]) -> None:
    """The same for an image given by its configuration and its layers, tar files."""
    name, _, tag = image.partition("/")[2].rpartition(":")
    blobs, manifests = folder / "v2" / name / "blobs", folder / "v2" / name / "manifests"
    blobs.mkdir(parents=True)
    manifests.mkdir()
    oci = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{oci}.manifest.v1+json",
        "config": _blob(blobs, config, f"{oci}.config.v1+json"),
        "layers": [_blob(blobs, _compressed(layer), f"{oci}.layer.v1.tar+gzip") for layer in layers],
    }
    text = json.dumps(manifest)
    for reference in (tag, f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"):
        (manifests / reference).write_text(text)


def _compressed(file: Path) -> Path:
    """As registries have layers. An emulated machine reads few bytes over TLS faster than many, and unpacks them."""
    packed = file.with_suffix(".gz")
    with file.open("rb") as source, gzip.open(packed, "wb", compresslevel=1) as target:
        shutil.copyfileobj(source, target, _CHUNK)
    return packed


def _blob(blobs: Path, file: Path, kind: str) -> dict[str, Any]:
    """Copy a file to where a registry has it; the descriptor of it."""
    with file.open("rb") as source:
        digest = f"sha256:{hashlib.file_digest(source, 'sha256').hexdigest()}"
    shutil.copyfile(file, blobs / digest)
    return {"mediaType": kind, "size": file.stat().st_size, "digest": digest}


def lay_out_nomad(folder: Path, binary: Path, version: str) -> str:
    """Make the program at `binary` a release that a mirror in `folder` serves under /nomad; the zip's SHA-256."""
    archive = folder / "nomad" / version / f"nomad_{version}_linux_amd64.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        made.write(binary, "nomad")
    with archive.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def main() -> None:
    """Answer on standard input until the client closes."""
    _Files.folder = Path(sys.argv[1]).resolve()
    connection = socket.socket(fileno=os.dup(0))
    if len(sys.argv) > 2:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[2])
        connection = context.wrap_socket(connection, server_side=True)
    _Files(connection, ("droplet", 0), None)  # type: ignore[arg-type]  # no server: the handler does not use it
    if isinstance(connection, ssl.SSLSocket):
        connection.unwrap()
    connection.close()


if __name__ == "__main__":
    main()
