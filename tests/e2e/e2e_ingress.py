"""The way in, over the reserved IP: `pytest tests/e2e/e2e_ingress.py -x`, as root; one story for each ingress.

`up` from nothing with an ingress of ours, a member's account made through it as with `pdsadmin`, her post on the event
stream, her handle added to the ingress, and nothing left to do. IO's place is taken by a stand-in (`images/io`): what
is seen here is true of our file, the service that it names and the rights of who looks it up, not of IO.
"""

import json
import os
import secrets
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from components.probes import until
from tests.e2e import tools
from tests.e2e.bench import HOSTNAME, PROGRAMS, ROOT, Bench, bench
from tests.e2e.directory import Directory, directory
from tests.e2e.images.build import io_image
from tests.e2e.tools import missing
from tests.e2e.watching import polled, steps
from tools.live.firehose import subscribe

HANDLE = f"alice.{HOSTNAME}"
_PATIENCE = 60
"""Seconds for what follows an `up` by itself: a template rendered anew, a container started again."""


class Running:
    """A bench with an ingress, and a directory of identities."""

    def __init__(self, bench: Bench, plc: Directory) -> None:
        self.bench, self.plc = bench, plc
        self.trust = ssl.create_default_context(cadata=bench.authority.pem)
        self.did = ""
        self.password = secrets.token_urlsafe(18)

    def client(self, hostname: str = HOSTNAME) -> httpx.Client:
        """A client that finds `hostname` at the reserved IP."""
        transport = _At(self.bench.outputs()["ipv4"], verify=self.trust)
        return httpx.Client(base_url=f"https://{hostname}", transport=transport, timeout=30)

    def containers(self, task: str) -> list[dict[str, Any]]:
        """Nomad's containers of this task that run, as Docker sees them."""
        host = self.bench.docker_host
        ids = tools.run(["docker", "ps", "--quiet", "--filter", f"name=^{task}-"], host).split()
        found: list[dict[str, Any]] = json.loads(tools.run(["docker", "inspect", *ids], host)) if ids else []
        return found


class _At(httpx.HTTPTransport):
    """Connects to one address, whatever the name; the certificate has to be the name's."""

    def __init__(self, address: str, verify: ssl.SSLContext) -> None:
        super().__init__(verify=verify)
        self._address = address

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "sni_hostname": request.url.host}
        request.url = request.url.copy_with(host=self._address)
        return super().handle_request(request)


