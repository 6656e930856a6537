"""Env files as docker compose parses them: compose-go's own examples (dotenv/godotenv_test.go), and refusals."""

import os
import subprocess
from pathlib import Path

import pytest

from cli.backups.dotenv import DotenvError, parse
from components.settings.checks.pds_env import env_file, read_env_file


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=bar", "bar"),
        ("A =bar", "bar"),
        ("A= bar", "bar"),
        (" A = bar ", "bar"),
        ("A: 1", "1"),
        ("A=1:B", "1:B"),
        ("A=b=c", "b=c"),
        ("A=", ""),
        ("export A=2", "2"),
        ("export\tA=2", "2"),
        ("A=bar # this is foo", "bar"),
        ("A=bar #", "bar"),
        ("A=123#not-an-inline-comment", "123#not-an-inline-comment"),
        ('A="bar#baz" # comment', "bar#baz"),
        ('A="bar#baz"#', "bar#baz"),
        ("A='bar#baz' # comment", "bar#baz"),
        (r'A="escaped\"bar"', 'escaped"bar'),
        ("A=\"'d'\"", "'d'"),
        (r"A='\n'", r"\n"),
        (r"A='it\'s'", "it's"),
        (r'A="bar\nbaz"', "bar\nbaz"),
        (r"A=a\tb", r"a\tb"),
        (r'A="Z\aZ\bZ\fZ\nZ\rZ\tZ\vZ\\Z\0123Z"', "Z\aZ\bZ\fZ\nZ\rZ\tZ\vZ\\ZSZ"),
        (r'A="\x07"', r"\x07"),
        (r'A="bar\nbaz\\"', "bar\nbaz\\"),
        ('A="one\ntwo"', "one\ntwo"),
        ("B=x\nA=${B}y$B", "xyx"),
        ("A=${B:-other}", "other"),
        ("B=\nA=${B:-other}${B-none}", "other"),
        ("A=pa$$word", "pa$word"),
        (r'A="pa\$word"', "pa$word"),
        ("A='pa$word'", "pa$word"),
        ("A=1\r\n", "1"),
        ("A=lone$", "lone$"),
        ("A=1\nA=2", "2"),
    ],
)
def test_parses_a_value_as_docker_compose_does(line: str, value: str) -> None:
    assert parse(f"# A=no\n\n{line}\n# B=no")["A"] == value


def test_ignores_a_byte_order_mark() -> None:
    assert parse("\ufeffA=1") == {"A": "1"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('A="secret', "quotation mark in line 1 is never closed"),
        ("\nA='secret", "quotation mark in line 2 is never closed"),
        ("A=$SECRET", "SECRET} is not set in this file above it"),
        ("A=${B}\nB=1", "line 1"),
        ("A=${secret", "compose refuses"),
        ("A\nB=1", "A has no value"),
        ("A B=1", "line 1 is not 'NAME=value'"),
        ("%=1", "line 1 is not 'NAME=value'"),
        ('A="secret"secret', "something follows"),
    ],
)
def test_refuses_an_ambiguous_file_without_printing_its_values(text: str, problem: str) -> None:
    with pytest.raises(DotenvError) as caught:
        parse(text)
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


VALUES = {"PDS_SERVICE_NAME": "My Club", "A": "a;b`c`$(d) \"e\" 'f' #g", "B": "two\nlines", "C": "https://x.test/?a=b"}


def test_a_shell_sources_the_pdsadmin_file_without_executing_values(tmp_path: Path) -> None:
    (tmp_path / "pds.env").write_text(env_file(VALUES))
    command = 'set -o allexport; . ./pds.env; for name in PDS_SERVICE_NAME A B C; do printenv -0 "$name"; done'
    shell = ["/bin/bash", "-euc", command]
    done = subprocess.run(
        shell, cwd=tmp_path, env={"PATH": os.defpath}, capture_output=True, text=True, timeout=600, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\0")[:-1] == list(VALUES.values())
    assert read_env_file(env_file(VALUES)) == VALUES, "read_env_file reads the same values"
