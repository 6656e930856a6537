"""Setting one number of a stack file changes no other byte of it."""

import pytest
import yaml

from cli.cluster.edit_value import set_number
from offline.stackfile import StackFileError

HEAD = """# Kept.
encryptionsalt: v1:abc=
config:
  pds:ingress: {kind: caddy}   # as it was
"""
PATH = ("cluster", "servers", "generations", "2")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "  pds:cluster: {servers: {generations: {'2': 3}}}\n"),
        ("  pds:cluster: {hosts: {a: {}}}\n", "  pds:cluster: {hosts: {a: {}}, servers: {generations: {'2': 3}}}\n"),
        (
            "  pds:cluster:\n    hosts: {a: {}}\n",
            "  pds:cluster:\n    servers: {generations: {'2': 3}}\n    hosts: {a: {}}\n",
        ),
        (
            "  cluster:\n    servers: {count: 3}  # three\n    hosts: {a: {}}\n",
            "  cluster:\n    servers: {count: 3, generations: {'2': 3}}  # three\n    hosts: {a: {}}\n",
        ),
        ("  cluster:\n    servers: {}\n", "  cluster:\n    servers: {generations: {'2': 3}}\n"),
        (
            "  cluster:\n    servers:\n    hosts: {a: {}}\n",
            "  cluster:\n    servers: {generations: {'2': 3}}\n    hosts: {a: {}}\n",
        ),
        (
            '  cluster:\n    servers:\n      generations:\n        "1": 2  # first\n',
            "  cluster:\n    servers:\n      generations:\n        '2': 3\n        \"1\": 2  # first\n",
        ),
        ('  cluster: {servers: {generations: {"2": 2}}} # x\n', '  cluster: {servers: {generations: {"2": 3}}} # x\n'),
        ("  cluster: {servers: {generations: {2: 2}}}\n", "  cluster: {servers: {generations: {2: 3}}}\n"),
        (
            "  cluster:\n    servers:\n      generations:\n        '2': 2\n        '3': 5\n",
            "  cluster:\n    servers:\n      generations:\n        '2': 3\n        '3': 5\n",
        ),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_sets_a_generation_and_keeps_every_other_byte(before: str, after: str, end: str) -> None:
    text = (HEAD + before).replace("\n", end)
    changed = set_number("Pulumi.fleet.yaml", text, PATH, 3)
    if before:
        assert changed == (HEAD + after).replace("\n", end)
    assert changed.replace(end, "").count("\r") == 0
    config = yaml.load(changed, yaml.CSafeLoader)["config"]
    section = config.get("cluster") or config["pds:cluster"]
    assert {str(key): value for key, value in section["servers"]["generations"].items()}["2"] == 3
    assert config["pds:ingress"] == {"kind": "caddy"}


@pytest.mark.parametrize("servers", ["&one {count: 3}", "[3]", "three"])
def test_refuses_a_file_that_it_cannot_change_and_says_what_to_write(servers: str) -> None:
    again = "    again: *one\n" if servers.startswith("&") else ""
    text = f"{HEAD}  cluster:\n    servers: {servers}\n{again}"
    with pytest.raises(StackFileError, match=r"Set 'cluster\.servers\.generations\.2' to 3 by hand"):
        set_number("Pulumi.fleet.yaml", text, PATH, 3)
