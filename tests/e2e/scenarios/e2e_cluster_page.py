"""The guide's page "More than one machine", followed word by word as a new operator would: `pytest
tests/e2e/scenarios/e2e_cluster_page.py -x`, as root.

Three servers, two hosts, one spare and the clubs of the page, with the real engine, Nomad, Docker, PDSes and restic.
Both stack files are the page's, and each command is typed as it stands there; `ELSEWHERE` lists the others, with their
tests. One scenario, whose tests build on each other. `cluster_page.py` lists what stands in for services.
"""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.environment.backups import give_keys
from tests.e2e.environment.cluster_page import PAGE, ClusterOperator, cluster_operator, own_address
from tests.e2e.environment.clusters import UP, until
from tests.e2e.environment.reader import commands
from tests.e2e.scenarios.e2e_move import written_to
from tests.support.s3 import BUCKET, KEYS

SECTIONS: dict[str, tuple[str, ...]] = {PAGE: ()}
FOLLOWED = {PAGE: ("Creating a cluster",)}
"""Sections of which each command is typed, in the page's order."""
FILES = ("config:",)
"""First lines of the blocks that are stack files, which the operator writes."""
ELSEWHERE = {
    "export DIGITALOCEAN_TOKEN=…": "it is in the operator's environment",
    "export DIGITALOCEAN_LIMITED_TOKEN=…": "tests/unit/tools/measure_account",
    "doctl compute droplet list": "the test knows the droplets' IDs",
    "venv/bin/python -m tools.measure_account": "tests/unit/tools/measure_account",
    "venv/bin/python -m tools.measure_account --remove RUN": "tests/unit/tools/measure_account",
    "doctl compute reserved-ip-action unassign IP": "whether it is ever needed is unknown (docs/limitations.md)",
    "./pds nomad fleet -- var purge nomad/jobs/pds-nomad-snapshots/repository": "test_nomad_snapshots.py, by the API",
    "./pds adopt fleet a --from main": "e2e_adoption.py",
    "./pds release fleet a --to main": "e2e_adoption.py",
    "./pds release": "e2e_adoption.py",
    "./pds repair": "e2e_adoption.py",
    "journalctl --unit 'pds-volume-lost@*'": "e2e_machine_cluster.py; a droplet of this e2e environment is a folder",
    "./pds upgrade": "with its stack",
    "pulumi up": "with its stack",
    "pulumi refresh": "with its stack",
    "pulumi refresh --run-program": "with its stack, as `./pds restore` prints it",
}
INPUT = {"pulumi config set --secret --path cluster.takeover.token --stack fleet": "takeover_token"}
SNAPSHOT_KEYS = (
    "pulumi config set --secret --path cluster.snapshots.access_key_id --stack fleet",
    "pulumi config set --secret --path cluster.snapshots.secret_access_key --stack fleet",
)
PAUSE = 0.5
"""Seconds between two posts of a member: a server lets an account write some 1,600 records in an hour."""
CHANGED_MIB = 300
NEW_PASSWORD = "a-quite-new-one"
_PATIENCE = 600.0


@pytest.fixture(scope="module")
def operator() -> Iterator[ClusterOperator]:
    with cluster_operator() as made:
        yield made


def test_creating_a_cluster(operator: ClusterOperator) -> None:
    operator.write_the_page_s_files()
    operator.make_zone("chess-club.org")
    for command in commands(PAGE, "Creating a cluster"):
        if command not in ELSEWHERE:
            token = operator.cluster.stack.takeover_token()
            operator.types(command, says=f"{token}\n" if command in INPUT else "")
    assert operator.health("chess") == 200
    assert sorted(operator.carriers()) == ["a", "b"]
    operator.found("chess")
    operator.no_changes()


def test_another_datacenter_than_the_cluster_s_file_has_is_named_by_the_preview(operator: ClusterOperator) -> None:
    operator.club("chess").configure(nomad={"datacenter": "b"})
    shown = operator.club("chess").pulumi("preview", check=False).output
    assert "pds:nomad.datacenter: " in shown
    assert "Write 'datacenter: a'" in shown, "from the state, and from the cluster's terms"
    operator.club("chess").configure(nomad={"datacenter": "a"})


