"""The folder map in docs/architecture.md is drawn from the imports, which have no cycle."""

from functools import cache
from pathlib import Path

from tools.generate.generate import ROOT
from tools.generate.import_map import cycles, import_map, imports


@cache
def _arrows() -> set[tuple[str, str]]:
    return set(imports(ROOT))


def _components() -> set[tuple[str, str]]:
    return {(start, end) for start, end in _arrows() if start.startswith("components")}


def test_the_folders_of_components_have_no_cycle_and_import_only_each_other() -> None:
    arrows = _components()
    assert cycles(arrows) == []
    assert {end for _, end in arrows if not end.startswith("components")} == set()


def test_no_two_folders_import_each_other() -> None:
    assert cycles(_arrows()) == []


def test_the_map_has_every_folder_with_modules() -> None:
    boxes = {box for arrow in _arrows() for box in arrow}
    assert {"__main__.py", "components/pds.py", "components/render/jobs", "components/settings", "policy"} <= boxes
    assert {"offline", "tools/generate", "cli/commands"} <= boxes


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_finds_a_cycle_and_draws_it_as_one_box(tmp_path: Path) -> None:
    files = {
        "components/host/a.py": "from components.edge import b\n",
        "components/edge/b.py": "def late():\n    import components.server.c\n",
        "components/server/c.py": "from components.host.a import x\nfrom components.settings.d import y\n",
        "components/settings/d.py": "import os\n",
    }
    _write(tmp_path, files)
    assert cycles(set(imports(tmp_path))) == [["components/edge", "components/host", "components/server"]]
    assert "edge + components/host + components/server" in import_map(tmp_path)


def test_an_import_of_a_package_counts_as_its_folder(tmp_path: Path) -> None:
    files = {
        "policy/__init__.py": "",
        "policy/rules.py": "",
        "tools/x.py": "import policy\nfrom policy import rules\nfrom policy.rules import one\n",
        "components/pds.py": "import json\nfrom components.settings.text import Text\n",
        "components/settings/text.py": "class Text: ...\n",
    }
    _write(tmp_path, files)
    assert imports(tmp_path) == {
        ("tools", "policy"): [
            "tools.x imports policy",
            "tools.x imports policy.rules",
            "tools.x imports policy.rules",
        ],
        ("components/pds.py", "components/settings"): ["components.pds imports components.settings.text"],
    }


def test_omits_arrows_that_follow_from_others(tmp_path: Path) -> None:
    files = {
        "cli/commands/a.py": "import offline.b\nimport components.settings.c\n",
        "offline/b.py": "import components.settings.c\n",
        "components/settings/c.py": "",
    }
    _write(tmp_path, files)
    lines = [line.strip() for line in import_map(tmp_path).splitlines() if "-->" in line]
    assert lines == ["cli_commands --> offline", "offline --> components_settings"]
