"""A directory of identities for an e2e environment: the real one, over HTTPS, at an address that containers can reach.

No identity of an e2e environment may reach the public directory, where it would be permanent. The program accepts only
https addresses of directories. Here the e2e environment's authority signs the certificate, and stunnel terminates TLS
on the containers' address for this machine.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.e2e.environment.docker import gateway
from tests.e2e.environment.service import tls_front
from tests.e2e.images.build import local_pds_image
from tests.support.certificates import Authority
from tools.trial.directory import PlcDirectory
from tools.trial.node import install
from tools.trial.process import free_port

NAME = "plc.bench.test"


@dataclass(frozen=True)
class Directory:
    """A running directory: `url` for servers, `local_url` for this machine, and an image of a server that knows it."""

    url: str
    local_url: str
    pds_image: str
    names: Mapping[str, str]
    """Names that such an image must resolve, with their addresses."""

    def data(self, did: str) -> dict[str, object]:
        """Its data of an identity."""
        answer = httpx.get(f"{self.local_url}/{did}/data", timeout=10, trust_env=False)
        answer.raise_for_status()
        found: dict[str, object] = answer.json()
        return found


@contextmanager
def directory(folder: Path, cache: Path, docker_host: str, authority: Authority) -> Iterator[Directory]:
    """Run one, with its data and logs in `folder`. Raises E2eError, or LiveError if it does not start."""
    folder.mkdir(parents=True, exist_ok=True)
    address = gateway(docker_host)
    with PlcDirectory(install("plc", cache), data=folder / "data", log=folder / "plc.log") as plain:
        port = free_port()
        pair = authority.issue(NAME)
        with tls_front(folder, pair, f"{address}:{port}", f"127.0.0.1:{plain.url.rpartition(':')[2]}"):
            names = {NAME: address}
            image = local_pds_image(folder / "image", docker_host, authority.pair(), names)
            yield Directory(f"https://{NAME}:{port}", plain.url, image, names)
