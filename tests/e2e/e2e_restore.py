"""Backup, drill, the disaster and an upgrade, with the real engine, Nomad, Docker, PDS, PLC directory and restic:
`pytest tests/e2e/e2e_restore.py -x`, as root.

One bench, one scenario, in this order. It begins on the older line of the server and continues with the current one.
The owner's commands are those of docs/operating.md, word for word. The bucket is an S3 server's. A consumer with a
relay's rules stands in for a relay.
"""

import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
import yaml

from components.settings.environment import GENERATED_SECRETS
from tests.contract.club import PASSWORD, POSTS, Club, cid_of, founded, whole
from tests.contract.relay import Relay
from tests.contract.restores import newest
from tests.e2e.bench import HOSTNAME, PROGRAMS, ROOT, Bench, Run, Stack, bench, init_stack
from tests.e2e.directory import directory
from tests.e2e.e2e_clubs import PORTS, club_settings
from tests.e2e.images.build import OLD_SERVER, SERVER, local_pds_image, pds_image, restic_image
from tests.e2e.ingresses import INGRESSES
from tests.e2e.owner import follow, orphans
from tests.e2e.tools import missing, run
from tests.s3 import BUCKET, s3_server
from tools import escrow
from tools.live.xrpc import Client, RefusedError
from tools.verify import home

IMAGES = Path(__file__).parent / "images"
S3 = "s3.bench.test"
UP = ("up", "--yes", "--skip-preview")


@dataclass
class Story:
    """The bench, and the members' actions in it."""

    bench: Bench
    relay: Relay
    club: Club | None = None
    began: float = 0.0
    """When the newest good backup was begun, on the journal's clock."""
    late: str = ""
    """A post that no backup has."""

    @property
    def data(self) -> Path:
        """The server's files."""
        [machine] = self.bench.machines.machines()
        return machine.volume / "pds"

    def follow(self) -> None:
        """The relay receives the present events."""
        self.relay.follow(self.bench.health_url(), newest(self.data))

    def do(self, command: str) -> Run:
        """A command of the guide, if no terminal prompts for confirmation."""
        program, verb, *rest = shlex.split(command)
        if program == "pulumi":
            return self.bench.pulumi(*(UP if verb == "up" else (verb, *rest)))
        assert (program, rest[0]) == ("./pds", "dev"), command
        return self.bench.pds(verb, *rest[1:], "--yes")

    def whole(self) -> None:
        """Old passwords work, and everything acknowledged before the newest backup has its original CID."""
        assert self.club
        whole(Client(self.bench.health_url(), HOSTNAME), self.club, self.began)

    def lost(self) -> bool:
        """Whether the post after the newest backup is missing."""
        return lost(Client(self.bench.health_url(), HOSTNAME), self.late)

    def back_it_up(self) -> None:
        """A backup, and a post that is not in it."""
        assert self.club
        self.began = time.monotonic()
        self.bench.pds("backup")
        self.post_late()

    def post_late(self) -> None:
        """A post that no backup will have; it is not in the journal of data to restore."""
        assert self.club
        writer = self.club.members[0]
        client = Client(self.bench.health_url(), HOSTNAME)
        session = client.procedure("com.atproto.server.createSession", {"identifier": writer.did, "password": PASSWORD})
        client.log_in(session["accessJwt"])
        record = {"$type": POSTS, "text": "after the backup", "createdAt": "2026-01-01T00:00:00.000Z"}
        body = {"repo": writer.did, "collection": POSTS, "record": record}
        self.late = client.procedure("com.atproto.repo.createRecord", body)["uri"]


def lost(client: Client, uri: str) -> bool:
    """Whether a post is missing."""
    try:
        cid_of(client, uri)
    except RefusedError:
        return True
    return False


