"""Backup, drill, disaster recovery and an upgrade, with the real engine, Nomad, Docker, PDS, PLC directory and restic:
`pytest tests/e2e/scenarios/e2e_restore.py -x`, as root.

One e2e_env, one scenario, in this order. It begins on the older line of the server and continues with the current one.
The operator's commands are those of docs/guide/restore.md, word for word. The bucket is an S3 server's. A consumer with
a relay's rules stands in for a relay.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml

from cli.lib import escrow
from cli.snapshot.verify import repo_path
from components.settings.checks.pds_env import GENERATED_SECRETS
from tests.contract.club import PASSWORD, founded, whole
from tests.contract.relay import Relay
from tests.e2e.environment.backups import backup_section, give_keys
from tests.e2e.environment.directory import directory
from tests.e2e.environment.environment import HOSTNAME, PROGRAMS, ROOT, E2eEnvironment, Stack, e2e_env, init_stack
from tests.e2e.environment.ingresses import INGRESSES
from tests.e2e.environment.owner import follow, orphans
from tests.e2e.environment.restores import UP, Scenario, lost
from tests.e2e.environment.tools import missing, run
from tests.e2e.images.build import OLD_SERVER, SERVER, local_pds_image, pds_image
from tests.e2e.scenarios.e2e_clubs import PORTS, club_settings
from tests.support.s3 import BUCKET
from tools.trial.xrpc import Client

IMAGES = Path(__file__).parents[1] / "images"


def page() -> list[str]:
    """The commands of the guide's page for a disaster, in their order."""
    title = "## Everything is gone but the bucket and the escrow file"
    text = (ROOT / "docs/guide/restore.md").read_text().partition(title)[2].partition("\nMembers log in")[0]
    found = re.findall(r"`((?:pulumi|\./pds|--sequence) [^`]+)`", text)
    assert len(found) == 5, f"the page has other steps than this scenario: {found}"
    return found


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    lines = missing(*PROGRAMS, "go", "restic")
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with ExitStack() as stack:
        made = stack.enter_context(e2e_env(tmp_path_factory.mktemp("bench"), cache))
        plc = stack.enter_context(directory(made.folder / "plc", cache, made.docker_host, made.authority))
        backup = backup_section(made, cache, stack)
        INGRESSES["io"](made, stack)
        pds_image(cache, made.docker_host, OLD_SERVER)
        old = local_pds_image(made.folder / "old", made.docker_host, made.authority.pair(), plc.names, OLD_SERVER)
        made.configure(
            pds={"plc_url": plc.url, "image": old, "invite_required": False, "open_registration": True},
            backup=backup,
            host={"size": "s-4vcpu-8gb"},
        )
        give_keys(made)
        yield Scenario(made, Relay())


def test_up_creates_the_jobs_and_a_backup_is_taken_on_request(scenario: Scenario) -> None:
    scenario.e2e_env.pulumi(*UP)
    scenario.e2e_env.configure(pds={"new": False})
    scenario.e2e_env.pulumi(*UP)
    scenario.club = founded(scenario.e2e_env.health_url(), HOSTNAME, members=4, posts=3, mail=f"{HOSTNAME}.com")
    scenario.began = time.monotonic()
    done = scenario.e2e_env.pds("backup")
    assert "snapshot of noted.test: 4 accounts" in done.output
    assert "created restic repository" in done.output
    assert "no errors were found" in done.output
    assert (scenario.data / ".run-status/backup.json").exists()
    scenario.e2e_env.pulumi(*UP)  # the warnings name new accounts
    scenario.e2e_env.pulumi("preview", "--expect-no-changes")


def test_drill_fetches_verifies_and_serves_on_the_host(scenario: Scenario) -> None:
    before = {path.name for path in scenario.data.iterdir()}
    done = scenario.e2e_env.pds("drill")
    print(done.output)
    assert "looked at 4 accounts, 4 repositories, 4 blobs: 0 faults" in done.output
    assert "4 repositories served by the server on the copy: 0 faults" in done.output
    assert "recovery time" in done.output
    assert {path.name for path in scenario.data.iterdir()} == before
    assert (scenario.data / ".run-status/drill.json").exists()


