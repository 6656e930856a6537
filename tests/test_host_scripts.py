"""The host's scripts, run: each in a directory that stands for `/`, with stand-ins for what needs a machine.

A stand-in writes its call down and answers what the test set. Where a command can be had for real on a plain file
(mkfs.ext4, blkid, unzip, sha256sum) it is the real one.
"""

import json
import os
import re
import shutil
import stat
import subprocess
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from components.render import cloud_init

FILES = Path(cloud_init.__file__).with_name("files")
SCRIPTS = sorted(FILES.glob("*.sh"))
MIB = 1024 * 1024
VOLUME_ID = "7b7464b0-d01e-4c71-5bdc-4bd467d83066"


def tool(name: str, package: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if not found:
        pytest.fail(f"'{name}' is missing: install Debian's package '{package}'.")
    return found


@dataclass
class Machine:
    """A directory that stands for a host's `/`, and the stand-ins on its PATH."""

    root: Path
    stands: Path

    def stand_in(self, name: str, body: str = "", code: int = 0) -> None:
        """Put a command on PATH that logs its call, then runs `body` and ends with `code`."""
        file = self.stands / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.stands}/.calls"\n{body}\nexit {code}\n')
        file.chmod(0o755)

    def file(self, path: str, text: str) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def configure(self, **values: str) -> None:
        known = {"STACK": "dev", "VOLUME": "pds-dev", "ADOPT": "0", "SWAP_GIB": "0", "PACKAGES": "docker.io stunnel4"}
        lines = [f"{name}='{value}'" for name, value in (known | values).items()]
        self.file("etc/pds/host.env", "\n".join(lines) + "\n")

    def run(self, script: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["/bin/sh", FILES / script, *arguments],
            env={
                "PATH": f"{self.stands}:/usr/sbin:/usr/bin:/sbin:/bin",
                "PDS_ROOT": str(self.root),
                "PDS_WAIT_SECONDS": "0",
            }
            | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self, *names: str) -> list[str]:
        """The calls of the stand-ins, in order; of those named, where any are."""
        log = self.stands / ".calls"
        lines = log.read_text().replace(str(self.root), "").splitlines() if log.exists() else []
        lines = [line.rstrip() for line in lines]
        return [line for line in lines if not names or line.split()[0] in names]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    root, stands = tmp_path / "root", tmp_path / "stands"
    root.mkdir()
    stands.mkdir()
    made = Machine(root, stands)
    made.configure()
    return made


