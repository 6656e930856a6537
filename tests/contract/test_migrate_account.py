"""`./pds migrate-account` between two real servers of both version lines, with a real directory."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cli.check.plc_documents import directory_data
from cli.migrate.xrpc import RateLimitError
from cli.snapshot.repository import RepositoryStore
from cli.snapshot.verify import repo_path
from components.clients import pds_admin
from tests.contract.figures_migration import large_account
from tests.contract.migration import (
    MEMBER_KEY,
    NEW_KEY,
    NEW_PASSWORD,
    OWN_DOMAIN,
    PREFERENCES,
    Answers,
    Clock,
    Mover,
    data_of,
    mailed_token,
    member,
    nothing_final,
    one_direction,
    run_killed,
)
from tests.contract.migration import here as here
from tests.contract.migration import proxy as proxy
from tests.contract.two_servers import NEW, OLD, PASSWORD
from tests.support.flawed_proxy import Answer, FlawedProxy, Request, limited, refused
from tools.trial.directory import PlcDirectory
from tools.trial.node import Install

pytestmark = pytest.mark.contract


def _moved(here: Mover, did: str, records: dict[str, str], handle: str) -> None:
    """Assert that the account is whole and active on the new server only, by one operation of the directory."""
    old, new = here.world.old, here.world.new
    assert len(here.log(did)) == 2
    data = directory_data(here.world.directory.url, did)
    assert (data["services"]["atproto_pds"]["endpoint"], data["alsoKnownAs"]) == (f"https://{NEW}", [f"at://{handle}"])
    session = new.client.procedure("com.atproto.server.createSession", {"identifier": did, "password": NEW_PASSWORD})
    new.client.log_in(session["accessJwt"])
    assert new.records(did) == records
    folder = data_of(new) / repo_path(did)
    with closing(RepositoryStore(folder / "store.sqlite", did)) as store:
        assert list(store.problems((folder / "key").read_bytes())) == [], "also signed with the new key"
    assert new.client.query("com.atproto.repo.listMissingBlobs", {})["blobs"] == []
    for cid in old.log_in(did) and old.client.query("com.atproto.sync.listBlobs", {"did": did})["cids"]:
        stored = data_of(new) / "blocks" / did / cid
        assert stored.read_bytes() == (data_of(old) / "blocks" / did / cid).read_bytes()
    assert new.client.query("app.bsky.actor.getPreferences", {})["preferences"] == PREFERENCES
    assert (old.status(did), new.status(did)) == ((False, "deactivated"), (True, None))
    assert f"- handle: {handle}" in here.stack_file


def _killed(here: Mover, handle: str, did: str, step: str) -> bool:
    """Kill the command right after `step`; return whether it came so far."""
    label, _ = run_killed(lambda: here.run(handle, here.answers(did)), lambda label: label.endswith(step))
    return label.endswith(step)


def test_moves_everything_keeps_the_member_s_keys_first_and_lists_what_stays(here: Mover) -> None:
    old = here.world.old
    did = member(old, "amy", posts=250, recoveryKey=MEMBER_KEY)
    records = old.records(did)
    old.client.procedure("com.atproto.server.createAppPassword", {"name": "tv-app"})
    answers = here.answers(did)
    assert here.run(f"amy.{OLD}", answers) == 0
    _moved(here, did, records, f"amy.{NEW}")
    assert directory_data(here.world.directory.url, did)["rotationKeys"] == [MEMBER_KEY, NEW_KEY]
    for line in ("  nothing", f"app passwords: tv-app. Create new ones on {NEW}", "chat: ", "stays first", "removed"):
        assert line in here.output
    assert here.output.index("tv-app") < here.output.index("Identity: "), "the list comes before anything is final"
    assert [text.partition(" ")[0] for text in answers.asked] == ["Password", "New", "Move", "Token"]
    kept = "".join(path.read_text(errors="replace") for path in here.root.rglob("*") if path.is_file())
    for secret in (PASSWORD, NEW_PASSWORD, "eyJ"):
        assert secret not in kept, "no password and no session is written to a file"
        assert secret not in here.output


@one_direction
def test_a_moved_account_is_finished_without_an_import_over_newer_records(here: Mover) -> None:
    old, new = here.world.old, here.world.new
    did = member(old, "bea", blobs=0)
    assert here.run(f"bea.{OLD}", here.answers(did)) == 0
    session = new.client.procedure("com.atproto.server.createSession", {"identifier": did, "password": NEW_PASSWORD})
    new.client.log_in(session["accessJwt"])
    new.post(did, "written here")
    records = new.records(did)
    new.client.procedure("com.atproto.server.deactivateAccount", {})
    shutil.rmtree(here.root / "build")
    here.said.clear()
    assert here.run(f"bea.{OLD}", here.answers(did)) == 0
    assert "has moved" in here.output
    assert len(here.log(did)) == 2
    assert new.status(did) == (True, None)
    assert new.records(did) == records


@one_direction
def test_killed_after_each_step_it_continues_without_a_second_account_or_operation(here: Mover) -> None:
    did = member(here.world.old, "kim", recoveryKey=MEMBER_KEY)
    records = here.world.old.records(did)
    done: set[str] = set()
    while True:
        # What the file of the progress has beside the signed operation is read from the servers again.
        label, code = run_killed(
            lambda: here.run(f"kim.{OLD}", here.answers(did)),
            lambda step: step not in done and (step == "progress operation" or not step.startswith("progress")),
        )
        if not label:
            break
        done.add(label)
    assert code == 0
    assert {label.rpartition(".")[2] for label in done} >= {
        "createAccount", "importRepo", "uploadBlob", "putPreferences", "requestPlcOperationSignature",
        "signPlcOperation", "progress operation", "submitPlcOperation", "activateAccount", "applyWrites", "stack file",
        "deactivateAccount",
    }  # fmt: skip
    _moved(here, did, records, f"kim.{NEW}")
    accounts = pds_admin.hosted(here.target.admin)
    assert [account.handle for account in accounts if account.did == did or "kim" in account.email] == [f"kim.{NEW}"]
    assert here.stack_file.count("handle:") == 1


def test_a_lost_blob_is_listed_before_anything_is_final_and_copied_once_it_is_back(here: Mover) -> None:
    old = here.world.old
    did = member(old, "lou", blobs=3)
    records = old.records(did)
    folder = data_of(old) / "blocks" / did
    lost, damaged, _whole = sorted(folder.iterdir())
    shutil.move(lost, here.root / lost.name)
    content = damaged.read_bytes()
    damaged.write_bytes(b"x" * len(content))
    assert here.run(f"lou.{OLD}", here.answers(did, agrees=False)) == 1
    nothing_final(here, did)
    assert "2 blobs (pictures, videos) are missing. Their records were copied." in here.output
    [listing] = here.root.rglob("missing-blobs.txt")
    lines = {line.split(" ")[0]: line for line in listing.read_text().splitlines()}
    assert set(lines) == {lost.name, damaged.name}
    assert f"at://{did}/at.noted.try.blob/" in lines[lost.name]
    assert "sent content that does not match the CID" in lines[damaged.name]

    shutil.move(here.root / lost.name, lost)
    assert here.run(f"lou.{OLD}", here.answers(did)) == 0, "the damaged one stays lost, and the member agreed"
    assert "1 blobs are still missing" in here.output
    damaged.write_bytes(content)
    assert here.run(f"lou.{OLD}", here.answers(did)) == 0, "from the deactivated account"
    _moved(here, did, records, f"lou.{NEW}")


@one_direction
def test_an_expired_token_is_replaced_by_another_mail_and_late_posts_are_copied(here: Mover) -> None:
    old = here.world.old
    did = member(old, "ivy")
    typed: list[str] = []
    records: dict[str, str] = {}

    def token() -> str:
        right = mailed_token(old, did)
        if not typed:
            typed.append("WRONG-TOKEN")
        elif len(typed) == 1:
            with closing(sqlite3.connect(data_of(old) / "account.sqlite")) as db:
                db.execute("update email_token set requestedAt = '2026-01-01T00:00:00.000Z' where did = ?", (did,))
                db.commit()
            typed.append(right)
        else:
            assert right != typed[1], "another mail has another token"
            old.log_in(did)
            old.post(did, "while the member looked for the mail")
            records.update(old.records(did))
            typed.append(right)
        return typed[-1]

    assert here.run(f"ivy.{OLD}", Answers(token)) == 0
    assert "Token is invalid" in here.output
    assert "Token is expired" in here.output
    assert len(records) == 6
    _moved(here, did, records, f"ivy.{NEW}")


@one_direction
def test_an_own_domain_moves_and_records_written_after_the_activation_are_kept(here: Mover) -> None:
    old = here.world.old
    did = member(old, "pam", blobs=0)
    here.world.dns[f"TXT _atproto.{OWN_DOMAIN}"] = [f"did={did}"]
    old.client.procedure("com.atproto.identity.updateHandle", {"handle": OWN_DOMAIN})
    assert _killed(here, OWN_DOMAIN, did, "activateAccount")
    old.log_in(did)
    old.post(did, "too late")
    assert here.run(OWN_DOMAIN, here.answers(did, agrees=False)) == 1
    assert old.status(did) == (True, None)
    [kept] = here.root.rglob("written-later-*.car")
    assert b"too late" in kept.read_bytes()
    assert here.run(OWN_DOMAIN, here.answers(did)) == 0
    assert directory_data(here.world.directory.url, did)["alsoKnownAs"] == [f"at://{OWN_DOMAIN}"]
    assert f"- handle: {OWN_DOMAIN}" in here.stack_file
    assert old.status(did) == (False, "deactivated")


@one_direction
def test_waits_for_rate_limits_renews_sessions_and_repeats_what_broke(here: Mover, proxy: FlawedProxy) -> None:
    did = member(here.world.old, "max")
    records = here.world.old.records(did)
    seen: dict[str, int] = {}
    ended: list[str] = []

    def rule(request: Request) -> Answer | None:
        number = seen[request.method] = seen.get(request.method, 0) + 1
        if request.method == "createSession" and b"authFactorToken" not in request.body:
            return refused(401, "AuthFactorTokenRequired", "A sign in code has been sent to your email address")
        if request.method == "refreshSession":
            return None
        if request.method == "getRepo" and number == 1:
            ended.append(request.token)
        # A token that is renewed in the second in which it was made is the same text.
        if request.token in ended and "refreshSession" not in seen:
            return refused(400, "ExpiredToken", "Token has expired")
        if request.method == "getRepo" and number == 2:
            return Answer(502, b"<html>Bad Gateway</html>")
        if request.method == "getBlob" and number == 1:
            return limited(time.time() + 120)
        if request.method == "getBlob" and number == 2:
            content = request.real().content
            return Answer(200, content, {"Content-Type": "application/json"}, cut=len(content) // 2)
        return None

    proxy.rule = rule
    clock = Clock()
    assert here.run(f"max.{OLD}", here.answers(did, factor="12345-ABCDE"), clock) == 0
    assert 118 <= max(clock.slept) <= 121, "the moment of the header, by the server's clock"
    assert "allows the next com.atproto.sync.getBlob in 1" in here.output
    assert seen["refreshSession"] == 1
    _moved(here, did, records, f"max.{NEW}")


@one_direction
def test_a_rate_limit_of_hours_ends_the_run_and_the_next_one_continues(here: Mover, proxy: FlawedProxy) -> None:
    did = member(here.world.old, "sam")
    records = here.world.old.records(did)
    proxy.rule = lambda request: limited(time.time() + 7200) if request.method == "getBlob" else None
    with pytest.raises(
        RateLimitError, match=r"no further com\.atproto\.sync\.getBlob before .* UTC\. .*It continues\."
    ):
        here.run(f"sam.{OLD}", here.answers(did))
    nothing_final(here, did)
    assert proxy.seen.count("getBlob") <= 4, "one for each thread"
    proxy.rule = None
    assert here.run(f"sam.{OLD}", here.answers(did)) == 0
    assert proxy.seen.count("getRepo") == 1, "the repository was there already"
    _moved(here, did, records, f"sam.{NEW}")


@one_direction
def test_soak_moves_50_000_records(
    pds_installs: dict[str, Install],
    program_env: dict[str, str],
    directory: PlcDirectory,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    line: str,
) -> None:
    if not request.config.getoption("--soak"):
        pytest.skip("`make soak`; the other tests move 250 records")
    with large_account(tmp_path, pds_installs, program_env, directory, 50_000, 20) as (large, did):
        assert large.run(f"big.{OLD}", large.answers(did), time) == 0
        assert "every record is there" in large.output
        assert len(large.log(did)) == 2
        assert large.world.new.status(did) == (True, None)


_FAULTS: dict[str, Callable[[Request], Answer | None]] = {
    "is-down": lambda _request: Answer(503, b"maintenance"),
    "has-no-commit": lambda request: Answer(503, b"") if request.method == "getLatestCommit" else None,
    "has-no-data-server": lambda request: Answer(503, b"") if request.method == "getSession" else None,
    "limits-commits": lambda request: limited(time.time() + 7200) if request.method == "getLatestCommit" else None,
    "limits-logins": lambda request: limited(time.time() + 7200) if request.method == "createSession" else None,
    "limits-blobs": lambda request: limited(time.time() + 7200) if request.method == "getBlob" else None,
    "refuses-the-login": lambda request: (
        refused(401, "AccountTakedown", "Account has been taken down") if request.method == "createSession" else None
    ),
}


@one_direction
@pytest.mark.parametrize("fault", _FAULTS)
def test_a_moved_account_is_activated_although_the_old_server(here: Mover, proxy: FlawedProxy, fault: str) -> None:
    """The identity names the new server, so a failing old one must not keep the account inactive on both."""
    old, name = here.world.old, fault[:12].rstrip("-")
    did = member(old, name)
    [lost, _] = (data_of(old) / "blocks" / did).iterdir()
    shutil.move(lost, here.root / lost.name)
    assert _killed(here, f"{name}.{OLD}", did, "submitPlcOperation")
    shutil.move(here.root / lost.name, lost)
    assert here.world.new.status(did)[0] is False
    [progress] = here.root.rglob("progress.json")
    port = here.old_url.rpartition(":")[2]
    of_data = progress.read_text().replace(f"http://{OLD}:{port}", f"https://{OLD}")  # not the server of logins
    progress.write_text(of_data)
    proxy.rule = _FAULTS[fault]
    assert here.run(f"{name}.{OLD}", here.answers(did)) == 1
    assert here.world.new.status(did) == (True, None)
    assert f"- handle: {name}.{NEW}" in here.stack_file
    assert here.output.endswith("only `pulumi up` is left.")
    proxy.rule = None
    assert here.run(f"{name}.{OLD}", here.answers(did)) == 0
    assert old.status(did) == (False, "deactivated")
    assert here.world.new.client.query("com.atproto.sync.listBlobs", {"did": did})["cids"].count(lost.name) == 1
