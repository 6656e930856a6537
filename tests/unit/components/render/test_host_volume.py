"""The script that formats, claims and grows the volume: run for real, on commands that only log their calls."""

import re
import stat
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.support.host_machine import MIB, Machine, tool

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
    """Stand-ins for a volume that is not mounted and for which blkid returns `blkid`."""
    machine.stand_in("mountpoint", code=1)
    # The second query, after the type, is header_before only for a known file system.
    machine.stand_in("blkid", body=f'case "$*" in *TYPE*) echo "{kind}"; exit 0 ;; esac', code=blkid)
    machine.stand_in("dumpe2fs", body=f'echo "Filesystem features:      {features}"')
    for name in ("mkfs.ext4", "e2fsck", "tune2fs"):
        machine.stand_in(name)


def test_empty_volume_is_formatted_with_quotas_and_the_name_of_its_stack(machine: Machine) -> None:
    disk(machine)
    unmounted(machine, blkid=2)
    machine.stand_in("mkfs.ext4", body='while [ "$1" != -d ]; do shift; done; cat "$2/.pds-volume" >"$PDS_ROOT/born"')
    run = machine.run("volume.sh", "prepare")
    assert run.returncode == 0, run.stderr
    [call] = machine.calls("mkfs.ext4")
    assert "-O quota,project" in call
    assert call.endswith("/dev/disk/by-id/scsi-0DO_Volume_pds-dev")
    assert (machine.root / "born").read_text() == "dev\n"


def test_volume_with_a_file_system_is_checked_and_never_formatted(machine: Machine) -> None:
    disk(machine)
    unmounted(machine, blkid=0)
    run = machine.run("volume.sh", "prepare")
    assert run.returncode == 0, run.stderr
    assert machine.calls("mkfs.ext4", "tune2fs") == []
    assert machine.calls("e2fsck") == ["e2fsck -p /dev/disk/by-id/scsi-0DO_Volume_pds-dev"]


@pytest.mark.parametrize("answer", [1, 4, 8, 127])
def test_unexpected_blkid_result_is_refused(machine: Machine, answer: int) -> None:
    # 4 is blkid's 'usage or other error', 8 'several signatures', 127 the shell's 'no such command'.
    disk(machine)
    unmounted(machine, blkid=answer)
    run = machine.run("volume.sh", "prepare")
    assert run.returncode == 1
    assert "REFUSED" in run.stderr
    assert machine.calls("mkfs.ext4") == []


def test_missing_volume_is_waited_for_and_then_refused(machine: Machine) -> None:
    # blkid returns 2 for a missing device, too.
    unmounted(machine, blkid=2)
    run = machine.run("volume.sh", "prepare")
    assert run.returncode == 1
    assert "did not appear" in run.stderr
    assert machine.calls("mkfs.ext4") == []


def test_volume_that_appears_late_is_found(machine: Machine) -> None:
    unmounted(machine, blkid=0)
    device = machine.root / "dev/disk/by-id/scsi-0DO_Volume_pds-dev"
    device.parent.mkdir(parents=True)
    machine.stand_in("sleep", body=f': >"{device}"')
    assert machine.run("volume.sh", "prepare", PDS_WAIT_SECONDS="5").returncode == 0
    assert machine.calls("sleep") == ["sleep 1"]


@pytest.mark.parametrize("place", [0, 1080, MIB - 1])
def test_volume_with_unknown_bytes_is_not_formatted(machine: Machine, place: int) -> None:
    # A damaged file system has no signature left but is not empty. 1080 is where ext4's would be.
    device = disk(machine, b"\0" * place + b"x")
    unmounted(machine, blkid=2)
    run = machine.run("volume.sh", "prepare")
    assert run.returncode == 1
    assert "first MiB is not zero" in run.stderr
    assert machine.calls("mkfs.ext4") == []
    assert device.read_bytes()[place : place + 1] == b"x"


def test_disk_that_is_unreadable_in_the_first_mib_is_not_formatted(machine: Machine) -> None:
    disk(machine, size=MIB - 1)
    unmounted(machine, blkid=2)
    assert machine.run("volume.sh", "prepare").returncode == 1
    assert machine.calls("mkfs.ext4") == []


def test_mounted_volume_is_not_examined(machine: Machine) -> None:
    disk(machine)
    unmounted(machine, blkid=2)
    machine.stand_in("mountpoint", code=0)
    assert machine.run("volume.sh", "prepare").returncode == 0
    assert machine.calls("blkid", "mkfs.ext4", "e2fsck") == []


@pytest.mark.parametrize("kind", ["xfs", "LVM2_member", "crypto_LUKS", ""])
def test_other_file_system_is_refused_and_left_unchanged(machine: Machine, kind: str) -> None:
    disk(machine)
    unmounted(machine, blkid=0, kind=kind)
    run = machine.run("volume.sh", "prepare")
    assert run.returncode == 1
    assert "not ext4" in run.stderr
    assert machine.calls("mkfs.ext4", "e2fsck", "tune2fs") == []


