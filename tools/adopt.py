"""`./pds members STACK --adopt`: the accounts that the stack file does not name are written into it as members.

Who signed up with an invite chose a handle that the stack file does not know; as a member she gets its DNS record with
the next `up`. Lines are added and no other byte is changed: comments, order and encrypted values stay. What was written
is read again first, and is refused unless it is what was there and the new members.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from components import accounts
from components.settings.handles import is_reserved
from components.settings.sections import Member
from components.settings.settings import Settings
from tools.engine import ROOT
from tools.stackfile import StackFileError, parse_settings, read_text

_KEYS = ("pds:members", "members")
_PLAIN = re.compile(r"[a-z][a-z0-9@+_-]*\.[a-z0-9.@+_-]*")
"""Text that YAML takes for nothing but text: a letter first, a dot in it."""

Entry = dict[str, str | bool]


@dataclass(frozen=True)
class Adoption:
    """The stack file before and after, in text, and why an account is not among the new members."""

    path: Path
    before: str
    after: str
    added: tuple[str, ...]
    left: tuple[str, ...]

    def diff(self) -> str:
        """What is written, as a unified diff."""
        name = self.path.name
        return "".join(
            difflib.unified_diff(self.before.splitlines(True), self.after.splitlines(True), name, f"{name} (adopted)")
        )

    def write(self) -> None:
        """Put it into the file."""
        self.path.write_bytes(self.after.encode())


def adopt(
    stack: str, there: Sequence[accounts.Account], members: Mapping[str, Mapping[str, Any]], root: Path = ROOT
) -> Adoption:
    """What is to be written for the accounts `there`; `members` is the stack's output, which knows a member by her DID
    whatever her handle is now. Raises StackFileError; writes nothing."""
    path, before = root / f"Pulumi.{stack}.yaml", read_text(stack, root)
    settings = parse_settings(stack, before)
    known = {member["did"] for member in members.values()}
    named = {handle for member in settings.members for handle in (member.handle, member.was)}
    new, left = [], []
    for one in sorted(there, key=lambda one: one.handle):
        if one.did in known or one.handle in named:
            continue
        entry = _entry(one, settings)
        why = _why_not(one, entry, settings)
        if why:
            left.append(f"{one.handle} ({one.did}): {why}")
        else:
            new.append(entry)
    after = _with(path.name, before, new) if new else before
    if new:
        parse_settings(stack, after)
    return Adoption(path, before, after, tuple(str(entry["handle"]) for entry in new), tuple(left))


def _entry(account: accounts.Account, settings: Settings) -> Entry:
    entry: Entry = {"handle": account.handle, "email": account.email}
    return {**entry, "reserved": True} if is_reserved(account.handle, settings.handle_domains) else entry


def _why_not(account: accounts.Account, entry: Entry, settings: Settings) -> str | None:
    if account.handle in settings.delete or account.did in settings.delete.values():
        return "'delete' names it."
    if {account.handle, account.did} & set(settings.takedown):
        return "'takedown' names it."
    if account.email.lower() in {member.email.lower() for member in settings.members}:
        return "a member has its e-mail address. If that is her, write 'was:' or this handle beside it."
    try:
        Member.model_validate(entry)
    except ValidationError as error:
        options = ", ".join(sorted({str(fault["loc"][0]) for fault in error.errors()}))
        return f"its {options} is none that the stack file takes. Write her by hand, or leave her out."
    return None


def _with(name: str, text: str, new: list[Entry]) -> str:
    """`text` with further members. Raises StackFileError where it is written in a way that lines cannot be added to."""
    adopted = _added(text, new)
    old, now = yaml.safe_load(text), None
    try:
        now = yaml.safe_load(adopted) if adopted else None
    except yaml.YAMLError:
        now = None
    key = next((key for key in _KEYS if key in old["config"]), _KEYS[0])
    wanted = {**old, "config": {**old["config"], key: [*(old["config"].get(key) or []), *new]}}
    if adopted is None or now != wanted:
        lines = "".join(_lines(new, 4, "\n"))
        raise StackFileError(
            f"{name} writes its members in a way that no lines can be added to. Add them by hand to '{key}':\n{lines}"
        )
    return adopted


def _added(text: str, new: list[Entry]) -> str | None:
    end = "\r\n" if "\r\n" in text else "\n"
    config = _child(yaml.compose(text, Loader=yaml.SafeLoader), ("config",))
    if not isinstance(config, yaml.MappingNode) or config.flow_style:
        return None
    indent = config.start_mark.column
    members = _child(config, _KEYS)
    if members is None:
        return _insert(text, _last(config), [f"{' ' * indent}{_KEYS[0]}:{end}", *_lines(new, indent + 2, end)], end)
    if isinstance(members, yaml.SequenceNode) and not members.flow_style:
        return _insert(text, _last(members), _lines(new, members.start_mark.column, end), end)
    if members.value:
        close = members.end_mark.index - 1
        return f"{text[:close]}, {', '.join(_flow(entry) for entry in new)}{text[close:]}"
    # `[]` or nothing: taken away, and the new members stand below the key.
    start, stop = members.start_mark.index, members.end_mark.index
    if text[start:stop]:
        text = text[:start].rstrip(" ") + text[stop:]
    return _insert(text, len(text[:start].rstrip()), _lines(new, indent + 2, end), end)


def _child(node: yaml.Node | None, keys: tuple[str, ...]) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in node.value if key.value in keys), None)


def _last(node: yaml.Node) -> int:
    """The index of the last character of a node; a block's own end mark is behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        inner = node.value[-1]
        return _last(inner[1] if isinstance(inner, tuple) else inner)
    return int(node.end_mark.index)


def _insert(text: str, after: int, lines: list[str], end: str) -> str:
    """`lines` below the line that the character before `after` is in."""
    at = text.find("\n", max(after - 1, 0)) + 1
    if not at:
        return text + end + "".join(lines)
    return text[:at] + "".join(lines) + text[at:]


def _lines(new: list[Entry], indent: int, end: str) -> list[str]:
    found = []
    for entry in new:
        for number, (key, value) in enumerate(entry.items()):
            found.append(f"{' ' * indent}{'  ' if number else '- '}{key}: {_scalar(value)}{end}")
    return found


def _flow(entry: Entry) -> str:
    return "{" + ", ".join(f"{key}: {_scalar(value)}" for key, value in entry.items()) + "}"


def _scalar(value: str | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if _PLAIN.fullmatch(value) else "'" + value.replace("'", "''") + "'"
