"""The PDS in a container without Nomad: the baseline for measurements of the program's own share.

It has the image, environment, user and limits of the job, on its own data; on the host's network, since the directory
of its identities is on loopback.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from cli.lib.private_files import write_private
from components.settings.checks.pds_env import read_env_file
from tests.e2e.environment.environment import HOSTNAME, E2eEnvironment
from tests.e2e.environment.tools import E2eError, run
from tools.trial.pds import applied, differences
from tools.trial.process import free_port
from tools.trial.xrpc import Client

NAME = "pds-bare"
_START = 60.0
_LIMITS = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--pids-limit=512", "--memory=512m")


@dataclass(frozen=True)
class BareServer:
    """A running container."""

    url: str
    admin_password: str
    docker_host: str

    def health(self) -> tuple[int, str]:
        """Status and text of its health."""
        answer = httpx.get(f"{self.url}/xrpc/_health", trust_env=False, timeout=5)
        return answer.status_code, answer.text

    def answers(self) -> None:
        """Return once it answers. Raises E2eError if it does not."""
        end = time.monotonic() + _START
        while time.monotonic() < end:
            try:
                if self.health()[0] == httpx.codes.OK:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise E2eError(f"{NAME} does not answer:\n{run(['docker', 'logs', '--tail', '20', NAME], self.docker_host)}")

    def restart(self) -> None:
        """Restart it in order, as Nomad would stop it."""
        run(["docker", "restart", "--time", "60", NAME], self.docker_host)
        self.answers()

    def memory_mib(self) -> float:
        """See the function."""
        return memory_mib(NAME, self.docker_host)

    def post(self, count: int) -> None:
        """Create an account and `count` posts, one after the other."""
        client = Client(self.url, HOSTNAME)
        invite = client.procedure(
            "com.atproto.server.createInviteCode", {"useCount": 1}, admin_password=self.admin_password
        )["code"]
        body = {"handle": f"poster.{HOSTNAME}", "email": f"poster@{HOSTNAME}", "password": "of-a-measurement"}
        account = client.procedure("com.atproto.server.createAccount", {**body, "inviteCode": invite})
        client.log_in(account["accessJwt"])
        for number in range(count):
            now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            record = {"$type": "app.bsky.feed.post", "text": f"Post {number} of {count}.", "createdAt": now}
            made = {"repo": account["did"], "collection": "app.bsky.feed.post", "record": record}
            client.procedure("com.atproto.repo.createRecord", made)


def memory_mib(container: str, docker_host: str) -> float:
    """Docker's figure for a container's memory, in MiB, without the reclaimable page cache."""
    text = run(["docker", "stats", "--no-stream", "--format", "{{json .}}", container], docker_host)
    found = re.match(r"([0-9.]+)(KiB|MiB|GiB)", json.loads(text)["MemUsage"])
    assert found, text
    return float(found[1]) * {"KiB": 1 / 1024, "MiB": 1, "GiB": 1024}[found[2]]


@contextmanager
def bare_server(running: E2eEnvironment, plc_url: str) -> Iterator[BareServer]:
    """Start it and wait for it; container and data are removed at the end. Raises E2eError if it does not start."""
    outputs = running.outputs()
    job_env = read_env_file(outputs["pds_env"])
    data = running.folder / "bare"
    data.mkdir(exist_ok=True)
    line = ".".join(outputs["package_version"].split(".")[:2])
    env = applied(job_env, differences(job_env, data=data, plc_url=plc_url, port=free_port(), line=line))
    # One client writes a thousand posts; and the volume check's file is not in the image.
    env = {name: value for name, value in env.items() if name != "NODE_OPTIONS"} | {"PDS_RATE_LIMITS_ENABLED": "false"}
    for folder in (data, data / "blocks", data / "temp"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
    file = running.folder / "bare.env"
    write_private(file, "".join(f"{name}={value}\n" for name, value in env.items()).encode())
    command = ["docker", "run", "--detach", "--name", NAME, "--network=host", "--user=1000:1000", *_LIMITS]
    command += ["--tmpfs=/tmp", f"--volume={data}:{data}", f"--env-file={file}", _image(running)]
    run(command, running.docker_host)
    try:
        server = BareServer(f"http://127.0.0.1:{env['PDS_PORT']}", env["PDS_ADMIN_PASSWORD"], running.docker_host)
        server.answers()
        yield server
    finally:
        run(["docker", "rm", "--force", NAME], running.docker_host)


def _image(running: E2eEnvironment) -> str:
    found = re.search(r'image\s*=\s*"([^"]+)"', running.jobspec("pds-server-job"))
    assert found, "the job names its image"
    return found[1]