@pytest.mark.parametrize(("answer", "expected"), [(0, 0), (1, 0), (2, 0), (4, 1), (8, 1)])
def test_repaired_file_system_is_accepted_and_an_unrepaired_one_is_refused(
    machine: Machine, answer: int, expected: int
) -> None:
    disk(machine)
    unmounted(machine, blkid=0)
    machine.stand_in("e2fsck", code=answer)
    assert machine.run("volume.sh", "prepare").returncode == expected


@pytest.mark.parametrize("features", ["has_journal", "has_journal quota", "has_journal project", "quotas projected"])
def test_volume_formatted_elsewhere_gets_quotas_only_if_it_is_adopted(machine: Machine, features: str) -> None:
    disk(machine)
    unmounted(machine, blkid=0, features=features)
    refused = machine.run("volume.sh", "prepare")
    assert refused.returncode == 1
    assert "'volume.adopt'" in refused.stderr
    assert machine.calls("tune2fs") == []
    machine.configure(ADOPT="1")
    assert machine.run("volume.sh", "prepare").returncode == 0
    # tune2fs changes an unchecked file system into a broken one.
    assert [call.split(" /dev")[0] for call in machine.calls("e2fsck", "tune2fs")] == [
        "e2fsck -f -p",
        "tune2fs -O quota,project -Q prjquota",
    ]


