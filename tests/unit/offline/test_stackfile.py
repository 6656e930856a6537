"""Stack files read without the engine."""

import pytest

from offline.stackfile import StackFileError, parse_settings

HEAD = """config:
  pds:hostname: noted.at
  pds:operators: {cidrs: [203.0.113.7/32], ssh_keys: [laptop]}
"""


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"{HEAD}  pds:hostname: chess-club.org\n", "pds:hostname"),
        (f"{HEAD}  pds:dns: {{caa: [], caa: [x.org]}}\n", "caa"),
        (f"{HEAD}  pds:dns:\n    zone: a.org\n    zone: b.org\n", "zone"),
    ],
)
def test_refuses_a_key_that_stands_twice(text: str, key: str) -> None:
    with pytest.raises(StackFileError, match=rf"Pulumi\.dev\.yaml is not YAML: the key '{key}' is there twice"):
        parse_settings("dev", text)


@pytest.mark.parametrize(
    "text", ["  pds:pds: {new: true, memory_mib: 600}\n  pds: {escrow: made}\n", "  pds: {new: true}\n  pds:pds:\n"]
)
def test_refuses_a_section_with_and_without_the_projects_name(text: str) -> None:
    """The engine would keep one of them at random, and reset every option of the other."""
    with pytest.raises(StackFileError) as refused:
        parse_settings("dev", HEAD + text)
    assert "pds:pds: this file has it twice, as 'pds:pds' and as 'pds'." in str(refused.value)
    assert "Merge both into 'pds:pds', and remove 'pds'." in str(refused.value)


@pytest.mark.parametrize("key", ["pds.escrow", "pds:pds.escrow"])
def test_names_the_section_of_an_option_that_is_written_as_one_key(key: str) -> None:
    with pytest.raises(StackFileError) as refused:
        parse_settings("dev", f"{HEAD}  {key}: made\n")
    assert "Write 'escrow' in the section 'pds:pds'" in str(refused.value)
    assert "`pulumi config set --path pds.escrow VALUE`" in str(refused.value)


def test_accepts_anchors_and_merge_keys() -> None:
    text = f"x: &zone {{zone: noted.at}}\n{HEAD}  pds:dns: {{<<: *zone, ttl: 60}}\n"
    assert parse_settings("dev", text).dns.ttl == 60
