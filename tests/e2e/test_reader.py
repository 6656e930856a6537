"""Which text of a page is a command, and that scenario and pages have the same commands."""

from pathlib import Path

import pytest

from tests.e2e.environment import reader
from tests.e2e.environment.reader import Reader, commands
from tests.e2e.environment.tools import E2eError
from tests.e2e.scenarios import e2e_pages

PAGE = """# A page

```mermaid
pulumi up --not-one
```

    export TOKEN=…              # a secret
    pulumi up && ./pds check x  # both

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


def test_scenario_has_every_command_of_the_pages() -> None:
    page_commands = {command for page, names in e2e_pages.SECTIONS.items() for command in commands(page, *names)}
    assert set(e2e_pages.ELSEWHERE) - page_commands == set(), "no page has it any more"
    scenario = Path(str(e2e_pages.__file__)).read_text()
    assert [command for command in page_commands - set(e2e_pages.ELSEWHERE) if f'"{command}"' not in scenario] == []
