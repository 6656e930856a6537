"""A stack's outputs, and what a command says if one that it needs is missing."""

from pathlib import Path

import pytest

from cli.lib.stack import Stack, StackError
from tests.support.fake_pulumi import FakePulumi


def test_a_command_for_a_pds_names_what_a_cluster_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pulumi = FakePulumi(tmp_path, monkeypatch)
    pulumi.outputs("fleet", worker_tag="pds-fleet-worker", nomad_address="https://203.0.113.9:4650")
    with pytest.raises(StackError, match=r"fleet is a cluster, and has no PDS\. Name the stack of a club"):
        Stack("fleet", pulumi.root).required_outputs("nomad_address", "url")
    pulumi.outputs("dev", nomad_address="https://203.0.113.9:4650")
    with pytest.raises(StackError, match="Stack dev has no url yet"):
        Stack("dev", pulumi.root).required_outputs("nomad_address", "url")
