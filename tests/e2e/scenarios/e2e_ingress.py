"""The ingress, over the reserved IP: `pytest tests/e2e/scenarios/e2e_ingress.py -x`, as root; one scenario for each
ingress.

A first `up` with an ingress of the program, an account created through it as with `pdsadmin`, a post on the event
stream, a handle added to the ingress, and no change left. A stand-in replaces IO (`images/io`). The results apply to
the rendered file, the service that it names and the rights of its reader, not to IO. Caddy is real, and so is
the ACME server that issues its certificates.
"""

import os
import secrets
import shlex
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from components.clients.wait import until
from components.settings.checks.pds_env import read_env_file
from components.settings.fields.images import package_of_health
from tests.e2e.environment import tools
from tests.e2e.environment.directory import Directory, directory
from tests.e2e.environment.environment import HOSTNAME, PROGRAMS, ROOT, E2eEnvironment, e2e_env
from tests.e2e.environment.ingresses import INGRESSES, At
from tests.e2e.environment.reader import Reader
from tests.e2e.environment.tools import BUILD_PROGRAMS, missing
from tests.e2e.environment.watching import polled, steps
from tools.trial.firehose import subscribe

HANDLE = f"alice.{HOSTNAME}"
_PATIENCE = 60
"""Seconds to wait for effects of an `up`, such as a rendered template or a restarted ingress."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The differences between the ingresses: a change of the file, and its effect."""

    option: str
    added: str
    hostname: str
    path: str
    restarts: bool
    """Whether a changed file starts a new container; otherwise the old one reloads it."""


KINDS = {
    # IO has no wildcard certificates: each handle needs an entry.
    "io": Kind(
        option="extra_hcl",
        added=f'ingress "{HANDLE}" {{\n  backend = "nomad:pds"\n}}\n',
        hostname=HANDLE,
        path="/.well-known/atproto-did",
        restarts=True,
    ),
    "caddy": Kind(
        option="extra_caddyfile",
        added=f"""\
www.{HOSTNAME} {{
	rewrite * /.well-known/atproto-did
	reverse_proxy 127.0.0.1:3000 {{
		header_up X-Forwarded-Host {HANDLE}
	}}
}}
""",
        hostname=f"www.{HOSTNAME}",
        path="/",
        restarts=False,
    ),
}


class Running:
    """An e2e environment with an ingress, and a directory of identities."""

    def __init__(self, name: str, e2e_env: E2eEnvironment, plc: Directory, trust: ssl.SSLContext) -> None:
        self.name, self.kind = name, KINDS[name]
        self.e2e_env, self.plc, self.trust = e2e_env, plc, trust
        self.did = ""

    def client(self, hostname: str = HOSTNAME) -> httpx.Client:
        """A client that connects to the reserved IP for `hostname`."""
        transport = At(self.e2e_env.outputs()["ipv4"], verify=self.trust)
        return httpx.Client(base_url=f"https://{hostname}", transport=transport, timeout=30)

    def text(self, hostname: str, path: str) -> str:
        """The text at this address, once the request succeeds."""
        found = ""

        def answered() -> str | None:
            nonlocal found
            try:
                answer = client.get(path)
            except httpx.HTTPError as error:
                return str(error)
            found = answer.text
            return None if answer.is_success else f"{answer.status_code} {found}"

        with self.client(hostname) as client:
            until(answered, _PATIENCE, f"https://{hostname}{path}")
        return found

    def containers(self, task: str) -> list[str]:
        """Ids of Nomad's running containers of this task."""
        command = ["docker", "ps", "--quiet", "--filter", f"name=^{task}-"]
        return tools.run(command, self.e2e_env.docker_host).split()


@pytest.fixture(scope="module", params=list(KINDS))
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    lines = missing(*PROGRAMS, *BUILD_PROGRAMS)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
    name = str(request.param)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with ExitStack() as stack:
        made = stack.enter_context(e2e_env(tmp_path_factory.mktemp(name), cache))
        plc = stack.enter_context(directory(made.folder / "plc", cache, made.docker_host, made.authority))
        made.configure(pds={"plc_url": plc.url, "image": plc.pds_image})
        yield Running(name, made, plc, INGRESSES[name](made, stack))


