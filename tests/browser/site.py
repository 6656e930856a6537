"""A PDS that people reach with a browser: the real server behind Caddy, and two origins that serve the page of an app.

Both origins are sites of the same Caddy, written as an operator would write them (`ingress.extra_caddyfile`): one under
the registrable domain of the PDS, as a club's own app has it, and one elsewhere.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.contract.conftest import StartPds
from tests.contract.front import Front, Pebble, Ports, caddy_of
from tests.support.fake_dns import serve
from tools.trial.pds import PdsProcess
from tools.trial.process import LOOPBACK
from tools.trial.xrpc import Client, RefusedError

HOST = "pds.noted.at"
SIBLING = "app.noted.at"
"""The same site as the PDS to a browser: a sibling under the registrable domain."""

ELSEWHERE = "pictures.my-club.org"
NAMES = (HOST, SIBLING, ELSEWHERE)
OPTIONS: Mapping[str, Any] = {"hostname": HOST, "dns": {"zone": "noted.at"}}
LIMIT = 2_000_000
"""Bytes of a blob."""

_NUMBERS = itertools.count(1)
PAGES = Path(__file__).with_name("pages")
_PRELOAD = Path(__file__).with_name("loopback_names.cjs")


@dataclass(frozen=True)
class Account:
    """An account, and the password of its member."""

    did: str
    handle: str
    password: str


@dataclass(frozen=True)
class Site:
    """The running servers."""

    line: str
    pds: PdsProcess
    front: Front
    client: Client
    admin_password: str

    def invite(self) -> str:
        """A new invite code for one account."""
        return _invite(self.client, self.admin_password)

    def unused_name(self) -> str:
        """A name for a handle."""
        return f"member{next(_NUMBERS)}"

    def account(self, invite: str = "") -> Account:
        """A new account."""
        return _account(self.client, self.unused_name(), invite or self.invite())

    def has_account(self, name: str, password: str) -> bool:
        """Whether the server knows the account `name`.HOST by this password."""
        body = {"identifier": f"{name}.{HOST}", "password": password}
        try:
            return bool(self.client.procedure("com.atproto.server.createSession", body)["active"])
        except RefusedError as error:
            if error.error != "AuthenticationRequired":
                raise
            return False


@contextmanager
def site(folder: Path, start_pds: StartPds, env: Mapping[str, str], line: str) -> Iterator[Site]:
    """A server of `line` with `env`, behind Caddy with certificates of a CA of its own."""
    ports = Ports.free()
    apps = "".join(_app(folder / name, name) for name in (SIBLING, ELSEWHERE))
    with serve({name: [LOOPBACK] for name in NAMES}) as nameserver, Pebble(folder, ports, nameserver) as pebble:
        root = folder / "root.pem"
        root.write_text(pebble.root())
        change = {
            "NODE_OPTIONS": f"--require={_PRELOAD}",
            "NODE_EXTRA_CA_CERTS": str(root),
            "TESTS_NAMES": ",".join(NAMES),
            "TESTS_HTTPS_PORT": str(ports.https),
            # Client metadata come from this machine, as the directory does.
            "PDS_DISABLE_SSRF_PROTECTION": "true",
        }
        with start_pds({**env, "PDS_BLOB_UPLOAD_LIMIT": str(LIMIT)}, change) as pds:
            client, admin = Client(pds.url, HOST), env["PDS_ADMIN_PASSWORD"]
            first = _account(client, "member0", _invite(client, admin))
            options = {**OPTIONS, "ingress": {"extra_caddyfile": apps}, "pds": {"blob_upload_limit": LIMIT}}
            with caddy_of(folder, pebble, ports, pds.url, first.handle, **options) as front:
                for name in (SIBLING, ELSEWHERE):
                    front.ordered(name)
                yield Site(line, pds, front, client, admin)


def _app(folder: Path, name: str) -> str:
    """Write the app's files, and return the site that serves them."""
    folder.mkdir()
    for page in PAGES.iterdir():
        (folder / page.name).write_text(page.read_text().replace("PDS_HOSTNAME", HOST))
    origin = f"https://{name}"
    metadata = {
        "client_id": f"{origin}/client-metadata.json",
        "client_name": f"App at {name}",
        "client_uri": origin,
        "redirect_uris": [f"{origin}/app.html"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "scope": "atproto transition:generic",
        "application_type": "web",
        "token_endpoint_auth_method": "none",
        "dpop_bound_access_tokens": True,
    }
    (folder / "client-metadata.json").write_text(json.dumps(metadata))
    return f"{name} {{\n\troot * {folder}\n\tfile_server\n}}\n"


def _invite(client: Client, admin_password: str) -> str:
    method = "com.atproto.server.createInviteCode"
    return str(client.procedure(method, {"useCount": 1}, admin_password=admin_password)["code"])


def _account(client: Client, name: str, invite: str) -> Account:
    handle, password = f"{name}.{HOST}", secrets.token_urlsafe(18)
    body = {
        "handle": handle,
        "email": f"{name}@club.example",
        "password": password,
        "inviteCode": invite,
    }
    return Account(client.procedure("com.atproto.server.createAccount", body)["did"], handle, password)
