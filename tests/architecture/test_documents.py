"""The documents: every link resolves, every command exists, and their figures are correct."""

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from cli.app import group
from components.settings.sections import HostOptions, VolumeOptions
from offline.mock_engine import ROOT, Evaluation
from tests.support.programs import ALERTS, BACKUP, CLUBS, cluster, run, shared

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@cache
def _prose(page: Path) -> str:
    """The page without its fenced and indented blocks, which have no links or headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^    .*$", "", text, flags=re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of the headings: lower case, no punctuation, a hyphen for each space."""
    slugs: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
        number = sum(1 for other in slugs if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other))
        slugs.add(f"{slug}-{number}" if slug in slugs else slug)
    return slugs


def broken(page: Path, text: str) -> list[str]:
    """The relative links of a page that do not resolve, and why."""
    findings = []
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        if not linked.exists():
            findings.append(f"{target}: there is no such file")
        elif anchor and anchor not in anchors(_prose(linked)):
            findings.append(f"{target}: {linked.name} has no such heading")
    return findings


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_and_anchor_resolves(name: str) -> None:
    assert broken(ROOT / name, _prose(ROOT / name)) == []


def test_finds_a_broken_link_and_a_broken_anchor() -> None:
    text = "[a](docs/none.md) [b](docs/outputs.md#none) [c](#none) [d](https://x.test/a) [e](docs/outputs.md#outputs)"
    assert broken(ROOT / "README.md", text) == [
        "docs/none.md: there is no such file",
        "docs/outputs.md#none: outputs.md has no such heading",
        "#none: README.md has no such heading",
    ]


SOURCES = {".py", ".cjs", ".sh", ".yaml", ".yml", ".json", ".txt", ".toml", ".hcl", ""}
"""Endings of files whose comments and messages name pages; `""` is `pds`, `Makefile` and the like."""


def _sources() -> Iterator[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    )
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix in SOURCES and path != Path(__file__):
            yield path


def named_in_source(text: str) -> set[tuple[str, str]]:
    """The pages that a source file names, with the anchors: `docs/guide/ci.md#drift`, `docs/decisions/0013`."""
    pages = re.findall(r"\bdocs/([\w./-]+?\.md)(?:#([\w-]*\w)(?![\w-]*\{))?", text)
    return {(f"docs/{page}", anchor) for page, anchor in pages} | {
        (f"docs/decisions/{number}", "") for number in re.findall(r"\bdocs/decisions/(\d{4})\b(?!-)", text)
    }


def missing_pages(text: str) -> list[str]:
    """Pages and anchors that a source file names and that do not exist."""
    findings = []
    for name, anchor in sorted(named_in_source(text)):
        pages = sorted(ROOT.glob(f"{name}*.md")) if not name.endswith(".md") else [ROOT / name]
        if not pages or not pages[0].is_file():
            findings.append(f"{name}: there is no such page")
        elif anchor and anchor not in anchors(_prose(pages[0])):
            findings.append(f"{name}#{anchor}: there is no such heading")
    return findings


def test_every_page_that_source_and_error_texts_name_exists() -> None:
    texts = {path: text for path in _sources() if "docs/" in (text := path.read_text())}
    assert len({name for text in texts.values() for name, _ in named_in_source(text)}) > 20
    named = {path: missing_pages(text) for path, text in texts.items()}
    assert {str(path.relative_to(ROOT)): faults for path, faults in named.items() if faults} == {}


def test_finds_a_missing_page_in_an_error_text() -> None:
    text = "docs/none.md, docs/outputs.md#outputs, docs/outputs.md#none, docs/decisions/9999, docs/decisions/0013."
    assert missing_pages(text) == [
        "docs/decisions/9999: there is no such page",
        "docs/none.md: there is no such page",
        "docs/outputs.md#none: there is no such heading",
    ]


def test_derives_anchors_as_github_does() -> None:
    text = "# An `up` that was interrupted\n## Members\n## Members\n# S3: `tests/s3.py`, x\n# [A](b.md)'s\n"
    assert anchors(text) == {"an-up-that-was-interrupted", "members", "members-1", "s3-testss3py-x", "as"}


@pytest.mark.parametrize("name", NAMES)
def test_every_command_that_a_page_names_exists(name: str) -> None:
    targets = set(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split())
    text = "\n".join(re.findall(r"^    .*$|`[^`\n]+`", (ROOT / name).read_text(), re.MULTILINE))
    commands = set(re.findall(r"(?<![\w/])\./pds ([a-z][a-z-]*)", text))
    assert commands - set(group().commands) == set(), "`./pds` has no such command"
    named_targets = set(re.findall(r"(?:^    |`)make (?:[A-Z0-9]+=\S+ )*([a-z0-9]+)", text))
    assert named_targets - targets == set(), "make has no such target"


def test_the_readme_is_short_and_has_both_commands_of_a_contributor() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130, "details belong to a page of docs/"
    assert {"make try", "make test"} <= {line.partition("  #")[0].strip() for line in text.splitlines()}


def test_every_page_is_linked_from_the_readme_or_its_pages() -> None:
    reached, todo = set[Path](), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or not page.exists() or page.suffix != ".md":
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s:]+)", _prose(page))
        todo += [(page.parent / link).resolve() for link in links]
    decisions = ROOT / "docs/decisions"
    assert [str(page) for page in PAGES if page not in reached and decisions not in page.parents] == []


def test_documented_prices_are_those_of_the_default_droplet_and_volume() -> None:
    prices = json.loads((ROOT / "cli/stacks/prices.json").read_text())
    droplet = prices["droplets"]["usd_per_month"][HostOptions().size]
    volume = VolumeOptions().size_gib * prices["volumes"]["usd_per_gib_and_month"]
    assert f"{droplet + volume:.2f} USD a month" in (ROOT / "README.md").read_text()
    figures = (ROOT / "docs/figures.md").read_text()
    assert f"| droplet `{HostOptions().size}` | {droplet:.2f} |" in figures
    assert f"| volume of {VolumeOptions().size_gib} GiB | {volume:.2f} |" in figures
    assert f"| together | {droplet + volume:.2f} |" in figures
    assert prices["droplets"]["date"] in figures


DECISIONS = sorted((ROOT / "docs/decisions").glob("*.md"))


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_the_usual_form(page: Path) -> None:
    title, *rest = page.read_text().splitlines()
    assert title.startswith(f"# {int(page.name[:4])}. "), "the number is the file's"
    assert len(title) <= 70, "the title names the subject"
    assert [line for line in rest if line.startswith("#")] == [
        "## Context",
        "## Decision",
        "## Consequences",
        "## Verified by",
    ]


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))


def _exported() -> list[Evaluation]:
    """A cluster, a club's stack and a stack with its own host; outputs.md describes the second, so it comes last."""
    members = [{"handle": "ann.noted.at", "email": "ann@noted.at"}]
    sections = {
        **CLUBS,
        "host": {"size": "s-4vcpu-8gb"},
        "backup": BACKUP,
        "alerts": ALERTS,
        "metrics": {"store": True},
    }
    everything = run(**sections, members=members, invites={"count": 1})
    return [cluster(), shared(), everything]


def test_outputs_md_has_every_output_and_marks_the_secret_ones() -> None:
    rows = [line.split("|") for line in (ROOT / "docs/outputs.md").read_text().splitlines() if line.startswith("| `")]
    page = {name: row[2].strip().startswith("secret") for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    exported: dict[str, bool] = {}
    for evaluation in _exported():
        exported |= {key: key in evaluation.secret_outputs for key in evaluation.outputs}
    assert page == exported