def test_drill_that_cannot_fetch_fails_with_a_run_status(scenario: Scenario) -> None:
    scenario.e2e_env.configure(backup={"bucket": "nobodys"})
    scenario.e2e_env.pulumi(*UP)
    done = scenario.e2e_env.pds("drill", check=False)
    assert done.code == 1, done.output
    assert "holds no backups" in done.output or "cannot be read" in done.output
    assert "nothing was fetched" in (scenario.data / ".run-status/drill.json").read_text()
    scenario.e2e_env.configure(backup={"bucket": BUCKET})
    scenario.e2e_env.pulumi(*UP)


def test_lost_droplet_and_volume_are_restored_with_one_command_after_up(scenario: Scenario) -> None:
    """The droplet is lost and the volume is wiped, including Nomad's state."""
    assert scenario.club
    scenario.follow()
    writer = scenario.club.members[0]
    scenario.post_late()
    scenario.follow()
    droplet, volume = (next(iter(scenario.e2e_env.api.dump()[kind])) for kind in ("droplets", "volumes"))
    scenario.e2e_env.delete(f"/v2/droplets/{droplet}")
    folder = scenario.e2e_env.machines.volume_folder(volume)
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    pause, _, repair, restore, sequence = page()
    scenario.do(pause)
    scenario.do(repair)
    done = scenario.do(f"{restore} {sequence.replace('N', str(scenario.relay.cursor))}")
    print(done.output)
    assert "ready                        4 accounts in use, 0 not" in done.output
    scenario.whole()
    assert scenario.lost()
    client = Client(scenario.e2e_env.health_url(), HOSTNAME)
    session = client.procedure("com.atproto.server.createSession", {"identifier": writer.did, "password": PASSWORD})
    client.log_in(session["accessJwt"])
    record = {"$type": "app.bsky.feed.post", "text": "after the restore", "createdAt": "2026-01-01T00:00:00.000Z"}
    body = {"repo": writer.did, "collection": "app.bsky.feed.post", "record": record}
    client.procedure("com.atproto.repo.createRecord", body)
    scenario.follow()
    assert not scenario.relay.idle
    assert scenario.relay.dropped == []
    scenario.e2e_env.pulumi("preview", "--expect-no-changes")


def test_restore_in_place_keeps_the_old_data_until_the_operator_removes_it(scenario: Scenario) -> None:
    scenario.e2e_env.pds("backup")
    listed = scenario.e2e_env.pds("restore", "--list").output
    assert listed.count("pds") > 1, listed
    done = scenario.e2e_env.pds("restore", "--yes", "--snapshot", "volume")
    assert "ready" in done.output
    scenario.whole()
    (old,) = (scenario.data / ".restore").glob("old-*")
    assert f"removed: {old.name}" in scenario.e2e_env.pds("restore", "--forget-old").output
    scenario.follow()
    assert scenario.relay.dropped == []
    scenario.e2e_env.pulumi("preview", "--expect-no-changes")


def test_one_account_is_restored_and_the_others_are_unchanged(scenario: Scenario) -> None:
    """Its database is damaged on the disk; the next backup reports the damage and keeps the last whole copy."""
    assert scenario.club
    scenario.back_it_up()
    did, other = (member.did for member in scenario.club.members[:2])
    store = scenario.data / repo_path(did) / "store.sqlite"
    with store.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(bytes(3 * 4096))
    found = scenario.e2e_env.pds("backup").output
    assert f"FINDING: {did}: not restorable: store.sqlite is damaged" in found
    assert f"{did}: not restorable" in scenario.e2e_env.pds("check", check=False).output
    query = ("com.atproto.sync.getLatestCommit", {"did": other})
    before = Client(scenario.e2e_env.health_url(), HOSTNAME).query(*query)
    done = scenario.e2e_env.pds("restore", "--only", did, "--yes")
    print(done.output)
    assert "the server has not been touched" in done.output
    assert (
        Client(scenario.e2e_env.health_url(), HOSTNAME).query("com.atproto.sync.getLatestCommit", {"did": other})
        == before
    )
    scenario.whole()
    assert scenario.e2e_env.pds("backup").output.count("FINDING") == 0
    assert "removed: old-" in scenario.e2e_env.pds("restore", "--forget-old").output
    scenario.follow()
    assert scenario.relay.dropped == []
    scenario.e2e_env.pulumi("preview", "--expect-no-changes")


