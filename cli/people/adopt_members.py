"""`./pds members --adopt`: writes accounts that are missing in the stack file into it as members.

An account that signed up with an invite has a handle that the stack file does not know. As a member it gets its DNS
record with the next `up`. `edit_stackfile` edits the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cli.lib.edit_stackfile import Entry, StackFileEdit, add_items
from components.clients import pds_admin
from components.people.members import is_temporary
from components.settings.checks.handles import is_reserved
from components.settings.sections import MemberOptions
from components.settings.sections.settings import Settings
from offline import ROOT
from offline.stackfile import parse_settings, read_text

_KEYS = ("pds:members", "members")


@dataclass(frozen=True)
class Adoption(StackFileEdit):
    """The stack file before and after, the added accounts, and why an account is not among the new members."""

    added: tuple[str, ...]
    skipped: tuple[str, ...]


def adopt(
    stack: str, accounts: Sequence[pds_admin.Account], members: Mapping[str, Mapping[str, Any]], root: Path = ROOT
) -> Adoption:
    """Return what to write for the accounts `there`; `members` is the stack's output, which identifies members by DID
    whatever their present handle is. Raises StackFileError; writes nothing."""
    path, before = root / f"Pulumi.{stack}.yaml", read_text(stack, root)
    settings = parse_settings(stack, before)
    known = {member["did"] for member in members.values()}
    named = {handle for member in settings.members for handle in (member.handle, member.was)}
    # An account whose `up` was interrupted, or that waits for a record of its own domain.
    named |= {
        account.handle
        for account in accounts
        if any(is_temporary(account.handle, item.handle) for item in settings.members)
    }
    added: list[Entry] = []
    skipped = []
    for account in sorted(accounts, key=lambda account: account.handle):
        if account.did in known or account.handle in named:
            continue
        entry = _entry(account, settings)
        reason = _why_not(account, entry, settings)
        if reason:
            skipped.append(f"{account.handle} ({account.did}): {reason}")
        else:
            added.append(entry)
    after = add_items(path.name, before, _KEYS, added) if added else before
    if added:
        parse_settings(stack, after)
    return Adoption(path, before, after, tuple(str(entry["handle"]) for entry in added), tuple(skipped))


def _entry(account: pds_admin.Account, settings: Settings) -> dict[str, str | bool]:
    entry: dict[str, str | bool] = {"handle": account.handle, "email": account.email}
    return {**entry, "reserved": True} if is_reserved(account.handle, settings.handle_domains) else entry


def _why_not(account: pds_admin.Account, entry: Entry, settings: Settings) -> str | None:
    if account.handle in settings.delete or account.did in settings.delete.values():
        return "'delete' names it."
    if {account.handle, account.did} & set(settings.takedown):
        return "'takedown' names it."
    if account.email.lower() in {member.email.lower() for member in settings.members}:
        return "a member has its e-mail address. If it is the same person, write 'was:' or this handle in its entry."
    try:
        MemberOptions.model_validate(entry)
    except ValidationError as error:
        options = ", ".join(sorted({str(fault["loc"][0]) for fault in error.errors()}))
        return f"its {options} is not valid in the stack file. Write the member by hand, or leave the account out."
    return None
