"""Spaces for an e2e environment: an S3 service that the engine, containers and restic reach under its own names.

The engine's provider reaches it as a proxy, restic by its image, and Node in containers by names that lead to
stunnel, which has a certificate of the e2e environment's authority.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from components.settings.checks.endpoints import SPACES
from tests.e2e.environment.directory import Directory
from tests.e2e.environment.docker import gateway
from tests.e2e.environment.environment import E2eEnvironment
from tests.e2e.environment.ingresses import public_ports
from tests.e2e.environment.service import tls_front
from tests.e2e.images.build import local_pds_image, restic_image
from tests.support.s3 import REGION, add_key, buckets_of, drop_key, s3_server

HOST = f"{REGION}.{SPACES}"


class Spaces:
    """The S3 service as the account sees it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def buckets(self) -> list[str]:
        """The buckets of the account."""
        return [name for name, owner in buckets_of(self.url).items() if owner == "ours"]

    def add_key(self, access_key: str, secret: str, grants: Sequence[dict[str, str]]) -> None:
        """Add it, limited to its grants."""
        add_key(self.url, access_key, secret, [(item["bucket"], item["permission"]) for item in grants])

    def drop_key(self, access_key: str) -> None:
        """Remove its access."""
        drop_key(self.url, access_key)


@dataclass(frozen=True, kw_only=True)
class SpacesService:
    """A running service, the environment whose engine reaches it, and the images that do."""

    url: str
    made: E2eEnvironment
    pds_image: str
    restic_image: str


@contextmanager
def spaces(made: E2eEnvironment, plc: Directory, *buckets: str, others: Sequence[str] = ()) -> Iterator[SpacesService]:
    """Run it without buckets; images know the names of `buckets`, which the program makes, and of `others`, servers at
    the containers' address for this machine. Raises E2eError."""
    folder = made.folder / "spaces"
    folder.mkdir()
    address = gateway(made.docker_host)
    with (
        public_ports(whole=False),
        s3_server(folder, hosts=("spaces.test", HOST), address=address, spaces=True) as url,
    ):
        names = [HOST, *(f"{bucket}.{HOST}" for bucket in buckets)]
        place = url.removeprefix("http://")
        with tls_front(folder, made.authority.issue(*names), f"{address}:443", place):
            known = {**plc.names, **dict.fromkeys([*names, *others], address)}
            pds = local_pds_image(folder / "pds", made.docker_host, made.authority.pair(), known)
            restic = restic_image(folder / "restic", made.cache, made.docker_host, HOST, place)
            made.world.spaces = Spaces(url)
            env = {**made.env, "SPACES_ENDPOINT_URL": "http://spaces.test", "HTTP_PROXY": url, "NO_PROXY": ""}
            yield SpacesService(url=url, made=replace(made, env=env), pds_image=pds, restic_image=restic)
