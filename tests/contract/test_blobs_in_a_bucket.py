"""The real server with blobs in a bucket: the rendered `s3` options work with a service as strict as the real ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pytest

from components.settings.checks.pds_env import configured_secrets, plain_environment
from tests.contract.club import Club
from tests.contract.conftest import StartPds
from tests.support.programs import settings_of
from tests.support.s3 import BUCKET, LIMITED, REGION, ask, s3_server
from tools.trial.xrpc import RefusedError

pytestmark = pytest.mark.contract

_LOCAL = {"PDS_RATE_LIMITS_ENABLED": "false", "PDS_INVITE_REQUIRED": "false"}
_CHECKSUMS = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
BLOBS = {"0.4": bytes(range(256)) * 192, "0.5": bytes(range(256)) * 4096}
"""By version line: 48 KiB and 1 MiB. 0.4 pipes a request into four streams, one of which it closes early
(`uploadBlobAndGetMetadata` in @atproto/pds). What exceeds a stream's buffer of 64 KiB sometimes stops there, and the
upload to a bucket ends after 20 seconds with HTTP 500. 0.5 has one pipeline instead."""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3"), BUCKET) as url:
        yield url


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service without CRC checksums."""
    with s3_server(tmp_path_factory.mktemp("older"), BUCKET, checksums=False) as url:
        yield url


def environment(url: str, **section: str) -> dict[str, str | None]:
    """The rendered variables of the section `s3`; the service is on loopback."""
    keys = {"access_key_id": LIMITED["AWS_ACCESS_KEY_ID"], "secret_access_key": LIMITED["AWS_SECRET_ACCESS_KEY"]}
    section_values = {"bucket": BUCKET, "region": REGION, "endpoint": "https://s3.club.test", **section}
    settings = settings_of(s3={**section_values, **keys})
    rendered = plain_environment(settings) | configured_secrets(settings)
    storage_variables = {name: value for name, value in rendered.items() if name.startswith(("PDS_BLOBSTORE_", "AWS_"))}
    disk = dict.fromkeys(("PDS_BLOBSTORE_DISK_LOCATION", "PDS_BLOBSTORE_DISK_TMP_LOCATION"))
    return {**_LOCAL, **disk, **storage_variables, "PDS_BLOBSTORE_S3_ENDPOINT": url}


def keys_in(url: str) -> list[str]:
    return re.findall("<Key>(.*?)</Key>", ask("GET", f"{url}/{BUCKET}"))


def upload(start_pds: StartPds, env: Mapping[str, str], change: Mapping[str, str | None], line: str) -> None:
    """Upload a blob as a new member."""
    with start_pds(env, change) as server:
        club = Club(server.url, env["PDS_HOSTNAME"])
        club.post_blob(club.join(), BLOBS[line])


def test_blob_is_stored_in_the_bucket_with_a_key_limited_to_it(
    start_pds: StartPds, program_env: dict[str, str], s3: str, line: str
) -> None:
    with start_pds(program_env, environment(s3)) as server:
        club = Club(server.url, program_env["PDS_HOSTNAME"])
        member = club.join()
        club.post_blob(member, BLOBS[line])
        [cid] = member.client.query("com.atproto.sync.listBlobs", {"did": member.did})["cids"]
        assert f"blocks/{member.did}/{cid}" in keys_in(s3)
        assert [key for key in keys_in(s3) if key.startswith("tmp/")] == []
        blob = {"did": member.did, "cid": cid}
        assert member.client.http.get("/xrpc/com.atproto.sync.getBlob", params=blob).content == BLOBS[line]


def test_wrong_region_is_refused_at_the_first_blob(
    start_pds: StartPds, program_env: dict[str, str], s3: str, line: str
) -> None:
    with pytest.raises(RefusedError):
        upload(start_pds, program_env, environment(s3, region="fra1"), line)


def test_service_without_crc_checksums_works_if_the_sdk_sends_none(
    start_pds: StartPds, program_env: dict[str, str], older: str, line: str
) -> None:
    with pytest.raises(RefusedError):
        upload(start_pds, program_env, environment(older) | dict.fromkeys(_CHECKSUMS), line)
    upload(start_pds, program_env, environment(older) | dict.fromkeys(_CHECKSUMS, "WHEN_REQUIRED"), line)
    assert [key for key in keys_in(older) if key.startswith("blocks/")]
