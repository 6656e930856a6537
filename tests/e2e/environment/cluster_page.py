"""The operator of a cluster who follows its page: the stacks `fleet` and its clubs', and what stands in for services.

A machine of this environment has no ssh, no doctl, no Spaces, no webhook and no public DNS. ssh is a program that runs
three commands in the folder of the droplet with that address: `ls`, the restart of Nomad, and the host's own script
with `forget-agent`. doctl is one that sends the two requests of the page to the API.
"""

import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from queue import Empty, Queue
from typing import Any

import httpx
import yaml

from cli.lib.escrow import PASSPHRASE_FILE
from tests.contract.club import Club, founded, whole
from tests.e2e.environment.backups import backup_section
from tests.e2e.environment.cluster_machines import ClusterMachines
from tests.e2e.environment.clusters import Cluster, cluster_env, health, refuse_changes, until, with_ssh
from tests.e2e.environment.environment import E2eEnvironment, Run
from tests.e2e.environment.machine import Machine
from tests.e2e.environment.other_servers import receiver
from tests.e2e.environment.reader import Reader, clone, stack_files
from tests.support.s3 import BUCKET, s3_server
from tools.trial.xrpc import Client, RefusedError

PAGE = "docs/guide/cluster.md"
ESCROW_PASSPHRASE = "six words or more on paper"
_SSH = """#!/bin/sh
while [ $# -gt 0 ] && [ "${{1#root@}}" = "$1" ]; do shift; done
address=${{1#root@}}; shift
[ "$1" != -- ] || shift
folder=$(sed -n "s|^$address ||p" {folder}/ssh-hosts)
[ "$folder" ] || {{ echo "ssh: connect to host $address port 22: No route to host" >&2; exit 255; }}
case "$*" in
"systemctl restart nomad.service") exec pkill -TERM -f "config=$folder/agent.hcl" ;;
"/usr/local/lib/pds/forget-agent")
  export MACHINE="$folder" PDS_ROOT="$folder/root" PATH="{folder}/host-programs:{shims}:$PATH"
  exec sh "$PDS_ROOT/usr/local/lib/pds/forget-agent" ;;
"ls "*) shift $(($# - 1)); exec ls "$folder/root${{1#ls }}" ;;
*) echo "the stand-in for ssh does not know: $*" >&2; exit 255 ;;
esac
"""
_HOST_PROGRAMS = {
    # The file keeps the agent from its next start (machine.py).
    "systemctl": """#!/bin/sh
agent="config=$MACHINE/agent.hcl"
case "$*" in
"stop nomad.service")
  touch "$MACHINE/stopped"
  pkill -TERM -f "$agent"
  while pgrep -f "$agent" >/dev/null; do sleep 0.2; done ;;
"start nomad.service") rm -f "$MACHINE/stopped" ;;
esac
exit 0
""",
    # One engine has the containers of all droplets.
    "docker": """#!/bin/sh
docker() {{ env DOCKER_HOST={docker_host} {docker} "$@"; }}
[ "$1" = ps ] || {{ docker "$@"; exit; }}
volume=$(readlink -f "$PDS_ROOT/srv/nomad")
for container in $(docker "$@"); do
  mounts=$(docker inspect --format '{{{{range .Mounts}}}}{{{{.Source}}}} {{{{end}}}}' "$container")
  case " $mounts" in *" $volume/"*) echo "$container" ;; esac
done
""",
}
_DOCTL = """#!/bin/sh
# compute droplet-action power-off ID --wait, and compute droplet delete ID
api() {
  curl --silent --show-error --fail --header "Authorization: Bearer $DIGITALOCEAN_TOKEN" \\
    --header "Content-Type: application/json" "$@"
}
droplet=$DIGITALOCEAN_API_URL/v2/droplets/$4
case "$2 $3" in
"droplet-action power-off")
  api --data '{"type": "power_off"}' "$droplet/actions" >/dev/null || exit
  until api "$droplet" | grep --quiet '"status": *"off"'; do sleep 0.2; done ;;
"droplet delete") api --request DELETE "$droplet" ;;
*) echo "the stand-in for doctl does not know: $*" >&2; exit 2 ;;
esac
"""