def test_refused_restore_leaves_the_pds_paused_and_changes_nothing(scenario: Scenario) -> None:
    done = scenario.e2e_env.pds("restore", "--yes", "--snapshot", "12345678", check=False)
    assert done.code == 1
    assert "there is no snapshot 12345678" in done.output
    assert "still paused" in done.output
    scenario.e2e_env.pulumi("config", "set", "--path", "pds:pds.paused", "false")
    scenario.e2e_env.pulumi(*UP)
    scenario.whole()


def _broken(scenario: Scenario) -> str:
    """An image of the current line whose server answers health and creates no records."""
    context = scenario.e2e_env.folder / "broken"
    context.mkdir()
    refusing = """(pds) => {
  pds.app.post("/xrpc/com.atproto.repo.createRecord", (_, response) => response.status(500).json({}));
  const { stack } = (pds.app as any)._router;
  stack.splice(2, 0, stack.pop());
}"""
    text = (IMAGES / SERVER.folder / SERVER.entry).read_text()
    assert "onCreated: answerIngress" in text
    (context / SERVER.entry).write_text(text.replace("onCreated: answerIngress", f"onCreated: {refusing}"))
    (context / "Dockerfile").write_text(f"FROM {SERVER.local_tag}\nCOPY {SERVER.entry} /app/\n")
    image = f"{SERVER.local_tag}-broken"
    run(["docker", "build", "--quiet", "--tag", image, str(context)], scenario.e2e_env.docker_host)
    return image


def test_trial_stops_an_upgrade_to_a_version_that_creates_no_records(scenario: Scenario) -> None:
    before = (scenario.e2e_env.project / "Pulumi.bench.yaml").read_text()
    done = scenario.e2e_env.pds("upgrade", "--yes", "--to", _broken(scenario), "--package", SERVER.package, check=False)
    assert done.code == 1, done.output
    assert "answers on throw-away data" in done.output
    assert "createRecord is answered with 500" in done.output
    assert "Nothing was changed" in done.output
    assert (scenario.e2e_env.project / "Pulumi.bench.yaml").read_text() == before
    scenario.e2e_env.pulumi("preview", "--expect-no-changes")


def test_upgrade_to_the_current_line_passes_the_trial_and_runs(scenario: Scenario) -> None:
    """With only the tag, as in docs/guide/upgrade.md: the tag determines the package."""
    tag = SERVER.tag.rpartition(":")[2]
    assert scenario.e2e_env.outputs()["package_version"] == OLD_SERVER.package
    done = scenario.e2e_env.pds("upgrade", "--yes", "--to", tag)
    print(done.output)
    assert f"version {tag} answers on throw-away data" in done.output
    assert "4 repositories served by the server on the copy: 0 faults" in done.output
    assert "The schema of no database changed" in done.output
    assert f"--path pds.image {OLD_SERVER.local_tag}" in done.output, (
        "the output must name the command that reverts the upgrade"
    )
    outputs = scenario.e2e_env.outputs()
    assert SERVER.local_tag in scenario.e2e_env.jobspec("pds-server-job")
    assert outputs["package_version"] == SERVER.package
    assert f"version {SERVER.package} answers" in scenario.e2e_env.pds("check", check=False).output
    scenario.whole()
    scenario.follow()
    assert scenario.relay.dropped == []
    scenario.e2e_env.pulumi("preview", "--expect-no-changes")


