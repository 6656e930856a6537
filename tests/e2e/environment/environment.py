"""The complete e2e_env: Docker engine, API with machines, name server, and a project folder with one stack in it.

It is the environment of `up.py` and the tests. The engine, its plugins, Nomad, Docker and stunnel are found on PATH.

The project folder has a copy of the program, so that an edit meanwhile is not a change, and a `Pulumi.yaml` that names
the running Python environment. Nothing is written into the checkout: the stack's file and state are in that folder.
"""

import json
import os
import secrets
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from cli.lib.subprocesses import child
from tests.e2e.digitalocean import Api, World
from tests.e2e.digitalocean.account import add_key
from tests.e2e.digitalocean.scopes import TAKEOVER
from tests.e2e.environment.docker import engine
from tests.e2e.environment.machine import ProcessMachines, lot
from tests.e2e.environment.nameserver import nameserver
from tests.e2e.environment.tools import PROGRAMS as PROGRAMS
from tests.e2e.environment.tools import E2eError, missing
from tests.e2e.images.build import pds_image
from tests.support.certificates import Authority
from tests.support.programs import SOURCES

ROOT = Path(__file__).resolve().parents[3]
HOSTNAME = "noted.test"
STACK = "bench"
_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL0kGrUKdvQZwJvHcMpdDCHRyNQGbtBNVdGBo8GBqfLh bench"


DEADLINE = 3600.0
"""Deadline of a run of the engine, in seconds; its own waits are shorter."""
_LAST = 300.0
"""Seconds for commands that only read, or end."""


@dataclass(frozen=True)
class Run:
    """One run of the engine: its output, exit code and duration."""

    command: str
    output: str
    code: int
    seconds: float


def complaint(output: str) -> str:
    """The engine's error message, without the outputs after it; else the end of its output."""
    diagnostics = output.partition("\nDiagnostics:")[2].partition("\nOutputs:")[0]
    return diagnostics[:6000] or output[-6000:]


