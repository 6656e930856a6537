"""`./pds repair`: its findings, the engine's commands that it runs, and when it stops. The engine is a stand-in."""

import os
import socket
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from cli.drift import repair
from cli.lib.stack import UnreadableStateError
from tests.support.fake_nomad import FakeNomad, serve
from tests.support.leftover_account import Owner, owner

MANAGEMENT, PROGRAM = "06b05181-6ba5-a269-ae00-373e61ed46eb", "3c5d0ea0-8a1f-4a1c-9d0e-0d8d2f8f4a11"


@pytest.fixture
def nomad() -> Iterator[FakeNomad]:
    """A Nomad that accepts both tokens."""
    with serve(FakeNomad(tokens={MANAGEMENT: "accessor-1", PROGRAM: "accessor-2"})) as fake:
        yield fake


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nomad: FakeNomad) -> Iterator[Owner]:
    with owner(tmp_path, monkeypatch) as operator:
        operator.pulumi.outputs(
            nomad_address=nomad.address,
            nomad_ca_pem="a",
            nomad_client_cert_pem="b",
            nomad_client_key_pem="c",
            nomad_management_token=MANAGEMENT,
            nomad_token=PROGRAM,
        )
        yield operator


def run(alice: Owner, yes: bool = True) -> int:
    with alice.account() as account:
        return repair.repair(alice.stack, account, yes=yes)


def targets(command: list[str]) -> set[str]:
    return {part.removeprefix("**::") for flag, part in pairwise(command) if flag == "--target"}