@dataclass(kw_only=True)
class ClusterOperator:
    """The operator, their stacks and members, and the requests to the webhook and to the dead man's switch."""

    reader: Reader
    cluster: Cluster
    backup: Mapping[str, Any]
    """Section `backup` of a club, without keys."""
    bucket: str
    """URL of the S3 service of Nomad's snapshots."""
    webhook: str
    posts: "Queue[tuple[str, str, str]]"
    """Path, `Authorization` and text of each POST to the webhook."""
    members: dict[str, Club] = field(default_factory=dict)

    @property
    def fleet(self) -> E2eEnvironment:
        """The cluster's stack."""
        return replace(self.cluster.stack, name="fleet", env=self.reader.env)

    @property
    def machines(self) -> ClusterMachines:
        """The droplets."""
        return self.cluster.machines

    def club(self, name: str) -> E2eEnvironment:
        """A club's stack."""
        return replace(self.fleet, name=name)

    def types(self, command: str, *, means: str | None = None, says: str = "", check: bool = True) -> Run:
        """Type a command of the page."""
        return self.reader.types(PAGE, command, means=means, says=says, check=check)

    def config(self, stack: str) -> dict[str, Any]:
        """The content of a stack's file, without `pds:`."""
        text = (self.reader.project / f"Pulumi.{stack}.yaml").read_text()
        document = yaml.load(text, yaml.CSafeLoader)["config"]
        return {key.removeprefix("pds:"): value for key, value in document.items()}

    def write_the_page_s_files(self) -> None:
        """Both files of the page, with what this environment has instead of the Internet."""
        for name, sections in stack_files(PAGE).items():
            assert sections["ingress"] == {"kind": "caddy"}, "the hosts share this machine's ports 80 and 443"
            sections["ingress"] = {"kind": "none"}
            if name == "fleet":
                sections["cluster"]["takeover"]["api_url"] = self.cluster.stack.api.url
            config = {f"pds:{key}": value for key, value in sections.items()}
            file = self.reader.project / f"Pulumi.{name}.yaml"
            file.write_text(yaml.safe_dump({"config": config}, sort_keys=False))
        self.is_a_club_of_the_tests("chess")

    def is_a_club_of_the_tests(self, name: str) -> None:
        """Give a club's file an image that knows the local directory, and the local name server; make its zone."""
        server = {key: value for key, value in self.cluster.server.items() if key != "memory_mib"}
        dns = {"nameservers": [self.cluster.stack.nameserver], "ttl": 60}
        self.club(name).configure(pds=server, dns=dns)

    def make_zone(self, zone: str) -> None:
        """The club's domain is at DigitalOcean, as the page assumes."""
        token = {"Authorization": f"Bearer {self.reader.env['DIGITALOCEAN_TOKEN']}"}
        url = f"{self.cluster.stack.api.url}/v2/domains"
        httpx.post(url, json={"name": zone}, headers=token, trust_env=False).raise_for_status()

    def url(self, club: str) -> str:
        """Where the club's PDS listens, on each host's loopback."""
        return f"http://127.0.0.1:{self.config(club)['pds']['port']}"

    def health(self, club: str) -> int:
        """Status of a PDS's health; 0 without an answer."""
        return health(self.url(club))

    def found(self, club: str) -> None:
        """Let a club have members with posts."""
        hostname = self.config(club)["hostname"]
        self.members[club] = founded(self.url(club), hostname, members=2, posts=3, mail=hostname.partition(".")[2])

    def whole(self, *clubs: str) -> None:
        """Assert that everything acknowledged is there, with its original CID."""
        for club in clubs or self.members:
            client = Client(self.url(club), self.config(club)["hostname"])
            whole(client, self.members[club], float("inf"))

    def carriers(self) -> dict[str, int]:
        """The droplet of each host's volume, by the API."""
        volumes = self.cluster.stack.api.dump()["volumes"].values()
        return {item["name"].rpartition("-")[2]: item["droplet_ids"][0] for item in volumes if item["droplet_ids"]}

    def workers(self) -> dict[int, int]:
        """The workers' droplets by the workers' numbers."""
        return {at: int(worker) for at, worker in enumerate(self.fleet.outputs()["workers"], 1)}

    def worker_without_host(self) -> int:
        """The number of the only worker that has no volume."""
        (number,) = (at for at, worker in self.workers().items() if worker not in self.carriers().values())
        return number

    def raise_generation(self, worker: int) -> None:
        """Write the next generation of a worker, as the page's example has it."""
        workers = self.config("fleet")["cluster"]["workers"]
        generations = {**workers.get("generations", {})}
        generations[str(worker)] = generations.get(str(worker), 1) + 1
        self.configure_cluster(workers={**workers, "generations": generations})

    def configure_cluster(self, **options: Any) -> None:
        """Change options of the section `cluster`."""
        self.fleet.configure(cluster=options)

    @contextmanager
    def ssh_reaches(self, *hosts: str) -> Iterator[None]:
        """Let ssh know the addresses of the droplets as they are now: reserved ones, and their own. Port 22 answers at
        those of `hosts`."""
        droplets = self.cluster.stack.api.dump()["droplets"]
        known = {own_address(int(number)): self.machine(int(number)) for number in droplets}
        known |= {machine.address: machine for machine in self.machines.machines() if machine.address}
        lines = [f"{address} {machine.root.parent}\n" for address, machine in known.items()]
        (self.cluster.stack.folder / "ssh-hosts").write_text("".join(lines))
        outputs = self.fleet.outputs()["hosts"] if hosts else {}
        with ExitStack() as stack:
            for host in hosts:
                stack.enter_context(socket.create_server((outputs[host]["address"], 22)))
            yield

    def machine(self, droplet: int) -> Machine:
        """The machine of a droplet."""
        return next(machine for machine in self.machines.machines() if machine.droplet_id == droplet)

    def posted(self) -> list[tuple[str, str]]:
        """Path and text of what the webhook has received since the last call."""
        found: list[tuple[str, str]] = []
        while True:
            try:
                path, _authorization, text = self.posts.get_nowait()
            except Empty:
                return found
            found.append((path, text))

    def no_changes(self) -> None:
        """Assert that no stack has a change."""
        refuse_changes(self.fleet, *map(self.club, self.members))

    def save_a_snapshot(self) -> None:
        """Let the job save Nomad's state now."""
        self.nomad("/v1/job/pds-nomad-snapshots/periodic/force", "PUT")

        def statuses() -> set[str]:
            found = self.nomad("/v1/allocations")
            return {item["ClientStatus"] for item in found if item["JobID"].startswith("pds-nomad-snapshots/")}

        until(lambda: "complete" in statuses(), 180, "a snapshot")

    def has_a_leader(self) -> bool:
        """Whether the servers have elected one."""
        for own, machine in self.machines.servers().items():
            if machine.agent and machine.agent.pid:
                with suppress(httpx.HTTPError):
                    found = httpx.get(f"{self.machines.api_url(own)}/v1/status/leader", trust_env=False, timeout=10)
                    return bool(found.status_code == httpx.codes.OK and found.json())
        return False

    def memory_mib(self, club: str) -> int:
        """The memory limit of a club's server, as Nomad has it."""
        job = self.nomad(f"/v1/job/pds?namespace={club}")
        return max(int(task["Resources"]["MemoryMB"]) for group in job["TaskGroups"] for task in group["Tasks"])

    def is_admin(self, club: str, password: str) -> bool:
        """Whether a club's server takes this password of its admin."""
        client = Client(self.url(club), self.config(club)["hostname"])
        try:
            client.procedure("com.atproto.server.createInviteCode", {"useCount": 1}, admin_password=password)
        except RefusedError:
            return False
        return True

    def nomad(self, path: str, method: str = "GET") -> Any:
        """An answer of Nomad's API, from the first server that gives one."""
        token = {"X-Nomad-Token": self.fleet.outputs()["nomad_management_token"]}
        for own, machine in self.machines.servers().items():
            if machine.agent and machine.agent.pid:
                url = f"{self.machines.api_url(own)}{path}"
                answer = httpx.request(method, url, headers=token, trust_env=False, timeout=10)
                return answer.raise_for_status().json()
        raise AssertionError("no server runs")