@pytest.fixture(scope="module", params=["io"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    lines = missing(*PROGRAMS, "go")
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with (
        bench(tmp_path_factory.mktemp(str(request.param)), cache) as made,
        directory(made.folder / "plc", cache, made.docker_host, made.authority) as plc,
    ):
        image = io_image(made.folder / "io", made.docker_host, made.authority.pair(), made.network, made.nomad)
        made.configure(
            ingress={"kind": request.param, "image": image}, pds={"plc_url": plc.url, "image": plc.pds_image}
        )
        yield Running(made, plc)


def nothing_to_do(running: Running) -> None:
    """The next preview is empty, and so is one that looks at everything again."""
    running.bench.pulumi("preview", "--expect-no-changes")
    running.bench.pulumi("preview", "--refresh", "--expect-no-changes")


def test_up_from_nothing_serves_over_https(running: Running) -> None:
    """`serving` is said by `Ready` alone, which asks at the reserved IP, and after the gate that asks the zone."""
    done = running.bench.pulumi("up", "--yes", "--skip-preview")
    outputs = running.bench.outputs()
    assert outputs["state"] == "serving"
    assert outputs["resolves"] == f"{HOSTNAME} resolves to {outputs['ipv4']}"
    with running.client() as client:
        assert client.get("/xrpc/_health").json() == {"version": outputs["package_version"]}
    assert running.bench.world.failures + running.bench.machines.deaths() == []
    print(f"up from nothing: {done.seconds:.0f} s")
    nothing_to_do(running)


def test_a_member_is_made_with_the_exported_environment(running: Running) -> None:
    """What `pdsadmin account create` and `account list` ask, with `pds_env` in the place of `~/pds.env`; and her first
    post is heard on the event stream."""
    env = dict(line.split("=", 1) for line in running.bench.outputs()["pds_env"].splitlines())
    assert env["PDS_HOSTNAME"] == HOSTNAME
    admin = ("admin", env["PDS_ADMIN_PASSWORD"])
    address = (running.bench.outputs()["ipv4"], 443)
    with (
        running.client(env["PDS_HOSTNAME"]) as client,
        subscribe(f"https://{HOSTNAME}", sock=socket.create_connection(address, 10), ssl=running.trust) as stream,
    ):

        def call(method: str, body: dict[str, Any], **more: Any) -> Any:
            answer = client.post(f"/xrpc/{method}", json=body, **more)
            assert answer.status_code == 200, f"{method}: {answer.status_code} {answer.text}"
            return answer.json()

        code = call("com.atproto.server.createInviteCode", {"useCount": 1}, auth=admin)["code"]
        account = {"handle": HANDLE, "email": "alice@example.com", "password": running.password, "inviteCode": code}
        made = call("com.atproto.server.createAccount", account)
        running.did = made["did"]
        assert running.plc.data(running.did)["alsoKnownAs"] == [f"at://{HANDLE}"]

        listed = client.get("/xrpc/com.atproto.sync.listRepos").json()["repos"]
        assert [item["did"] for item in listed] == [running.did]
        asked = {"did": running.did}
        info = client.get("/xrpc/com.atproto.admin.getAccountInfo", params=asked, auth=admin).json()
        assert (info["handle"], info["email"]) == (HANDLE, "alice@example.com")

        record = {"$type": "app.bsky.feed.post", "text": "Hello", "createdAt": datetime.now(UTC).isoformat()}
        post = {"repo": running.did, "collection": "app.bsky.feed.post", "record": record}
        posted = call("com.atproto.repo.createRecord", post, headers={"Authorization": f"Bearer {made['accessJwt']}"})
        path = posted["uri"].split("/", 3)[3]
        commit = stream.find(running.did, path, seconds=30)
        assert commit.records[posted["cid"]]["text"] == "Hello"


def test_a_changed_ingress_file_restarts_the_ingress_alone(running: Running) -> None:
    """IO has no wildcard certificates: a member's handle is a name of its own, added as raw HCL."""
    [server] = running.containers("pds")
    [ingress] = running.containers("io")
    added = f'ingress "{HANDLE}" {{\n  backend = "nomad:pds"\n}}\n'
    running.bench.configure(ingress={"extra_hcl": added})
    with polled(running.bench) as outage:
        done = running.bench.pulumi("up", "--yes", "--skip-preview")
        with running.client(HANDLE) as client:

            def answered() -> str | None:
                try:
                    said = client.get("/.well-known/atproto-did")
                except httpx.HTTPError as error:
                    return str(error)
                return None if said.text == running.did else f"{said.status_code} {said.text}"

            until(answered, _PATIENCE, f"the handle {HANDLE}")
    assert steps(done) == {"pds-ingress-file-variable": ["updated"], "pds-ready": ["updated"]}
    assert running.bench.outputs()["ingress_file"].endswith(added)
    assert [item["Id"] for item in running.containers("pds")] == [server["Id"]]
    assert [item["Id"] for item in running.containers("io")] != [ingress["Id"]]
    assert outage.failures == [], "the server itself was never away"
    nothing_to_do(running)


def test_destroy_takes_the_ingress_with_it(running: Running) -> None:
    running.bench.pulumi("state", "unprotect", "--all", "--yes")
    running.bench.pulumi("destroy", "--yes", "--skip-preview")
    account = running.bench.api.dump()
    assert account["droplets"] == account["firewalls"] == {}
    assert running.containers("io") == running.containers("pds") == []
