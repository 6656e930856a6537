"""The ingresses of a bench: what takes IO's place, and Caddy with certificates from a real ACME server."""

import ssl
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import httpx

from components.settings.checks import CADDY_ASK_PORT
from tests.contract.front import Pebble, Ports
from tests.e2e.bench import Bench
from tests.e2e.images.build import caddy_image, io_image


class At(httpx.HTTPTransport):
    """Connects to one address, whatever the name; the certificate has to be the name's."""

    def __init__(self, address: str, verify: ssl.SSLContext) -> None:
        super().__init__(verify=verify)
        self._address = address

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See the class."""
        request.extensions = {**request.extensions, "sni_hostname": request.url.host}
        request.url = request.url.copy_with(host=self._address)
        return super().handle_request(request)


def _io(made: Bench, _: ExitStack) -> ssl.SSLContext:
    image = io_image(made.folder / "io", made.docker_host, made.authority.pair(), made.network, made.nomad)
    made.configure(ingress={"kind": "io", "image": image})
    return made.authority.trusted()


def _caddy(made: Bench, stack: ExitStack) -> ssl.SSLContext:
    folder = made.folder / "acme"
    folder.mkdir()
    # It looks the names up in the account, and asks at the reserved IP as the real one does.
    ports = Ports(http=80, https=443, ask=CADDY_ASK_PORT)
    pebble = stack.enter_context(Pebble(folder, ports, made.nameserver))
    made.trust(pebble.trust())
    image = caddy_image(made.cache, made.docker_host, pebble.authority_file.read_text())
    made.configure(ingress={"kind": "caddy", "image": image, "acme_ca": pebble.directory})
    return pebble.trust()


INGRESSES: Mapping[str, Callable[[Bench, ExitStack], ssl.SSLContext]] = {"io": _io, "caddy": _caddy}
"""Kind to what starts and configures it; the context trusts its certificates."""