def page() -> list[str]:
    """The commands of the guide's page for a disaster, in their order."""
    title = "### Everything is gone but the bucket and the escrow file"
    text = (ROOT / "docs/operating.md").read_text().partition(title)[2].partition("\nMembers log in")[0]
    found = re.findall(r"`((?:pulumi|\./pds|--sequence) [^`]+)`", text)
    assert len(found) == 5, f"the page has other steps than this story: {found}"
    return found


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    lines = missing(*PROGRAMS, "go", "restic")
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with ExitStack() as stack:
        made = stack.enter_context(bench(tmp_path_factory.mktemp("bench"), cache))
        plc = stack.enter_context(directory(made.folder / "plc", cache, made.docker_host, made.authority))
        gateway = run(
            ["docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"],
            made.docker_host,
        ).strip()
        (made.folder / "s3").mkdir()
        address = stack.enter_context(s3_server(made.folder / "s3", BUCKET, address=gateway)).removeprefix("http://")
        image = restic_image(made.folder / "restic", cache, made.docker_host, S3, address)
        INGRESSES["io"](made, stack)
        pds_image(cache, made.docker_host, OLD_SERVER)
        old = local_pds_image(made.folder / "old", made.docker_host, made.authority.pair(), plc.names, OLD_SERVER)
        made.configure(
            pds={"plc_url": plc.url, "image": old, "invite_required": False, "open_registration": True},
            backup={
                "endpoint": f"https://{S3}",
                "bucket": BUCKET,
                "image": image,
                # Every run is the story's own.
                "interval_minutes": 1440,
            },
            host={"size": "s-4vcpu-8gb"},
        )
        give_keys(made)
        yield Story(made, Relay())


def give_keys(stack: Stack) -> None:
    """The bucket's keys, into the stack file."""
    for key, value in (("access_key_id", "DO00TEST"), ("secret_access_key", "only a test")):
        stack.pulumi("config", "set", "--secret", "--path", f"pds:backup.{key}", value)


def test_up_makes_the_jobs_and_a_backup_is_made_when_asked(story: Story) -> None:
    story.bench.pulumi(*UP)
    story.bench.configure(pds={"new": False})
    story.bench.pulumi(*UP)
    story.club = founded(story.bench.health_url(), HOSTNAME, members=4, posts=3, mail=f"{HOSTNAME}.com")
    story.began = time.monotonic()
    done = story.bench.pds("backup")
    assert "snapshot of noted.test: 4 accounts" in done.output
    assert "created restic repository" in done.output
    assert "no errors were found" in done.output
    assert (story.data / ".stamps/backup.json").exists()
    story.bench.pulumi(*UP)  # it names who signed up
    story.bench.pulumi("preview", "--expect-no-changes")


def test_the_drill_fetches_looks_and_serves_on_the_host(story: Story) -> None:
    before = {path.name for path in story.data.iterdir()}
    done = story.bench.pds("drill")
    print(done.output)
    assert "looked at 4 accounts, 4 repositories, 4 blobs: 0 faults" in done.output
    assert "4 repositories served by the server on the copy: 0 faults" in done.output
    assert "recovery time" in done.output
    assert {path.name for path in story.data.iterdir()} == before
    assert (story.data / ".stamps/drill.json").exists()


def test_a_drill_that_cannot_fetch_fails_and_leaves_word(story: Story) -> None:
    story.bench.configure(backup={"bucket": "nobodys"})
    story.bench.pulumi(*UP)
    done = story.bench.pds("drill", check=False)
    assert done.code == 1, done.output
    assert "holds no backups" in done.output or "cannot be read" in done.output
    assert "nothing was fetched" in (story.data / ".stamps/drill.json").read_text()
    story.bench.configure(backup={"bucket": BUCKET})
    story.bench.pulumi(*UP)


def test_the_disaster_is_one_command_after_up(story: Story) -> None:
    """Droplet lost and volume wiped, with Nomad's own state."""
    assert story.club
    story.follow()
    writer = story.club.members[0]
    story.post_late()
    story.follow()
    droplet, volume = (next(iter(story.bench.api.dump()[kind])) for kind in ("droplets", "volumes"))
    story.bench.delete(f"/v2/droplets/{droplet}")
    folder = story.bench.machines.volume_folder(volume)
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    pause, _, rescue, restore, sequence = page()
    story.do(pause)
    story.do(rescue)
    done = story.do(f"{restore} {sequence.replace('N', str(story.relay.cursor))}")
    print(done.output)
    assert "ready                        4 accounts in use, 0 not" in done.output
    story.whole()
    assert story.lost()
    client = Client(story.bench.health_url(), HOSTNAME)
    session = client.procedure("com.atproto.server.createSession", {"identifier": writer.did, "password": PASSWORD})
    client.log_in(session["accessJwt"])
    record = {"$type": "app.bsky.feed.post", "text": "after the restore", "createdAt": "2026-01-01T00:00:00.000Z"}
    body = {"repo": writer.did, "collection": "app.bsky.feed.post", "record": record}
    client.procedure("com.atproto.repo.createRecord", body)
    story.follow()
    assert not story.relay.idle
    assert story.relay.dropped == []
    story.bench.pulumi("preview", "--expect-no-changes")


