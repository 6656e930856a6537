"""`make bench`, its second part: the program under the real engine, as ratios from one run; as root, some minutes.

It answers three questions. What does an unchanged preview cost, compared with programs that import the same SDKs and
register as many trivial resources, of one plugin or of the same plugins? How long is the server unavailable after a
changed option, compared with a restart of a container like it? How much memory does one PDS need, idle and after 1,000
posts, and how many fit a droplet?

Nothing is asserted. The figures exclude the memory of the droplet's own system: here it is this machine's.
"""

import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from tests.e2e.environment.bare import bare_server
from tests.e2e.environment.environment import PROGRAMS, ROOT, STACK, E2eEnvironment, e2e_env
from tests.e2e.environment.tools import missing, run
from tests.e2e.environment.watching import polled
from tools.trial.directory import PlcDirectory
from tools.trial.node import install

_ROUNDS = 5
_POSTS = 1000
_SETTLED = 30.0
_DROPLETS_GIB = (1, 2, 4)

_FLOORS = {
    "trivial resources of one plugin": """
import pulumi, pulumi_digitalocean, pulumi_nomad, pulumi_random, pulumi_tls
for number in range({count}):
    pulumi_random.RandomString(f"trivial-{{number}}", length=8)
""",
    "trivial resources of the same plugins": """
import pulumi, pulumi_digitalocean, pulumi_nomad, pulumi_random, pulumi_tls
from pulumi.dynamic import CreateResult, Resource, ResourceProvider
class Trivial(ResourceProvider):
    def create(self, props):
        return CreateResult("trivial", {{}})
class TrivialResource(Resource):
    pass
digitalocean = pulumi_digitalocean.Tag("trivial", name="trivial")
key = pulumi_tls.PrivateKey("trivial", algorithm="ECDSA", opts=pulumi.ResourceOptions(depends_on=[digitalocean]))
dynamic = TrivialResource(Trivial(), "trivial", {{}}, pulumi.ResourceOptions(depends_on=[key]))
nomad = pulumi_nomad.Provider("first", address="http://127.0.0.1:1", opts=pulumi.ResourceOptions(depends_on=[dynamic]))
pulumi_nomad.Provider("second", address="http://127.0.0.1:1", opts=pulumi.ResourceOptions(depends_on=[nomad]))
for number in range({count} - 5):
    pulumi_random.RandomString(f"trivial-{{number}}", length=8)
""",
}
"""The program needs Nomad's plugin twice, one after the other: the token of the second one comes from the first."""


def main() -> int:
    """Print the tables, or what is missing; exit code 0 in either case, since nothing is asserted."""
    lines = missing(*PROGRAMS)
    if lines:
        print("\n".join(["Not measured here, the program under the real engine:", *lines]))
        return 0
    console = Console()
    cache = ROOT / "build" / "cache"
    plc = install("plc", cache)
    with (
        tempfile.TemporaryDirectory(prefix="pds-ratios-") as folder,
        e2e_env(Path(folder), cache / "e2e") as running,
        PlcDirectory(plc, data=running.folder / "plc", log=running.folder / "plc.log") as directory,
    ):
        running.pulumi("up", "--yes", "--skip-preview", show=True)
        console.print(_preview(running))
        console.print(_outage(running, directory.url))
        console.print(_memory(running, directory.url))
        running.pulumi("state", "unprotect", "--all", "--yes")
        running.pulumi("destroy", "--yes", "--skip-preview")
    return 0