def test_another_club(operator: ClusterOperator) -> None:
    operator.make_zone("rooks-club.org")
    operator.types("./pds new rooks --hostname pds.rooks-club.org --on fleet")
    assert operator.config("fleet")["clubs"]["rooks"].items() >= {"host": "b", "port": 3102}.items()
    assert operator.config("rooks")["nomad"]["datacenter"] == "b"
    operator.is_a_club_of_the_tests("rooks")
    operator.types("./pds up-all")
    assert operator.health("rooks") == 200
    operator.found("rooks")
    operator.no_changes()


def test_assign_hosts_assigns_a_host_that_up_would_not_choose(operator: ClusterOperator) -> None:
    clubs = operator.config("fleet")["clubs"]
    operator.fleet.configure(clubs={"bowls": {"port": 3103}})
    refused = operator.types("pulumi up --stack fleet", check=False)
    assert (bool(refused.code), "./pds assign-hosts" in refused.output) == (True, True)
    operator.types("./pds assign-hosts fleet")
    assert operator.config("fleet")["clubs"]["bowls"]["host"] in ("a", "b")
    operator.fleet.configure(clubs=None)
    operator.fleet.configure(clubs=clubs)


def _to_do(operator: ClusterOperator) -> list[str]:
    """The lines of `./pds check fleet` with something to do."""
    lines = operator.types("./pds check fleet", check=False).output.splitlines()
    return [line.removeprefix("to do").strip().partition(": ")[0] for line in lines if line.startswith("to do")]


def test_the_escrow_file(operator: ClusterOperator) -> None:
    assert "escrow" in _to_do(operator)
    operator.types("./pds escrow fleet")
    assert [*operator.reader.project.glob("escrow-fleet-*.age")]
    operator.types("pulumi config set --path cluster.escrow made --stack fleet")


def test_list_check_and_repair_of_a_well_cluster(operator: ClusterOperator) -> None:
    listed = operator.types("./pds list").output
    for line in ("host a (", "host b (", "spares: worker ", "servers: ", "clubs chess", "clubs rooks"):
        assert line in listed, line
    assert "Free on host a of fleet" in listed
    assert "the cluster costs $100.00 a month (3 of s-1vcpu-1gb, 3 of s-2vcpu-4gb, 2 volumes)" in listed
    checked = operator.types("./pds check fleet", check=False).output
    for name in (
        "servers", "host a", "disk a", "spares", "takeover", "takeover's token", "snapshots", "machines", "firewall",
        "account", "escrow", "clubs",
    ):  # fmt: skip
        assert f" {name}: " in checked, name
    assert _to_do(operator) == ["snapshots"], "the page configures them later"
    assert "Nothing to repair" in operator.types("./pds repair fleet").output
    operator.types("./pds nomad fleet -- operator autopilot health")


def test_the_webhook_and_the_dead_man_s_switch_are_secrets_that_the_job_gets(operator: ClusterOperator) -> None:
    secret = f"{operator.webhook}/services/T1/B1"
    operator.types("pulumi config set --secret --path cluster.takeover.notify_url --stack fleet", says=f"{secret}\n")
    ping = f"{operator.webhook}/takeover"
    operator.types("pulumi config set --secret --path cluster.takeover.ping_url --stack fleet", says=f"{ping}\n")
    file = (operator.reader.project / "Pulumi.fleet.yaml").read_text()
    assert secret not in file
    assert ping not in file
    operator.types("pulumi up --stack fleet")
    until(lambda: "/takeover" in [path for path, _text in operator.posted()], _PATIENCE, "a ping")