def own_address(droplet: int) -> str:
    """The public address of a droplet, as the API has it."""
    return f"198.51.100.{droplet % 250 + 2}"


@contextmanager
def cluster_operator() -> Iterator[ClusterOperator]:
    """Start everything; the operator has a clone of the project and no stack. Raises E2eError."""
    with cluster_env("go", "restic") as cluster, ExitStack() as stack:
        made = cluster.stack
        backup = backup_section(made, made.cache, stack)
        (made.folder / "snapshots").mkdir()
        bucket = stack.enter_context(s3_server(made.folder / "snapshots", BUCKET))
        port, posts = stack.enter_context(receiver("127.0.0.1", made.authority, made.folder / "webhook"))
        trusted = made.folder / "servers-trust.pem"
        trusted.write_text(made.authority.pem)
        cluster.machines.trusted = trusted
        made.pulumi("stack", "rm", "--yes")
        clone(made.project)
        shims = cluster.machines.volume_folder("x").parent.parent / "shims"
        made = with_ssh(made, _SSH.format(folder=made.folder, shims=shims))
        (made.folder / "host-programs").mkdir()
        for name, text in _HOST_PROGRAMS.items():
            program = made.folder / "host-programs" / name
            program.write_text(text.format(docker_host=made.docker_host, docker=shutil.which("docker")))
            program.chmod(0o755)
        (made.folder / "programs/doctl").write_text(_DOCTL)
        (made.folder / "programs/doctl").chmod(0o755)
        secret = made.folder / "escrow-passphrase"
        secret.write_text(ESCROW_PASSPHRASE)
        yield ClusterOperator(
            reader=Reader(made.project, {**made.env, PASSPHRASE_FILE: str(secret)}),
            cluster=replace(cluster, stack=made),
            backup=backup,
            bucket=bucket,
            webhook=f"https://127.0.0.1:{port}",
            posts=posts,
        )
