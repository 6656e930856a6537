"""The ingresses of an e2e environment: IO's stand-in, and Caddy with certificates from a real ACME server."""

import fcntl
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from components.settings.sections import CADDY_ASK_PORT
from tests.contract.front import Pebble, Ports
from tests.e2e.environment.environment import E2eEnvironment
from tests.e2e.environment.tools import E2eError
from tests.e2e.images.build import caddy_image, io_image

_PUBLIC_PORTS = Path(tempfile.gettempdir()) / "pds-e2e-public-ports"
_PATIENCE = 3600.0


class At(httpx.HTTPTransport):
    """Connects to one address for every name, from `source` if given; the certificate must match the name."""

    def __init__(self, address: str, verify: ssl.SSLContext, source: str | None = None) -> None:
        super().__init__(verify=verify, local_address=source)
        self._address = address

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See the class."""
        request.extensions = {**request.extensions, "sni_hostname": request.url.host}
        request.url = request.url.copy_with(host=self._address)
        return super().handle_request(request)


@contextmanager
def public_ports(whole: bool) -> Iterator[None]:
    """80 and 443 of the e2e environment's own addresses, or `whole`: of all of this machine's, exclusively.

    Waits for other benches. Raises E2eError if they stay.
    """
    end = time.monotonic() + _PATIENCE
    with _PUBLIC_PORTS.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, (fcntl.LOCK_EX if whole else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise E2eError("another e2e_env on this machine has the ports 80 and 443") from None
                time.sleep(1)
            else:
                yield
                return


def io_section(made: E2eEnvironment) -> dict[str, Any]:
    """Section `ingress` with the stand-in for IO."""
    image = io_image(made.folder / "io", made.docker_host, made.authority.pair(), made.network, made.nomad)
    return {"kind": "io", "image": image}


def caddy_section(made: E2eEnvironment, stack: ExitStack) -> tuple[dict[str, Any], Pebble]:
    """Section `ingress` with Caddy, and the ACME server for it, which the engine trusts and `stack` stops."""
    folder = made.folder / "acme"
    folder.mkdir()
    # It resolves the names from the account, and connects to the reserved IP as the real one does.
    ports = Ports(http=80, https=443, ask=CADDY_ASK_PORT)
    pebble = stack.enter_context(Pebble(folder, ports, made.nameserver))
    made.trust(pebble.trust())
    image = caddy_image(made.cache, made.docker_host, pebble.authority_file.read_text())
    return {"kind": "caddy", "image": image, "acme_ca": pebble.directory}, pebble


def _io(made: E2eEnvironment, stack: ExitStack) -> ssl.SSLContext:
    stack.enter_context(public_ports(whole=False))
    made.configure(ingress=io_section(made))
    return made.authority.trusted()


def _caddy(made: E2eEnvironment, stack: ExitStack) -> ssl.SSLContext:
    # As rendered it listens on every address, and connects to the server at a fixed port.
    stack.enter_context(public_ports(whole=True))
    section, pebble = caddy_section(made, stack)
    made.configure(ingress=section)
    return pebble.trust()


INGRESSES: Mapping[str, Callable[[E2eEnvironment, ExitStack], ssl.SSLContext]] = {"io": _io, "caddy": _caddy}
"""Kind to what starts and configures it; the context trusts its certificates."""
