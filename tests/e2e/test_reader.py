"""Which text of a page is a command, and that scenario and pages have the same commands."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.environment import cluster_page, reader
from tests.e2e.environment.reader import Reader, blocks, commands, options, stack_files
from tests.e2e.environment.tools import E2eError
from tests.e2e.scenarios import e2e_cluster_page, e2e_first_month, e2e_pages

PAGE = """# A page

```mermaid
pulumi up --not-one
```

    export TOKEN=…              # a secret
    pulumi up && ./pds check x  # both

    pds:mail:
      dns: {spf: ['a:my-club.org']}

## Later

Say `pulumi
refresh`, or `volume.size_gib`; then ``./pds`` does it.
"""


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "page.md").write_text(PAGE)
    monkeypatch.setattr(reader, "ROOT", tmp_path)
    return "page.md"


def test_commands_are_code_spans_and_indented_lines_without_comments(page: str) -> None:
    assert commands(page) == ["export TOKEN=…", "pulumi up && ./pds check x", "pulumi refresh"]
    assert commands(page, "Later") == ["pulumi refresh"]
    with pytest.raises(E2eError, match="no section 'Never'"):
        commands(page, "Never")


def test_only_commands_of_the_page_are_typed_and_the_rest_is_reported(page: str, tmp_path: Path) -> None:
    page_reader = Reader(tmp_path, {})
    with pytest.raises(E2eError, match="no command `pulumi up`"):
        page_reader.types(page, "pulumi up")
    assert page_reader.types(page, "pulumi refresh", means="cat", says="yes").output == "yes"
    with pytest.raises(E2eError, match="ended with 3"):
        page_reader.types(page, "pulumi refresh", means="exit 3")
    sections: dict[str, tuple[str, ...]] = {page: ()}
    assert page_reader.left(sections, {"export TOKEN=…": "set"}) == [f"{page}: pulumi up && ./pds check x"]


def test_a_block_of_a_stack_file_is_read_with_the_person_s_own_values(page: str) -> None:
    assert options(page, "pds:mail:", {"my-club.org": "noted.at"}) == {"mail": {"dns": {"spf": ["a:noted.at"]}}}
    with pytest.raises(E2eError, match=r"no `another\.org` in the block"):
        options(page, "pds:mail:", {"another.org": "noted.at"})
    with pytest.raises(E2eError, match="no block that begins with `pds:none`"):
        options(page, "pds:none", {})


def test_a_command_that_prompts_gets_its_answers_in_a_terminal(page: str, tmp_path: Path) -> None:
    program = """read -rsp 'Password: ' one; echo; read -rp 'Again (or not: no)? [y/N]: ' two; echo "$one, $two"
"""
    (tmp_path / "pulumi").write_text(f"#!/bin/bash\ntest -t 0 || exit 1\n{program}")
    (tmp_path / "pulumi").chmod(0o755)
    page_reader = Reader(tmp_path, {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    answers = [("Password", lambda: "hers"), ("Again (or not: no)?", lambda: "y")]
    assert page_reader.converses(page, "pulumi refresh", answers).endswith("hers, y\n")
    with pytest.raises(E2eError, match="did not prompt for 'Token'"):
        page_reader.converses(page, "pulumi refresh", [*answers, ("Token", str)])


def test_a_command_that_runs_on_gets_ctrl_c(page: str, tmp_path: Path) -> None:
    page_reader = Reader(tmp_path, {"PATH": os.environ["PATH"]})
    with page_reader.starts(page, "pulumi refresh", means="echo it runs; exec sleep 600") as process:
        assert process.stdout
        assert process.stdout.readline() == "it runs\n"
    assert process.returncode == -signal.SIGINT


def test_stack_files_are_the_blocks_that_a_person_can_paste(page: str, tmp_path: Path) -> None:
    with pytest.raises(E2eError, match="no whole stack file"):
        stack_files(page)
    (tmp_path / page).write_text(
        "As follows.\n\n"
        "    # Pulumi.one.yaml\n    config:\n      pds:cluster:\n        servers: {count: 3}\n\n"
        "    # Pulumi.two.yaml, the other\n    config:\n      pds:on: one\n\n"
        "    # Pulumi.one.yaml\n    pds:cluster: {}\n\nThe end.\n"
    )
    assert stack_files(page) == {"one": {"cluster": {"servers": {"count": 3}}}, "two": {"on": "one"}}


def test_blocks_are_the_indented_lines_without_comments(page: str) -> None:
    assert blocks(page) == [
        ["export TOKEN=…", "pulumi up && ./pds check x"],
        ["pds:mail:", "dns: {spf: ['a:my-club.org']}"],
    ]


def test_every_block_of_the_cluster_s_page_is_typed_or_written_into_a_file() -> None:
    page = cluster_page.PAGE
    known = set(commands(page))
    unknown = [block for block in blocks(page) if block[0] not in e2e_cluster_page.FILES and not {*block} <= known]
    assert unknown == []


@pytest.mark.parametrize("scenario", [e2e_pages, e2e_first_month, e2e_cluster_page])
def test_scenario_has_every_command_of_its_pages(scenario: Any) -> None:
    page_commands = {command for page, names in scenario.SECTIONS.items() for command in commands(page, *names)}
    assert set(scenario.ELSEWHERE) - page_commands == set(), "no page has it any more"
    text = Path(str(scenario.__file__)).read_text()
    followed = getattr(scenario, "FOLLOWED", {})
    page_commands -= {command for page, names in followed.items() for command in commands(page, *names)}
    assert [command for command in page_commands - set(scenario.ELSEWHERE) if f'"{command}"' not in text] == []
