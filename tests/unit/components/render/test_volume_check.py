"""The volume check (`components/render/scripts/volume_check.cjs`) run by a real Node, for every kind of volume that it
may meet."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.render.jobs.pds import volume_check_items
from offline.mock_engine import ROOT
from tests.support.programs import settings_of
from tools.trial.node import wheel_folder

VOLUME_CHECK = ROOT / "components" / "render" / "scripts" / "volume_check.cjs"
KEY = "3174f736d554cb2d30e32120227fa8cc722bc378d18dd42bac32a47794f4af1f"
IDENTITY_FILE = ".pds-identity.json"


def _node() -> str:
    wheel = wheel_folder() / "bin" / "node"
    found = str(wheel) if wheel.exists() else shutil.which("node")
    assert found, "Node comes with the tools' requirements"
    return found


@dataclass
class Volume:
    """A directory, and the volume check on it."""

    path: Path

    def check(
        self, *, hostname: str = "noted.at", key: str | None = KEY, new: bool = False, adopt: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run the volume check as the job does."""
        environment = {
            "PDS_DATA_DIRECTORY": str(self.path),
            "PDS_HOSTNAME": hostname,
            "PDS_VOLUME_CHECK_NEW": "true" if new else "false",
            "PDS_VOLUME_CHECK_ADOPT": "true" if adopt else "false",
        }
        if key is not None:
            environment["PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"] = key
        return subprocess.run(
            [_node(), str(VOLUME_CHECK)], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    def names(self) -> set[str]:
        """The files on the volume."""
        return {entry.name for entry in self.path.iterdir()}


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    path = tmp_path / "pds"
    path.mkdir()
    return Volume(path)


def _refused(done: subprocess.CompletedProcess[str], because: str) -> None:
    assert done.returncode == 1, f"the server would start: {done.stdout}"
    assert done.stderr.startswith("REFUSED: "), "the reason is the first thing one reads"
    assert because in done.stderr
    assert KEY not in done.stdout + done.stderr, "Nomad keeps this log"


def test_an_announced_fresh_volume_is_marked(volume: Volume) -> None:
    done = volume.check(new=True)
    assert done.returncode == 0, done.stderr
    mark = json.loads((volume.path / IDENTITY_FILE).read_text())
    assert mark["hostname"] == "noted.at"
    assert len(mark["rotation_public_key"]) == 66, "a compressed point of secp256k1"
    assert mark["rotation_public_key"][:2] in ("02", "03")
    assert KEY not in (volume.path / IDENTITY_FILE).read_text(), "the public half alone"
    assert (volume.path / IDENTITY_FILE).stat().st_mode & 0o777 == 0o600
    assert volume.names() == {IDENTITY_FILE}, "nothing else is left there"


def test_an_empty_volume_without_new_is_refused(volume: Volume) -> None:
    _refused(volume.check(), "the volume is empty")
    assert volume.names() == set(), "a refusal changes nothing"


def test_an_empty_volume_is_not_an_adopted_one(volume: Volume) -> None:
    _refused(volume.check(adopt=True), "the volume is empty")


def test_our_own_volume_passes_whatever_the_stack_says(volume: Volume) -> None:
    assert volume.check(new=True).returncode == 0
    (volume.path / "account.sqlite").write_text("")
    before = (volume.path / IDENTITY_FILE).read_text()
    for new, adopt in ((False, False), (True, False), (False, True)):
        done = volume.check(new=new, adopt=adopt)
        assert done.returncode == 0, done.stderr
    assert (volume.path / IDENTITY_FILE).read_text() == before


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("adopt", [False, True])
def test_another_hostname_s_volume_is_refused_always(volume: Volume, new: bool, adopt: bool) -> None:
    assert volume.check(new=True).returncode == 0
    _refused(volume.check(hostname="other.at", new=new, adopt=adopt), "a PDS with hostname noted.at")


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("adopt", [False, True])
def test_a_volume_of_another_rotation_key_is_refused_always(volume: Volume, new: bool, adopt: bool) -> None:
    assert volume.check(new=True).returncode == 0
    _refused(volume.check(key=f"{1:064x}", new=new, adopt=adopt), "a PDS with rotation_public_key")


@pytest.mark.parametrize("new", [False, True])
def test_data_without_a_mark_is_refused(volume: Volume, new: bool) -> None:
    (volume.path / "account.sqlite").write_text("")
    _refused(volume.check(new=new), "holds data without the identity file")
    assert volume.names() == {"account.sqlite"}


def test_data_without_a_mark_that_the_stack_adopts_is_marked(volume: Volume) -> None:
    (volume.path / "account.sqlite").write_text("rows")
    assert volume.check(adopt=True).returncode == 0
    assert volume.names() == {"account.sqlite", IDENTITY_FILE}
    assert (volume.path / "account.sqlite").read_text() == "rows", "data is not touched"


def test_a_crash_while_marking_leaves_a_volume_that_can_be_marked(volume: Volume) -> None:
    (volume.path / f"{IDENTITY_FILE}.tmp").write_text('{"hostname":')
    _refused(volume.check(), "the volume is empty")
    assert volume.check(new=True).returncode == 0, "a first start that crashed is still a first start"
    assert volume.names() == {IDENTITY_FILE}


def test_lost_and_found_is_no_data(volume: Volume) -> None:
    (volume.path / "lost+found").mkdir()
    _refused(volume.check(), "the volume is empty")
    assert volume.check(new=True).returncode == 0


def test_a_mark_that_cannot_be_read_stops_the_server(volume: Volume) -> None:
    (volume.path / IDENTITY_FILE).write_text("")
    assert volume.check(new=True, adopt=True).returncode == 1, "in doubt the server does not start"


@pytest.mark.parametrize("key", [None, "", "0" * 64, "zz"])
def test_without_a_usable_rotation_key_the_server_does_not_start(volume: Volume, key: str | None) -> None:
    assert volume.check(key=key, new=True).returncode == 1
    assert volume.names() == set(), "no volume is marked with a key that is none"


def test_nomad_s_template_engine_finds_nothing_in_the_volume_check() -> None:
    text = VOLUME_CHECK.read_text()
    assert "{{" not in text, "Nomad's template engine would read it as an action"
    assert "}}" not in text


def test_the_stack_tells_the_volume_check_what_it_may_accept() -> None:
    assert volume_check_items(settings_of(pds={"new": True})) == {
        "PDS_VOLUME_CHECK_NEW": "true",
        "PDS_VOLUME_CHECK_ADOPT": "false",
    }
    volume = {"adopt": "506f78a4-e098-11e5-ad9f-000f53306ae1"}
    adopted = volume_check_items(settings_of(pds={"new": False}, volume=volume))
    assert adopted == {"PDS_VOLUME_CHECK_NEW": "false", "PDS_VOLUME_CHECK_ADOPT": "true"}
