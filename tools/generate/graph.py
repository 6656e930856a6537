"""The README's graph of what `pulumi up` creates: a Mermaid diagram, drawn from the evaluated graph.

Boxes are the program's components with their resources; arrows are dependencies, without those that follow from others.
"""

from collections import Counter

from offline.mock_engine import Evaluation, Recorded

_NAMES = {"nomad": "Provider"}


def mermaid(evaluation: Evaluation) -> str:
    """The diagram as Mermaid text."""
    owner = _owners(evaluation)
    contents: dict[str, Counter[str]] = {}
    arrows: set[tuple[str, str]] = set()
    for item in evaluation.resources:
        mine = owner[item.urn]
        if mine is None:
            continue
        contents.setdefault(mine, Counter())
        if not item.type.startswith("pds:index:"):
            kind = item.type.rpartition(":")[2]
            contents[mine][_NAMES.get(kind, kind) + (" 🔒" if item.protected else "")] += 1
        provider = item.options.get("provider", "").rpartition("::")[0]  # "URN::ID"
        for urn in [*item.options.get("dependencies", []), provider]:
            theirs = owner.get(urn)
            if theirs and theirs != mine:
                arrows.add((theirs, mine))
    lines = ["flowchart TD"]
    # Registration is concurrent, so its order is not the same twice.
    for name, kinds in sorted(contents.items(), key=lambda box: (depth(box[0], arrows), box[0])):
        if not kinds and not any(name in arrow for arrow in arrows):
            continue  # a component without resources in this stack
        made = "<br/>".join(f"{count} {kind}" if count > 1 else kind for kind, count in sorted(kinds.items()))
        if made != name:
            lines.append(f'  {name}["<b>{name}</b><br/>{made}"]')
        elif not any(name in arrow for arrow in arrows):
            lines.append(f"  {name}")  # an arrow draws its ends by their names
    needed = transitive_reduction(arrows)
    for before in sorted({start for start, _ in needed}):
        lines.append(f"  {before} --> {' & '.join(sorted(end for start, end in needed if start == before))}")
    return "\n".join(lines)


def depth(box: str, arrows: set[tuple[str, str]]) -> int:
    """Return the length of the longest path of arrows that ends at `box`; the arrows have no cycle."""
    return max((1 + depth(before, arrows) for before, after in arrows if after == box), default=0)


def _owners(evaluation: Evaluation) -> dict[str, str | None]:
    """Map each resource to its box: its component below `Pds`, or itself if it has none; None for `Pds`."""
    by_urn = {item.urn: item for item in evaluation.resources}
    owners: dict[str, str | None] = {}
    for item in evaluation.resources:
        box: Recorded | None = item
        while box and box.parent in by_urn and by_urn[box.parent].type != "pds:index:Pds":
            box = by_urn[box.parent]
        owners[item.urn] = None if item.type == "pds:index:Pds" or box is None else box.type.rpartition(":")[2]
    return owners


def transitive_reduction(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the arrows that do not follow from the others (the transitive reduction of an acyclic graph)."""
    after: dict[str, set[str]] = {}
    for start, end in arrows:
        after.setdefault(start, set()).add(end)

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        todo = list(after.get(start, ()))
        while todo:
            node = todo.pop()
            if node not in found:
                found.add(node)
                todo += after.get(node, ())
        return found

    return {
        (start, end)
        for start, end in arrows
        if not any(end in reached(middle) for middle in after[start] if middle != end)
    }
