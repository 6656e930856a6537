"""Caddy in front of a real PDS, with certificates from a real ACME server: all on loopback, as the program renders it.

Owns: Debian's `caddy` and `pebble` as processes, and the short list of what differs from the droplet: ports, the folder
for socket and certificates, and the CA. Pebble validates for real; the tests' name server resolves every name to this
machine.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509

from components.render.ingress.caddy import caddy_job, caddyfile
from components.settings.sections import CADDY_ASK_PORT
from components.settings.sections.settings import Settings
from tests.support.caddyfile import whole_caddyfile
from tests.support.certificates import Authority
from tests.support.fake_dns import serve
from tests.support.host_machine import tool
from tests.support.programs import settings_of
from tools.trial.process import LOOPBACK, ServerProcess, free_port

ENDS_WITH_US = ("setpriv", "--pdeathsig", "TERM")
"""Neither server watches its standard input, so the kernel must end them when the tests are killed."""

_TRIES, _PAUSE = 200, 0.2


@dataclass(frozen=True)
class Ports:
    """The ports of Caddy instead of 80, 443 and that of its ask endpoint."""

    http: int
    https: int
    ask: int

    @classmethod
    def free(cls) -> Ports:
        """Three free ports below the kernel's ephemeral range: a connection could take one of those first."""
        found: set[int] = set()
        while len(found) < 3:
            found.add(free_port(12_000 + secrets.randbelow(8_000)))
        return cls(*found)


class Pebble(ServerProcess):
    """An ACME server. It queries `nameserver` for names and connects to `ports` to validate them."""

    def __init__(self, folder: Path, ports: Ports, nameserver: str) -> None:
        self.directory = f"https://{LOOPBACK}:{free_port()}/dir"
        management = f"{LOOPBACK}:{free_port()}"
        self._roots = f"https://{management}/roots/0"
        authority = Authority("the CA's own")
        self.authority_file = folder / "authority.pem"
        self.authority_file.write_text(authority.pem)
        pair = authority.issue(LOOPBACK)
        (folder / "pebble.pem").write_text(pair.cert_pem)
        (folder / "pebble.key").write_text(pair.key_pem)
        settings = {
            "listenAddress": self.directory.split("/")[2],
            "managementListenAddress": management,
            "certificate": str(folder / "pebble.pem"),
            "privateKey": str(folder / "pebble.key"),
            "httpPort": ports.http,
            "tlsPort": ports.https,
        }
        config = folder / "pebble.json"
        config.write_text(json.dumps({"pebble": settings}))
        self._trust_api = ssl.create_default_context(cadata=authority.pem)
        super().__init__(
            name="ACME server",
            command=[*ENDS_WITH_US, tool("pebble", "pebble"), "-config", str(config), "-dnsserver", nameserver],
            folder=folder,
            env={"PATH": os.defpath, "PEBBLE_VA_NOSLEEP": "1"},
            log=folder / "pebble.log",
            health=self.directory,
            trust=self._trust_api,
        )

    def trust(self) -> ssl.SSLContext:
        """A client that trusts the certificates which this server issues, and no others."""
        return ssl.create_default_context(cadata=self.root())

    def root(self) -> str:
        """The certificate at the root of those that this server issues, as PEM."""
        return httpx.get(self._roots, verify=self._trust_api, trust_env=False).text


