"""The state of an emptied Nomad from a snapshot, and a restore that was cut short."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.clients.errors import PendingError, ServiceError
from components.clients.nomad import NomadApi
from components.dynamic.nomad import BootstrapProvider
from tests.support.fake_nomad import FakeNomad, serve

pytestmark = pytest.mark.usefixtures("clock")

TOKEN = "06b05181-6ba5-a269-ae00-373e61ed46eb"
OLD = {"cluster_id": "the old accessor"}


@pytest.fixture
def nomad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNomad]:
    """An empty Nomad, and a snapshot in PDS_NOMAD_SNAPSHOT."""
    (tmp_path / "nomad.snap").write_bytes(b"raft")
    monkeypatch.setenv("PDS_NOMAD_SNAPSHOT", str(tmp_path / "nomad.snap"))
    with serve(FakeNomad(snapshots={b"raft": {TOKEN: OLD["cluster_id"]}})) as fake:
        yield fake


def _update(nomad: FakeNomad) -> dict[str, Any]:
    inputs = {"address": nomad.address, "ca_pem": "", "cert_pem": "", "key_pem": "", "token": TOKEN}
    return BootstrapProvider().update("id", dict(OLD), inputs).outs or {}


def test_a_restore_that_nomad_refuses_at_first_is_repeated(nomad: FakeNomad) -> None:
    nomad.snapshot_faults = 2
    assert _update(nomad)["cluster_id"] == OLD["cluster_id"]


def test_a_restore_cut_short_after_the_bootstrap_goes_on_at_the_next_up(nomad: FakeNomad) -> None:
    nomad.snapshot_faults = 3
    with pytest.raises(ServiceError, match=r"/v1/operator/snapshot.*Repeat `./pds restore`") as raised:
        _update(nomad)
    assert not isinstance(raised.value, PendingError), "three tries are enough"
    assert nomad.tokens[TOKEN] != OLD["cluster_id"], "it is bootstrapped, and empty"
    assert _update(nomad)["cluster_id"] == OLD["cluster_id"]


def test_a_restore_may_take_longer_than_other_requests(nomad: FakeNomad) -> None:
    nomad.tokens[TOKEN], nomad.snapshot_seconds = "new", 0.5
    NomadApi(nomad.address, "", "", "", TOKEN, timeout=0.1).restore_snapshot(b"raft")
    assert nomad.tokens == {TOKEN: OLD["cluster_id"]}
