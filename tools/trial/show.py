"""The output of a session on a terminal.

Owns: the printed tables and lines, and that no secret value is ever among them. Does not own: the actions. Texts from
outside are printed as they are, never as the display library's markup ("did:key:" would become a picture).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tools.trial.owner import Step
from tools.trial.pds import Difference


def environment(console: Console, env: Mapping[str, str], changes: list[Difference], secrets: frozenset[str]) -> None:
    """Print how much of the environment is the program's own, and a table of the rest."""
    kept = env.keys() - {change.name for change in changes}
    hidden = len(kept & secrets)
    console.print(Text(f"\n{len(kept)} variables are as the program renders them ({hidden} secret). These differ:\n"))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("variable", no_wrap=True)
    for heading in ("program", "here", "because"):
        table.add_column(heading, overflow="fold")
    for change in changes:
        secret = change.name in secrets
        table.add_row(change.name, _value(change.program, secret), _value(change.local, secret), Text(change.why))
    console.print(table)
    console.print()


def _value(value: str | None, secret: bool) -> Text:
    if value is None:
        return Text("unset", style="dim")
    # A path below the working folder is shown as it would be typed.
    return Text("secret", style="dim") if secret else Text(value.removeprefix(f"{Path.cwd()}/"))


def step(console: Console, done: Step) -> None:
    """Print one line for a finished step."""
    mark = Text("ok    ", style="green") if done.ok else Text("failed", style="red")
    console.print(mark + Text(f" {done.name}: ") + Text(done.detail, style="dim"), soft_wrap=True)


def closing(console: Console, steps: Iterable[Step]) -> None:
    """Print the closing table: each step, whether it succeeded, how long it took, what was seen."""
    table = Table(title="What an owner does first", title_justify="left")
    table.add_column("step", no_wrap=True)
    table.add_column("")
    table.add_column("seconds", justify="right")
    table.add_column("seen", overflow="fold")
    for done in steps:
        mark = Text("ok", style="green") if done.ok else Text("failed", style="red")
        table.add_row(Text(done.name), mark, f"{done.seconds:.1f}", Text(done.detail))
    console.print()
    console.print(table)
