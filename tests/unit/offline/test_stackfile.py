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


def test_accepts_anchors_and_merge_keys() -> None:
    text = f"x: &zone {{zone: noted.at}}\n{HEAD}  pds:dns: {{<<: *zone, ttl: 60}}\n"
    assert parse_settings("dev", text).dns.ttl == 60
