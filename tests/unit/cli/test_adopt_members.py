"""`./pds members STACK --adopt`: adds lines to the stack file and changes nothing else."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import app, registry
from cli.lib.stack import Stack
from cli.people import adopt_members as adoption
from cli.people import members as people
from cli.people.adopt_members import adopt
from components.clients import pds_admin
from components.clients.pds_admin import Account
from components.people.members import temporary_handle
from offline.stackfile import StackFileError

HEAD = """# Kept.
encryptionsalt: v1:abc=
config:
  pds:hostname: noted.at   # as it was
  pds:operators: {cidrs: [203.0.113.7/32], ssh_keys: [laptop]}
  digitalocean:token:
    secure: AAABAHx
"""
FAN = {"handle": "fan.noted.at", "email": "fan@club.org"}
ANN = Account(did="did:plc:ann", handle="ann.noted.at", email="ann@club.org")
BOB = Account(did="did:plc:bob", handle="bob.noted.at", email="o'b@club.org")
ENTRIES = [{"handle": one.handle, "email": one.email} for one in (ANN, BOB)]


def _file(folder: Path, text: str) -> Path:
    path = folder / "Pulumi.club.yaml"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("members", "existing"),
    [
        ("", []),
        ("  pds:members:\n", []),
        ("  pds:members:   # none yet\n", []),
        ("  pds:members: []\n", []),
        ("  pds:members: []  # none yet\n  pds:relay_raised: false\n", []),
        ("  members:\n    - handle: fan.noted.at\n      email: fan@club.org\n", [FAN]),
        ("  pds:members:\n  - handle: fan.noted.at\n    email: fan@club.org # hers\n", [FAN]),
        ("  pds:members:\n    -   handle: fan.noted.at\n        email: fan@club.org", [FAN]),
        ("  pds:members:\n    - {handle: fan.noted.at, email: fan@club.org}\n\n  # Later.\n\n  pds:dns: {}\n", [FAN]),
        ("  pds:members: [{handle: fan.noted.at, email: fan@club.org}] # one line\n", [FAN]),
        ("  pds:members:\n    - handle: fan.noted.at\n      email: fan@club.org\n# The end.\nother: 1\n", [FAN]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_adds_new_members_and_keeps_every_other_line(
    members: str, existing: list[dict[str, str]], end: str, tmp_path: Path
) -> None:
    text = (HEAD + members).replace("\n", end)
    path = _file(tmp_path, text)
    adoption = adopt("club", [BOB, ANN], {}, tmp_path)
    assert path.read_bytes().decode() == text, "the file changes only on write()"
    adoption.write()
    after = path.read_bytes().decode()
    old, new = yaml.load(text, yaml.CSafeLoader), yaml.load(after, yaml.CSafeLoader)
    key = "members" if "members" in old["config"] else "pds:members"
    assert new["config"].pop(key) == [*existing, *ENTRIES]
    old["config"].pop(key, None)
    assert new == old
    changed = {line for line in text.splitlines() if "pds:members: [" in line}
    assert set(text.splitlines()) - set(after.splitlines()) <= changed, "only a list in brackets is rewritten"
    assert all(comment in after for comment in ("# Kept.", "# as it was", "secure: AAABAHx"))
    assert after.count("#") == text.count("#"), "no comment is lost"
    assert after.count("\r\n") in (0, after.count("\n")), "line endings are uniform"
    assert (adoption.added, adoption.skipped) == (("ann.noted.at", "bob.noted.at"), ())
    again = adopt("club", [BOB, ANN], {}, tmp_path)
    assert (again.added, again.after) == ((), after), "a second run adds nothing"


def test_diff_shows_only_the_added_lines(tmp_path: Path) -> None:
    _file(tmp_path, HEAD + "  pds:members:\n    - handle: fan.noted.at\n      email: fan@club.org\n")
    lines = adopt("club", [ANN], {}, tmp_path).diff("adopted").splitlines()
    assert [line for line in lines[2:] if line[0] in "+-"] == [
        "+    - handle: ann.noted.at",
        "+      email: ann@club.org",
    ]


def test_skips_accounts_known_by_did_handle_or_former_handle(tmp_path: Path) -> None:
    members = "  pds:members:\n    - {handle: ann.noted.at, email: a@club.org, was: an.noted.at}\n"
    _file(tmp_path, HEAD + members)
    with_former_handle = Account(did="did:plc:x", handle="an.noted.at", email="a@club.org")
    renamed = Account(did="did:plc:fan", handle="her-own.noted.at", email="f@club.org")
    adoption = adopt("club", [ANN, with_former_handle, renamed], {"fan.noted.at": {"did": "did:plc:fan"}}, tmp_path)
    assert (adoption.added, adoption.skipped) == ((), ())


def test_skips_an_account_that_cannot_be_a_member_and_reports_why(tmp_path: Path) -> None:
    _file(
        tmp_path,
        HEAD + "  pds:members: [{handle: fan.noted.at, email: fan@club.org}]\n  pds:takedown: [bad.noted.at]\n",
    )
    others = [
        Account(did="did:plc:1", handle="other.noted.at", email="Fan@club.org"),
        Account(did="did:plc:2", handle="none.noted.at", email=""),
        Account(did="did:plc:3", handle="bad.noted.at", email="bad@club.org"),
    ]
    adoption = adopt("club", [*others, ANN], {}, tmp_path)
    assert adoption.added == ("ann.noted.at",)
    assert [line.partition(": ")[0] for line in adoption.skipped] == [
        "bad.noted.at (did:plc:3)",
        "none.noted.at (did:plc:2)",
        "other.noted.at (did:plc:1)",
    ]
    taken_down, without_email, same_email = adoption.skipped
    assert "'takedown'" in taken_down
    assert "its email is not valid in the stack file" in without_email
    assert "a member has its e-mail address" in same_email


def test_marks_a_reserved_handle_as_reserved(tmp_path: Path) -> None:
    _file(tmp_path, HEAD)
    adoption = adopt("club", [Account(did="did:plc:1", handle="info.noted.at", email="i@club.org")], {}, tmp_path)
    expected = [{"handle": "info.noted.at", "email": "i@club.org", "reserved": True}]
    assert yaml.load(adoption.after, yaml.CSafeLoader)["config"]["pds:members"] == expected


def test_quotes_an_address_that_yaml_would_not_read_as_text(tmp_path: Path) -> None:
    _file(tmp_path, HEAD)
    for address in ("o'b@club.org", "#x@club.org", "1e3@club.org", "{a}@club.org", "null@club.org"):
        adoption = adopt("club", [Account(did="did:plc:1", handle="x-y.noted.at", email=address)], {}, tmp_path)
        assert (
            adoption.skipped
            or yaml.load(adoption.after, yaml.CSafeLoader)["config"]["pds:members"][0]["email"] == address
        )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("config: {pds:hostname: noted.at, pds:operators: {cidrs: [203.0.113.7/32], ssh_keys: [x]}}", "by hand"),
        (HEAD + "  pds:members: [{handle: fan.noted.at, email: fan@club.org},]\n", "- handle: ann.noted.at"),
        ("config: [", "is not YAML"),
        (HEAD + "  pds:nothing: 1\n", "nothing"),
    ],
)
def test_refuses_a_file_it_cannot_extend_and_leaves_it_unchanged(text: str, error: str, tmp_path: Path) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(StackFileError, match=error):
        adopt("club", [ANN], {}, tmp_path)
    assert path.read_text() == text


def test_refuses_more_members_than_the_relay_accepts_before_writing(tmp_path: Path) -> None:
    _file(tmp_path, HEAD)
    many = [Account(did=f"did:plc:{n}", handle=f"m{n:03}.noted.at", email=f"m{n}@club.org") for n in range(91)]
    with pytest.raises(StackFileError, match="relay_raised"):
        adopt("club", many, {}, tmp_path)


def test_command_writes_the_file_and_prints_the_diff_and_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _file(tmp_path, HEAD)

    def adopt_here(stack: str, accounts: Any, members: Any) -> adoption.Adoption:
        return adopt(stack, accounts, members, tmp_path)

    monkeypatch.setattr(registry, "ROOT", tmp_path)
    monkeypatch.setattr(adoption, "adopt", adopt_here)
    monkeypatch.setattr(people, "server_of", lambda _stack: None)
    monkeypatch.setattr(pds_admin, "hosted", lambda _server: [ANN])
    monkeypatch.setattr(Stack, "outputs", lambda _self: {})
    assert app.main(["members", "club", "--adopt"]) == 0
    output = capsys.readouterr().out
    assert "+    - handle: ann.noted.at" in output
    assert "The next `pulumi up` creates the DNS records" in output
    assert "ann.noted.at" in path.read_text()
    assert app.main(["members", "club", "--adopt"]) == 0
    assert "Nothing to write" in capsys.readouterr().out


def test_skips_a_member_who_has_a_temporary_handle_until_their_domain_resolves(tmp_path: Path) -> None:
    _file(tmp_path, HEAD + "  pds:members:\n    - handle: ann.her.org\n      email: ann@her.org\n")
    temporary = temporary_handle("ann.her.org", (".noted.at",)) or ""
    waiting = Account(did="did:plc:ann", handle=temporary, email="ann@her.org")
    adoption = adopt("club", [waiting, BOB], {}, tmp_path)  # no output has the account: its `up` was interrupted
    assert adoption.added == (BOB.handle,)
    assert temporary not in adoption.after
    assert adoption.skipped == (), "the stack file names the member already"
