"""The services outside of a virtual droplet: files over one connection, plain or with a certificate."""

import hashlib
import http.client
import json
import socket
import ssl
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.lib.subprocesses import child
from offline.mock_engine import ROOT
from tests.e2e.environment.outside import lay_out_nomad
from tests.support.certificates import Authority


@contextmanager
def connected(folder: Path, *certificate: str, trusted: str = "") -> Iterator[http.client.HTTPConnection]:
    """A connection that is answered from `folder`, started as QEMU starts it."""
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    command = [sys.executable, "-m", "tests.e2e.environment.outside", str(folder), *certificate]
    fd = theirs.fileno()
    with theirs, child(command, 600, cwd=ROOT, stdin=fd, stdout=fd, stderr=fd) as process:
        theirs.close()
        connection = http.client.HTTPConnection("releases.test")
        connection.sock = ours
        if trusted:
            context = ssl.create_default_context(cadata=trusted)
            connection.sock = context.wrap_socket(ours, server_hostname="releases.test")
        yield connection
        connection.close()
        process.wait(600)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    (outside / "v2/pds/manifests").mkdir(parents=True)
    (outside / "v2/pds/manifests/1.0").write_text(
        json.dumps({"mediaType": "application/vnd.oci.image.manifest.v1+json"})
    )
    (outside / "v1.json").write_text("{}")
    (tmp_path / "secret").write_text("not for the droplet")
    return outside


def test_requests_of_one_connection_are_answered_from_the_folder_and_logged(folder: Path) -> None:
    with connected(folder) as connection:
        for method, path, status, kind, size in (
            ("GET", "/v1.json", 200, "application/json", 2),
            ("HEAD", "/v2/pds/manifests/1.0", 200, "application/vnd.oci.image.manifest.v1+json", 0),
            ("GET", "/v2/", 200, "application/json", 2),
            ("GET", "/nothing", 404, "application/json", 2),
            ("GET", "/../secret", 404, "application/json", 2),
        ):
            connection.request(method, path)
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("Content-Type"), len(answer.read())) == (status, kind, size), path
    assert len(folder.with_suffix(".log").read_text().splitlines()) == 5


def test_nomad_mirror_serves_a_zip_with_the_printed_checksum_over_https(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "nomad").write_text("a program")
    checksum = lay_out_nomad(folder, tmp_path / "nomad", "2.0.4")
    authority = Authority()
    certificate = authority.issue("releases.test").written(tmp_path, "server.pem")
    with connected(folder, str(certificate), trusted=authority.pem) as connection:
        connection.request("GET", "/nomad/2.0.4/nomad_2.0.4_linux_amd64.zip")
        (tmp_path / "fetched.zip").write_bytes(connection.getresponse().read())
    assert hashlib.sha256((tmp_path / "fetched.zip").read_bytes()).hexdigest() == checksum
    with zipfile.ZipFile(tmp_path / "fetched.zip") as fetched:
        assert fetched.read("nomad") == b"a program"
