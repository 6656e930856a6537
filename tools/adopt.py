"""`./pds members STACK --adopt`: writes accounts that are missing in the stack file into it as members.

An account that signed up with an invite has a handle that the stack file does not know. As a member it gets its DNS
record with the next `up`. `edit.py` edits the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components import accounts
from components.members import is_temporary
from components.settings.handles import is_reserved
from components.settings.sections import Member
from components.settings.settings import Settings
from tools.edit import Edit, Entry, with_items
from tools.engine import ROOT
from tools.stackfile import parse_settings, read_text

_KEYS = ("pds:members", "members")


@dataclass(frozen=True)
class Adoption(Edit):
    """The stack file before and after, the added accounts, and why an account is not among the new members."""

    added: tuple[str, ...]
    left: tuple[str, ...]


def adopt(
    stack: str, there: Sequence[accounts.Account], members: Mapping[str, Mapping[str, Any]], root: Path = ROOT
) -> Adoption:
    """Return what to write for the accounts `there`; `members` is the stack's output, which identifies members by DID
    whatever their present handle is. Raises StackFileError; writes nothing."""
    path, before = root / f"Pulumi.{stack}.yaml", read_text(stack, root)
    settings = parse_settings(stack, before)
    known = {member["did"] for member in members.values()}
    named = {handle for member in settings.members for handle in (member.handle, member.was)}
    # An account whose `up` was interrupted, or that waits for a record of its own domain.
    named |= {one.handle for one in there if any(is_temporary(one.handle, item.handle) for item in settings.members)}
    new: list[Entry] = []
    left = []
    for one in sorted(there, key=lambda one: one.handle):
        if one.did in known or one.handle in named:
            continue
        entry = _entry(one, settings)
        why = _why_not(one, entry, settings)
        if why:
            left.append(f"{one.handle} ({one.did}): {why}")
        else:
            new.append(entry)
    after = with_items(path.name, before, _KEYS, new) if new else before
    if new:
        parse_settings(stack, after)
    return Adoption(path, before, after, tuple(str(entry["handle"]) for entry in new), tuple(left))


def _entry(account: accounts.Account, settings: Settings) -> dict[str, str | bool]:
    entry: dict[str, str | bool] = {"handle": account.handle, "email": account.email}
    return {**entry, "reserved": True} if is_reserved(account.handle, settings.handle_domains) else entry


def _why_not(account: accounts.Account, entry: Entry, settings: Settings) -> str | None:
    if account.handle in settings.delete or account.did in settings.delete.values():
        return "'delete' names it."
    if {account.handle, account.did} & set(settings.takedown):
        return "'takedown' names it."
    if account.email.lower() in {member.email.lower() for member in settings.members}:
        return "a member has its e-mail address. If it is the same person, write 'was:' or this handle beside it."
    try:
        Member.model_validate(entry)
    except ValidationError as error:
        options = ", ".join(sorted({str(fault["loc"][0]) for fault in error.errors()}))
        return f"its {options} is not valid in the stack file. Write the member by hand, or leave the account out."
    return None