# All of them


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    run = subprocess.run([tool("shellcheck", "shellcheck"), script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_says_first_what_it_owns_and_stops_at_the_first_fault(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/sh"
    assert lines[1].startswith("# Owns ")
    assert "set -eu" in lines


# The volume, before it is mounted


def disk(machine: Machine, content: bytes = b"", size: int = 64 * MIB) -> Path:
    """A disk of that size that begins with these bytes, where DigitalOcean's volume would be."""
    device = machine.root / "dev/disk/by-id/scsi-0DO_Volume_pds-dev"
    device.parent.mkdir(parents=True)
    with device.open("wb") as file:
        file.write(content)
        file.truncate(size)
    return device


def unmounted(machine: Machine, blkid: int, kind: str = "ext4", features: str = "has_journal quota project") -> None:
    """Stand-ins for a volume that is not mounted and about which blkid answers `blkid`."""
    machine.stand_in("mountpoint", code=1)
    # The second question, after the type, is only asked of a known file system.
    machine.stand_in("blkid", body=f'case "$*" in *TYPE*) echo "{kind}"; exit 0 ;; esac', code=blkid)
    machine.stand_in("dumpe2fs", body=f'echo "Filesystem features:      {features}"')
    for name in ("mkfs.ext4", "e2fsck", "tune2fs"):
        machine.stand_in(name)


def test_an_empty_volume_is_formatted_with_quotas_and_its_stacks_name(machine: Machine) -> None:
    disk(machine)
    unmounted(machine, blkid=2)
    machine.stand_in("mkfs.ext4", body='while [ "$1" != -d ]; do shift; done; cat "$2/.pds-volume" >"$PDS_ROOT/born"')
    run = machine.run("volume.sh", "prepare")
    assert run.returncode == 0, run.stderr
    [call] = machine.calls("mkfs.ext4")
    assert "-O quota,project" in call
    assert call.endswith("/dev/disk/by-id/scsi-0DO_Volume_pds-dev")
    assert (machine.root / "born").read_text() == "dev\n"


def test_a_volume_with_a_file_system_is_checked_and_never_formatted(machine: Machine) -> None:
    disk(machine)
    unmounted(machine, blkid=0)
    run = machine.run("volume.sh", "prepare")
    assert run.returncode == 0, run.stderr
    assert machine.calls("mkfs.ext4", "tune2fs") == []
    assert machine.calls("e2fsck") == ["e2fsck -p /dev/disk/by-id/scsi-0DO_Volume_pds-dev"]


@pytest.mark.parametrize("answer", [1, 4, 8, 127])
def test_an_answer_that_is_neither_yes_nor_no_is_a_refusal(machine: Machine, answer: int) -> None:
    # 4 is blkid's 'usage or other error', 8 'several signatures', 127 the shell's 'no such command'.
    disk(machine)
    unmounted(machine, blkid=answer)
    run = machine.run("volume.sh", "prepare")
    assert run.returncode == 1
    assert "REFUSED" in run.stderr
    assert machine.calls("mkfs.ext4") == []


def test_an_absent_volume_is_waited_for_and_then_refused(machine: Machine) -> None:
    # blkid answers 2 for a missing device as well.
    unmounted(machine, blkid=2)
    run = machine.run("volume.sh", "prepare")
    assert run.returncode == 1
    assert "did not appear" in run.stderr
    assert machine.calls("mkfs.ext4") == []


def test_a_volume_that_comes_late_is_found(machine: Machine) -> None:
    unmounted(machine, blkid=0)
    device = machine.root / "dev/disk/by-id/scsi-0DO_Volume_pds-dev"
    device.parent.mkdir(parents=True)
    machine.stand_in("sleep", body=f': >"{device}"')
    assert machine.run("volume.sh", "prepare", PDS_WAIT_SECONDS="5").returncode == 0
    assert machine.calls("sleep") == ["sleep 1"]


@pytest.mark.parametrize("place", [0, 1080, MIB - 1])
def test_bytes_that_no_tool_knows_keep_a_volume_from_being_formatted(machine: Machine, place: int) -> None:
    # A damaged file system has no signature left but is not empty. 1080 is where ext4's would be.
    device = disk(machine, b"\0" * place + b"x")
    unmounted(machine, blkid=2)
    run = machine.run("volume.sh", "prepare")
    assert run.returncode == 1
    assert "first MiB is not zero" in run.stderr
    assert machine.calls("mkfs.ext4") == []
    assert device.read_bytes()[place : place + 1] == b"x"


def test_a_disk_that_cannot_be_read_to_the_first_mib_is_not_formatted(machine: Machine) -> None:
    disk(machine, size=MIB - 1)
    unmounted(machine, blkid=2)
    assert machine.run("volume.sh", "prepare").returncode == 1
    assert machine.calls("mkfs.ext4") == []


def test_a_mounted_volume_is_not_even_looked_at(machine: Machine) -> None:
    disk(machine)
    unmounted(machine, blkid=2)
    machine.stand_in("mountpoint", code=0)
    assert machine.run("volume.sh", "prepare").returncode == 0
    assert machine.calls("blkid", "mkfs.ext4", "e2fsck") == []


@pytest.mark.parametrize("kind", ["xfs", "LVM2_member", "crypto_LUKS", ""])
def test_another_kind_of_file_system_is_refused_and_left_alone(machine: Machine, kind: str) -> None:
    disk(machine)
    unmounted(machine, blkid=0, kind=kind)
    run = machine.run("volume.sh", "prepare")
    assert run.returncode == 1
    assert "not ext4" in run.stderr
    assert machine.calls("mkfs.ext4", "e2fsck", "tune2fs") == []


@pytest.mark.parametrize(("answer", "expected"), [(0, 0), (1, 0), (2, 0), (4, 1), (8, 1)])
def test_a_check_that_repaired_is_good_and_one_that_could_not_is_a_refusal(
    machine: Machine, answer: int, expected: int
) -> None:
    disk(machine)
    unmounted(machine, blkid=0)
    machine.stand_in("e2fsck", code=answer)
    assert machine.run("volume.sh", "prepare").returncode == expected


@pytest.mark.parametrize("features", ["has_journal", "has_journal quota", "has_journal project", "quotas projected"])
def test_a_volume_formatted_elsewhere_gets_quotas_only_where_it_is_adopted(machine: Machine, features: str) -> None:
    disk(machine)
    unmounted(machine, blkid=0, features=features)
    refused = machine.run("volume.sh", "prepare")
    assert refused.returncode == 1
    assert "volume: {adopt: ID}" in refused.stderr
    assert machine.calls("tune2fs") == []
    machine.configure(ADOPT="1")
    assert machine.run("volume.sh", "prepare").returncode == 0
    # tune2fs changes an unchecked file system into a broken one.
    assert [call.split(" /dev")[0] for call in machine.calls("e2fsck", "tune2fs")] == [
        "e2fsck -f -p",
        "tune2fs -O quota,project -Q prjquota",
    ]


def test_a_real_disk_is_formatted_once_and_keeps_its_file_system(machine: Machine) -> None:
    for name, package in (("mkfs.ext4", "e2fsprogs"), ("blkid", "util-linux"), ("cmp", "diffutils")):
        tool(name, package)
    device = disk(machine)
    machine.stand_in("mountpoint", code=1)

    def header() -> str:
        run = subprocess.run([tool("dumpe2fs", "e2fsprogs"), "-h", device], capture_output=True, text=True, check=True)
        return run.stdout

    def show(path: str) -> str:
        run = subprocess.run(
            [tool("debugfs", "e2fsprogs"), "-R", f"cat {path}", device], capture_output=True, text=True, check=True
        )
        return run.stdout

    first = machine.run("volume.sh", "prepare")
    assert first.returncode == 0, first.stderr
    made = header()
    features = re.search(r"^Filesystem features:(.*)$", made, re.MULTILINE)
    assert features
    assert {"quota", "project"} <= set(features[1].split())
    assert show("/.pds-volume") == "dev\n"

    second = machine.run("volume.sh", "prepare")
    assert second.returncode == 0, second.stderr
    uuid = re.compile(r"^Filesystem UUID:.*$", re.MULTILINE)
    assert uuid.findall(header()) == uuid.findall(made)


def test_a_real_file_system_made_elsewhere_is_adopted_with_what_is_on_it(machine: Machine, tmp_path: Path) -> None:
    device = disk(machine)
    old = tmp_path / "old"
    old.mkdir()
    (old / "account.sqlite").write_text("people")
    make = tool("mkfs.ext4", "e2fsprogs")
    subprocess.run([make, "-q", "-O", "^quota,^project", "-d", old, device], check=True, stdin=subprocess.DEVNULL)
    machine.stand_in("mountpoint", code=1)
    before = device.read_bytes()
    assert machine.run("volume.sh", "prepare").returncode == 1
    assert device.read_bytes() == before, "a refusal writes nothing"
    machine.configure(ADOPT="1")
    adopted = machine.run("volume.sh", "prepare")
    assert adopted.returncode == 0, adopted.stderr
    run = subprocess.run(
        [tool("debugfs", "e2fsprogs"), "-R", "cat /account.sqlite", device], capture_output=True, text=True, check=True
    )
    assert run.stdout == "people"
    assert machine.run("volume.sh", "prepare").returncode == 0
    assert "added" not in machine.run("volume.sh", "prepare").stdout


# The volume, mounted


def mounted(machine: Machine, sentinel: str | None) -> Path:
    """A mounted volume; `sentinel` is the stack that its sentinel names."""
    machine.stand_in("mountpoint")
    machine.stand_in("chown")
    home = machine.root / "srv/nomad"
    home.mkdir(parents=True)
    if sentinel is not None:
        (home / ".pds-volume").write_text(f"{sentinel}\n")
    return home


def test_our_volume_gets_the_directories_with_their_owners_and_modes(machine: Machine) -> None:
    home = mounted(machine, "dev")
    for _ in range(2):  # a reboot claims again
        run = machine.run("volume.sh", "claim")
        assert run.returncode == 0, run.stderr
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir() if path.is_dir()}
    assert modes == {"agent": 0o700, "pds": 0o700, "io": 0o700, "clubs": 0o711, ".trash": 0o700}
    owners = {call.split()[2].removeprefix("/srv/nomad/"): call.split()[1] for call in machine.calls("chown")}
    assert owners == {"agent": "0:0", "pds": "1000:1000", "io": "0:0", "clubs": "0:0", ".trash": "0:0"}
    assert "chown -R" not in "\n".join(machine.calls())


@pytest.mark.parametrize("adopt", ["0", "1"])
def test_another_stacks_volume_is_refused_even_where_one_is_to_be_adopted(machine: Machine, adopt: str) -> None:
    home = mounted(machine, "prod")
    machine.configure(ADOPT=adopt)
    run = machine.run("volume.sh", "claim")
    assert run.returncode == 1
    assert "belongs to stack 'prod', not to 'dev'" in run.stderr
    assert [path.name for path in home.iterdir()] == [".pds-volume"]
    assert (home / ".pds-volume").read_text() == "prod\n"


def test_a_volume_without_a_name_is_refused_until_it_is_adopted(machine: Machine) -> None:
    home = mounted(machine, None)
    (home / "pds").mkdir()
    (home / "pds/account.sqlite").write_text("people")
    refused = machine.run("volume.sh", "claim")
    assert refused.returncode == 1
    assert "volume: {adopt: ID}" in refused.stderr
    assert not (home / ".pds-volume").exists()
    machine.configure(ADOPT="1")
    assert machine.run("volume.sh", "claim").returncode == 0
    assert (home / ".pds-volume").read_text() == "dev\n"
    assert (home / "pds/account.sqlite").read_text() == "people"
    # What another host wrote as root is the server's from now on.
    assert "chown -R 1000:1000 /srv/nomad/pds" in machine.calls("chown")


def test_nothing_is_claimed_where_nothing_is_mounted(machine: Machine) -> None:
    home = mounted(machine, "dev")
    machine.stand_in("mountpoint", code=1)
    assert machine.run("volume.sh", "claim").returncode == 1
    assert not (home / "agent").exists(), "a directory on the root disk would look like an empty volume"


@pytest.mark.parametrize(
    ("is_mounted", "sentinel", "starts"),
    [(True, "dev", True), (True, "prod", False), (True, None, False), (True, "", False), (False, "dev", False)],
)
def test_the_agent_starts_on_its_own_volume_only(
    machine: Machine, is_mounted: bool, sentinel: str | None, starts: bool
) -> None:
    mounted(machine, sentinel)
    machine.stand_in("mountpoint", code=0 if is_mounted else 1)
    assert (machine.run("volume.sh", "check").returncode == 0) is starts


def test_the_file_system_grows_only_while_it_is_mounted(machine: Machine) -> None:
    disk(machine)
    mounted(machine, "dev")
    machine.stand_in("resize2fs")
    machine.stand_in("mountpoint", code=1)
    assert machine.run("volume.sh", "grow").returncode == 1
    assert machine.calls("resize2fs") == []
    machine.stand_in("mountpoint", code=0)
    assert machine.run("volume.sh", "grow").returncode == 0
    assert machine.calls("resize2fs") == ["resize2fs /dev/disk/by-id/scsi-0DO_Volume_pds-dev"]


@pytest.mark.parametrize("arguments", [(), ("format",), ("repair",)])
def test_what_formats_cannot_be_asked_for_by_name(machine: Machine, arguments: tuple[str, ...]) -> None:
    disk(machine)
    unmounted(machine, blkid=2)
    assert machine.run("volume.sh", *arguments).returncode == 1
    assert machine.calls() == []


# The host-volume plugin


def plugin(machine: Machine, operation: str, **values: str) -> "subprocess.CompletedProcess[str]":
    """Run the plugin as Nomad does: its variables and nothing else, not even PATH."""
    return subprocess.run(
        ["/bin/sh", FILES / "pds-dir.sh", operation],
        env={"PDS_ROOT": str(machine.root), "PDS_PATH": str(machine.stands), "DHV_OPERATION": operation} | values,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def clubs(machine: Machine) -> Path:
    for name in ("chattr", "setquota", "chown"):
        machine.stand_in(name)
    home = machine.root / "srv/nomad"
    (home / "clubs").mkdir(parents=True)
    (home / ".trash").mkdir()
    return home / "clubs"


def test_the_plugin_tells_nomad_its_version() -> None:
    run = subprocess.run(
        ["/bin/sh", FILES / "pds-dir.sh", "fingerprint"], env={}, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"\d+\.\d+\.\d+", json.loads(run.stdout)["version"])


def test_a_new_volume_is_a_directory_of_the_servers_with_a_quota(machine: Machine, clubs: Path) -> None:
    run = plugin(
        machine,
        "create",
        DHV_VOLUME_ID=VOLUME_ID,
        DHV_CAPACITY_MIN_BYTES="1000000000",
        DHV_CAPACITY_MAX_BYTES="2000000001",
    )
    assert run.returncode == 0, run.stdout
    directory = clubs / VOLUME_ID
    assert json.loads(run.stdout) == {"path": str(directory), "bytes": 2_000_000_001}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    project = directory.stat().st_ino
    assert machine.calls() == [
        f"chown 1000:1000 /srv/nomad/clubs/{VOLUME_ID}",
        f"chattr -p {project} +P /srv/nomad/clubs/{VOLUME_ID}",
        f"setquota -P {project} 0 1953126 0 0 /srv/nomad",  # KiB, rounded up
    ]


@pytest.mark.parametrize(("least", "most", "kib"), [("2048", "0", 2), ("0", "0", 0), ("1", "1", 1), ("0", "1025", 2)])
def test_the_quota_is_the_larger_bound_that_was_asked_for(
    machine: Machine, clubs: Path, least: str, most: str, kib: int
) -> None:
    plugin(machine, "create", DHV_VOLUME_ID=VOLUME_ID, DHV_CAPACITY_MIN_BYTES=least, DHV_CAPACITY_MAX_BYTES=most)
    assert machine.calls("setquota")[0].split()[3:5] == ["0", str(kib)]


def test_a_volume_made_again_keeps_what_is_in_it(machine: Machine, clubs: Path) -> None:
    # Nomad creates every volume again whenever its agent starts.
    first = plugin(machine, "create", DHV_VOLUME_ID=VOLUME_ID)
    (clubs / VOLUME_ID / "account.sqlite").write_text("people")
    second = plugin(machine, "create", DHV_VOLUME_ID=VOLUME_ID)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert (clubs / VOLUME_ID / "account.sqlite").read_text() == "people"
    assert len(set(machine.calls("chattr"))) == 1, "another project number would start another count"


def test_a_deleted_volume_is_renamed_with_all_that_is_in_it(machine: Machine, clubs: Path) -> None:
    plugin(machine, "create", DHV_VOLUME_ID=VOLUME_ID)
    (clubs / VOLUME_ID / "account.sqlite").write_text("people")
    for _ in range(2):  # Nomad may ask again when it did not hear the answer
        run = plugin(machine, "delete", DHV_VOLUME_ID=VOLUME_ID, DHV_CREATED_PATH=str(clubs / VOLUME_ID))
        assert run.returncode == 0, run.stdout
    assert list(clubs.iterdir()) == []
    [kept] = (clubs.parent / ".trash").iterdir()
    assert re.fullmatch(rf"\d{{8}}T\d{{6}}Z-{VOLUME_ID}", kept.name)
    assert (kept / "account.sqlite").read_text() == "people"


@pytest.mark.parametrize("operation", ["create", "delete"])
@pytest.mark.parametrize(
    "name",
    [
        "../agent",
        "",
        ".",
        "a/b",
        "../../../../../../../../../../../../etc",
        VOLUME_ID[:-1],
        "-" + VOLUME_ID[1:],
        "A" * 36,
    ],
)
def test_nothing_but_a_uuid_becomes_part_of_a_path(machine: Machine, clubs: Path, operation: str, name: str) -> None:
    (clubs.parent / "agent").mkdir()
    before = sorted(machine.root.rglob("*"))
    run = plugin(machine, operation, DHV_VOLUME_ID=name, DHV_VOLUMES_DIR="/", DHV_CREATED_PATH="/etc")
    assert run.returncode != 0
    assert "not a UUID" in json.loads(run.stdout)["error"]
    assert sorted(machine.root.rglob("*")) == before
    assert machine.calls() == []


def test_a_volume_without_its_quota_is_no_volume(machine: Machine, clubs: Path) -> None:
    machine.stand_in("setquota", code=1)
    run = plugin(machine, "create", DHV_VOLUME_ID=VOLUME_ID)
    assert run.returncode != 0
    assert "quota" in json.loads(run.stdout)["error"]
    assert list(clubs.iterdir()) == []


def test_a_failed_quota_never_costs_a_directory_with_data(machine: Machine, clubs: Path) -> None:
    plugin(machine, "create", DHV_VOLUME_ID=VOLUME_ID)
    (clubs / VOLUME_ID / "account.sqlite").write_text("people")
    machine.stand_in("setquota", code=1)
    assert plugin(machine, "create", DHV_VOLUME_ID=VOLUME_ID).returncode != 0
    assert (clubs / VOLUME_ID / "account.sqlite").read_text() == "people"


def test_the_plugin_makes_nothing_where_the_volume_is_not_mounted(machine: Machine) -> None:
    run = plugin(machine, "create", DHV_VOLUME_ID=VOLUME_ID)
    assert run.returncode != 0
    assert "mounted" in json.loads(run.stdout)["error"]
    assert not (machine.root / "srv").exists()


# The metadata rules


@pytest.fixture
def rules(machine: Machine) -> Path:
    """A packet filter that remembers: chains and rules are lines of a file."""
    state = machine.stands / "rules"
    state.write_text("")
    machine.stand_in(
        "iptables",
        body=f"""
[ "$1" = -w ] || exit 9
shift
[ "$1" = -n ] && shift
verb=$1; chain=$2; shift 2
case $verb in
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


def test_containers_behind_a_bridge_are_kept_away_and_the_rule_is_there_once(machine: Machine, rules: Path) -> None:
    for _ in range(3):  # every start of Docker
        run = machine.run("metadata.sh", "bridged")
        assert run.returncode == 0, run.stderr
    assert rules.read_text().splitlines() == ["chain DOCKER-USER", "DOCKER-USER -d 169.254.169.254/32 -j REJECT"]


def test_every_process_of_the_host_is_kept_away_where_no_agent_runs(machine: Machine, rules: Path) -> None:
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
    # Without --noflush it would throw away Docker's chains.
    assert set(machine.calls("iptables-restore")) == {"iptables-restore -w --noflush"}


def test_the_monitoring_agent_passes_by_its_control_group_and_nobody_by_uid(machine: Machine, rules: Path) -> None:
    (machine.root / "sys/fs/cgroup/system.slice/do-agent.service").mkdir(parents=True)
    assert machine.run("metadata.sh", "host").returncode == 0
    restored = (machine.stands / "restored").read_text().splitlines()
    assert restored[2:4] == [
        "-A PDS-METADATA -m cgroup --path system.slice/do-agent.service -j RETURN",
        "-A PDS-METADATA -j REJECT",
    ]
    assert not any("owner" in line for line in restored), "a host-network container may be uid 0, which is uid 0 here"


@pytest.mark.parametrize(("active", "made"), [(0, True), (3, False)])
def test_a_start_of_the_monitoring_agent_makes_rules_only_after_cloud_init(
    machine: Machine, rules: Path, active: int, made: bool
) -> None:
    machine.stand_in("systemctl", code=active)
    assert machine.run("metadata.sh", "again").returncode == 0
    assert ("OUTPUT" in rules.read_text()) is made
    assert machine.calls("systemctl") == ["systemctl is-active --quiet pds-metadata.service"]


def test_rules_that_cannot_be_made_are_a_failure_so_that_nomad_does_not_start(machine: Machine) -> None:
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


def test_nomad_is_fetched_once_checked_and_made_executable(machine: Machine, release: str) -> None:
    nomad_of(machine, release)
    for _ in range(2):
        run = machine.run("install-nomad.sh")
        assert run.returncode == 0, run.stderr
    binary = machine.root / "usr/local/bin/nomad"
    assert subprocess.run([binary], capture_output=True, text=True, check=True).stdout == "Nomad v9.9.9\n"
    [call] = machine.calls("curl")
    assert call.endswith(" https://mirror.test/nomad/9.9.9/nomad_9.9.9_linux_amd64.zip")
    assert [path.name for path in binary.parent.iterdir()] == ["nomad"]


def test_a_wrong_sum_installs_nothing_and_names_both(machine: Machine, release: str) -> None:
    nomad_of(machine, "0" * 64)
    run = machine.run("install-nomad.sh")
    assert run.returncode != 0
    assert release in run.stderr
    assert "0" * 64 in run.stderr
    assert not (machine.root / "usr/local/bin").exists()


def test_a_wrong_sum_leaves_the_running_version_in_place(machine: Machine, release: str) -> None:
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
    run = machine.run("drain.sh")
    assert run.returncode == 0, run.stderr
    return machine.calls()


def test_the_drain_ends_the_agent_first_and_then_nomads_containers(machine: Machine) -> None:
    calls = drain(machine, r"abc\ndef\n")
    assert calls == [
        # Queued, never waited for: systemd holds this job back until the drain itself has ended.
        "systemctl stop --no-block nomad.service",
        "systemctl kill --kill-whom=main --signal=SIGINT nomad.service",
        "systemctl show --property=MainPID --value nomad.service",
        "docker ps --quiet --filter label=com.hashicorp.nomad.alloc_id",
        "docker stop --time 60 abc def",
        "sync",
    ]


def test_the_drain_has_nothing_to_stop_on_an_idle_host(machine: Machine) -> None:
    assert [call for call in drain(machine, "") if call.startswith("docker stop")] == []


def test_an_agent_that_does_not_end_is_waited_for_no_longer_than_its_share(machine: Machine) -> None:
    # 15 s here and 60 s for the containers are within the unit's 90 s.
    machine.stand_in("systemctl", body='[ "$1" = show ] && echo 4711')
    machine.stand_in("docker", body='[ "$1" = ps ] && echo abc')
    machine.stand_in("sleep")
    machine.stand_in("sync")
    assert machine.run("drain.sh").returncode == 0
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


def test_a_first_boot_goes_from_packages_to_the_volume_and_nomad_comes_last(machine: Machine) -> None:
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
        "systemctl start --no-block nomad.service stunnel@nomad.service pds-grow.timer",
    ]
    calls = machine.calls()
    assert [call for call in calls if call in milestones] == milestones
    assert calls[-1] == milestones[-1]
    [enabled] = [call for call in calls if call.startswith("systemctl enable nomad")]
    assert {"pds-metadata.service", "pds-drain.service", "stunnel@nomad.service", "pds-grow.timer"} <= set(
        enabled.split()
    )


def test_a_mirror_that_is_away_for_a_while_is_asked_again(machine: Machine) -> None:
    fresh(machine)
    count = machine.stands / "count"
    count.write_text("")
    machine.stand_in("apt-get", body=f'echo x >>"{count}"; [ "$(wc -l <"{count}")" -gt 2 ] || exit 100')
    assert machine.run("setup.sh").returncode == 0
    assert machine.calls("sleep") == ["sleep 20"] * 2
    assert "install-nomad" in machine.calls()


def test_without_packages_nothing_is_started(machine: Machine) -> None:
    fresh(machine)
    machine.stand_in("apt-get", code=100)
    run = machine.run("setup.sh")
    assert run.returncode != 0
    assert "could not be installed" in run.stdout
    assert machine.calls("systemctl", "install-nomad") == []


@pytest.mark.parametrize("failing", ["pds-volume-prepare.service", "pds-volume-claim.service"])
def test_without_the_volume_nomad_is_not_even_enabled(machine: Machine, failing: str) -> None:
    fresh(machine)
    machine.stand_in("systemctl", body=f'[ "$*" != "start {failing}" ] || exit 1')
    assert machine.run("setup.sh").returncode != 0
    assert [call for call in machine.calls("systemctl") if "nomad" in call] == []


@pytest.mark.parametrize(("known", "made"), [(2, 1), (0, 0)])
def test_uid_1000_is_taken_for_the_server_unless_somebody_has_it(machine: Machine, known: int, made: int) -> None:
    fresh(machine)
    machine.stand_in("getent", code=known)
    assert machine.run("setup.sh").returncode == 0
    users = machine.calls("useradd")
    assert len(users) == made
    assert all("--uid 1000 " in call and "/usr/sbin/nologin" in call for call in users)


def test_a_faulty_sshd_configuration_is_not_loaded(machine: Machine) -> None:
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
    assert len(machine.calls("mkswap")) == 2, "an unchanged size is no new swap file"
