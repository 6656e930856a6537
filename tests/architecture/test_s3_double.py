"""The S3 test double refuses what real services refuse. The clients are botocore and restic."""

import socket
import subprocess
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cache
from typing import Any
from urllib.error import HTTPError

import botocore.auth
import botocore.config
import botocore.session
import pytest
from botocore.exceptions import ClientError

from tests.support.s3 import BUCKET, KEYS, REGION, add_key, ask, buckets_of, drop_key, pass_days, s3_server

LIFECYCLE = {
    "Rules": [
        {
            "ID": "old",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "Expiration": {"ExpiredObjectDeleteMarker": True},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
        }
    ]
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("s3")
    with s3_server(folder, BUCKET, "versions", hosts=("spaces.test",), strangers=("theirs",)) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def spaces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that accepts us-east-1 and supports no CRC."""
    folder = tmp_path_factory.mktemp("spaces")
    with s3_server(folder, BUCKET, region="fra1", spaces=True, checksums=False) as endpoint:
        yield endpoint


@cache
def _session() -> Any:
    """botocore's session, which reads the description of S3 once."""
    return botocore.session.Session()


@cache
def client(url: str, proxy: str = "", **more: Any) -> Any:
    """A botocore client, path style; without retries and without unrequested checksums."""
    keys = {
        "aws_access_key_id": more.pop("key", KEYS["AWS_ACCESS_KEY_ID"]),
        "aws_secret_access_key": more.pop("secret", KEYS["AWS_SECRET_ACCESS_KEY"]),
    }
    region = more.pop("region", REGION)
    more.pop("of", "")  # a separate client for a test that changes its requests
    config = botocore.config.Config(
        retries={"max_attempts": 0, "mode": "standard"},
        request_checksum_calculation=more.pop("checksums", "when_required"),
        response_checksum_validation="when_required",
        s3={"addressing_style": more.pop("style", "path")},
        proxies={"http": proxy} if proxy else None,
    )
    return _session().create_client("s3", region_name=region, endpoint_url=url, config=config, **keys)


def code(call: Any, **arguments: Any) -> tuple[int, str]:
    """HTTP status and error code of a refused call."""
    with pytest.raises(ClientError) as error:
        call(**arguments)
    return error.value.response["ResponseMetadata"]["HTTPStatusCode"], error.value.response["Error"]["Code"]


def raw(url: str, head: str) -> str:
    """The response to a raw request."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=600) as wire:
        wire.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        wire.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: wire.recv(65536), b"")).decode()


def test_accepts_a_signed_request_with_any_characters_in_its_key(url: str) -> None:
    for key in ("a", "blocks/did:plc:x/ä b+c~(1)*'!.jpg", "a//b", "q?x=1&y"):
        client(url).put_object(Bucket=BUCKET, Key=key, Body=b"text", Metadata={"of": "a  test"})
        assert client(url).get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"text"
        listed = client(url).list_objects_v2(Bucket=BUCKET, Prefix=key)["Contents"]
        assert [item["Key"] for item in listed] == [key]
        client(url).delete_object(Bucket=BUCKET, Key=key)


def test_refuses_a_request_for_another_region_and_returns_the_right_one(url: str) -> None:
    # Without botocore, which would parse the response and retry.
    with pytest.raises(HTTPError) as error:
        ask("GET", f"{url}/{BUCKET}", region="eu-central-1")
    body = error.value.read().decode()
    assert error.value.code == 400
    assert "<Code>AuthorizationHeaderMalformed</Code>" in body
    assert "the region 'eu-central-1' is wrong" in body
    assert f"<Region>{REGION}</Region>" in body


def test_spaces_accepts_us_east_1_and_its_own_region(spaces: str) -> None:
    for region in ("us-east-1", "fra1"):
        ask("GET", f"{spaces}/{BUCKET}", region=region)
    with pytest.raises(HTTPError, match="400"):
        ask("GET", f"{spaces}/{BUCKET}", region="ams3")
    assert client(spaces, region="fra1").get_bucket_location(Bucket=BUCKET)["LocationConstraint"] == "fra1"
    assert code(client(spaces, region="us-east-1").create_bucket, Bucket=BUCKET) == (409, "BucketAlreadyExists")


def test_refuses_a_wrong_key_or_secret(url: str) -> None:
    assert code(client(url, secret="another").list_buckets) == (403, "SignatureDoesNotMatch")
    assert code(client(url, key="DO00OTHER").list_buckets) == (403, "InvalidAccessKeyId")
    assert "<Code>AccessDenied</Code>" in raw(url, f"GET /{BUCKET} HTTP/1.1\nHost: x.test\nConnection: close")
    version_2 = "Authorization: AWS DO00TEST:c2lnbmF0dXJl"
    assert "Please use AWS4-HMAC-SHA256" in raw(url, f"GET / HTTP/1.1\nHost: 127.0.0.1\n{version_2}\nConnection: close")


def test_refuses_a_body_that_was_changed_after_signing(url: str) -> None:
    def change(request: Any, **_: Any) -> None:
        request.body = b"tezt"

    changing = client(url, of="a change")
    changing.meta.events.register("before-send.s3.PutObject", change)
    assert code(changing.put_object, Bucket=BUCKET, Key="a", Body=b"text") == (400, "XAmzContentSHA256Mismatch")


def test_refuses_an_unsigned_header(url: str) -> None:
    def add(request: Any, **_: Any) -> None:
        request.headers["x-amz-acl"] = "public-read"

    adding = client(url, of="an addition")
    adding.meta.events.register("before-send.s3.PutObject", add)
    assert code(adding.put_object, Bucket=BUCKET, Key="a", Body=b"text") == (403, "AccessDenied")


def test_refuses_a_clock_skew_of_more_than_15_minutes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = botocore.auth.get_current_datetime
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: real() - timedelta(minutes=16))
    assert code(client(url).list_buckets) == (403, "RequestTimeTooSkewed")


def test_distinguishes_missing_resources_from_those_of_another_account(url: str) -> None:
    assert code(client(url).list_objects_v2, Bucket="nothing") == (404, "NoSuchBucket")
    assert code(client(url).get_object, Bucket=BUCKET, Key="nothing") == (404, "NoSuchKey")
    assert code(client(url).list_objects_v2, Bucket="theirs") == (403, "AccessDenied")
    assert code(client(url).put_object, Bucket="theirs", Key="a", Body=b"") == (403, "AccessDenied")
    assert code(client(url).create_bucket, Bucket="theirs") == (409, "BucketAlreadyExists")
    assert code(client(url).create_bucket, Bucket=BUCKET) == (409, "BucketAlreadyOwnedByYou")
    elsewhere: Mapping[str, Any] = {"Bucket": "new", "CreateBucketConfiguration": {"LocationConstraint": "eu-west-1"}}
    assert code(client(url).create_bucket, **elsewhere) == (400, "IllegalLocationConstraintException")
    client(url).create_bucket(Bucket="new")
    assert buckets_of(url)["new"] == "ours"
    client(url).delete_bucket(Bucket="new")
    assert code(client(url).head_bucket, Bucket="new")[0] == 404


def test_reads_the_bucket_from_the_host_name_or_the_path(url: str) -> None:
    client(url).put_object(Bucket=BUCKET, Key="a", Body=b"text")
    virtual = client("http://spaces.test", url, style="virtual")
    assert virtual.get_object(Bucket=BUCKET, Key="a")["Body"].read() == b"text"
    # The endpoint is the bucket's own address, as a panel shows it: path style reads another key, virtual style
    # another bucket.
    of_a_bucket = f"http://{BUCKET}.spaces.test"
    assert code(client(of_a_bucket, url).get_object, Bucket=BUCKET, Key="a") == (404, "NoSuchKey")
    assert code(client(of_a_bucket, url, style="virtual").get_object, Bucket=BUCKET, Key="a") == (404, "NoSuchBucket")


def test_a_limited_key_has_only_its_permission_in_its_own_bucket(url: str) -> None:
    add_key(url, "DO00READ", "a secret", [(BUCKET, "read")])
    add_key(url, "DO00WRITE", "a secret", [(BUCKET, "readwrite")])
    client(url).put_object(Bucket=BUCKET, Key="there", Body=b"text")
    reader, writer = (client(url, key=name, secret="a secret") for name in ("DO00READ", "DO00WRITE"))
    for limited in (reader, writer):
        limited.head_bucket(Bucket=BUCKET)
        limited.list_objects_v2(Bucket=BUCKET)
        assert limited.get_object(Bucket=BUCKET, Key="there")["Body"].read() == b"text"
        for call in (limited.get_bucket_acl, limited.get_bucket_versioning, limited.get_bucket_location):
            assert code(call, Bucket=BUCKET) == (403, "AccessDenied")
        assert code(limited.list_buckets) == (403, "AccessDenied")
        assert code(limited.create_bucket, Bucket="mine") == (403, "AccessDenied")
        assert code(limited.list_objects_v2, Bucket="versions") == (403, "AccessDenied")
        assert code(limited.list_objects_v2, Bucket="nothing") == (403, "AccessDenied")
    assert code(reader.put_object, Bucket=BUCKET, Key="b", Body=b"") == (403, "AccessDenied")
    assert code(reader.delete_object, Bucket=BUCKET, Key="there") == (403, "AccessDenied")
    writer.put_object(Bucket=BUCKET, Key="b", Body=b"")
    writer.delete_object(Bucket=BUCKET, Key="b")
    writer.copy_object(Bucket=BUCKET, Key="c", CopySource={"Bucket": BUCKET, "Key": "there"})
    for source in ("versions", "theirs"):
        elsewhere = {"CopySource": {"Bucket": source, "Key": "there"}}
        assert code(writer.copy_object, Bucket=BUCKET, Key="c", **elsewhere) == (403, "AccessDenied")
    versions = {"VersioningConfiguration": {"Status": "Suspended"}}
    assert code(writer.put_bucket_versioning, Bucket=BUCKET, **versions) == (403, "AccessDenied")
    assert code(writer.delete_object, Bucket=BUCKET, Key="there", VersionId="1") == (403, "AccessDenied")
    drop_key(url, "DO00WRITE")
    assert code(writer.head_bucket, Bucket=BUCKET)[0] == 403


def test_a_deleted_object_keeps_its_versions_for_the_lifecycle_rule_s_days(url: str) -> None:
    client(url).put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    client(url).put_bucket_lifecycle_configuration(Bucket="versions", LifecycleConfiguration=LIFECYCLE)
    rules = client(url).get_bucket_lifecycle_configuration(Bucket="versions")["Rules"]
    assert rules[0]["Expiration"]["ExpiredObjectDeleteMarker"] is True
    for key in ("kept", "lock"):
        client(url).put_object(Bucket="versions", Key=key, Body=b"1")
    client(url).put_object(Bucket="versions", Key="kept", Body=b"2")
    client(url).delete_object(Bucket="versions", Key="lock")
    assert code(client(url).get_object, Bucket="versions", Key="lock") == (404, "NoSuchKey")

    def kept() -> tuple[list[str], list[str]]:
        listed = client(url).list_object_versions(Bucket="versions")
        markers = [item["Key"] for item in listed.get("DeleteMarkers", [])]
        return [item["Key"] for item in listed["Versions"]], markers

    assert kept() == (["kept", "kept", "lock"], ["lock"])
    pass_days(url, 29)
    assert kept() == (["kept", "kept", "lock"], ["lock"])
    pass_days(url, 31)
    assert kept() == (["kept"], [])
    assert client(url).get_object(Bucket="versions", Key="kept")["Body"].read() == b"2"


def test_delete_markers_stay_without_a_lifecycle_rule_for_them(url: str) -> None:
    rule = {**LIFECYCLE["Rules"][0], "Filter": {"Prefix": "plain/"}}
    del rule["Expiration"]
    client(url).put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    client(url).put_bucket_lifecycle_configuration(Bucket="versions", LifecycleConfiguration={"Rules": [rule]})
    client(url).put_object(Bucket="versions", Key="plain/lock", Body=b"1")
    client(url).delete_object(Bucket="versions", Key="plain/lock")
    pass_days(url, 400)
    listed = client(url).list_object_versions(Bucket="versions", Prefix="plain/")
    assert "Versions" not in listed
    assert [item["Key"] for item in listed["DeleteMarkers"]] == ["plain/lock"]


def test_without_crc_support_it_refuses_the_checksums_of_newer_sdks(url: str, spaces: str) -> None:
    client(url, checksums="when_supported").put_object(Bucket=BUCKET, Key="a", Body=b"text")
    newer = client(spaces, region="fra1", checksums="when_supported")
    assert code(newer.put_object, Bucket=BUCKET, Key="a", Body=b"text") == (400, "InvalidArgument")
    client(spaces, region="fra1").put_object(Bucket=BUCKET, Key="a", Body=b"text")


def restic(url: str, **env: str) -> str:
    """Look for a repository with restic, which signs with minio-go. To create one, it would derive a key for a second.

    The contract tests of backups create repositories on this double.
    """
    environment = {
        **KEYS,
        "RESTIC_PASSWORD": "a word",
        "RESTIC_REPOSITORY": f"s3:{url}/{BUCKET}/nothing",
        **env,
    }
    listed = subprocess.run(
        ["restic", "--no-cache", "list", "keys"],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert listed.returncode != 0
    return listed.stderr


def test_restic_queries_the_region_if_none_is_set_and_fails_with_a_wrong_one(url: str) -> None:
    accepted = "The specified key does not exist"
    assert accepted in restic(url)
    assert accepted in restic(url, AWS_DEFAULT_REGION=REGION)
    assert "400 Bad Request" in restic(url, AWS_DEFAULT_REGION="eu-central-1")