def nothing_to_do(running: Running) -> None:
    """Assert that the next preview is empty, with and without a refresh."""
    running.e2e_env.pulumi("preview", "--expect-no-changes")
    running.e2e_env.pulumi("preview", "--refresh", "--expect-no-changes")


def test_first_up_serves_over_https(running: Running) -> None:
    """Only `ServerReady` reports `serving`. It queries the reserved IP, after `DnsReady` has queried the zone."""
    done = running.e2e_env.pulumi("up", "--yes", "--skip-preview")
    outputs = running.e2e_env.outputs()
    assert outputs["state"] == "serving"
    assert outputs["resolves"] == f"{HOSTNAME} resolves to {outputs['ipv4']}"
    with running.client() as client:
        version = client.get("/xrpc/_health").json()["version"]
    assert package_of_health(version) == outputs["package_version"]
    assert running.e2e_env.world.failures + running.e2e_env.machines.deaths() == []
    print(f"up from nothing: {done.seconds:.0f} s")
    nothing_to_do(running)


def test_account_is_created_with_the_exported_environment(running: Running) -> None:
    """The requests of `pdsadmin account create` and `account list`, with `pds_env` in place of `~/pds.env`; and the
    member's first post is on the event stream."""
    env = read_env_file(running.e2e_env.outputs()["pds_env"])
    assert env["PDS_HOSTNAME"] == HOSTNAME
    admin = ("admin", env["PDS_ADMIN_PASSWORD"])
    address = (running.e2e_env.outputs()["ipv4"], 443)
    with (
        running.client(env["PDS_HOSTNAME"]) as client,
        subscribe(f"https://{HOSTNAME}", sock=socket.create_connection(address, 10), ssl=running.trust) as stream,
    ):

        def call(method: str, body: dict[str, Any], **more: Any) -> Any:
            answer = client.post(f"/xrpc/{method}", json=body, **more)
            assert answer.status_code == 200, f"{method}: {answer.status_code} {answer.text}"
            return answer.json()

        code = call("com.atproto.server.createInviteCode", {"useCount": 1}, auth=admin)["code"]
        account = {"handle": HANDLE, "email": "alice@example.com", "password": secrets.token_hex(8), "inviteCode": code}
        made = call("com.atproto.server.createAccount", account)
        running.did = made["did"]
        assert running.plc.data(running.did)["alsoKnownAs"] == [f"at://{HANDLE}"]

        listed = client.get("/xrpc/com.atproto.sync.listRepos").json()["repos"]
        assert [item["did"] for item in listed] == [running.did]
        parameters = {"did": running.did}
        info = client.get("/xrpc/com.atproto.admin.getAccountInfo", params=parameters, auth=admin).json()
        assert (info["handle"], info["email"]) == (HANDLE, "alice@example.com")

        record = {"$type": "app.bsky.feed.post", "text": "Hello", "createdAt": datetime.now(UTC).isoformat()}
        post = {"repo": running.did, "collection": "app.bsky.feed.post", "record": record}
        posted = call("com.atproto.repo.createRecord", post, headers={"Authorization": f"Bearer {made['accessJwt']}"})
        path = posted["uri"].split("/", 3)[3]
        commit = stream.find(running.did, path, seconds=30)
        assert commit.records[posted["cid"]]["text"] == "Hello"


def test_changed_ingress_file_is_loaded_without_restarting_the_server(running: Running) -> None:
    kind = running.kind
    server, ingress = running.containers("pds"), running.containers(running.name)
    assert len(server) == len(ingress) == 1
    running.e2e_env.configure(ingress={kind.option: kind.added})
    with polled(running.e2e_env.health) as outage:
        done = running.e2e_env.pulumi("up", "--yes", "--skip-preview")
        assert running.text(kind.hostname, kind.path) == running.did
    assert steps(done) == {"pds-ingress-file-variable": ["updated"], "pds-server-ready": ["updated"]}
    assert running.e2e_env.outputs()["ingress_file"].endswith(kind.added)
    assert running.containers("pds") == server
    assert (running.containers(running.name) != ingress) == kind.restarts
    assert outage.failures == [], "the server itself must stay available"
    nothing_to_do(running)


def test_handle_serves_its_did_and_unknown_names_get_no_certificate(running: Running) -> None:
    assert running.text(HANDLE, "/.well-known/atproto-did") == running.did
    with running.client(f"unknown.{HOSTNAME}") as client, pytest.raises(httpx.ConnectError):
        client.get("/")


