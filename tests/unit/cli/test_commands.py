"""`./pds` itself: how a command is added, its help, usage errors, and what `--help` imports."""

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import click
import pytest

from cli import app, commands, registry
from cli.errors import CommandError, FailedError
from offline import ROOT
from tests.support.fake_pulumi import FakePulumi
from tools.generate.commands import command_pages, command_table

NAMES = sorted(app.group().commands)

NEW = '''
import click

from cli.registry import Topic, command


@command("greet", Topic.ACCOUNTS, exit_codes="0 greeted.")
@click.option("--name", metavar="NAME", default="club", help="Whom to greet.")
def greet(name: str) -> int:
    """Greet someone.

    A second paragraph.
    """
    print(f"Hello, {name}.")
    return 7
'''


@pytest.fixture
def greet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A new command: one more file in `cli/commands/`."""
    (tmp_path / "greet.py").write_text(NEW)
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    yield
    registry.COMMANDS.pop("greet", None)
    registry.TOPICS.pop("greet", None)
    sys.modules.pop("cli.commands.greet", None)


@pytest.mark.usefixtures("greet")
def test_adding_a_command_takes_one_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["greet", "--name", "ann"]) == 7
    assert app.main(["--help"]) == 0
    printed = capsys.readouterr()
    assert "Hello, ann." in printed.out
    assert "Greet someone." in printed.out
    [accounts] = [row for row in command_table().splitlines() if "[`greet`]" in row]
    assert accounts.startswith("| accounts | [`email-token`]")
    assert (
        "    ./pds greet [--name NAME]\n\n- `--name NAME`: Whom to greet.\n\nA second paragraph.\n\nExit code: 0"
        in (command_pages())
    )


@pytest.mark.parametrize("name", ["orphans", "repair", "check"])
def test_refuses_a_stack_without_a_file_before_it_needs_a_token_or_an_engine(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("DIGITALOCEAN_TOKEN", raising=False)
    assert app.main([name, "nowhere"]) == 2
    assert "Pulumi.nowhere.yaml does not exist. Stacks with a file here: dev." in capsys.readouterr().err


@pytest.mark.parametrize("command", [["members"], ["password", "ann.noted.at"], ["email-token", "ann.noted.at"]])
@pytest.mark.parametrize(
    ("outputs", "error"),
    [
        ({}, "Stack dev has no url yet. Run `pulumi up --stack dev` first."),
        (
            {"error": "no stack named 'dev' found"},
            "Stack dev does not exist in this backend. Run `pulumi stack init dev`",
        ),
    ],
)
def test_before_the_first_up_the_next_step_is_named(
    command: list[str],
    outputs: dict[str, str],
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    FakePulumi(tmp_path, monkeypatch).outputs(**outputs)
    assert app.main([command[0], "dev", *command[1:]]) == 2
    assert error in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_command_below_its_topic(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(arguments) == 0
    printed = capsys.readouterr().out
    listed = re.findall(r"^(?:(\S[^:\n]+):|  ([a-z-]+) .*)$", printed, re.MULTILINE)
    found: dict[str, list[str]] = {}
    for heading, name in listed:
        if heading:
            names = found.setdefault(heading.lower(), [])
        elif not name.startswith("-"):
            names.append(name)
    expected = {topic: sorted(name for name, of in registry.TOPICS.items() if of == topic) for topic in registry.Topic}
    assert {topic: found[topic] for topic in registry.Topic} == expected


@pytest.mark.parametrize("name", NAMES)
def test_every_command_and_option_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"./pds {name}" in printed
    command = app.group().commands[name]
    assert (command.short_help or "").endswith("."), "the first paragraph of its docstring is one sentence"
    assert len((command.short_help or "").splitlines()) == 1
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert (parameter.help or "").endswith("."), f"{parameter.opts[0]} 's help ends with a full stop"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["check"],
        ["check", "dev", "surplus"],
        ["check", "dev", "--surplus"],
        ["check", "dev", "--", "true"],
        ["allow-ip", "dev", "--address", "::1"],
        ["allow-ip", "dev", "--close", "--", "true"],
        ["restore", "dev", "--without", "ann.noted.at"],
    ],
    ids=" ".join,
)
def test_a_usage_error_prints_one_line_and_exits_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert printed.err.rstrip().endswith("--help`.")


@pytest.mark.parametrize(("error", "code"), [(CommandError("Why."), 2), (FailedError("Why."), 1)])
def test_a_command_error_prints_its_text_and_sets_the_exit_code(
    error: CommandError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr("cli.people.members.server_of", fail)
    assert app.main(["password", "dev", "ann.noted.at"]) == code
    assert capsys.readouterr() == ("", "Why.\n")


def test_an_unexpected_exception_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("cli.people.members.server_of", fail)
    with pytest.raises(ZeroDivisionError):
        app.main(["password", "dev", "ann.noted.at"])


def test_an_interrupted_command_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.people.members.server_of", interrupt)
    assert app.main(["password", "dev", "ann.noted.at"]) == 130


HEAVY = ("pulumi", "httpx", "pydantic", "rich", "yaml", "grpc")


def test_help_imports_no_heavy_module() -> None:
    calls = [["--help"], *([name, "--help"] for name in NAMES)]
    script = (
        f"import sys; from cli.app import main; codes = {{main(call) for call in {calls!r}}}; "
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]; print(codes, loaded, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.stderr == "{0} []\n", "these modules would slow down help and completion"


def test_shell_completion_offers_commands_options_and_stacks() -> None:
    def completed(words: str, number: int) -> list[str]:
        environment = {"_PDS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)}
        done = subprocess.run(
            [sys.executable, "-m", "cli.app"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
        )
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert completed("./pds ver", 1) == ["verify-snapshot"]
    assert completed("./pds check --re", 2) == ["--relay"]
    assert completed("./pds check ", 2) == ["dev"]


LAYERS = ("components", "offline", "policy", "cli", "tools", "tests")
"""From bottom to top."""


def _imported(path: Path, layers: Collection[str]) -> set[str]:
    """The packages that a module imports, if one of `layers` is among them."""
    text = path.read_text()
    if not re.search(rf"\b(?:from|import)\b.*\b(?:{'|'.join(layers)})\b", text):
        return set()  # without the time of a parser
    nodes = list(ast.walk(ast.parse(text)))
    names = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {
        name.partition(".")[0] for name in names | {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    }


@pytest.mark.parametrize("layer", LAYERS[:-1])
def test_a_package_imports_only_lower_layers(layer: str) -> None:
    higher = set(LAYERS[LAYERS.index(layer) + 1 :])
    imported = {str(path): _imported(path, higher) & higher for path in (ROOT / layer).rglob("*.py")}
    assert {path: names for path, names in imported.items() if names} == {}


def test_each_folder_of_the_cli_has_at_most_12_modules() -> None:
    for folder in {path.parent for path in (ROOT / "cli").rglob("*.py")} - {ROOT / "cli/commands"}:
        modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= 12, f"{folder.name}: {modules}"


def test_refuses_to_register_a_name_twice() -> None:
    app.group()
    with pytest.raises(ValueError, match="registered twice"):
        registry.command("check", registry.Topic.DATA)(lambda: None)
