"""The picture of `./pds list` in the guide: the command's own output for three made-up stacks, as SVG."""

import io
import re

from rich.console import Console
from rich.terminal_theme import MONOKAI

from cli.stacks import prices
from cli.stacks.inspect_stack import GIB, MIB, StackStatus, Usage
from cli.stacks.list_stacks import FreeCapacity, StackList, StackRow
from components.settings.ingress_state import IngressState

_COLUMNS = 132
_FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
font-family: Menlo, Consolas, monospace; font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font-family: arial; font-size: 18px; font-weight: bold; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""Rich's own format without the fonts that it loads from a server."""


def list_picture() -> str:
    """The picture, as SVG."""
    console = Console(
        record=True, file=io.StringIO(), width=_COLUMNS, force_terminal=True, color_system="truecolor", emoji=False
    )
    console.print("$ ./pds list", markup=False, highlight=False)
    _example().print_to(console)
    text = console.export_svg(title="./pds list", theme=MONOKAI, code_format=_FORMAT, unique_id="list")
    # No space at the end of a line: editors and Git's check remove it.
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


def _example() -> StackList:
    listed = prices.listed()
    share = (listed.droplets["s-4vcpu-8gb"] + listed.gib * 25) / 3
    statuses = {
        "main": _open(41, 11.2, 25, 412, drill="2026-03-08T04:00:00Z"),
        "chess": _open(23, 3.4, 5, 305, drill="2026-03-08T05:00:00Z"),
        "rooks": _open(7, 0.6, 5, 241, drill="none yet"),
    }
    rows = tuple(
        StackRow(stack=stack, hostname=f"pds.{stack}.example", host="main", status=status, usd_per_month=share)
        for stack, status in statuses.items()
    )
    capacities = (FreeCapacity(host="main", memory_mib=4628, disk_gib=10),)
    return StackList(rows=rows, capacities=capacities, prices=listed, notes=())


def _open(accounts: int, gib: float, of_gib: int, mib: int, *, drill: str) -> StackStatus:
    return StackStatus(
        state=IngressState.OPEN,
        version="0.5.37",
        accounts=accounts,
        disk=Usage(int(gib * GIB), of_gib * GIB),
        memory=Usage(mib * MIB, 512 * MIB),
        backup="2026-03-11T14:15:00Z",
        drill=drill,
    )