def test_requests_and_the_ingress_s_log_are_shown_as_the_guide_has_it(running: Running) -> None:
    """The commands of docs/guide/monitoring.md about traffic; `e2e_first_month.py` types its others."""
    if running.name != "caddy":
        pytest.skip("the commands are about Caddy; IO has a console of its own, by ssh")
    page, stack = "docs/guide/monitoring.md", running.e2e_env.name
    reader = Reader(running.e2e_env.project, dict(running.e2e_env.env))

    def means(command: str) -> str:
        program, verb, name, *arguments = shlex.split(command)
        assert (program, name) == ("./pds", "main"), command
        return shlex.join([sys.executable, "-m", "cli.app", verb, stack, *arguments])

    logs = "./pds logs main --task caddy --lines 20"
    assert '"level":' in reader.types(page, logs, means=means(logs)).output
    everything = "./pds traffic main"
    with reader.starts(page, everything, means=means(everything)) as process, running.client() as client:
        client.get("/xrpc/com.atproto.repo.nothing")
        assert process.stdout
        shown = next(line for line in process.stdout if "/xrpc/com.atproto.repo.nothing" in line)
    assert HOSTNAME in shown
    failed = "./pds traffic main --status 5xx --path /xrpc/com.atproto.repo"
    output = reader.types(page, failed, means=f"timeout 10 {means(failed)}", check=False).output
    assert ("-- " in output, HOSTNAME in output) == (True, False), "the server refused those requests, and none failed"
    clients = "./pds traffic main --client 203.0.113.7 --no-follow --lines 10000"
    assert "GET" not in reader.types(page, clients, means=means(clients)).output, "the address has sent nothing"


def test_rebuilt_host_has_the_same_accounts_records_and_keys(running: Running) -> None:
    """After one `up` the ingress serves the same data, and Nomad has the same policies and jobs."""
    before = kept(running)
    assert before.posts, "there must be data that could be lost"
    running.e2e_env.configure(host={"generation": 2})
    with polled(running.e2e_env.health) as outage:
        done = running.e2e_env.pulumi("up", "--yes", "--skip-preview")
        assert kept(running) == before
    assert "created replacement" in steps(done)["pds-host-droplet"]
    assert running.text(HANDLE, "/.well-known/atproto-did") == running.did
    print(f"unavailable for {outage.seconds:.0f} s while the host was rebuilt, of {done.seconds:.0f} s")
    nothing_to_do(running)


@dataclass(frozen=True)
class Kept:
    """What must survive a rebuild: a member's posts by their CIDs, the repository's commit, the identity's keys, and
    Nomad's policies and jobs."""

    posts: dict[str, str]
    commit: str
    keys: dict[str, object]
    policies: dict[str, str]
    jobs: list[str]


def kept(running: Running) -> Kept:
    """The present state, through the ingress and from Nomad."""
    with running.client() as client:
        parameters = {"repo": running.did, "collection": "app.bsky.feed.post"}
        records = client.get("/xrpc/com.atproto.repo.listRecords", params=parameters).json()["records"]
        head = client.get("/xrpc/com.atproto.sync.getLatestCommit", params={"did": running.did}).json()
    document = running.plc.data(running.did)
    with httpx.Client(base_url=running.e2e_env.nomad, trust_env=False) as nomad:
        nomad.headers["X-Nomad-Token"] = running.e2e_env.outputs()["nomad_management_token"]
        names = [policy["Name"] for policy in nomad.get("/v1/acl/policies").json()]
        policies = {name: nomad.get(f"/v1/acl/policy/{name}").json()["Rules"] for name in names}
        jobs = sorted(job["ID"] for job in nomad.get("/v1/jobs").json())
    return Kept(
        posts={record["uri"]: record["cid"] for record in records},
        commit=head["cid"],
        keys={name: document[name] for name in ("rotationKeys", "verificationMethods")},
        policies=policies,
        jobs=jobs,
    )


def test_destroy_removes_the_ingress(running: Running) -> None:
    running.e2e_env.pulumi("state", "unprotect", "--all", "--yes")
    running.e2e_env.pulumi("destroy", "--yes", "--skip-preview")
    account = running.e2e_env.api.dump()
    assert account["droplets"] == account["firewalls"] == {}
    assert running.containers(running.name) == running.containers("pds") == []