def test_a_host_dies_and_comes_back(operator: ClusterOperator) -> None:
    refresh = "pulumi refresh"
    operator.types(refresh, means=f"{refresh} --stack fleet")
    dead = operator.carriers()["a"]
    number = next(at for at, worker in operator.workers().items() if worker == dead)
    with written_to(operator.members["chess"], PAUSE) as acknowledged:
        until(lambda: len(acknowledged) > 20, 60, "20 posts")
        operator.machines.cut_power(operator.machine(dead))
        cut, before = time.monotonic(), len(acknowledged)
        until(lambda: operator.carriers().get("a", dead) != dead, _PATIENCE, "another worker")
        until(lambda: len(acknowledged) > before + 5, _PATIENCE, "posts after the takeover")
        print(f"\nposts again {time.monotonic() - cut:.0f} s after the power cut")
    operator.whole()
    logs = operator.types("./pds nomad fleet -- alloc logs -namespace default -job pds-takeover").output
    posted = "\n".join(text for _path, text in operator.posted())
    for text in (logs, posted):
        assert "host a" in text
        assert "detach" in text
    assert f"worker {number}, droplet {dead} lost host a: raise its generation" in operator.types("./pds list").output
    assert "spares" in _to_do(operator), "there is none"

    operator.raise_generation(number)
    power_off = "doctl compute droplet-action power-off ID --wait"
    operator.types(power_off, means=power_off.replace("ID", str(dead)))
    target = f"pulumi refresh --stack fleet --target '**-worker-{number}'"
    operator.types("pulumi refresh --stack fleet --target '**-worker-1'", means=target)
    operator.types("pulumi up --stack fleet")
    rebuilt = operator.workers()[number]
    assert rebuilt != dead
    setup = "ssh root@ADDRESS ls /var/lib/pds/setup-done"
    with operator.ssh_reaches():
        operator.types(setup, means=setup.replace("ADDRESS", own_address(rebuilt)))
    assert _to_do(operator) == ["snapshots"]
    operator.no_changes()


def test_a_host_is_drained(operator: ClusterOperator) -> None:
    old = operator.carriers()["a"]
    number = next(at for at, worker in operator.workers().items() if worker == old)
    operator.raise_generation(number)
    refused = operator.types("pulumi up --stack fleet", check=False)
    assert (bool(refused.code), "Move it first: `./pds drain`" in refused.output) == (True, True)
    with written_to(operator.members["chess"], PAUSE) as acknowledged:
        until(lambda: len(acknowledged) > 10, 60, "10 posts")
        operator.types("./pds drain fleet a", says="y\n")
        before = len(acknowledged)
        until(lambda: len(acknowledged) > before + 5, _PATIENCE, "posts after the drain")
    assert operator.carriers()["a"] != old
    assert f"droplet {old} lost host a" in operator.types("./pds list").output
    operator.types("pulumi up --stack fleet")
    operator.whole()
    operator.no_changes()


def test_a_club_moves_to_the_other_host(operator: ClusterOperator) -> None:
    chess = operator.club("chess")
    chess.configure(backup=operator.backup)
    give_keys(chess)
    operator.types("pulumi up", means="pulumi up --stack chess")
    with written_to(operator.members["chess"], PAUSE) as acknowledged:
        until(lambda: len(acknowledged) > 10, 60, "10 posts")
        operator.types("./pds move chess --to fleet --host b", says="y\n")
        before = len(acknowledged)
        until(lambda: len(acknowledged) > before + 5, 60, "posts after the move")
    operator.whole()
    assert operator.config("fleet")["clubs"]["chess"]["host"] == "b"
    assert "leaving" not in operator.config("fleet")["clubs"]["chess"]
    assert operator.config("chess")["nomad"]["datacenter"] == "b"
    with operator.ssh_reaches("a"):
        assert "-pds-chess" in operator.types("./pds ssh fleet --host a -- ls /srv/nomad/.trash").output
    operator.no_changes()


def test_all_droplets_are_rebuilt(operator: ClusterOperator) -> None:
    before = operator.fleet.outputs()
    with written_to(operator.members["chess"], 2 * PAUSE):
        # A folder is set up at once.
        operator.types("./pds upgrade fleet", means="./pds upgrade fleet --settle 0", says="y\n")
    after = operator.fleet.outputs()
    assert not {*before["servers"], *before["workers"]} & {*after["servers"], *after["workers"]}
    assert _to_do(operator) == ["snapshots"]
    operator.whole()
    operator.no_changes()


