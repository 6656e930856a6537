"""Real servers of both version lines serve every blob before, between and after a move to a bucket and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from components.clients import pds_admin
from tests.contract.club import Club, Member, cid_in
from tests.contract.moved_blobs import BlobSite
from tests.contract.moved_blobs import blob_service as blob_service
from tests.contract.snapshots import Data, open_environment
from tools.trial.directory import PlcDirectory
from tools.trial.node import Install
from tools.trial.pds import PdsProcess

pytestmark = pytest.mark.contract

_SIZE = 40_000  # bytes; servers of packages 0.4 lose some larger uploads to a bucket
Open = Callable[[Mapping[str, str | None]], PdsProcess]


def served(member: Member, content: bytes, cid: str) -> bool:
    """Whether the server serves the blob."""
    answer = member.client.http.get("/xrpc/com.atproto.sync.getBlob", params={"did": member.did, "cid": cid})
    return answer.is_success and answer.content == content


def test_every_blob_is_served_before_between_and_after_the_moves(
    quick_installs: dict[str, Install],
    program_env: dict[str, str],
    directory: PlcDirectory,
    line: str,
    blob_service: tuple[str, Iterator[str]],
    tmp_path: Path,
) -> None:
    path = tmp_path / "pds"
    path.mkdir()
    install = quick_installs[line]
    data = Data(path=path, install=install, document_key=lambda did: None)
    site = BlobSite(data=data, url=blob_service[0], bucket=next(blob_service[1]), serve="bucket")
    env = open_environment(program_env, path, directory, line)

    def opened(change: Mapping[str, str | None]) -> PdsProcess:
        merged = {name: value for name, value in {**env, **change}.items() if value is not None}
        return PdsProcess(install, merged, path.with_suffix(".log"))

    first, second, third = (bytes([number]) * _SIZE for number in (1, 2, 3))
    with opened({}) as server:
        club = Club(server.url, env["PDS_HOSTNAME"])
        member, leaver = club.join(), club.join()
        club.post_blob(leaver, first)
        site.run("copy", "bucket")
        posted = member.client.upload_blob([second], _SIZE)  # during the copy
        club.refer(member, posted)
        waiting = member.client.upload_blob([third], _SIZE)  # posted after the move
        assert "the server is running on these data" in site.run("finish", "bucket", code=1)
    site.run("finish", "bucket")

    with opened(site.server) as server:
        club = club.at(server.url)
        member, leaver = club.members
        assert served(member, second, cid_in(posted))
        club.refer(member, waiting)
        assert served(member, third, cid_in(waiting))
        assert {cid_in(posted), cid_in(waiting)} <= {blob.partition("/")[2] for blob in site.in_bucket()}
        assert site.in_bucket() >= site.named()
        pds_admin.delete(pds_admin.Server(server.url, "127.0.0.1", env["PDS_ADMIN_PASSWORD"]), leaver.did)
    with site.locked():
        site.program("unreferenced_in_bucket.cjs", {})
    assert not [blob for blob in site.in_bucket() if blob.startswith(leaver.did)], "nothing of a deleted account stays"

    site.run("finish", "disk")
    with opened({}) as server:
        member = club.logged_in(member, server.url)
        assert served(member, second, cid_in(posted))
        assert served(member, third, cid_in(waiting))
    assert site.on_disk() >= site.named()
    assert not [blob for blob in site.on_disk() if blob.startswith(leaver.did)]