def _until(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _LAST
    while not done():
        if time.monotonic() > end:
            raise E2eError(f"{what} was not over after {_LAST:.0f} s")
        time.sleep(0.2)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One stack in the engine's project, and the account it is for."""

    folder: Path
    project: Path
    env: Mapping[str, str]
    world: World
    api: Api
    nameserver: str
    authority: Authority
    """Stands in for the public certificate authorities; the engine trusts it beside them."""
    name: str = STACK

    def beside(self, name: str, config: Mapping[str, Any], passphrase: str | None = None) -> Self:
        """A further stack of the project, with its file; its secrets have the same passphrase unless another is given.
        Raises E2eError."""
        env = {**self.env, **({"PULUMI_CONFIG_PASSPHRASE": passphrase} if passphrase else {})}
        init_stack(self.project, env, name, config)
        return replace(self, name=name, env=env)

    def pulumi(self, *arguments: str, show: bool = False, check: bool = True) -> Run:
        """Run the engine on the stack; `show` prints its output as it comes. Raises E2eError on failure."""
        command = ["pulumi", *arguments, "--stack", self.name, "--non-interactive"]
        began = time.monotonic()
        lines: list[str] = []
        with child(
            command,
            DEADLINE,
            cwd=self.project,
            env=dict(self.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if show:
                    print(f"  {line.rstrip()}", flush=True)
            code = process.wait(_LAST)
        done = Run(" ".join(command), "".join(lines), code, time.monotonic() - began)
        if check and done.code:
            raise E2eError(f"`{done.command}` ended with {done.code}:\n{complaint(done.output)}")
        return done

    def pds(self, *arguments: str, check: bool = True) -> Run:
        """Run `./pds` on the stack, as an operator would. Raises E2eError on failure."""
        name, *rest = arguments
        return self.pds_command(name, self.name, *rest, check=check)

    def pds_command(self, *arguments: str, check: bool = True) -> Run:
        """Run `./pds` with exactly these arguments. Raises E2eError on failure."""
        command = [sys.executable, "-m", "cli.app", *arguments]
        began = time.monotonic()
        done = subprocess.run(
            command,
            cwd=self.project,
            env=dict(self.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE,
        )
        ran = Run(f"./pds {' '.join(command[3:])}", done.stdout, done.returncode, time.monotonic() - began)
        if check and ran.code:
            raise E2eError(f"`{ran.command}` ended with {ran.code}:\n{ran.output[-6000:]}")
        return ran

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs, secrets in plain text."""
        return self._said("output", "--json", "--show-secrets")

    def jobspec(self, name: str) -> str:
        """The text of the Nomad job of this name in the state."""
        resources = self._said("export")["deployment"]["resources"]
        [found] = [item for item in resources if item["urn"].endswith(f"::{name}")]
        return str(found["outputs"]["jobspec"])

    def _said(self, *arguments: str) -> dict[str, Any]:
        text = subprocess.run(
            ["pulumi", "stack", *arguments, "--stack", self.name, "--non-interactive"],
            cwd=self.project,
            env=dict(self.env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=_LAST,
        ).stdout
        found: dict[str, Any] = json.loads(text)
        return found

    def trust(self, trusting: ssl.SSLContext) -> None:
        """Let the engine trust the certificate authorities that this context trusts, too."""
        with Path(self.env["SSL_CERT_FILE"]).open("a") as file:
            file.writelines(ssl.DER_cert_to_PEM_cert(der) for der in trusting.get_ca_certs(binary_form=True))

    def takeover_token(self) -> str:
        """A token of the account with the rights that a takeover needs."""
        token = secrets.token_hex(32)
        self.world.limited_tokens[token] = TAKEOVER
        return token

    def act(self, path: str, body: Mapping[str, Any]) -> None:
        """Start an action of the account without the engine, and wait for its end."""
        with self._account() as client:
            action = client.post(path, json=body).raise_for_status().json()["action"]
            at = f"/v2/actions/{action['id']}"
            _until(lambda: client.get(at).json()["action"]["status"] == "completed", path)

    def delete(self, path: str) -> None:
        """Delete a resource of the account without the engine, and wait until it is gone."""
        with self._account() as client:
            client.delete(path).raise_for_status()
            _until(lambda: not self._there(client, path), path)

    def _account(self) -> httpx.Client:
        token = self.env["DIGITALOCEAN_TOKEN"]
        return httpx.Client(base_url=self.api.url, trust_env=False, headers={"Authorization": f"Bearer {token}"})

    @staticmethod
    def _there(client: httpx.Client, path: str) -> bool:
        try:
            return client.get(path).status_code != httpx.codes.NOT_FOUND
        except httpx.RemoteProtocolError:
            return True  # a fault that is reserved for the engine

    def configure(self, **changed: Any) -> None:
        """Change sections of the stack file: `pds={"memory_mib": 600}`; a section given as None is removed."""
        file = self.project / f"Pulumi.{self.name}.yaml"
        document = yaml.load(file.read_text(), yaml.CSafeLoader)
        for section, values in changed.items():
            key = f"pds:{section}"
            if values is None:
                document["config"].pop(key, None)
            elif isinstance(values, Mapping):
                document["config"][key] = {**document["config"].get(key, {}), **values}
            else:
                document["config"][key] = values
        file.write_text(yaml.safe_dump(document, sort_keys=False))


@dataclass(frozen=True, kw_only=True)
class E2eEnvironment(Stack):
    """A stack whose droplets are machines in process grade."""

    cache: Path
    machines: ProcessMachines
    docker_host: str
    nomad: str
    """Nomad's API on the machine's loopback."""
    network: str
    """The prefix of the reserved IPs."""

    def health_url(self) -> str:
        """The server's address, found as an ingress on that host would: by the service's name on Nomad's loopback API,
        without a token. Raises E2eError if there is none."""
        machines = self.machines.machines()
        if len(machines) != 1:
            raise E2eError(f"there are {len(machines)} machines")
        with httpx.Client(trust_env=False, timeout=10) as client:
            found = client.get(f"{self.nomad}/v1/service/pds").json()
        if not found:
            raise E2eError("Nomad knows no service 'pds'")
        return f"http://{found[0]['Address']}:{found[0]['Port']}"

    def forget_nomad(self) -> None:
        """Wipe the agent's state, as an operator would on the host; the volume stays."""
        [number] = self.api.dump()["droplets"]
        [machine] = self.machines.machines()
        self.machines.stop(int(number), graceful=True)
        shutil.rmtree(machine.volume / "agent")
        self.machines.start(int(number))
        time.sleep(5)

    def health(self) -> tuple[int, str]:
        """Status and text of the server's health."""
        answer = httpx.get(f"{self.health_url()}/xrpc/_health", trust_env=False, timeout=5)
        return answer.status_code, answer.text


def settings(image: str, names: str) -> dict[str, Any]:
    """The stack file's `config`: the minimum of a first stack, with a locally built image and without contact to public
    services."""
    return {
        "pds:hostname": HOSTNAME,
        "pds:operators": {"cidrs": ["203.0.113.7/32"], "ssh_keys": ["laptop"]},
        "pds:dns": {"zone": HOSTNAME, "create_zone": True, "nameservers": [names], "caa": ["letsencrypt.org"]},
        "pds:ingress": {"kind": "none"},
        "pds:pds": {
            "image": image,
            "new": True,
            "escrow": "declined",
            "crawlers": [],
        },
    }


@contextmanager
def e2e_env(
    folder: Path, cache: Path, action_seconds: float = 1.0, kind: type[ProcessMachines] = ProcessMachines
) -> Iterator[E2eEnvironment]:
    """Start everything; stop it at the end, by process id. `kind` is that of its machines. Raises E2eError with
    everything that is missing."""
    lines = missing(*PROGRAMS)
    if lines:
        raise E2eError("\n".join(lines))
    folder, cache = folder.resolve(), cache.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with lot() as mine, engine(cache / "docker", mine.number) as docker_host:
        image = pds_image(cache, docker_host)
        machines = kind(folder, docker_host, mine.ports)
        world = World(machines=machines, action_seconds=action_seconds, network=mine.network)
        try:
            with stack(folder, world, lambda names: settings(image, names)) as made:
                yield E2eEnvironment(
                    **vars(made),
                    cache=cache,
                    machines=machines,
                    docker_host=docker_host,
                    nomad=f"http://127.0.0.1:{mine.ports['http']}",
                    network=f"{mine.network}.0/24",
                )
        finally:
            # After the API, which may still have been booting one.
            machines.stop_all()


@contextmanager
def stack(folder: Path, world: World, config: Callable[[str], Mapping[str, Any]]) -> Iterator[Stack]:
    """An API for `world`, a name server for its records, and a project with one stack in it.

    `config` makes the stack file's `config` of the name server's address. Raises E2eError.
    """
    token = secrets.token_hex(32)
    world.token = token
    add_key(world, "laptop", _KEY)
    authority = Authority("bench CA")
    with Api(world, folder / "api") as api, nameserver(lambda: dict(world.records)) as names:
        env = _environment(folder, api.url, token, authority)
        yield Stack(
            folder=folder,
            project=_project(folder, config(names), env),
            env=env,
            world=world,
            api=api,
            nameserver=names,
            authority=authority,
        )


def _environment(folder: Path, url: str, token: str, authority: Authority) -> dict[str, str]:
    state = folder / "state"
    state.mkdir(exist_ok=True)
    trusted = folder / "trusted.pem"
    public = ssl.get_default_verify_paths().cafile
    trusted.write_text((Path(public).read_text() if public else "") + authority.pem)
    # A shell that points at another account, or another Nomad, must not reach into the e2e environment.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DIGITALOCEAN_", "NOMAD_", "DOCKER_HOST", "PULUMI_CONFIG", "PULUMI_BACKEND"))
        # With it, as many images set it, each command would compile the program anew.
        and name != "PYTHONDONTWRITEBYTECODE"
    }
    return {
        **kept,
        "DIGITALOCEAN_TOKEN": token,
        "DIGITALOCEAN_API_URL": url,
        "PULUMI_BACKEND_URL": f"file://{state}",
        "PULUMI_CONFIG_PASSPHRASE": secrets.token_hex(16),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "SSL_CERT_FILE": str(trusted),
    }


def _project(folder: Path, config: Mapping[str, Any], env: Mapping[str, str]) -> Path:
    project = folder / "project"
    project.mkdir(exist_ok=True)
    shutil.copy2(ROOT / "__main__.py", project)
    for source in SOURCES:
        shutil.rmtree(project / source, ignore_errors=True)
        shutil.copytree(ROOT / source, project / source, ignore=shutil.ignore_patterns("__pycache__"))
    document = yaml.load((ROOT / "Pulumi.yaml").read_text(), yaml.CSafeLoader)
    document["runtime"]["options"]["virtualenv"] = sys.prefix
    (project / "Pulumi.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    init_stack(project, env, STACK, config)
    return project


def init_stack(project: Path, env: Mapping[str, str], name: str, config: Mapping[str, Any]) -> None:
    """Write a stack's file, and make the stack. Raises E2eError."""
    (project / f"Pulumi.{name}.yaml").write_text(yaml.safe_dump({"config": dict(config)}, sort_keys=False))
    made = subprocess.run(
        ["pulumi", "stack", "init", name, "--secrets-provider", "passphrase", "--non-interactive"],
        cwd=project,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LAST,
    )
    if made.returncode:
        raise E2eError(f"pulumi stack init failed:\n{made.stdout}{made.stderr}")
