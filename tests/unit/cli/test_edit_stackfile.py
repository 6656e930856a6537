"""Adding entries to a map of a stack file changes nothing else. `test_adopt_members.py` has the tests of lists."""

from pathlib import Path

import pytest
import yaml

from cli.lib.edit_stackfile import StackFileEdit, add_key, add_option
from offline.stackfile import StackFileError

HEAD = """# Kept.
encryptionsalt: v1:abc=
config:
  pds:hostname: noted.at   # as it was
  digitalocean:token:
    secure: AAABAHx
"""
GRANT = {"port": 3102, "disk_gib": 5, "memory_mib": 768}
KEYS = ("pds:clubs", "clubs")


@pytest.mark.parametrize(
    ("clubs", "existing"),
    [
        ("", {}),
        ("  pds:clubs:\n", {}),
        ("  pds:clubs: {}  # none yet\n  pds:relay_raised: false\n", {}),
        ("  clubs:\n    rooks: {port: 3101}\n", {"rooks": {"port": 3101}}),
        ("  pds:clubs:\n      rooks:   # ours\n        port: 3101\n# The end.\n", {"rooks": {"port": 3101}}),
        ("  pds:clubs: {rooks: {port: 3101}} # one line\n", {"rooks": {"port": 3101}}),
        ("  pds:clubs:\n    rooks: {port: 3101}", {"rooks": {"port": 3101}}),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["chess", "no", "null"])
def test_adds_a_key_and_keeps_every_other_line(clubs: str, existing: dict[str, object], end: str, name: str) -> None:
    text = (HEAD + clubs).replace("\n", end)
    after = add_key("Pulumi.dev.yaml", text, KEYS, name, GRANT, "What each gets.")
    old, new = yaml.load(text, yaml.CSafeLoader), yaml.load(after, yaml.CSafeLoader)
    key = "clubs" if "clubs" in old["config"] else "pds:clubs"
    assert new["config"].pop(key) == {**existing, name: GRANT}
    old["config"].pop(key, None)
    assert new == old
    changed = {line for line in text.splitlines() if "pds:clubs: {" in line}
    assert set(text.splitlines()) - set(after.splitlines()) <= changed, "only a map in braces is rewritten"
    assert after.count("#") == text.count("#") + (0 if clubs else 1), "no comment is lost; a new map gets one"
    assert after.count("\r\n") in (0, after.count("\n")), "line endings are uniform"


@pytest.mark.parametrize(
    "club",
    [
        "    chess: {port: 3101} # ours\n",
        "    chess:   # ours\n        port: 3101\n    # The end.\n",
        "    chess: { port: 3101 }",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_adds_an_option_to_an_entry_and_keeps_every_other_line(club: str, end: str) -> None:
    text = (HEAD + "  pds:clubs:\n    rooks: {port: 3101, host: b}\n" + club).replace("\n", end)
    after = add_option("Pulumi.fleet.yaml", text, KEYS, "chess", "host", "a")
    clubs = {"rooks": {"port": 3101, "host": "b"}, "chess": {"port": 3101, "host": "a"}}
    assert yaml.load(after, yaml.CSafeLoader)["config"]["pds:clubs"] == clubs
    changed = {line for line in text.splitlines() if "chess: {" in line}
    assert set(text.splitlines()) - set(after.splitlines()) <= changed, "only an entry in braces is rewritten"
    assert after.count("#") == text.count("#")
    assert after.count("\r\n") in (0, after.count("\n")), "line endings are uniform"


def test_refuses_an_entry_that_it_cannot_extend_and_prints_the_option() -> None:
    text = HEAD + "  pds:clubs:\n    rooks: &r {port: 3101}\n    chess: *r\n"
    with pytest.raises(StackFileError, match=r"to 'pds:clubs' by hand:\n    chess: \{host: a, …\}"):
        add_option("Pulumi.fleet.yaml", text, KEYS, "chess", "host", "a")


@pytest.mark.parametrize("text", ["config: {pds:hostname: noted.at}", HEAD + "  pds:clubs: {rooks: {port: 3101},}\n"])
def test_refuses_a_file_it_cannot_extend_and_prints_the_line_to_add(text: str) -> None:
    with pytest.raises(StackFileError, match=r"to 'pds:clubs' by hand:\n    chess: \{port: 3102"):
        add_key("Pulumi.dev.yaml", text, KEYS, "chess", GRANT)


def test_a_change_replaces_the_whole_file_and_keeps_its_mode_and_a_link_to_it(tmp_path: Path) -> None:
    kept = tmp_path / "kept.yaml"
    kept.write_text(HEAD)
    kept.chmod(0o640)
    link = tmp_path / "Pulumi.club.yaml"
    link.symlink_to(kept)
    with kept.open() as before:
        StackFileEdit(link, HEAD, HEAD + "  pds:members: []\n").write()
        assert before.read() == HEAD, "the old file is replaced, never truncated"
    assert link.is_symlink()
    assert kept.read_text() == HEAD + "  pds:members: []\n"
    assert kept.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Pulumi.club.yaml", "kept.yaml"]


def test_a_file_that_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text("config: {a: 2}\n")
    with pytest.raises(StackFileError, match=r"Pulumi\.dev\.yaml was changed after"):
        StackFileEdit(path, "config: {a: 1}\n", "config: {a: 3}\n").write()
    assert path.read_text() == "config: {a: 2}\n"