def test_a_restore_in_place_keeps_the_old_data_until_the_owner_says_so(story: Story) -> None:
    story.bench.pds("backup")
    listed = story.bench.pds("restore", "--list").output
    assert listed.count("pds") > 1, listed
    done = story.bench.pds("restore", "--yes", "--snapshot", "volume")
    assert "ready" in done.output
    story.whole()
    (old,) = (story.data / ".restore").glob("old-*")
    assert f"removed: {old.name}" in story.bench.pds("restore", "--forget-old").output
    story.follow()
    assert story.relay.dropped == []
    story.bench.pulumi("preview", "--expect-no-changes")


def test_one_account_comes_back_from_a_backup_while_the_others_stay(story: Story) -> None:
    """Its database is damaged on the disk; the backup that meets the damage says so, and keeps the last whole copy."""
    assert story.club
    story.back_it_up()
    did, other = (member.did for member in story.club.members[:2])
    store = story.data / home(did) / "store.sqlite"
    with store.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(bytes(3 * 4096))
    found = story.bench.pds("backup").output
    assert f"FINDING: {did}: not restorable: store.sqlite is damaged" in found
    assert f"{did}: not restorable" in story.bench.pds("check", check=False).output
    asked = ("com.atproto.sync.getLatestCommit", {"did": other})
    before = Client(story.bench.health_url(), HOSTNAME).query(*asked)
    done = story.bench.pds("restore", "--only", did, "--yes")
    print(done.output)
    assert "the server has not been touched" in done.output
    assert (
        Client(story.bench.health_url(), HOSTNAME).query("com.atproto.sync.getLatestCommit", {"did": other}) == before
    )
    story.whole()
    assert story.bench.pds("backup").output.count("FINDING") == 0
    assert "removed: old-" in story.bench.pds("restore", "--forget-old").output
    story.follow()
    assert story.relay.dropped == []
    story.bench.pulumi("preview", "--expect-no-changes")


def test_a_refused_restore_leaves_the_pds_paused_and_everything_in_place(story: Story) -> None:
    done = story.bench.pds("restore", "--yes", "--snapshot", "12345678", check=False)
    assert done.code == 1
    assert "there is no snapshot 12345678" in done.output
    assert "still paused" in done.output
    story.bench.pulumi("config", "set", "--path", "pds:pds.paused", "false")
    story.bench.pulumi(*UP)
    story.whole()


def _broken(story: Story) -> str:
    """An image of the current line whose server answers health and creates no records."""
    context = story.bench.folder / "broken"
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
    run(["docker", "build", "--quiet", "--tag", image, str(context)], story.bench.docker_host)
    return image


def test_a_candidate_that_answers_health_and_creates_no_records_goes_no_further(story: Story) -> None:
    before = (story.bench.project / "Pulumi.bench.yaml").read_text()
    done = story.bench.pds("upgrade", "--yes", "--to", _broken(story), "--package", SERVER.package, check=False)
    assert done.code == 1, done.output
    assert "answers on throw-away data" in done.output
    assert "createRecord is answered with 500" in done.output
    assert "Nothing was changed" in done.output
    assert (story.bench.project / "Pulumi.bench.yaml").read_text() == before
    story.bench.pulumi("preview", "--expect-no-changes")


def test_the_current_line_stands_the_trial_on_the_older_one_s_data_and_is_what_runs_then(story: Story) -> None:
    """By the tag alone, as in docs/operating.md: the tag names the package."""
    tag = SERVER.tag.rpartition(":")[2]
    assert story.bench.outputs()["package_version"] == OLD_SERVER.package
    done = story.bench.pds("upgrade", "--yes", "--to", tag)
    print(done.output)
    assert f"candidate {tag} answers on throw-away data" in done.output
    assert "4 repositories served by the server on the copy: 0 faults" in done.output
    assert "No database changed its form" in done.output
    assert f"pds:pds.image {OLD_SERVER.local_tag}" in done.output, "the way back"
    outputs = story.bench.outputs()
    assert SERVER.local_tag in story.bench.jobspec("pds-server-job")
    assert outputs["package_version"] == SERVER.package
    assert f"version {SERVER.package} answers" in story.bench.pds("check", check=False).output
    story.whole()
    story.follow()
    assert story.relay.dropped == []
    story.bench.pulumi("preview", "--expect-no-changes")


