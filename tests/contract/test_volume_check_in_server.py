"""The volume check in the server's own process, as at every restart: a server never opens another server's volume."""

from pathlib import Path

import pytest

from tools.trial.directory import PlcDirectory
from tools.trial.node import Install
from tools.trial.pds import PdsProcess, applied, differences
from tools.trial.process import ServerEndedError, free_port

pytestmark = pytest.mark.contract

_KEY = "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"


def test_server_restarted_with_another_rotation_key_ends_before_it_opens_a_file(
    pds_installs: dict[str, Install], program_env: dict[str, str], directory: PlcDirectory, line: str, tmp_path: Path
) -> None:
    data = tmp_path / "pds"
    data.mkdir()
    env = applied(program_env, differences(program_env, data=data, plc_url=directory.url, port=free_port(), line=line))

    def server(**change: str) -> PdsProcess:
        return PdsProcess(pds_installs[line], env | change, tmp_path / "pds.log")

    with server():
        pass  # it serves: the volume check accepts a new volume and writes the identity file
    before = {file.name: file.stat().st_mtime_ns for file in data.iterdir()}
    with pytest.raises(ServerEndedError) as refusal, server(**{_KEY: f"{1:064x}"}):
        pass
    assert "REFUSED: this volume belongs to a PDS with rotation_public_key" in refusal.value.last_lines
    assert {file.name: file.stat().st_mtime_ns for file in data.iterdir()} == before, "not even a lock may be taken"
    with server():
        pass  # the right key again, with the same data
