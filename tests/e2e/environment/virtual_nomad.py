"""Nomad's API as a test asks it, a server of workers that are virtual machines, and a job that writes rows there."""

import os
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from components.render.cluster.agents import server_agent
from components.render.scripts import script
from components.settings.sections.settings import Settings
from tests.e2e.environment.service import Service
from tests.e2e.environment.tools import E2eError, need
from tests.e2e.environment.virtual import free_port
from tests.e2e.environment.virtual_cluster import RESERVED, RPC, VPC
from tests.support.certificates import Authority

_LOCK = "data_lock.cjs"
_TIMEOUT = 60.0


class Nomad:
    """The API at a URL, with the token of `bootstrap`."""

    def __init__(self, url: str, context: ssl.SSLContext | None = None) -> None:
        self._http = httpx.Client(base_url=url, verify=context or True, trust_env=False, timeout=_TIMEOUT)

    def bootstrap(self) -> None:
        """Create the management token, and use it from now on."""
        self._http.headers["X-Nomad-Token"] = self.post("/v1/acl/bootstrap", None)["SecretID"]

    def get(self, path: str) -> Any:
        """The answer. Raises E2eError."""
        return self._request("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        """The answer. Raises E2eError."""
        return self._request("POST", path, body)

    def _request(self, method: str, path: str, body: Any) -> Any:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise E2eError(f"Nomad does not answer {path}: {error!r}") from None
        if answer.is_error:
            raise E2eError(f"Nomad answers {path} with {answer.status_code}: {answer.text}")
        return answer.json()


def behind_endpoint(endpoint: tuple[str, int], authority: Authority) -> Nomad:
    """The API through the operators' endpoint of a server, with a client certificate of `authority`."""
    context = ssl.create_default_context(cadata=authority.pem)
    # The endpoint's certificate names a server of Nomad; this machine has it at another address.
    context.check_hostname = False
    with tempfile.TemporaryDirectory() as folder:
        context.load_cert_chain(authority.issue("operator", client=True).written(Path(folder), "operator.pem"))
    host, port = endpoint
    return Nomad(f"https://{host}:{port}", context)


@contextmanager
def nomad_server(folder: Path, settings: Settings, stack: str, authority: Authority, rpc: int) -> Iterator[Nomad]:
    """A server with the rendered configuration, as a process that listens at port `rpc` of 127.0.0.1 for workers.

    Mapped are paths, ports and addresses: it advertises the reserved address, by which a worker reaches it. Its own
    client, which would run the takeover, is off. Raises E2eError if Nomad is missing.
    """
    need("nomad")
    folder.mkdir()
    pair = authority.issue("server.global.nomad", peer=True)
    for name, text in (("ca.pem", authority.pem), ("server.pem", pair.cert_pem), ("server.key", pair.key_pem)):
        (folder / name).write_text(text)
    text = server_agent(settings, f"{stack}-server-1", VPC, RESERVED, configuration="")
    private = '"{{ GetPrivateInterfaces | include \\"network\\" \\"' + VPC + '\\" | attr \\"address\\" }}"'
    for old, new in (
        ('"/var/lib/nomad"', f'"{folder}/data"'),
        ('"/etc/stunnel/pds/', f'"{folder}/'),
        ('"0.0.0.0"', '"127.0.0.1"'),
        (f"rpc  = {private}", f'rpc  = "{RESERVED}:{RPC}"'),
        (f"serf = {private}", f'serf = "{RESERVED}"'),
        (f'retry_join     = ["{RESERVED}"]', "retry_join     = []"),
        ("client {\n  enabled   = true", "client {\n  enabled   = false"),
    ):
        if old not in text:
            raise E2eError(f"the rendered configuration of a server has no {old!r} to map")
        text = text.replace(old, new)
    http = free_port()
    ports = f"ports {{\n  http = {http}\n  rpc = {rpc}\n  serf = {free_port()}\n}}\n"
    (folder / "agent.hcl").write_text(text + ports)
    server = Service(["nomad", "agent", f"-config={folder / 'agent.hcl'}"], folder / "nomad.log", os.environ)
    try:
        yield Nomad(f"http://127.0.0.1:{http}")
    finally:
        server.stop()


@dataclass
class Writer:
    """A client of `row_writer.cjs`, with the journal of what it acknowledged."""

    url: str = ""
    acknowledged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def answers(self) -> bool:
        """Whether it answers a read."""
        try:
            return httpx.get(self.url, trust_env=False, timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def rows(self) -> list[str]:
        """All rows."""
        rows: list[str] = httpx.get(self.url, trust_env=False, timeout=_TIMEOUT).json()
        return rows

    def write(self, end: threading.Event) -> None:
        """Write row after row until `end`."""
        while not end.is_set():
            text = f"row {len(self.acknowledged) + len(self.refused)} {time.time_ns()}"
            try:
                answer = httpx.post(self.url, content=text, trust_env=False, timeout=10)
            except httpx.HTTPError as error:
                self.refused.append(type(error).__name__)
                end.wait(1)
                continue
            if answer.status_code == 200:
                self.acknowledged.append(text)
            else:
                self.refused.append(answer.text)
                end.wait(0.2)


def writer_job(image: str) -> dict[str, Any]:
    """The job on host a, port 3101, as Nomad's API takes it, with the server's user and its lock on the data."""

    lock = {"EmbeddedTmpl": script(_LOCK), "DestPath": f"local/{_LOCK}", "LeftDelim": "<<<", "RightDelim": ">>>"}
    task = {
        "Name": "writer",
        "Driver": "docker",
        "User": "1000:1000",
        "Config": {
            "image": image,
            "args": ["--require", f"/local/{_LOCK}", "/app/writer.cjs"],
            "ports": ["http"],
            "image_pull_timeout": "30m",
        },
        "Env": {"PDS_DATA_DIRECTORY": "/pds"},
        "Templates": [lock],
        "VolumeMounts": [{"Volume": "pds", "Destination": "/pds"}],
        "Resources": {"CPU": 100, "MemoryMB": 256},
        "RestartPolicy": {"Attempts": 10, "Interval": 600 * 10**9, "Delay": 15 * 10**9, "Mode": "delay"},
    }
    group = {
        "Name": "writer",
        "Count": 1,
        # As the program's jobs: if a deployment has failed, as on this slow machine, Nomad replaces no lost allocation.
        "Update": {"MaxParallel": 0},
        "Volumes": {"pds": {"Name": "pds", "Type": "host", "Source": "pds"}},
        "Networks": [{"ReservedPorts": [{"Label": "http", "Value": 3101, "To": 3000}]}],
        "Tasks": [task],
    }
    return {"ID": "writer", "Name": "writer", "Type": "service", "Datacenters": ["a"], "TaskGroups": [group]}