def test_changes_nothing_if_nothing_is_wrong(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(alice) == 0
    assert "Nothing to repair" in capsys.readouterr().out
    [refresh] = alice.pulumi.ran
    assert targets(refresh) == {"pds-dev"}, "only the stack's own resource is refreshed, to find a lock"


def test_refreshes_and_recreates_a_droplet_deleted_in_the_panel(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.delete("pds-host-droplet")
    assert run(alice) == 0
    refresh, up = alice.pulumi.ran
    assert refresh[:3] == ["refresh", "--yes", "--skip-preview"]
    assert targets(refresh) == {"pds-host-droplet", "pds-host-address"}
    assert up == ["up", "--yes", "--stack", "dev"]
    output = capsys.readouterr().out
    assert "$ pulumi refresh --yes --skip-preview --target '**::pds-host-droplet'" in output, (
        "it prints the commands that it runs"
    )
    assert "Droplet" in output


def test_without_yes_the_engine_prompts(alice: Owner) -> None:
    alice.delete("pds-host-droplet")
    run(alice, yes=False)
    assert alice.pulumi.ran[-1] == ["up", "--stack", "dev"]


def test_refreshes_and_refills_an_emptied_nomad(alice: Owner, nomad: FakeNomad) -> None:
    nomad.empty()
    assert run(alice) == 0
    refresh, up = alice.pulumi.ran
    assert targets(refresh) == {"pds-host-nomad-bootstrap"}
    assert up[0] == "up"


def test_refreshes_a_deleted_nomad_token_of_the_program(alice: Owner, nomad: FakeNomad) -> None:
    del nomad.tokens[PROGRAM]
    assert run(alice) == 0
    assert targets(alice.pulumi.ran[0]) == {"pds-host-nomad-token"}


@pytest.mark.parametrize(("index", "refreshed"), [("41", {"pds-server-job"}), ("40", {"pds-dev"})])
def test_refreshes_a_job_whose_modify_index_differs_from_the_state(
    alice: Owner, nomad: FakeNomad, index: str, refreshed: set[str]
) -> None:
    nomad.jobs["pds"] = 40
    alice.made["pds-server-job"] = ("pds-server-job", "nomad:index/job:Job", "pds", {"modifyIndex": index})
    alice.remember()
    assert run(alice) == 0
    assert targets(alice.pulumi.ran[0]) == refreshed, "otherwise the next update would fail: modify index has changed"


def test_refreshes_an_unassigned_reserved_ip(alice: Owner) -> None:
    ip = alice.made["pds-host-network-ip"][2]
    alice.client.finished(alice.client.ask("POST", f"/reserved_ips/{ip}/actions", {"type": "unassign"}, 201)["action"])
    assert run(alice) == 0
    assert targets(alice.pulumi.ran[0]) == {"pds-host-address"}


def test_prints_no_token(alice: Owner, nomad: FakeNomad, capfd: pytest.CaptureFixture[str]) -> None:
    nomad.empty()
    run(alice)
    output = capfd.readouterr()
    assert not [token for token in (MANAGEMENT, PROGRAM) if token in output.out + output.err], "a terminal is a log"


def test_does_not_take_an_unreachable_nomad_for_an_emptied_one(
    alice: Owner, nomad: FakeNomad, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.pulumi.outputs(
        **dict.fromkeys(("nomad_ca_pem", "nomad_client_cert_pem", "nomad_client_key_pem"), "x"),
        nomad_address="http://127.0.0.1:1",
        nomad_management_token=MANAGEMENT,
    )
    assert run(alice) == 1
    assert alice.pulumi.ran == []
    assert "operators.cidrs" in capsys.readouterr().out, "the usual reason is a changed address"


def test_prints_the_command_that_switches_a_droplet_on(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    number = alice.made["pds-host-droplet"][2]
    alice.client.finished(alice.client.ask("POST", f"/droplets/{number}/actions", {"type": "shutdown"}, 201)["action"])
    assert run(alice) == 1
    assert f"doctl compute droplet-action power-on {number} --wait" in capsys.readouterr().out


def test_leaves_the_decision_about_a_lost_volume_to_the_operator(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pds-host-droplet", "pds-host-data-volume"):
        alice.delete(name)
    assert run(alice) == 1
    assert alice.pulumi.ran == [], "it creates nothing unasked after data was lost"
    output = capsys.readouterr().out
    for hint in ("members' data are gone", "escrow file", "'volume.adopt' to its ID", "--path pds.new true"):
        assert hint in output
    alice.configure(pds={"new": True})
    assert run(alice) == 0
    assert targets(alice.pulumi.ran[0]) == {"pds-host-data-volume", "pds-host-droplet", "pds-host-address"}


def test_requires_the_removal_of_a_lost_volume_from_the_stack_file(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.configure(volume={"adopt": alice.made["pds-host-data-volume"][2]}, pds={"new": True})
    for name in ("pds-host-droplet", "pds-host-data-volume"):
        alice.delete(name)
    assert run(alice) == 1
    assert "from 'pds:volume'" in capsys.readouterr().out
    # A volume created from a snapshot restores the data.
    restored = alice.client.volume(name="pds-restored")["id"]
    alice.configure(volume={"adopt": restored})
    assert run(alice) == 0


def test_a_lost_reserved_ip_requires_a_new_host(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    ip, number = alice.made["pds-host-network-ip"][2], alice.made["pds-host-droplet"][2]
    alice.client.finished(alice.client.ask("POST", f"/reserved_ips/{ip}/actions", {"type": "unassign"}, 201)["action"])
    alice.delete("pds-host-network-ip")
    assert run(alice) == 1
    assert "needs a new host" in capsys.readouterr().out
    alice.client.ask("DELETE", f"/droplets/{number}", status=204)
    alice.client.gone(f"/droplets/{number}")
    assert run(alice) == 0
    assert {"pds-host-network-ip", "pds-host-droplet"} <= targets(alice.pulumi.ran[0])


def test_reports_what_would_block_up_before_it_runs_anything(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    number = alice.made["pds-host-droplet"][2]
    alice.remember("pds-host-droplet", "pds-host-address", pending=(("creating", "pds-host-droplet"),))
    assert run(alice) == 1
    output = capsys.readouterr().out
    assert "stopped while creating pds-host-droplet" in output
    assert f"doctl compute droplet delete {number}" in output
    assert alice.pulumi.ran == []
    alice.delete("pds-host-droplet")
    assert run(alice) == 0
    assert "--clear-pending-creates" in alice.pulumi.ran[0]
    assert alice.pulumi.ran[1][0] == "up"


def test_a_second_reserved_ip_does_not_block_up(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    ip = alice.new_ip()
    assert run(alice) == 0
    assert f"reserved-ip {ip}" in capsys.readouterr().out
    assert [command[0] for command in alice.pulumi.ran] == ["refresh"], "no `up` is needed"


def test_refreshes_a_resource_whose_update_was_interrupted(alice: Owner) -> None:
    alice.remember(pending=(("updating", "pds-host-network-firewall"),))
    assert run(alice) == 0
    assert targets(alice.pulumi.ran[0]) == {"pds-host-network-firewall"}
    assert "--clear-pending-creates" not in alice.pulumi.ran[0]


WITH_THE_HOST = ("pds-host-droplet", "pds-host-address", "pds-host-nomad-bootstrap")


def test_recreates_a_host_whose_replacement_was_interrupted(alice: Owner, capsys: pytest.CaptureFixture[str]) -> None:
    alice.delete("pds-host-droplet")
    alice.remember(replacing=WITH_THE_HOST)
    assert run(alice) == 0
    assert [command[0] for command in alice.pulumi.ran] == ["stack", "refresh", "up"]
    assert alice.pulumi.replacing == [], "a refresh skips resources that are marked as being replaced"
    assert "The old one is gone, and there is no new one yet" in capsys.readouterr().out


def test_keeps_pending_replacements_while_the_host_exists(alice: Owner) -> None:
    alice.remember(replacing=WITH_THE_HOST)
    assert run(alice) == 0
    assert alice.pulumi.replacing == list(WITH_THE_HOST)


def test_makes_a_state_readable_after_an_engine_was_killed_while_writing(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = alice.pulumi.cut_short()
    valid = empty.with_name("other.json.attrs")
    valid.write_text("{}")
    with pytest.raises(UnreadableStateError, match=r"\./pds repair dev"):
        alice.look()
    assert run(alice) == 0
    assert f"$ rm {empty}" in capsys.readouterr().out
    assert (empty.exists(), valid.exists()) == (False, True)


def _locked_by(host: str, pid: int) -> tuple[int, str]:
    """The engine's exit code and message (pulumi/pkg/backend/diy/lock.go)."""
    return 255, (
        "error: the stack is currently locked by 1 lock(s). Either wait for the other process(es) to end or delete the "
        f"lock file with `pulumi cancel`.\n  file:///state/1.json: created by alice@{host} (pid {pid}) at 2026-11-23T…"
    )


def _dead() -> int:
    ended = subprocess.Popen(["/bin/true"])
    ended.wait(600)
    return ended.pid


def test_removes_the_lock_of_a_killed_engine_and_runs_up(alice: Owner) -> None:
    alice.pulumi.answers("refresh", _locked_by(socket.gethostname(), _dead()))
    assert run(alice) == 0
    assert [command[0] for command in alice.pulumi.ran] == ["refresh", "cancel", "refresh", "up"]


@pytest.mark.parametrize("machine", ["this machine", "another machine"])
def test_keeps_the_lock_of_a_running_or_remote_engine(
    alice: Owner, machine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    host = socket.gethostname() if machine == "this machine" else "another-machine"
    alice.pulumi.answers("refresh", _locked_by(host, os.getpid() if machine == "this machine" else _dead()))
    assert run(alice) == 1
    assert [command[0] for command in alice.pulumi.ran] == ["refresh"], "two engines must not write one state"
    assert "pulumi cancel --stack dev" in capsys.readouterr().out


def test_fails_if_refresh_or_up_fails(alice: Owner) -> None:
    alice.delete("pds-host-droplet")
    alice.pulumi.answers("refresh", (255, "error: 503"))
    assert run(alice) == 1
    assert [command[0] for command in alice.pulumi.ran] == ["refresh"]
    alice.pulumi.answers("up", (255, "error: the volume check refused"))
    assert run(alice) == 1


def test_finishes_what_a_killed_engine_had_begun_in_the_state_of_a_cluster(
    alice: Owner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert repair.after_killed_engine(alice.stack, yes=True) == 0
    assert alice.pulumi.ran == [], "a state without an interrupted operation needs no engine"
    alice.remember(pending=(("updating", "pds-host-network-firewall"),))
    alice.pulumi.answers("refresh", (1, f"the stack is currently locked: created by a@{socket.gethostname()} (pid 1)"))
    assert repair.after_killed_engine(alice.stack, yes=True) == 1, "the holder of the lock is alive"
    assert "Another run holds the lock" in capsys.readouterr().out
    assert repair.after_killed_engine(alice.stack, yes=True) == 0
    refresh, up = alice.pulumi.ran[-2:]
    assert targets(refresh) == {"pds-host-network-firewall"}
    assert up[0] == "up"