def test_snapshots_are_saved(operator: ClusterOperator) -> None:
    # In place of Spaces, whose bucket and key the program would make.
    operator.configure_cluster(snapshots={"endpoint": operator.bucket, "bucket": BUCKET})
    for key, command in zip(KEYS.values(), SNAPSHOT_KEYS, strict=True):
        operator.types(command, says=f"{key}\n")
    ping = f"{operator.webhook}/snapshots"
    operator.types("pulumi config set --secret --path cluster.snapshots.ping_url --stack fleet", says=f"{ping}\n")
    operator.types("pulumi up --stack fleet")
    operator.posted()
    operator.save_a_snapshot()
    assert "/snapshots" in [path for path, _text in operator.posted()]
    assert _to_do(operator) == []
    assert "1 snapshots" in operator.types("./pds restore fleet --list").output


def test_changes_after_the_snapshot_come_back_by_refresh_and_up(operator: ClusterOperator) -> None:
    """A job's option, the content of a variable, and a new club with its members: Nomad loses all three."""
    operator.club("chess").configure(pds={"memory_mib": CHANGED_MIB})
    operator.club("chess").pulumi(*UP)
    operator.club("rooks").pulumi("config", "set", "--secret", "--path", "pds:secrets.admin_password", NEW_PASSWORD)
    operator.club("rooks").pulumi(*UP)
    operator.make_zone("bowls-club.org")
    operator.fleet.pds_command("new", "bowls", "--hostname", "pds.bowls-club.org", "--on", "fleet", "--host", "a")
    operator.is_a_club_of_the_tests("bowls")
    operator.fleet.pds_command("up-all")
    operator.found("bowls")
    assert (operator.memory_mib("chess"), operator.is_admin("rooks", NEW_PASSWORD)) == (CHANGED_MIB, True)

    with operator.ssh_reaches("a", "b"):
        living = operator.types("./pds restore fleet", check=False)
        assert (living.code, "and has its state" in living.output) == (2, True)
        for droplet in operator.fleet.outputs()["servers"]:
            # By the API: the command refuses while it calls most of them active.
            operator.fleet.act(f"/v2/droplets/{droplet}/actions", {"type": "power_off"})
        # The volume of bowls is made after the restart of its host's agent.
        restored = operator.types("./pds restore fleet", says="y\n", check=False).output
    print("after the restore:", {name: operator.health(name) for name in operator.members})
    printed = re.findall(r"^  (pulumi refresh .*--stack (\w+) && pulumi up --stack \w+)$", restored, re.MULTILINE)
    assert [name for _command, name in printed] == ["fleet", *operator.members]
    assert operator.memory_mib("chess") != CHANGED_MIB, "lost, or this shows nothing"
    for command, name in printed:
        operator.types("pulumi refresh", means=command)
        print("after", name, {club: operator.health(club) for club in operator.members})
    assert operator.memory_mib("chess") == CHANGED_MIB
    assert operator.is_admin("rooks", NEW_PASSWORD)
    assert [operator.health(name) for name in operator.members] == [200, 200, 200]
    operator.whole()
    assert _to_do(operator) == []
    operator.no_changes()


def test_an_empty_nomad_is_filled_again_without_a_snapshot(operator: ClusterOperator) -> None:
    delete = "doctl compute droplet delete ID"
    for droplet in operator.fleet.outputs()["servers"]:
        operator.types(delete, means=delete.replace("ID", droplet))
    operator.types("pulumi refresh --stack fleet --target '**-server-**'")
    forget = "./pds ssh fleet --host a -- /usr/local/lib/pds/forget-agent"
    with ThreadPoolExecutor(1) as pool:
        up = pool.submit(operator.types, "pulumi up --stack fleet")
        until(operator.has_a_leader, _PATIENCE, "new servers")
        with operator.ssh_reaches("a", "b"):
            for host in "ab":
                operator.types(forget, means=forget.replace("host a", f"host {host}"))
            up.result()
    print("after the `up` of the cluster:", {name: operator.health(name) for name in operator.members})
    for name in operator.members:
        operator.types("pulumi up", means=f"pulumi up --stack {name}")
        assert operator.health(name) == 200
    operator.whole()
    operator.no_changes()


def test_no_command_of_the_page_was_left_out(operator: ClusterOperator) -> None:
    assert operator.reader.left(SECTIONS, ELSEWHERE) == []
