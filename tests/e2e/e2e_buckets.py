"""The backup's bucket and its key by the real engine and the real provider: `pytest tests/e2e/e2e_buckets.py`.

Keys are the bench's API's; for Spaces an S3 server stands, moto's. See `alone.py`. Without Nomad, so without the job.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.alone import Alone, alone
from tests.programs import BACKUP
from tests.s3 import s3_server

PROGRAM = """\
from types import SimpleNamespace
from typing import Any
import pulumi
from components.backup import Backup

class Ground(Backup):
    def __init__(self, name: str) -> None:
        pulumi.ComponentResource.__init__(self, "pds:index:Backup", name)
        args: Any = SimpleNamespace(settings=settings, stack="test")
        pulumi.export("key", self._key(name, args, self._bucket(name, args, settings.backup)).secret_key)

Ground("pds-backup")
"""
BUCKET = "test-noted-test-backup"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Alone]:
    # The provider asks BUCKET.HOST, which no resolver knows here: the S3 server gets it as a proxy does.
    with s3_server(tmp_path, hosts=("spaces.test",)) as s3:
        reached = {"SPACES_ENDPOINT_URL": "http://spaces.test", "HTTP_PROXY": s3, "NO_PROXY": ""}
        with alone(tmp_path, PROGRAM, reached) as made:
            yield made


def test_a_bucket_is_made_with_its_key_stays_at_destroy_and_is_adopted(stack: Alone) -> None:
    stack.up(backup=BACKUP)
    stack("preview", "--expect-no-changes", backup=BACKUP)
    stack.up("--refresh", "--expect-no-changes", backup=BACKUP)
    (key,) = stack.api.dump()["spaces_keys"].values()
    assert (key["name"], key["grants"]) == ("pds-test-backup", [{"bucket": BUCKET, "permission": "readwrite"}])
    secret = stack("stack", "output", "key", "--show-secrets", backup=BACKUP).strip()
    state = stack("stack", "export")
    assert [text for text in (secret, *BACKUP.values()) if text in state] == [], "nobody reads a key in the state"

    assert "protect" in stack("destroy", "--yes", "--skip-preview", fails=True, backup=BACKUP)
    stack("state", "unprotect", "--all", "--yes")
    stack("destroy", "--yes", "--skip-preview", backup=BACKUP)
    assert stack.api.dump()["spaces_keys"] == {}, "the key goes, and opens nothing any more"

    adopting = {**BACKUP, "bucket": BUCKET, "adopt": True}
    stack.up(backup=adopting)
    stack("preview", "--expect-no-changes", backup=adopting)
