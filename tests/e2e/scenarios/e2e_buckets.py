"""The backup's bucket and its key with the real engine and the real provider: `pytest
tests/e2e/scenarios/e2e_buckets.py`.

The e2e environment's API issues the keys, for the buckets of an S3 service that stands in for Spaces and accepts them.
See `alone.py`. Without Nomad, so without the job.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.environment.alone import Alone, alone
from tests.e2e.environment.buckets import Spaces
from tests.support.programs import BACKUP
from tests.support.s3 import REGION, add_key, ask, buckets_of, pass_days, s3_server

PROGRAM = """\
from types import SimpleNamespace
from typing import Any
import pulumi
from components.operations.backup import Backup

class BucketAndKey(Backup):
    def __init__(self, name: str) -> None:
        pulumi.ComponentResource.__init__(self, "pds:index:Backup", name)
        args: Any = SimpleNamespace(settings=settings, stack="test")
        pulumi.export("key", self._key(name, args, settings.backup).secret_key)

BucketAndKey("pds-backup")
"""
BUCKET = "test-noted-test-backup"


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[str]:
    with s3_server(tmp_path, hosts=("spaces.test",), spaces=True) as url:
        add_key(url, BACKUP["access_key_id"], BACKUP["secret_access_key"], None)
        yield url


@pytest.fixture
def stack(tmp_path: Path, s3: str) -> Iterator[Alone]:
    # The provider connects to BUCKET.HOST, which does not resolve here: the S3 server gets the requests as a proxy.
    reached = {"SPACES_ENDPOINT_URL": "http://spaces.test", "HTTP_PROXY": s3, "NO_PROXY": ""}
    with alone(tmp_path, PROGRAM, reached, spaces=Spaces(s3)) as made:
        yield made


def test_bucket_is_created_with_its_key_kept_by_destroy_and_adopted(stack: Alone, s3: str) -> None:
    stack.up(backup=BACKUP)
    stack("preview", "--expect-no-changes", backup=BACKUP)
    stack.up("--refresh", "--expect-no-changes", backup=BACKUP)
    (key,) = stack.api.dump()["spaces_keys"].values()
    assert (key["name"], key["grants"]) == ("pds-test-backup", [{"bucket": BUCKET, "permission": "readwrite"}])
    secret = stack("stack", "output", "key", "--show-secrets", backup=BACKUP).strip()
    backup = {"AWS_ACCESS_KEY_ID": key["access_key"], "AWS_SECRET_ACCESS_KEY": secret}
    assert restic(s3, "init", **backup) == 0, "the key must give access to the bucket"
    assert restic(s3, "cat", "config", **backup) == 0
    state = stack("stack", "export")
    assert [text for text in (secret, *BACKUP.values()) if text in state] == [], "the state has no key in plain text"

    assert "protect" in stack("destroy", "--yes", "--skip-preview", fails=True, backup=BACKUP)
    stack("state", "unprotect", "--all", "--yes")
    stack("destroy", "--yes", "--skip-preview", backup=BACKUP)
    assert stack.api.dump()["spaces_keys"] == {}
    assert restic(s3, "cat", "config", **backup) != 0, "the deleted key must give no access"

    adopting = {**BACKUP, "bucket": BUCKET, "adopt": True}
    stack.up(backup=adopting)
    stack("preview", "--expect-no-changes", backup=adopting)


def test_wrong_operator_key_creates_nothing(stack: Alone) -> None:
    output = stack.up(fails=True, backup={**BACKUP, "secret_access_key": "another"})
    assert "SignatureDoesNotMatch" in output
    assert stack.api.dump()["spaces_keys"] == {}


def test_refuses_a_bucket_name_of_another_account_with_the_error_of_the_service(stack: Alone, s3: str) -> None:
    add_key(s3, "DO00OTHER", "a secret", None, account="another")
    secrets = {"AWS_ACCESS_KEY_ID": "DO00OTHER", "AWS_SECRET_ACCESS_KEY": "a secret"}
    assert restic(s3, "init", **secrets) == 0, "this creates the bucket"
    assert "BucketAlreadyExists" in stack.up(fails=True, backup=BACKUP)
    assert stack.api.dump()["spaces_keys"] == {}


def test_another_bucket_name_is_a_replacement_that_protection_prevents(stack: Alone, s3: str) -> None:
    stack.up(backup=BACKUP)
    renamed = {**BACKUP, "bucket": "another-one"}
    assert "protect" in stack("preview", fails=True, backup=renamed)
    assert "protect" in stack.up(fails=True, backup=renamed)
    assert list(buckets_of(s3)) == [BUCKET]
    stack("preview", "--expect-no-changes", backup=BACKUP)


def test_versions_of_a_lock_are_deleted_after_their_days(stack: Alone, s3: str) -> None:
    stack.up(backup=BACKUP)
    keys = {"AWS_ACCESS_KEY_ID": BACKUP["access_key_id"], "AWS_SECRET_ACCESS_KEY": BACKUP["secret_access_key"]}
    assert restic(s3, "init", **keys) == 0
    assert restic(s3, "check", **keys) == 0, "this creates a lock and deletes it"
    versions = f"{s3}/{BUCKET}?prefix=noted.test/locks/&versions"
    assert "<DeleteMarker>" in ask("GET", versions)
    pass_days(s3, 31)
    assert "locks/" not in ask("GET", versions).partition("</Prefix>")[2]
    assert restic(s3, "cat", "config", **keys) == 0


def restic(s3: str, *arguments: str, **keys: str) -> int:
    """Exit code of restic in the stack's bucket."""
    repository = {"RESTIC_REPOSITORY": f"s3:{s3}/{BUCKET}/noted.test", "RESTIC_PASSWORD": "a word"}
    env = {"PATH": os.environ["PATH"], "AWS_DEFAULT_REGION": REGION, **repository, **keys}
    return subprocess.run(["restic", "--no-cache", *arguments], env=env, capture_output=True, timeout=60).returncode
