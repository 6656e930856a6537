"""The host's scripts, run: each in a directory that stands for `/`, with stand-ins for commands that need a machine.

A stand-in logs its call and returns what the test set. Commands that work on a plain file (mkfs.ext4, blkid, unzip,
sha256sum) are the real ones.
"""

import re
import stat
import subprocess
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.host_machine import SCRIPTS, Machine, tool

# All scripts


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_reports_nothing(script: Path) -> None:
    run = subprocess.run(
        [tool("shellcheck", "shellcheck"), script], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_states_what_it_does_and_stops_at_the_first_error(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/sh"
    assert re.match(r"# [A-Z][a-z]+s [\w/]", lines[1]), "a verb first, as in a docstring"
    assert "set -eu" in lines


# The metadata rules


@pytest.fixture
def rules(machine: Machine) -> Path:
    """A packet filter that keeps its chains and rules as lines of a file."""
    state = machine.stands / "rules"
    state.write_text("")
    machine.stand_in(
        "iptables",
        body=f"""
[ "$1" = -w ] || exit 9
shift
[ "$1" = -n ] && shift
command=$1; chain=$2; shift 2
case $command in
    -L) grep -qx "chain $chain" "{state}" || exit 1 ;;
    -N) echo "chain $chain" >>"{state}" ;;
    -C) grep -qx -e "$chain $*" "{state}" || exit 1 ;;
    -I) [ "$1" = 1 ] || exit 9; shift; echo "$chain $*" >>"{state}" ;;
    *) exit 9 ;;
esac
""",
    )
    machine.stand_in("iptables-restore", body=f'cat >"{machine.stands}/restored"')
    return state


def test_rule_that_blocks_bridged_containers_is_added_once(machine: Machine, rules: Path) -> None:
    for _ in range(3):  # every start of Docker
        run = machine.run("metadata.sh", "bridged")
        assert run.returncode == 0, run.stderr
    assert rules.read_text().splitlines() == ["chain DOCKER-USER", "DOCKER-USER -d 169.254.169.254/32 -j REJECT"]


def test_every_process_of_the_host_is_blocked_if_no_monitoring_agent_runs(machine: Machine, rules: Path) -> None:
    for _ in range(2):
        run = machine.run("metadata.sh", "host")
        assert run.returncode == 0, run.stderr
    assert rules.read_text().splitlines() == ["chain PDS-METADATA", "OUTPUT -d 169.254.169.254/32 -j PDS-METADATA"]
    assert (machine.stands / "restored").read_text().splitlines() == [
        "*filter",
        ":PDS-METADATA - [0:0]",
        "-A PDS-METADATA -j REJECT",
        "COMMIT",
    ]
    # Without --noflush it would remove Docker's chains.
    assert set(machine.calls("iptables-restore")) == {"iptables-restore -w --noflush"}


def test_monitoring_agent_is_allowed_by_its_control_group_and_never_by_uid(machine: Machine, rules: Path) -> None:
    (machine.root / "sys/fs/cgroup/system.slice/do-agent.service").mkdir(parents=True)
    assert machine.run("metadata.sh", "host").returncode == 0
    restored = (machine.stands / "restored").read_text().splitlines()
    assert restored[2:4] == [
        "-A PDS-METADATA -m cgroup --path system.slice/do-agent.service -j RETURN",
        "-A PDS-METADATA -j REJECT",
    ]
    assert not any("owner" in line for line in restored), "a host-network container may be uid 0, which is uid 0 here"


@pytest.mark.parametrize(("active", "creates_rules"), [(0, True), (3, False)])
def test_starting_the_monitoring_agent_creates_rules_only_after_cloud_init(
    machine: Machine, rules: Path, active: int, creates_rules: bool
) -> None:
    machine.stand_in("systemctl", code=active)
    assert machine.run("metadata.sh", "again").returncode == 0
    assert ("OUTPUT" in rules.read_text()) is creates_rules
    assert machine.calls("systemctl") == ["systemctl is-active --quiet pds-metadata.service"]


def test_failing_to_create_rules_fails_the_unit_before_nomad_starts(machine: Machine) -> None:
    machine.stand_in("iptables", code=1)
    machine.stand_in("iptables-restore", code=1)
    assert machine.run("metadata.sh", "host").returncode != 0
    assert machine.run("metadata.sh", "bridged").returncode != 0


# Nomad's binary


@pytest.fixture
def release(machine: Machine, tmp_path: Path) -> str:
    """A release on the mirror, and its SHA-256."""
    tool("unzip", "unzip")
    archive = tmp_path / "nomad.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("nomad", "#!/bin/sh\necho Nomad v9.9.9\n")
        zipped.writestr("LICENSE.txt", "terms")
    machine.stand_in("curl", body=f'while [ "$1" != --output ]; do shift; done; cp "{archive}" "$2"')
    return sha256(archive.read_bytes()).hexdigest()


def nomad_of(machine: Machine, sum_: str) -> None:
    machine.configure(NOMAD_VERSION="9.9.9", NOMAD_SHA256=sum_, NOMAD_MIRROR="https://mirror.test/nomad")


def test_nomad_is_downloaded_once_verified_and_made_executable(machine: Machine, release: str) -> None:
    nomad_of(machine, release)
    for _ in range(2):
        run = machine.run("install-nomad.sh")
        assert run.returncode == 0, run.stderr
    binary = machine.root / "usr/local/bin/nomad"
    assert subprocess.run([binary], capture_output=True, text=True, timeout=600, check=True).stdout == "Nomad v9.9.9\n"
    [call] = machine.calls("curl")
    assert call.endswith(" https://mirror.test/nomad/9.9.9/nomad_9.9.9_linux_amd64.zip")
    assert [path.name for path in binary.parent.iterdir()] == ["nomad"]


def test_wrong_checksum_installs_nothing_and_names_both_checksums(machine: Machine, release: str) -> None:
    nomad_of(machine, "0" * 64)
    run = machine.run("install-nomad.sh")
    assert run.returncode != 0
    assert release in run.stderr
    assert "0" * 64 in run.stderr
    assert not (machine.root / "usr/local/bin").exists()


def test_wrong_checksum_keeps_the_installed_version(machine: Machine, release: str) -> None:
    nomad_of(machine, release)
    machine.run("install-nomad.sh")
    before = (machine.root / "usr/local/bin/nomad").read_bytes()
    nomad_of(machine, "0" * 64)
    assert machine.run("install-nomad.sh").returncode != 0
    assert (machine.root / "usr/local/bin/nomad").read_bytes() == before
    nomad_of(machine, release)
    assert machine.run("install-nomad.sh").returncode == 0


# The drain


def drain(machine: Machine, containers: str) -> list[str]:
    machine.stand_in("systemctl", body='[ "$1" = show ] && echo 0')
    machine.stand_in("docker", body=f'[ "$1" = ps ] && printf "{containers}"')
    machine.stand_in("sync")
    run = machine.run("stop-before-shutdown.sh")
    assert run.returncode == 0, run.stderr
    return machine.calls()


def test_drain_stops_the_agent_first_and_then_the_containers_of_nomad(machine: Machine) -> None:
    calls = drain(machine, r"abc\ndef\n")
    assert calls == [
        # Queued, not waited for: systemd delays this job until the drain itself has ended.
        "systemctl stop --no-block nomad.service",
        "systemctl kill --kill-whom=main --signal=SIGINT nomad.service",
        "systemctl show --property=MainPID --value nomad.service",
        "docker ps --quiet --filter label=com.hashicorp.nomad.alloc_id",
        "docker stop --time 60 abc def",
        "systemctl kill --kill-whom=all --signal=SIGTERM nomad.service",
        "sync",
    ]


def test_drain_stops_no_container_on_an_idle_host(machine: Machine) -> None:
    assert [call for call in drain(machine, "") if call.startswith("docker stop")] == []


def test_drain_waits_for_the_agent_at_most_15_seconds(machine: Machine) -> None:
    # 15 s here and 60 s for the containers are within the unit's 90 s.
    machine.stand_in("systemctl", body='[ "$1" = show ] && echo 4711')
    machine.stand_in("docker", body='[ "$1" = ps ] && echo abc')
    machine.stand_in("sleep")
    machine.stand_in("sync")
    assert machine.run("stop-before-shutdown.sh").returncode == 0
    assert machine.calls("sleep") == ["sleep 1"] * 15
    assert "docker stop --time 60 abc" in machine.calls()


# The order of a first boot


def fresh(machine: Machine) -> None:
    for name in ("apt-get", "useradd", "swapoff", "swapon", "mkswap", "systemctl", "sysctl", "udevadm", "sshd"):
        machine.stand_in(name)
    machine.stand_in("getent", code=2)
    machine.stand_in("sleep")
    machine.stand_in("fallocate", body='truncate -s "$2" "$3"')
    machine.file("etc/fstab", "/dev/vda1 / ext4 defaults 0 1\n")
    step = machine.file(
        "usr/local/lib/pds/install-nomad", f'#!/bin/sh\necho "install-nomad" >>"{machine.stands}/.calls"\n'
    )
    step.chmod(0o755)


def test_first_boot_installs_packages_mounts_the_volume_and_then_starts_nomad(machine: Machine) -> None:
    fresh(machine)
    run = machine.run("setup.sh")
    assert run.returncode == 0, run.stderr
    milestones = [
        "apt-get install -y --no-install-recommends docker.io stunnel4",
        "systemctl daemon-reload",
        "install-nomad",
        "systemctl restart docker.service",
        "systemctl start pds-volume-prepare.service",
        "systemctl start pds-volume-claim.service",
        "systemctl start --no-block nomad.service stunnel@nomad.service pds-grow.timer pds-updates.timer",
    ]
    calls = machine.calls()
    assert [call for call in calls if call in milestones] == milestones
    assert calls[-1] == milestones[-1]
    [enabled] = [call for call in calls if call.startswith("systemctl enable nomad")]
    units = {"pds-metadata.service", "pds-drain.service", "stunnel@nomad.service", "pds-grow.timer"}
    assert units | {"pds-updates.timer"} <= set(enabled.split())


def test_unreachable_mirror_is_retried(machine: Machine) -> None:
    fresh(machine)
    count = machine.stands / "count"
    count.write_text("")
    machine.stand_in("apt-get", body=f'echo x >>"{count}"; [ "$(wc -l <"{count}")" -gt 4 ] || exit 100')
    assert machine.run("setup.sh").returncode == 0
    assert machine.calls("sleep") == ["sleep 20"] * 2
    assert "install-nomad" in machine.calls()


def test_unreachable_additional_source_does_not_stop_the_first_boot(machine: Machine) -> None:
    fresh(machine)
    machine.stand_in("apt-get", body='[ "$1" != update ] || exit 100')
    run = machine.run("setup.sh")
    assert run.returncode == 0, run.stderr
    assert "not every source could be read" in run.stdout
    assert machine.calls("sleep") == [], "the installed packages decide at the first try"


def test_nothing_is_started_without_the_packages(machine: Machine) -> None:
    fresh(machine)
    machine.stand_in("apt-get", code=100)
    run = machine.run("setup.sh")
    assert run.returncode != 0
    assert "could not be installed" in run.stdout
    assert machine.calls("systemctl", "install-nomad") == []


@pytest.mark.parametrize("failing", ["pds-volume-prepare.service", "pds-volume-claim.service"])
def test_nomad_is_not_enabled_without_the_volume(machine: Machine, failing: str) -> None:
    fresh(machine)
    machine.stand_in("systemctl", body=f'[ "$*" != "start {failing}" ] || exit 1')
    assert machine.run("setup.sh").returncode != 0
    assert [call for call in machine.calls("systemctl") if "nomad" in call] == []


@pytest.mark.parametrize(("getent_code", "created_users"), [(2, ["1000 pds", "1001 caddy", "1002 metrics"]), (0, [])])
def test_uids_of_the_containers_are_reserved_unless_an_account_has_them(
    machine: Machine, getent_code: int, created_users: list[str]
) -> None:
    fresh(machine)
    machine.stand_in("getent", code=getent_code)
    assert machine.run("setup.sh").returncode == 0
    users = machine.calls("useradd")
    assert [f"{call.split('--uid ')[1].split()[0]} {call.split()[-1]}" for call in users] == created_users
    assert all("/usr/sbin/nologin" in call for call in users)


def test_faulty_sshd_configuration_is_not_loaded(machine: Machine) -> None:
    fresh(machine)
    machine.stand_in("sshd", code=255)
    assert machine.run("setup.sh").returncode == 0
    assert "systemctl try-reload-or-restart ssh.service" not in machine.calls()


def test_swap_follows_the_settings_at_every_run(machine: Machine) -> None:
    fresh(machine)
    swap, fstab = machine.root / "swapfile", machine.root / "etc/fstab"
    for gib in ("1", "1", "2", "0"):
        machine.configure(SWAP_GIB=gib)
        run = machine.run("setup.sh")
        assert run.returncode == 0, run.stderr
        assert fstab.read_text().count("/swapfile none swap sw 0 0\n") == (gib != "0")
        assert fstab.read_text().startswith("/dev/vda1 / ext4 defaults 0 1\n")
        if gib == "0":
            assert not swap.exists()
        else:
            assert swap.stat().st_size == int(gib) * 1024**3
            assert stat.S_IMODE(swap.stat().st_mode) == 0o600
    assert len(machine.calls("mkswap")) == 2, "an unchanged size creates no new swap file"


# What runs after a security update


def daemon(machine: Machine, unit: str, pid: int, program: str, library: str = "") -> None:
    """A running unit: the file of its process, and a library that it has mapped."""
    folder = machine.root / "proc" / str(pid)
    folder.mkdir(parents=True)
    (folder / "exe").symlink_to(program)
    (folder / "maps").write_text(f"7f0a-7f0b r-xp 00000000 fe:01 77    /usr/lib/{library or 'libc.so.6'}\n")
    with (machine.stands / ".pids").open("a") as known:
        known.write(f"{unit} {pid}\n")


@pytest.fixture
def daemons(machine: Machine) -> Machine:
    """A machine whose `systemctl show` returns the main process of each unit."""
    (machine.stands / ".pids").write_text("")
    pids = machine.stands / ".pids"
    machine.stand_in("systemctl", body=f'[ "$1" != show ] || sed -n "s/^$4 //p" "{pids}"')
    return machine


def updated(machine: Machine) -> list[str]:
    run = machine.run("updates.sh")
    assert run.returncode == 0, run.stderr
    return [call for call in machine.calls("systemctl") if "restart" in call]


def test_daemons_that_run_the_installed_version_are_not_restarted(daemons: Machine) -> None:
    daemon(daemons, "docker.service", 11, "/usr/sbin/dockerd")
    daemon(daemons, "containerd.service", 12, "/usr/bin/containerd")
    assert updated(daemons) == [], "stunnel does not run yet"


def test_updated_docker_is_restarted_and_its_unit_restarts_nomad(daemons: Machine) -> None:
    daemon(daemons, "docker.service", 11, "/usr/sbin/dockerd (deleted)")
    daemon(daemons, "containerd.service", 12, "/usr/bin/containerd")
    assert updated(daemons) == ["systemctl restart docker.service"]
    unit = (SCRIPTS[0].parent / "nomad.service").read_text()
    assert "Requires=docker.service" in unit, (
        "its agent is stopped before Docker; while it runs it would kill the tasks"
    )
    assert "KillMode=process" in unit


def test_containerd_and_docker_are_restarted_together(daemons: Machine) -> None:
    daemon(daemons, "containerd.service", 12, "/usr/bin/containerd (deleted)")
    daemon(daemons, "docker.service", 11, "/usr/sbin/dockerd (deleted)")
    assert updated(daemons) == ["systemctl restart containerd.service docker.service"]


def test_replaced_library_restarts_the_daemon_that_maps_it(daemons: Machine) -> None:
    daemon(daemons, "stunnel@nomad.service", 13, "/usr/bin/stunnel4", "x86_64-linux-gnu/libssl.so.3 (deleted)")
    assert updated(daemons) == ["systemctl restart stunnel@nomad.service"]