def _preview(running: E2eEnvironment) -> Table:
    """An unchanged preview and the floors, measured alternately."""
    count = running.pulumi("stack", "--show-urns").output.count("urn:pulumi:")
    runtime = yaml.load((running.project / "Pulumi.yaml").read_text(), yaml.CSafeLoader)["runtime"]

    def seconds(project: Path, *arguments: str) -> float:
        began = time.monotonic()
        run(["pulumi", *arguments, "--non-interactive"], cwd=project, env=running.env)
        return time.monotonic() - began

    projects = {}
    for number, (name, program) in enumerate(_FLOORS.items()):
        projects[name] = floor = running.folder / f"floor-{number}"
        floor.mkdir()
        (floor / "Pulumi.yaml").write_text(yaml.safe_dump({"name": floor.name, "runtime": runtime}))
        (floor / "__main__.py").write_text(program.format(count=count))
        seconds(floor, "stack", "init", STACK, "--secrets-provider", "passphrase")
        seconds(floor, "up", "--yes", "--skip-preview")
    projects["this program"] = running.project
    preview = ("preview", "--expect-no-changes", "--stack", STACK)
    seconds(running.project, *preview)  # compiles the program
    rounds = [{name: seconds(project, *preview) for name, project in projects.items()} for _ in range(_ROUNDS)]
    medians = {name: statistics.median(each[name] for each in rounds) for name in projects}
    first = next(iter(medians.values()))
    table = Table("program", "median, s", "ratio", title=f"An unchanged preview, {count} resources ({_ROUNDS} rounds)")
    for name, median in medians.items():
        table.add_row(name, f"{median:.1f}", f"{median / first:.2f}")
    return table


def _outage(running: E2eEnvironment, plc_url: str) -> Table:
    """How long the server does not answer."""
    changed, restarted = [], []
    with bare_server(running, plc_url) as server:
        for memory_mib in (600, 640, 680):
            with polled(server.health) as outage:
                server.restart()
                time.sleep(1)
            restarted.append(outage.seconds)
            running.configure(pds={"memory_mib": memory_mib})
            with polled(running.health) as outage:
                running.pulumi("up", "--yes", "--skip-preview")
            changed.append(outage.seconds)
    bare, ours = statistics.median(restarted), statistics.median(changed)
    table = Table("what", "median, s", "ratio", title=f"How long the server is away ({len(changed)} rounds)")
    table.add_row("a bare restart of such a container", f"{bare:.1f}", "1.00")
    table.add_row("an option changed by `up`", f"{ours:.1f}", f"{ours / bare:.2f}")
    return table


def _memory(running: E2eEnvironment, plc_url: str) -> Table:
    """One PDS in a container, and the other processes of a host."""
    with bare_server(running, plc_url) as server:
        time.sleep(_SETTLED)
        idle = server.memory_mib()
        server.post(_POSTS)
        busy = server.memory_mib()
    beside = resident_mib(running)
    table = Table("what", "MiB", *(f"fit {gib} GiB" for gib in _DROPLETS_GIB), title="Memory")
    for what, used in (("one PDS, idle", idle), (f"one PDS, after {_POSTS:,} posts", busy)):
        table.add_row(what, f"{used:.0f}", *(str(int((gib * 1024 - beside) // used)) for gib in _DROPLETS_GIB))
    table.add_row("Nomad and Docker beside it", f"{beside:.0f}", *("" for _ in _DROPLETS_GIB))
    return table


def resident_mib(running: E2eEnvironment) -> float:
    """Memory of the e2e environment's Nomad and Docker and what they start beside containers, in MiB; shared pages by
    share."""
    [machine] = running.machines.machines()
    return memory_of(str(machine.root.parent), running.docker_host.removeprefix("unix://").rpartition("/")[0])


def memory_of(*paths: str) -> float:
    """Memory of the processes whose commands name one of the paths, and of what they start beside containers, in MiB;
    shared pages by share."""
    commands, parents = {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            commands[process.name] = (process / "cmdline").read_bytes().decode(errors="replace")
            parents[process.name] = (process / "stat").read_text().rpartition(")")[2].split()[1]
    found = {pid for pid, command in commands.items() if any(path in command for path in paths)}
    # A shim's children are containers; Nomad's own helpers are not marked.
    hosts = {pid for pid in found if "containerd-shim" not in commands[pid]}
    found |= {pid for pid in commands if parents[pid] in hosts}
    return sum(_share_mib(Path("/proc") / pid) for pid in found)


def _share_mib(process: Path) -> float:
    with suppress(OSError, IndexError):  # it ended meanwhile, or is the kernel's own
        return int((process / "smaps_rollup").read_text().split("Pss:", 1)[1].split()[0]) / 1024
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