def test_bucket_and_escrow_file_are_enough(scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is lost and the account is empty: a new stack of the same name, by the guide's page."""
    (tmp_path / "passphrase").write_text("six words that only the operator knows")
    monkeypatch.setenv(escrow.PASSPHRASE_FILE, str(tmp_path / "passphrase"))
    e2e_env = replace(
        scenario.e2e_env, env={**scenario.e2e_env.env, escrow.PASSPHRASE_FILE: str(tmp_path / "passphrase")}
    )
    scenario.follow()
    scenario.back_it_up()
    scenario.follow()
    e2e_env.pds("escrow", "--to", str(tmp_path))
    (file,) = tmp_path.glob("escrow-*.age")
    kept = escrow.read(file)
    e2e_env.pulumi("state", "unprotect", "--all", "--yes")
    e2e_env.pulumi("destroy", "--yes", "--skip-preview")
    for orphan in orphans(e2e_env)["orphans"]:
        for command in orphan["delete"]:
            follow(e2e_env, command)
    e2e_env.pulumi("stack", "rm", "--yes")

    # The page's step 1.
    config = yaml.load(kept["stack_file"], yaml.CSafeLoader)["config"]
    config["pds:backup"] = {key: value for key, value in config["pds:backup"].items() if isinstance(value, str | int)}
    init_stack(e2e_env.project, e2e_env.env, e2e_env.name, config)
    given = {f"secrets.{name}": kept["secrets"][variable] for name, variable in GENERATED_SECRETS.items()}
    given["secrets.nomad_management_token"] = kept["nomad_management_token"]
    given["backup.password"] = kept["backup"]["RESTIC_PASSWORD"]
    for key, value in given.items():
        e2e_env.pulumi("config", "set", "--secret", "--path", f"pds:{key}", value)
    give_keys(e2e_env)
    pause, up, _, restore, sequence = page()
    scenario.do(pause)
    scenario.do(up)
    done = scenario.do(f"{restore} {sequence.replace('N', str(scenario.relay.cursor))}")
    assert "ready                        4 accounts in use, 0 not" in done.output
    scenario.whole()
    assert scenario.lost()
    scenario.follow()
    assert not scenario.relay.idle
    assert scenario.relay.dropped == []
    scenario.e2e_env.pulumi("preview", "--expect-no-changes")


def test_club_has_its_own_backup_drill_and_restore(scenario: Scenario) -> None:
    """In its namespace, with its own token and its own folder in the bucket."""
    scenario.back_it_up()
    scenario.e2e_env.configure(clubs={"chess": {"port": PORTS["chess"]}})
    scenario.e2e_env.pulumi(*UP)
    config = club_settings(scenario.e2e_env, "io", "chess")
    host = yaml.load((scenario.e2e_env.project / f"Pulumi.{scenario.e2e_env.name}.yaml").read_text(), yaml.CSafeLoader)[
        "config"
    ]
    open_to_all = {key: host["pds:pds"][key] for key in ("plc_url", "invite_required", "open_registration")}
    config["pds:pds"] |= open_to_all
    config["pds:backup"] = {key: host["pds:backup"][key] for key in ("endpoint", "bucket", "image", "interval_minutes")}
    chess = scenario.e2e_env.beside("chess", config)
    give_keys(chess)
    chess.pulumi(*UP)
    chess.configure(pds={"new": False})
    chess.pulumi(*UP)
    club = founded(_address(scenario.e2e_env, chess), "chess.test", members=2, posts=2, mail="chess.test.com")
    began = time.monotonic()
    assert "snapshot of chess.test: 2 accounts" in chess.pds("backup").output
    assert "2 repositories served by the server on the copy: 0 faults" in chess.pds("drill").output
    late = club.post(club.members[0], "after the backup")
    done = chess.pds("restore", "--yes")
    assert "ready                        2 accounts in use, 0 not" in done.output
    client = Client(_address(scenario.e2e_env, chess), "chess.test")
    whole(client, club, began)
    assert lost(client, late)
    assert not scenario.lost(), "the host's own PDS must not be restored"
    chess.pulumi(*UP)  # the warnings name new accounts
    for stack in (scenario.e2e_env, chess):
        stack.pulumi("preview", "--expect-no-changes")


def _address(e2e_env: E2eEnvironment, club: Stack) -> str:
    """The address of a club's server, from Nomad with its own token."""
    token = club.outputs()["nomad_token"]
    url, headers = f"{e2e_env.nomad}/v1/service/pds", {"X-Nomad-Token": token}
    (found,) = httpx.get(url, params={"namespace": club.name}, headers=headers, trust_env=False, timeout=20).json()
    return f"http://{found['Address']}:{found['Port']}"