def _output_of(program: str, *arguments: str | Path) -> str:
    """The output of one of the file system's own tools."""
    command = [tool(program, "e2fsprogs"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout


def test_real_disk_is_formatted_once_and_keeps_its_file_system(machine: Machine) -> None:
    for name, package in (("mkfs.ext4", "e2fsprogs"), ("blkid", "util-linux"), ("cmp", "diffutils")):
        tool(name, package)
    device = disk(machine)
    machine.stand_in("mountpoint", code=1)

    def header() -> str:
        return _output_of("dumpe2fs", "-h", device)

    def show(path: str) -> str:
        return _output_of("debugfs", "-R", f"cat {path}", device)

    first = machine.run("volume.sh", "prepare")
    assert first.returncode == 0, first.stderr
    header_before = header()
    features = re.search(r"^Filesystem features:(.*)$", header_before, re.MULTILINE)
    assert features
    assert {"quota", "project"} <= set(features[1].split())
    assert show("/.pds-volume") == "dev\n"

    second = machine.run("volume.sh", "prepare")
    assert second.returncode == 0, second.stderr
    uuid = re.compile(r"^Filesystem UUID:.*$", re.MULTILINE)
    assert uuid.findall(header()) == uuid.findall(header_before)


def test_real_file_system_made_elsewhere_is_adopted_with_its_data(machine: Machine, tmp_path: Path) -> None:
    device = disk(machine)
    old = tmp_path / "old"
    old.mkdir()
    (old / "account.sqlite").write_text("people")
    make = tool("mkfs.ext4", "e2fsprogs")
    subprocess.run(
        [make, "-q", "-O", "^quota,^project", "-d", old, device], check=True, stdin=subprocess.DEVNULL, timeout=600
    )
    machine.stand_in("mountpoint", code=1)
    before = device.read_bytes()
    assert machine.run("volume.sh", "prepare").returncode == 1
    assert device.read_bytes() == before, "a refusal writes nothing"
    machine.configure(ADOPT="1")
    adopted = machine.run("volume.sh", "prepare")
    assert adopted.returncode == 0, adopted.stderr
    assert _output_of("debugfs", "-R", "cat /account.sqlite", device) == "people"
    assert machine.run("volume.sh", "prepare").returncode == 0
    assert "added" not in machine.run("volume.sh", "prepare").stdout


# The volume, mounted


def mounted(machine: Machine, sentinel: str | None) -> Path:
    """A mounted volume; `sentinel` is the stack that its sentinel names."""
    machine.stand_in("mountpoint")
    machine.stand_in("chown")
    machine.stand_in("chattr")
    machine.stand_in("setquota")
    home = machine.root / "srv/nomad"
    home.mkdir(parents=True)
    if sentinel is not None:
        (home / ".pds-volume").write_text(f"{sentinel}\n")
    return home


def test_volume_of_the_stack_gets_directories_with_owners_and_modes(machine: Machine) -> None:
    home = mounted(machine, "dev")
    for _ in range(2):  # a reboot claims the volume again
        run = machine.run("volume.sh", "claim")
        assert run.returncode == 0, run.stderr
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir() if path.is_dir()}
    private = dict.fromkeys(("agent", "pds", "io", "caddy", "metrics", ".trash"), 0o700)
    assert modes == private | {"clubs": 0o711}
    owners = {call.split()[2].removeprefix("/srv/nomad/"): call.split()[1] for call in machine.calls("chown")}
    roots = dict.fromkeys(("agent", "io", "clubs", ".trash"), "0:0")
    assert owners == roots | {"pds": "1000:1000", "caddy": "1001:1001", "metrics": "1002:1002"}
    assert "chown -R" not in "\n".join(machine.calls())


def test_the_metrics_store_has_a_quota_on_the_volume(machine: Machine) -> None:
    home = mounted(machine, "dev")
    assert machine.run("volume.sh", "claim").returncode == 0
    project = (home / "metrics").stat().st_ino
    assert machine.calls("chattr", "setquota") == [
        f"chattr -p {project} +P /srv/nomad/metrics",
        f"setquota -P {project} 0 1048576 0 0 /srv/nomad",
    ], "1 GiB, in KiB"


def test_a_volume_whose_quotas_do_not_work_is_claimed_nevertheless(machine: Machine) -> None:
    home = mounted(machine, "dev")
    machine.stand_in("setquota", code=1)
    run = machine.run("volume.sh", "claim")
    assert run.returncode == 0, "no PDS may wait for the quota of its metrics"
    assert "the quota of" in run.stdout
    assert (home / ".trash").is_dir()


@pytest.mark.parametrize("adopt", ["0", "1"])
def test_volume_of_another_stack_is_refused_even_if_adopt_is_set(machine: Machine, adopt: str) -> None:
    home = mounted(machine, "prod")
    machine.configure(ADOPT=adopt)
    run = machine.run("volume.sh", "claim")
    assert run.returncode == 1
    assert "belongs to stack 'prod', not to 'dev'" in run.stderr
    assert [path.name for path in home.iterdir()] == [".pds-volume"]
    assert (home / ".pds-volume").read_text() == "prod\n"


def test_volume_without_a_stack_name_is_refused_until_it_is_adopted(machine: Machine) -> None:
    home = mounted(machine, None)
    (home / "pds").mkdir()
    (home / "pds/account.sqlite").write_text("people")
    refused = machine.run("volume.sh", "claim")
    assert refused.returncode == 1
    assert "'volume.adopt'" in refused.stderr
    assert not (home / ".pds-volume").exists()
    machine.configure(ADOPT="1")
    assert machine.run("volume.sh", "claim").returncode == 0
    assert (home / ".pds-volume").read_text() == "dev\n"
    assert (home / "pds/account.sqlite").read_text() == "people"
    # The server now owns files that another host wrote as root.
    assert "chown -R 1000:1000 /srv/nomad/pds" in machine.calls("chown")


def test_claim_fails_if_nothing_is_mounted(machine: Machine) -> None:
    home = mounted(machine, "dev")
    machine.stand_in("mountpoint", code=1)
    assert machine.run("volume.sh", "claim").returncode == 1
    assert not (home / "agent").exists(), "a directory on the root disk would look like an empty volume"


@pytest.mark.parametrize(
    ("is_mounted", "sentinel", "starts"),
    [(True, "dev", True), (True, "prod", False), (True, None, False), (True, "", False), (False, "dev", False)],
)
def test_agent_starts_only_on_the_volume_of_its_stack(
    machine: Machine, is_mounted: bool, sentinel: str | None, starts: bool
) -> None:
    mounted(machine, sentinel)
    machine.stand_in("mountpoint", code=0 if is_mounted else 1)
    assert (machine.run("volume.sh", "check").returncode == 0) is starts
    assert (machine.root / "srv/nomad/agent").exists() is starts


def test_node_ids_are_on_the_disk_before_the_agent_starts(machine: Machine) -> None:
    """Nomad does not flush them. A host whose power is cut in its first seconds would come back as another node."""
    agent = mounted(machine, "dev") / "agent"
    machine.stand_in("sync")
    (agent / "client").mkdir(parents=True)
    (agent / "client/client-id").touch()  # what a power cut leaves
    assert machine.run("volume.sh", "check").returncode == 0
    names = ["client/client-id", "client/secret-id", "server/node-id"]
    identities = [(agent / name).read_text() for name in names]
    assert [str(uuid.UUID(text)) for text in identities] == identities, (
        "Nomad reads them as they are, without a newline"
    )
    assert len({*identities}) == 3
    assert machine.calls("sync") == [f"sync {' '.join(names)} client server ."]
    assert machine.run("volume.sh", "check").returncode == 0
    assert [(agent / name).read_text() for name in names] == identities, "a volume keeps them"
    assert stat.S_IMODE((agent / "client/secret-id").stat().st_mode) == 0o600


def test_file_system_grows_only_while_it_is_mounted(machine: Machine) -> None:
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
def test_formatting_is_not_a_command_of_its_own(machine: Machine, arguments: tuple[str, ...]) -> None:
    disk(machine)
    unmounted(machine, blkid=2)
    assert machine.run("volume.sh", *arguments).returncode == 1
    assert machine.calls() == []
