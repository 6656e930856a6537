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
BLOB_FILE = ".pds-blobs.json"


def _node() -> str:
    wheel = wheel_folder() / "bin" / "node"
    found = str(wheel) if wheel.exists() else shutil.which("node")
    assert found, "Node is missing: install the tools' requirements"
    return found


@dataclass
class Volume:
    """A directory, and the volume check on it."""

    path: Path

    def check(
        self,
        *,
        hostname: str = "noted.at",
        key: str | None = KEY,
        new: bool = False,
        adopt: bool = False,
        bucket: str | None = None,
        moved: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run the volume check as the job does."""
        environment = {
            "PDS_DATA_DIRECTORY": str(self.path),
            "PDS_HOSTNAME": hostname,
            "PDS_VOLUME_CHECK_NEW": "true" if new else "false",
            "PDS_VOLUME_CHECK_ADOPT": "true" if adopt else "false",
        }
        if bucket is not None:
            environment["PDS_BLOBSTORE_S3_BUCKET"] = bucket
            environment["PDS_BLOBSTORE_S3_ENDPOINT"] = "https://s3.my-club.org"
        if moved:
            environment["PDS_VOLUME_CHECK_BLOBS"] = moved
        if key is not None:
            environment["PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"] = key
        return subprocess.run(
            [_node(), str(VOLUME_CHECK)], env=environment, capture_output=True, text=True, timeout=600, check=False
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
    assert done.stderr.startswith("REFUSED: "), "the output must begin with the reason"
    assert because in done.stderr
    assert KEY not in done.stdout + done.stderr, "Nomad keeps this log"


def test_new_empty_volume_gets_an_identity_file(volume: Volume) -> None:
    done = volume.check(new=True)
    assert done.returncode == 0, done.stderr
    identity = json.loads((volume.path / IDENTITY_FILE).read_text())
    assert identity["hostname"] == "noted.at"
    assert len(identity["rotation_public_key"]) == 66, "a compressed point of secp256k1"
    assert identity["rotation_public_key"][:2] in ("02", "03")
    assert KEY not in (volume.path / IDENTITY_FILE).read_text(), "the file has only the public half"
    assert (volume.path / IDENTITY_FILE).stat().st_mode & 0o777 == 0o600
    assert volume.names() == {IDENTITY_FILE, BLOB_FILE}, "no other file is left"


def test_refuses_an_empty_volume_without_new(volume: Volume) -> None:
    _refused(volume.check(), "the volume is empty")
    assert volume.names() == set(), "a refusal changes nothing"


def test_refuses_an_empty_volume_with_adopt(volume: Volume) -> None:
    _refused(volume.check(adopt=True), "the volume is empty")


def test_accepts_the_volume_of_the_stack_whatever_the_options(volume: Volume) -> None:
    assert volume.check(new=True).returncode == 0
    (volume.path / "account.sqlite").write_text("")
    before = (volume.path / IDENTITY_FILE).read_text()
    for new, adopt in ((False, False), (True, False), (False, True)):
        done = volume.check(new=new, adopt=adopt)
        assert done.returncode == 0, done.stderr
    assert (volume.path / IDENTITY_FILE).read_text() == before


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("adopt", [False, True])
def test_always_refuses_the_volume_of_another_hostname(volume: Volume, new: bool, adopt: bool) -> None:
    assert volume.check(new=True).returncode == 0
    _refused(volume.check(hostname="other.at", new=new, adopt=adopt), "a PDS with hostname noted.at")


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("adopt", [False, True])
def test_always_refuses_the_volume_of_another_rotation_key(volume: Volume, new: bool, adopt: bool) -> None:
    assert volume.check(new=True).returncode == 0
    _refused(volume.check(key=f"{1:064x}", new=new, adopt=adopt), "a PDS with rotation_public_key")


@pytest.mark.parametrize("new", [False, True])
def test_refuses_data_without_an_identity_file(volume: Volume, new: bool) -> None:
    (volume.path / "account.sqlite").write_text("")
    _refused(volume.check(new=new), "holds data without the identity file")
    assert volume.names() == {"account.sqlite"}


def test_adopted_data_gets_an_identity_file(volume: Volume) -> None:
    (volume.path / "account.sqlite").write_text("rows")
    assert volume.check(adopt=True).returncode == 0
    assert volume.names() == {"account.sqlite", IDENTITY_FILE, BLOB_FILE}
    assert (volume.path / "account.sqlite").read_text() == "rows", "data is not touched"


@pytest.mark.parametrize("content", [None, ""])
@pytest.mark.parametrize("adopt", [False, True])
def test_refuses_accounts_without_their_database(volume: Volume, content: str | None, adopt: bool) -> None:
    """The server would make an empty one and answer, and no member could log in."""
    if not adopt:
        assert volume.check(new=True).returncode == 0
    (volume.path / "actors" / "reserved_keys").mkdir(parents=True)
    database = volume.path / "account.sqlite"
    database.write_text("rows")
    assert volume.check(adopt=adopt).returncode == 0, "a first start that ended before the first account"
    (volume.path / "actors" / "ab" / "did:plc:alice").mkdir(parents=True)
    assert volume.check(adopt=adopt).returncode == 0
    if adopt:
        (volume.path / IDENTITY_FILE).unlink()
    database.unlink()
    if content is not None:
        database.write_text(content)
    before = volume.names()
    refused = volume.check(adopt=adopt)
    _refused(refused, "account.sqlite is missing or empty, and actors/ holds accounts")
    assert "./pds restore STACK" in refused.stderr
    assert volume.names() == before, "a refusal changes nothing"


def test_refuses_a_missing_account_database_if_the_accounts_cannot_be_read(volume: Volume) -> None:
    assert volume.check(new=True).returncode == 0
    shard = volume.path / "actors" / "ab"
    shard.parent.mkdir()
    shard.symlink_to(shard.name)  # opening it is an error, as on a bad disk
    _refused(volume.check(), "account.sqlite is missing or empty, and actors/ cannot be read")


def test_accepts_a_new_volume_after_a_crash_while_writing_the_identity_file(volume: Volume) -> None:
    (volume.path / f"{IDENTITY_FILE}.tmp").write_text('{"hostname":')
    _refused(volume.check(), "the volume is empty")
    assert volume.check(new=True).returncode == 0, "a first start that crashed is still a first start"
    assert volume.names() == {IDENTITY_FILE, BLOB_FILE}


def test_lost_and_found_does_not_count_as_data(volume: Volume) -> None:
    (volume.path / "lost+found").mkdir()
    _refused(volume.check(), "the volume is empty")
    assert volume.check(new=True).returncode == 0


def test_refuses_an_unreadable_identity_file(volume: Volume) -> None:
    (volume.path / IDENTITY_FILE).write_text("")
    assert volume.check(new=True, adopt=True).returncode == 1, "the server must not start"


@pytest.mark.parametrize("key", [None, "", "0" * 64, "zz"])
def test_refuses_to_start_without_a_usable_rotation_key(volume: Volume, key: str | None) -> None:
    assert volume.check(key=key, new=True).returncode == 1
    assert volume.names() == set(), "an unusable key must not write an identity file"


def _blob(volume: Volume) -> Path:
    place = volume.path / "blocks" / "did:plc:alice"
    place.mkdir(parents=True)
    (place / "bafkreih").write_text("a picture")
    return place / "bafkreih"


def test_refuses_a_bucket_while_the_blobs_are_on_the_volume(volume: Volume) -> None:
    assert volume.check(new=True).returncode == 0
    blob = _blob(volume)
    _refused(volume.check(bucket="club-blobs"), "the blobs of this PDS are on the volume")
    (volume.path / BLOB_FILE).unlink()  # of a version that recorded no place
    refused = volume.check(bucket="club-blobs")
    _refused(refused, "the blobs of this PDS are on the volume")
    assert "./pds blobs STACK --to bucket" in refused.stderr
    assert volume.check().returncode == 0, "the server starts as before"
    assert blob.exists()


def test_refuses_a_quarantined_blob_on_the_volume_as_well(volume: Volume) -> None:
    assert volume.check(new=True).returncode == 0
    blob = _blob(volume)
    (volume.path / "blocks" / "quarantine" / "did:plc:alice").mkdir(parents=True)
    blob.rename(volume.path / "blocks" / "quarantine" / "did:plc:alice" / blob.name)
    _refused(volume.check(bucket="club-blobs"), "the blobs of this PDS are on the volume")


def test_a_bucket_can_be_chosen_before_the_first_blob(volume: Volume) -> None:
    assert volume.check(new=True).returncode == 0
    (volume.path / "blocks" / "did:plc:alice").mkdir(parents=True)
    assert volume.check(bucket="club-blobs").returncode == 0
    assert json.loads((volume.path / BLOB_FILE).read_text()) == {"store": "bucket", "bucket": "club-blobs"}


@pytest.mark.parametrize("bucket", [None, "other-blobs"])
def test_refuses_any_other_place_once_the_blobs_are_in_a_bucket(volume: Volume, bucket: str | None) -> None:
    assert volume.check(new=True, bucket="club-blobs").returncode == 0
    refused = volume.check(bucket=bucket)
    _refused(refused, "the blobs of this PDS are in the bucket club-blobs")
    assert "./pds blobs STACK --to disk" in refused.stderr
    _blob(volume)  # a copy that was kept after the move
    _refused(volume.check(bucket=bucket), "the blobs of this PDS are in the bucket club-blobs")
    assert volume.check(bucket="club-blobs").returncode == 0


def test_refuses_an_unreadable_place_of_the_blobs(volume: Volume) -> None:
    assert volume.check(new=True).returncode == 0
    (volume.path / BLOB_FILE).write_text('{"store":')
    _refused(volume.check(), ".pds-blobs.json on the volume cannot be read")


@pytest.mark.parametrize(("before", "after"), [(None, "theirs"), ("theirs", None), ("theirs", "other")])
def test_blobs_that_the_operator_moved_to_or_from_their_own_bucket_are_served_there(
    volume: Volume, before: str | None, after: str | None
) -> None:
    """The refusal names the command that sets the variable, with the place as `StackIdentity` names it."""
    assert volume.check(new=True, bucket=before).returncode == 0
    _blob(volume)
    place = f"s3 bucket {after} at s3.my-club.org" if after else "disk"
    assert f"PDS_BLOBS_MOVED='{place}' pulumi up" in volume.check(bucket=after).stderr
    _refused(volume.check(bucket=after, moved=before or "disk"), "the blobs of this PDS are")
    assert volume.check(bucket=after, moved=after or "disk").returncode == 0
    assert volume.check(bucket=after).returncode == 0, "the place is recorded, and the variable is needed once"
    _refused(volume.check(bucket=before), "the blobs of this PDS are")


def test_a_server_with_its_own_bucket_may_have_old_files_on_the_volume(volume: Volume) -> None:
    assert volume.check(new=True, bucket="theirs").returncode == 0
    _blob(volume)
    (volume.path / BLOB_FILE).unlink()  # of a version that recorded no place
    _refused(volume.check(bucket="theirs"), "the blobs of this PDS are on the volume")
    assert volume.check(bucket="theirs", moved="theirs").returncode == 0
    assert volume.check(bucket="theirs").returncode == 0


def test_volume_check_contains_no_nomad_template_action() -> None:
    text = VOLUME_CHECK.read_text()
    assert "{{" not in text, "Nomad's template engine would read it as an action"
    assert "}}" not in text


def test_stack_options_set_what_the_volume_check_accepts() -> None:
    assert volume_check_items(settings_of(pds={"new": True})) == {
        "PDS_VOLUME_CHECK_NEW": "true",
        "PDS_VOLUME_CHECK_ADOPT": "false",
    }
    volume = {"adopt": "506f78a4-e098-11e5-ad9f-000f53306ae1"}
    adopted = volume_check_items(settings_of(pds={"new": False}, volume=volume))
    assert adopted == {"PDS_VOLUME_CHECK_NEW": "false", "PDS_VOLUME_CHECK_ADOPT": "true"}