class Caddy(ServerProcess):
    """Caddy with `text` as its file, its certificates below `folder`. Ready when it accepts `handle`."""

    def __init__(self, folder: Path, ports: Ports, text: str, authority: Path, handle: str) -> None:
        self.folder = folder
        self.file = folder / "Caddyfile"
        self.ports = ports
        self._environment = {
            "PATH": os.defpath,
            "HOME": str(folder),
            "XDG_DATA_HOME": str(folder / "data"),
            "XDG_CONFIG_HOME": str(folder),
            "SSL_CERT_FILE": str(authority),
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.write(text)
        super().__init__(
            name="Caddy",
            command=[*ENDS_WITH_US, *self._command_line("run")],
            folder=folder,
            env=self._environment,
            log=folder / "caddy.log",
            health=self.question(handle),
        )

    def _command_line(self, verb: str) -> list[str]:
        return [tool("caddy", "caddy"), verb, "--config", str(self.file), "--adapter", "caddyfile"]

    def question(self, name: str) -> str:
        """The URL with which Caddy asks whether `name` may have a certificate."""
        return f"http://{LOOPBACK}:{self.ports.ask}/ask?domain={name}"

    def write(self, text: str) -> None:
        """Write another file, mapped to this machine; `reload` loads it."""
        options = f"{{\n\thttp_port {self.ports.http}\n\thttps_port {self.ports.https}\n\tdefault_bind {LOOPBACK}\n"
        mapped = text.replace("unix//local/", f"unix/{self.folder}/").replace(
            f":{CADDY_ASK_PORT}", f":{self.ports.ask}"
        )
        assert mapped.startswith("{\n"), "the global options come first"
        self.file.write_text(options + mapped.removeprefix("{\n"))

    def reload(self) -> subprocess.CompletedProcess[str]:
        """Reload as the job's change script does."""
        return subprocess.run(
            self._command_line("reload"), env=self._environment, capture_output=True, text=True, timeout=600
        )


@dataclass(frozen=True, kw_only=True)
class Front:
    """A running Caddy, and clients that reach it as the public would."""

    caddy: Caddy
    pebble: Pebble
    settings: Settings
    trust: ssl.SSLContext

    def text(self, *more: str) -> str:
        """The whole file as rendered, with the files of further stacks."""
        return whole_caddyfile(caddy_job(self.settings, "dev"), caddyfile(self.settings), *more)

    def client(self, host: str, source: str = LOOPBACK) -> httpx.Client:
        """A client of `https://HOST` whose own address is `source`."""
        transport = _Named(httpx.HTTPTransport(verify=self.trust, local_address=source, trust_env=False), host)
        base = f"https://{LOOPBACK}:{self.caddy.ports.https}"
        return httpx.Client(base_url=base, transport=transport, headers={"Host": host}, timeout=600, trust_env=False)

    def certificate(self, host: str) -> x509.Certificate:
        """The certificate that `host` shows. Raises ssl.SSLError if it has none."""
        with (
            socket.create_connection((LOOPBACK, self.caddy.ports.https), timeout=600) as plain,
            self.trust.wrap_socket(plain, server_hostname=host) as shown,
        ):
            der = shown.getpeercert(binary_form=True)
        assert der, "a trusted connection has a certificate"
        return x509.load_der_x509_certificate(der)

    def ordered(self, host: str) -> x509.Certificate:
        """The certificate of a site in the file, which Caddy orders after its start. Raises as `certificate`."""
        for _ in range(_TRIES):
            try:
                return self.certificate(host)
            except ssl.SSLError:
                time.sleep(_PAUSE)
        return self.certificate(host)

    def stream(self, host: str) -> tuple[str, dict[str, Any]]:
        """The base URL of the event stream at `host`, and the connection to it."""
        plain = socket.create_connection((LOOPBACK, self.caddy.ports.https), timeout=600)
        return f"https://{host}", {"sock": plain, "ssl": self.trust, "server_hostname": host}


class _Named(httpx.BaseTransport):
    """Requests `host` from the TLS server, since no resolver knows the name."""

    def __init__(self, inner: httpx.HTTPTransport, host: str) -> None:
        self._inner, self._host = inner, host

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "sni_hostname": self._host}
        return self._inner.handle_request(request)

    def close(self) -> None:
        self._inner.close()


@contextmanager
def caddy_in_front(folder: Path, pds_url: str, handle: str, names: list[str], **changes: Any) -> Iterator[Front]:
    """Caddy as the program renders it for the dev stack with `changes`, in front of the PDS at `pds_url`.

    `handle` is an account there; `names` are those that resolve to this machine.
    """
    ports = Ports.free()
    with (
        serve({name: [LOOPBACK] for name in names}) as nameserver,
        Pebble(folder, ports, nameserver) as pebble,
        caddy_of(folder, pebble, ports, pds_url, handle, **changes) as front,
    ):
        yield front


@contextmanager
def caddy_of(folder: Path, pebble: Pebble, ports: Ports, pds_url: str, handle: str, **changes: Any) -> Iterator[Front]:
    """Caddy as `caddy_in_front`, with certificates of a running `pebble`, which validates names at `ports`."""
    port = int(pds_url.rpartition(":")[2])
    settings = settings_of(
        ingress={"kind": "caddy", "acme_ca": pebble.directory, **changes.pop("ingress", {})},
        pds={"port": port, **changes.pop("pds", {})},
        **changes,
    )
    text = whole_caddyfile(caddy_job(settings, "dev"), caddyfile(settings))
    with Caddy(folder / "caddy", ports, text, pebble.authority_file, handle) as caddy:
        front = Front(caddy=caddy, pebble=pebble, settings=settings, trust=pebble.trust())
        front.ordered(settings.hostname)
        yield front