def test_bucket_and_escrow_file_are_enough(story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """State lost, and an empty account: a new stack of the same name, by the guide's page."""
    (tmp_path / "passphrase").write_text("six words that nobody else knows")
    monkeypatch.setenv(escrow.PASSPHRASE_FILE, str(tmp_path / "passphrase"))
    bench = replace(story.bench, env={**story.bench.env, escrow.PASSPHRASE_FILE: str(tmp_path / "passphrase")})
    story.follow()
    story.back_it_up()
    story.follow()
    bench.pds("escrow", "--to", str(tmp_path))
    (file,) = tmp_path.glob("escrow-*.age")
    kept = escrow.read(file)
    bench.pulumi("state", "unprotect", "--all", "--yes")
    bench.pulumi("destroy", "--yes", "--skip-preview")
    for orphan in orphans(bench)["orphans"]:
        for command in orphan["delete"]:
            follow(bench, command)
    bench.pulumi("stack", "rm", "--yes")

    # The page's step 1.
    config = yaml.safe_load(kept["stack_file"])["config"]
    config["pds:backup"] = {key: value for key, value in config["pds:backup"].items() if isinstance(value, str | int)}
    init_stack(bench.project, bench.env, bench.name, config)
    given = {f"secrets.{name}": kept["secrets"][variable] for name, variable in GENERATED_SECRETS.items()}
    given["secrets.nomad_management_token"] = kept["nomad_management_token"]
    given["backup.password"] = kept["backup"]["RESTIC_PASSWORD"]
    for key, value in given.items():
        bench.pulumi("config", "set", "--secret", "--path", f"pds:{key}", value)
    give_keys(bench)
    pause, up, _, restore, sequence = page()
    story.do(pause)
    story.do(up)
    done = story.do(f"{restore} {sequence.replace('N', str(story.relay.cursor))}")
    assert "ready                        4 accounts in use, 0 not" in done.output
    story.whole()
    assert story.lost()
    story.follow()
    assert not story.relay.idle
    assert story.relay.dropped == []
    story.bench.pulumi("preview", "--expect-no-changes")


def test_a_club_on_the_host_has_backup_drill_and_restore_of_its_own(story: Story) -> None:
    """In its namespace, with its own token and its own place in the bucket."""
    story.back_it_up()
    story.bench.configure(clubs={"chess": {"port": PORTS["chess"]}})
    story.bench.pulumi(*UP)
    config = club_settings(story.bench, "io", "chess")
    host = yaml.safe_load((story.bench.project / f"Pulumi.{story.bench.name}.yaml").read_text())["config"]
    open_to_all = {key: host["pds:pds"][key] for key in ("plc_url", "invite_required", "open_registration")}
    config["pds:pds"] |= open_to_all
    config["pds:backup"] = {key: host["pds:backup"][key] for key in ("endpoint", "bucket", "image", "interval_minutes")}
    chess = story.bench.beside("chess", config)
    give_keys(chess)
    chess.pulumi(*UP)
    chess.configure(pds={"new": False})
    chess.pulumi(*UP)
    club = founded(_address(story.bench, chess), "chess.test", members=2, posts=2, mail="chess.test.com")
    began = time.monotonic()
    assert "snapshot of chess.test: 2 accounts" in chess.pds("backup").output
    assert "2 repositories served by the server on the copy: 0 faults" in chess.pds("drill").output
    late = club.post(club.members[0], "after the backup")
    done = chess.pds("restore", "--yes")
    assert "ready                        2 accounts in use, 0 not" in done.output
    client = Client(_address(story.bench, chess), "chess.test")
    whole(client, club, began)
    assert lost(client, late)
    assert not story.lost(), "the host's own PDS went on"
    chess.pulumi(*UP)  # it names who signed up
    for stack in (story.bench, chess):
        stack.pulumi("preview", "--expect-no-changes")


def _address(bench: Bench, club: Stack) -> str:
    """The address of a club's server, from Nomad with its own token."""
    token = club.outputs()["nomad_token"]
    where, headers = f"{bench.nomad}/v1/service/pds", {"X-Nomad-Token": token}
    (found,) = httpx.get(where, params={"namespace": club.name}, headers=headers, trust_env=False, timeout=20).json()
    return f"http://{found['Address']}:{found['Port']}"
