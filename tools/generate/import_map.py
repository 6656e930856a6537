"""The map in `docs/architecture.md`: a Mermaid diagram of the folders, drawn from the imports of their modules.

Boxes are folders with modules, and the modules that lie directly in a top folder (`components/pds.py`). An arrow leads
from the importing box to the imported one; arrows that follow from others are left out. Folders that import each other
share a box, so that the diagram has no back arrow; `cycles` reports them.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.generate.graph import depth, transitive_reduction

TOPS = ("components", "cli", "offline", "policy", "tools")
"""The folders of the map, besides `__main__.py`. Tests are left out: they import everything."""

Imports = Mapping[tuple[str, str], list[str]]
"""Importing and imported box, and for each pair the imports as `MODULE imports MODULE`."""


def _modules(root: Path) -> dict[str, Path]:
    """Return each module's dotted name with its path below `root`. A package's name is that of its `__init__`."""
    paths = [root / "__main__.py", *(path for top in TOPS for path in sorted((root / top).rglob("*.py")))]
    inside = [path.relative_to(root) for path in paths if path.is_file()]
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in inside}


def _box(path: Path) -> str:
    """Return the folder of a module; a module directly in `components` or `cli` is a box of its own."""
    alone = len(path.parts) == 1 or (len(path.parts) == 2 and path.parts[0] in ("components", "cli"))
    return str(path if alone and path.name != "__init__.py" else path.parent)


def _imported(tree: ast.AST, modules: Mapping[str, Path]) -> Iterator[str]:
    """Return the modules of the repository that a module imports, at its top or in a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in modules or node.module in modules:
                    yield name if name in modules else str(node.module)


def imports(root: Path) -> Imports:
    """Return the imports between different boxes of the repository at `root`."""
    modules = _modules(root)
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, path in modules.items():
        for other in _imported(ast.parse((root / path).read_text(), str(path)), modules):
            ends = (_box(path), _box(modules[other]))
            if ends[0] != ends[1]:
                found[ends].append(f"{name} imports {other}")
    return found


def _reached(start: str, arrows: set[tuple[str, str]]) -> set[str]:
    found: set[str] = set()
    todo = [end for begin, end in arrows if begin == start]
    while todo:
        box = todo.pop()
        if box not in found:
            found.add(box)
            todo += [end for begin, end in arrows if begin == box]
    return found


def cycles(arrows: set[tuple[str, str]]) -> list[list[str]]:
    """Return the groups of boxes that import each other, directly or by way of others."""
    boxes = sorted({box for arrow in arrows for box in arrow})
    reached = {box: _reached(box, arrows) for box in boxes}
    groups = {tuple(other for other in boxes if other in reached[box] and box in reached[other]) for box in boxes}
    return [list(group) for group in sorted(groups) if len(group) > 1]


def import_map(root: Path) -> str:
    """Return the diagram of the repository at `root` as Mermaid text, with its fence."""
    arrows = set(imports(root))
    shared = {box: " + ".join(group) for group in cycles(arrows) for box in group}
    joined = {(shared.get(start, start), shared.get(end, end)) for start, end in arrows}
    joined = {(start, end) for start, end in joined if start != end}
    lines = ["```mermaid", "flowchart TD"]
    order = sorted({box for arrow in joined for box in arrow}, key=lambda box: (depth(box, joined), box))
    for top in dict.fromkeys(box.partition("/")[0] for box in order):
        boxes = [box for box in order if box.partition("/")[0] == top]
        # One subgraph a top folder, in which the boxes' names are relative. A box alone needs no frame.
        inside = [f'{_id(box)}["{box.removeprefix(f"{top}/") if len(boxes) > 1 else box}"]' for box in boxes]
        framed = [f'  subgraph in_{top}["{top}/"]', *(f"    {line}" for line in inside), "  end"]
        lines += framed if len(inside) > 1 else [f"  {inside[0]}"]
    needed = transitive_reduction(joined)
    for start in (box for box in order if any(box == begin for begin, _ in needed)):
        lines.append(f"  {_id(start)} --> {' & '.join(_id(end) for end in order if (start, end) in needed)}")
    return "\n".join([*lines, "```"])


def _id(box: str) -> str:
    """Return a name that Mermaid accepts."""
    return "".join(letter if letter.isalnum() else "_" for letter in box)
