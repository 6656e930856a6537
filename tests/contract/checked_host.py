"""A server with one account behind an ingress with TLS, for the tests of `./pds check`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cli.check.run import CheckResult, run_checks
from cli.check.site import Site
from cli.check.subject import Subject
from components.settings.checks.pds_env import configured_secrets, env_file
from tests.support import fake_dns
from tests.support.certificates import Authority, server_context
from tests.support.ingress_stand_in import Ingress
from tests.support.programs import settings_of
from tests.support.smtp_relay import SmtpRelay
from tests.support.smtp_relay import serve as serve_relay
from tools.trial.directory import PlcDirectory
from tools.trial.owner import ACCOUNT
from tools.trial.pds import PdsProcess
from tools.trial.xrpc import Client

if TYPE_CHECKING:
    from tests.contract.conftest import StartPds  # which imports this module's fixture

HOST = "noted.at"
HANDLE = f"{ACCOUNT}.{HOST}"
EMAIL = f"{ACCOUNT}@{HOST}"
CONFIGURATION = "of today"
MAIL_LOGIN = ("post@relay", "p@ss/w:rd%")
"""User and password at the relay, with characters that a URL has to encode."""
ELSEWHERE = {
    *(
        "SPF",
        "DKIM",
        "DMARC",
        "DNS",
        "records",
        "firewall",
        "account",
        "applied",
        "Nomad",
        "jobs",
        "disk",
        "unreferenced blobs",
        "backup",
        "drill",
        "accounts",
        "alerts",
        "metadata",
        "metrics",
    ),
}
"""Checks that query services other than the server, which are absent here; `tests/unit/cli/test_drift.py` has them."""


@dataclass
class HostConnection:
    """A server with one account behind its ingress, and the subject of passing checks."""

    pds: PdsProcess
    ingress: Ingress
    subject: Subject
    authority: Authority
    relay: SmtpRelay
    folder: Path

    def results(self, **changes: Any) -> dict[str, CheckResult]:
        """The results by name."""
        return {result.name: result for result in run_checks(replace(self.subject, **changes))}

    def red(self, **changes: Any) -> dict[str, str]:
        """The remarks of failed checks, by name."""
        return {name: result.remark for name, result in self.results(**changes).items() if result.ok is False}

    def behind(self, ingress: Ingress) -> Site:
        """The site at another ingress."""
        return Site.at(HOST, ingress.url, str(self.folder / "ca.pem"))


@pytest.fixture(scope="session")
def checked_host(
    start_pds: StartPds,
    directory: PlcDirectory,
    program_env: dict[str, str],
    program_secrets: frozenset[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[HostConnection]:
    """The program's own environment, except for values that a server on loopback cannot have."""
    folder = tmp_path_factory.mktemp("check")
    authority = Authority()
    (folder / "ca.pem").write_text(authority.pem)
    tls = server_context(authority.issue(HOST, f"*.{HOST}", days=60), folder)
    relay_tls = server_context(authority.issue("127.0.0.1"), tmp_path_factory.mktemp("relay"))
    relay = SmtpRelay(tls="starttls", context=relay_tls, login=MAIL_LOGIN, senders=frozenset({HOST}))
    trusted = {"NODE_EXTRA_CA_CERTS": str(folder / "ca.pem")}
    with serve_relay(relay), start_pds(program_env, (mail := mail_environment(relay)) | trusted) as pds:
        port = int(pds.url.rpartition(":")[2])
        client = Client(pds.url, HOST)
        admin = program_env["PDS_ADMIN_PASSWORD"]
        invite = client.procedure("com.atproto.server.createInviteCode", {"useCount": 1}, admin_password=admin)
        body = {"handle": HANDLE, "email": EMAIL, "password": "a password", "inviteCode": invite["code"]}
        client.log_in(client.procedure("com.atproto.server.createAccount", body)["accessJwt"])
        version = client.query("_health", {})["version"]
        _post_a_picture(client)
        client.http.close()
        env = program_env | mail | {"PDS_DID_PLC_URL": directory.url, "PDS_CRAWLERS": ""}
        with Ingress(port, tls) as ingress, fake_dns.serve({}) as empty_server:
            site = Site.at(HOST, ingress.url, str(folder / "ca.pem"))
            subject = Subject(
                stack="dev",
                outputs={
                    "pds_env": env_file(env),
                    "package_version": version,
                    "state": "serving",
                    "host_configuration": CONFIGURATION,
                    "escrow": _escrow(env, program_secrets),
                },
                site=site,
                second=replace(site, source="127.0.0.2"),
                escrow="made",
                configuration=CONFIGURATION,
                nameservers=(empty_server,),  # it has no records: handles resolve by HTTPS only
            )
            yield HostConnection(pds, ingress, subject, authority, relay, folder)


def _post_a_picture(client: Client) -> None:
    """A record with a blob, of the account that is logged in."""
    content = b"a picture"
    record = {"$type": "at.noted.try.blob", "blob": client.upload_blob([content], len(content))}
    did = client.query("com.atproto.server.getSession", {})["did"]
    body = {"repo": did, "collection": "at.noted.try.blob", "record": record, "validate": False}
    client.procedure("com.atproto.repo.createRecord", body)


def mail_environment(relay: SmtpRelay, password: str = MAIL_LOGIN[1]) -> dict[str, str]:
    """The server's variables for a relay, as the program renders them; only host and port are the test's."""
    options = {"host": "smtp.relay.test", "port": 2525, "from": f"pds@{HOST}", "user": MAIL_LOGIN[0]}
    tls = "implicit" if relay.tls == "implicit" else "starttls"
    url = configured_secrets(settings_of(mail={**options, "tls": tls, "password": password}))["PDS_EMAIL_SMTP_URL"]
    here = url.replace("smtp.relay.test:2525", f"127.0.0.1:{relay.port}")
    return {"PDS_EMAIL_SMTP_URL": here, "PDS_EMAIL_FROM_ADDRESS": f"pds@{HOST}"}


def _escrow(env: dict[str, str], secrets: frozenset[str]) -> dict[str, Any]:
    names = ("stack", "package_version", "ipv4", "volume_id", "nomad_management_token", "nomad_ca_pem")
    return {
        "hostname": HOST,
        "environment": {"TZ": "UTC"},
        "secrets": {name: env[name] for name in secrets},
        "nomad_ca_key_pem": "a key",
        **dict.fromkeys(names, "there"),
    }


def repos(place: HostConnection) -> list[dict[str, Any]]:
    """The repositories of the server, as `listRepos` returns them."""
    found: list[dict[str, Any]] = place.subject.site.request("GET", "/xrpc/com.atproto.sync.listRepos").json()["repos"]
    return found


def with_env(place: HostConnection, **changes: str) -> dict[str, Any]:
    """The stack's outputs with changed variables of the server."""
    env = place.subject.environment | changes
    return {**place.subject.outputs, "pds_env": env_file(env)}
