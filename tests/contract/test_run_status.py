"""What the last task of a backup records for the alerts job and `./pds check`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.contract.bucket import Bucket
from tests.contract.lines import one_line
from tests.contract.snapshots import Data, account_store
from tests.contract.test_backup import bucket as bucket
from tests.contract.test_backup import empty_bucket as empty_bucket
from tests.contract.test_backup import s3 as s3

pytestmark = [pytest.mark.contract, one_line]


def test_run_status_reports_success_and_failure_to_the_alerts_job(faulty: Data, bucket: Bucket) -> None:
    faulty.take()
    assert "the snapshot was not sent" in bucket.run_status(faulty)["why"]
    bucket.send(faulty)
    assert bucket.run_status(faulty).keys() == {"first", "good", "findings", "checked"}
    (bucket.folder / "data" / "checked").unlink()  # as if the bucket had lost something
    status = bucket.run_status(faulty)
    assert status.keys() == {"first", "good", "findings", "checked", "failed", "why"}, (
        "it was sent, but the operator must check the bucket"
    )
    assert "the check of a part of the bucket, failed" in status["why"]


def test_a_snapshot_that_is_not_sent_reports_the_accounts_that_it_found_damaged(faulty: Data, bucket: Bucket) -> None:
    """A key of the bucket that was revoked must not hide for weeks that an account is lost."""
    faulty.take()
    bucket.send(faulty)
    assert dict[str, Any](bucket.run_status(faulty))["findings"] == {}
    for name in ("sent", "checked"):
        (bucket.folder / "data" / name).unlink()  # the next run has another allocation
    did = faulty.manifest()["accounts"][0]
    account_store(faulty.path, did).write_bytes(b"overwritten")
    faulty.take()
    status: Mapping[str, Any] = bucket.run_status(faulty)
    assert "the snapshot was not sent" in status["why"]
    assert status["findings"][did]["state"] == "not restorable"
    assert status["good"] < status["checked"]


def test_a_run_without_a_snapshot_keeps_the_findings_of_the_run_before(faulty: Data, bucket: Bucket) -> None:
    faulty.take()
    did = faulty.manifest()["accounts"][0]
    account_store(faulty.path, did).write_bytes(b"overwritten")
    faulty.take()
    before: Mapping[str, Any] = bucket.run_status(faulty)
    file = faulty.path / ".run-status" / "backup.json"
    file.write_text(json.dumps({**before, "began": datetime.now(UTC).isoformat()}))
    (faulty.snapshot / "manifest.json").write_text(json.dumps(faulty.manifest() | {"findings": {}}))
    after: Mapping[str, Any] = bucket.run_status(faulty)
    assert did in after["findings"], "the manifest is of an earlier run"
    assert after["checked"] == before["checked"]
