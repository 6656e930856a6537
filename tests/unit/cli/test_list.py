"""`./pds list`: the queries to each PDS, its cost, free capacity for the next club, and stacks that do not answer."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cli import app
from cli.lib.digitalocean import DigitalOceanAccount, DigitalOceanError
from cli.lib.nomad_exec import TruncatedOutputError
from cli.stacks import inspect_stack, list_stacks, prices
from cli.stacks import selection as stacks
from cli.stacks.stack_files import known_stacks
from components.clients import pds_admin
from components.clients.errors import PendingError, ServiceError
from components.clients.pds_admin import Server
from tests.support.answers import Answer, Answers
from tests.support.fake_project import HOST, FakeProject, club, host

ALLOCATION = "11111111-0000-0000-0000-000000000000"
USAGE = {
    "memory": 104857600,
    "memory_limit": 536870912,
    "disk": 2147483648,
    "backup": None,
    "drill": None,
    "findings": 0,
    "uploads": 0,
    "uploads_kib": 0,
}
OUTPUTS = {
    "url": "https://chess.test",
    "ipv4": "192.0.2.7",
    "package_version": "0.5.37",
    "admin_password": "an-admin-password",
    "nomad_address": "http://127.0.0.1:1",
    "nomad_token": "a-token-of-nomad",
}
BACKUP = "  pds:backup: {access_key_id: {secure: x}, secret_access_key: {secure: y}}\n"


class World:
    """The responses of all services."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nomad: dict[str, Answer] = {
            "GET /v1/job/pds/allocations": (200, [{"ID": ALLOCATION, "ClientStatus": "running"}])
        }
        self.usage: Mapping[str, Any] | ServiceError = USAGE
        self.server: ServiceError | None = None
        self.commands: list[list[str]] = []
        monkeypatch.setattr(inspect_stack, "nomad_api", lambda _nomad: Answers(self.nomad))
        monkeypatch.setattr(inspect_stack, "run_in_container", self._run)
        monkeypatch.setattr(Server, "query", self._query)
        monkeypatch.setattr(pds_admin, "hosted", lambda _server: [object()] * 7)

    def _run(self, _nomad: Mapping[str, str], _allocation: str, command: list[str], _purpose: str) -> Any:
        self.commands.append(command)
        if isinstance(self.usage, ServiceError):
            raise self.usage
        return self.usage

    def _query(self, method: str, **_params: Any) -> Any:
        if self.server:
            raise self.server
        return {"version": "0.4.300"}

    def ran(self, job: str, *runs: tuple[int, str, int]) -> None:
        """Let Nomad report runs of a periodic job: Unix time of submission (s), status, successful tasks."""
        self.nomad[f"GET /v1/jobs?prefix={job}/"] = (
            200,
            [
                {"SubmitTime": at * 10**9, "Status": status, "JobSummary": {"Summary": {job: {"Complete": good}}}}
                for at, status, good in runs
            ],
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.delenv("DIGITALOCEAN_TOKEN", raising=False)
    return World(monkeypatch)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> FakeProject:
    fake = FakeProject(tmp_path, monkeypatch)
    monkeypatch.setattr(stacks, "ROOT", fake.root)
    fake.stack("dev", host("chess", "rooks"), **OUTPUTS)
    fake.stack("chess", club("chess", 3101), **OUTPUTS)
    return fake


def shown(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The output of `list --json`: the rows by stack, and all of it."""
    assert app.main(["list", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    return {row["stack"]: row for row in report["stacks"]}, report


def test_shows_version_accounts_memory_and_disk_of_a_serving_club(
    project: FakeProject, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, report = shown(capsys)
    row = rows["chess"]
    assert (row["host"], row["hostname"], row["state"]) == ("dev", "chess.test", "serving")
    assert (row["version"], row["accounts"]) == ("0.4.300", 7), "as the server reports"
    assert row["memory"] == {"used": 104857600, "limit": 536870912}
    assert row["disk"] == {"used": 2147483648, "limit": 5 * 1024**3}, "the limit is its quota"
    assert rows["dev"]["disk"]["limit"] == 25 * 1024**3, "the limit of the host's own PDS is the volume"
    assert (row["backup"], row["drill"]) == ("none", "none"), "its file has no backup"
    assert report["notes"] == []
    assert {command[-1] for command in world.commands} == {str(5 * 1024**2), str(25 * 1024**2)}, "the limit, in KiB"


def test_the_table_shows_sizes_in_readable_units(project: FakeProject, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["list"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split("  ")[0] == "stack"
    chess = next(row for row in rows if row.startswith("chess"))
    for part in ("dev", "serving", "0.4.300", "7", "2 GiB of 5 GiB", "100 MiB of 512 MiB", "none"):
        assert part in chess


def test_shows_the_newest_successful_backup_of_nomad_or_the_run_status(
    project: FakeProject, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    project.stack("chess", club("chess", 3101) + BACKUP, **OUTPUTS)
    world.ran("pds-backup", (1_790_000_000, "dead", 1), (1_790_000_900, "dead", 0), (1_790_001_800, "running", 0))
    world.ran("pds-drill")
    rows, _ = shown(capsys)
    assert (rows["chess"]["backup"], rows["chess"]["drill"]) == ("2026-09-21T14:13:20+00:00", "none yet")
    world.ran("pds-backup")
    rows, _ = shown(capsys)
    assert rows["chess"]["backup"] == "none yet", "Nomad answered, so the value is known"
    world.usage = {**USAGE, "backup": "2026-09-21T14:20:00.000Z", "drill": "2026-09-20T04:41:00.000Z"}
    rows, _ = shown(capsys)
    assert rows["chess"]["drill"] == "2026-09-20T04:41:00.000Z", "Nomad forgets a run after a day"
    assert rows["chess"]["backup"] == "2026-09-21T14:20:00.000Z"
    assert app.main(["list"]) == 0
    assert "2026-09-21 14:20 UTC" in capsys.readouterr().out, "a time names its zone"
    app.main(["list"])
    assert "2026-09-21 14:20" in capsys.readouterr().out


def test_a_note_names_a_backup_or_a_drill_that_is_too_old(
    project: FakeProject, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    project.stack("chess", club("chess", 3101) + BACKUP, **OUTPUTS)
    now = datetime.now(UTC)
    world.ran("pds-backup")
    world.ran("pds-drill")
    world.usage = {**USAGE, "backup": now.isoformat(), "drill": (now - timedelta(days=7)).isoformat()}
    assert not [note for note in shown(capsys)[1]["notes"] if "its last good" in note]
    world.usage = {**USAGE, "backup": "2026-01-02T03:04:00.000Z", "drill": "2026-01-01T03:04:00.000Z"}
    assert [note for note in shown(capsys)[1]["notes"] if "its last good" in note] == [
        "chess: its last good backup is of 2026-01-02 03:04 UTC, more than 2 hours ago: ./pds check chess",
        "chess: its last good drill is of 2026-01-01 03:04 UTC, more than 192 hours ago: ./pds check chess",
    ]


def test_values_that_cannot_be_queried_are_empty_with_one_note_each(
    project: FakeProject, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.server = PendingError("https://chess.test does not answer at 192.0.2.7 (refused)")
    world.usage = ServiceError("Nomad at http://127.0.0.1:1 runs nothing in the server's container (gone).")
    rows, report = shown(capsys)
    row = rows["chess"]
    assert (row["version"], row["accounts"]) == ("0.5.37", None), "the version is that of the stack's outputs"
    assert (row["memory"]["used"], row["disk"]["used"]) == (None, None)
    assert [note for note in report["notes"] if note.startswith("chess: ")] == [
        "chess: https://chess.test does not answer at 192.0.2.7 (refused)",
        "chess: Nomad at http://127.0.0.1:1 runs nothing in the server's container (gone).",
    ]


def test_repeats_a_query_whose_output_was_truncated(
    project: FakeProject, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.usage = TruncatedOutputError("Nomad cut off what its memory and disk said. Run it again.")
    _, report = shown(capsys)
    assert len(world.commands) == 2 * 5
    assert sum("cut off" in note for note in report["notes"]) == 2


@pytest.mark.parametrize(
    ("state", "note"), [("paused", "it is paused"), ("pending: the name does not resolve", "job pds does not run")]
)
def test_runs_nothing_in_the_container_of_a_pds_that_does_not_run(
    state: str, note: str, project: FakeProject, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.nomad["GET /v1/job/pds/allocations"] = (200, [{"ID": "old", "ClientStatus": "complete"}])
    project.stack("chess", club("chess", 3101), state=state, **OUTPUTS)
    rows, report = shown(capsys)
    assert rows["chess"]["state"] == state
    assert rows["chess"]["accounts"] == (None if state == "paused" else 7)
    assert any(line.startswith(f"chess: {note}") for line in report["notes"])
    assert world.commands == []


def test_stacks_that_do_not_exist_or_were_never_up_have_no_price(
    project: FakeProject, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.root / "Pulumi.draft.yaml").write_text(host())
    project.stack("rooks", club("rooks", 3102), state=None)
    project.made("elsewhere")
    rows, report = shown(capsys)
    assert {name: (row["state"], row["usd_per_month"]) for name, row in rows.items() if name in ("draft", "rooks")} == {
        "draft": ("no stack", None),
        "rooks": ("no up yet", None),
    }
    assert (rows["elsewhere"]["host"], rows["elsewhere"]["state"]) == ("-", "no up yet")
    assert [entry["host"] for entry in report["free_capacity"]] == ["dev"], "a stack that does not exist is not a host"


def test_reports_a_wrong_passphrase_in_a_note(
    project: FakeProject, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    project.locked()
    rows, report = shown(capsys)
    assert rows["chess"]["state"] == "-"
    assert any("incorrect passphrase" in note for note in report["notes"])


def test_a_pds_in_an_existing_nomad_has_no_price_and_no_quota(
    project: FakeProject, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    on = "{nomad_address: 'https://nomad.club.org:4646', nomad_token: {secure: x}, ipv4: 203.0.113.9}"
    project.stack("guest", f"config:\n  pds:hostname: guest.org\n  pds:on: {on}\n", **OUTPUTS)
    rows, _ = shown(capsys)
    row = rows["guest"]
    assert (row["host"], row["usd_per_month"]) == ("https://nomad.club.org:4646", None)
    assert row["disk"] == {"used": 2147483648, "limit": None}
    assert [command[-1] for command in world.commands if command[-1] == "0"] == ["0"]


# Cost.


def test_a_host_s_price_is_divided_by_its_pdses(
    project: FakeProject, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    project.stack("dev", host("chess", "rooks", size="s-4vcpu-8gb"), **OUTPUTS)
    rows, report = shown(capsys)
    assert rows["dev"]["usd_per_month"] == rows["chess"]["usd_per_month"] == pytest.approx((48 + 25 * 0.10) / 3)
    assert all("2026-07-10" in source for source in report["prices"]["sources"]), "the source names its date"


def test_a_size_without_a_known_price_has_no_price(
    project: FakeProject, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, _ = shown(capsys)
    assert rows["chess"]["usd_per_month"] is None, "s-8vcpu-16gb is not in the table"


def test_prefers_the_account_s_prices_to_the_table(
    project: FakeProject, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", "t")
    sizes = [{"slug": "s-8vcpu-16gb", "price_monthly": 96.5}]
    monkeypatch.setattr(DigitalOceanAccount, "list_all", lambda _self, _path: sizes)
    rows, report = shown(capsys)
    assert rows["chess"]["usd_per_month"] == pytest.approx((96.5 + 2.5) / 3)
    assert "this account's own prices" in report["prices"]["sources"][0]

    def refused(_self: DigitalOceanAccount, _path: str) -> Any:
        raise DigitalOceanError("The DigitalOcean token may not read sizes (403).")

    monkeypatch.setattr(DigitalOceanAccount, "list_all", refused)
    _, report = shown(capsys)
    assert "prices: The DigitalOcean token may not read sizes (403)." in report["notes"]
    assert "2026-07-10" in report["prices"]["sources"][0], "the table is the fallback"


def test_every_price_in_the_table_has_a_date_and_a_source() -> None:
    for part in prices.PRICE_TABLE.values():
        assert part["date"]
        assert part["source"]


# Free capacity.


@pytest.mark.parametrize(
    ("text", "memory", "disk", "fits"),
    [
        (HOST, 1413 - 512 - 256, 20, False),
        (HOST + "  pds:volume: {size_gib: 9}\n", 645, 4, False),
        (HOST + "  pds:pds: {memory_mib: 600}\n", 645 - 88, 20, False),
        (host("a", "b"), 14888 - 768 - 2 * 896, 10, True),
    ],
)
def test_free_capacity_is_the_host_s_size_minus_what_its_file_grants(
    text: str, memory: int, disk: int, fits: bool, project: FakeProject
) -> None:
    project.stack("dev", text)
    [dev] = [stack for stack in known_stacks(project.root, ["dev"]) if stack.name == "dev"]
    [free] = list_stacks._free_capacities(dev)
    assert (free.memory_mib, free.disk_gib, free.fits) == (memory, disk, fits)


def test_suggests_a_host_with_capacity_for_the_next_club(
    project: FakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.stack("small", HOST + "  pds:pds: {memory_mib: 700}\n", **OUTPUTS)
    project.stack("dev", host(), **OUTPUTS)
    app.main(["list"])
    output = capsys.readouterr().out
    assert "Free on small, by its stack file: 457 MiB" in output
    assert "--on dev" in output
    project.stack("dev", HOST + "  pds:pds: {memory_mib: 700}\n", **OUTPUTS)
    app.main(["list"])
    assert "No host has capacity" in capsys.readouterr().out


def test_uploads_that_no_record_names_are_a_note_with_their_size(
    project: FakeProject, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.usage = {**USAGE, "uploads": 2, "uploads_kib": 1960}
    _rows, report = shown(capsys)
    assert "chess: 2 uploads that no record names take 1.9 MiB: ./pds usage chess" in report["notes"]


def test_prints_no_secret(project: FakeProject, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["list"], ["list", "--json"]):
        app.main(arguments)
        output = capsys.readouterr().out
        assert not [
            value for key, value in OUTPUTS.items() if ("token" in key or "password" in key) and value in output
        ]


# The script that runs in the container.
