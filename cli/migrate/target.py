"""The stack that an account moves to, what was requested, and the questions that the member answers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import click

from cli.lib.edit_stackfile import Entry, StackFileEdit, add_items
from cli.lib.stack import Stack
from cli.migrate.state import MigrationError
from components.clients import pds_admin
from components.settings.checks.handles import is_reserved, service_domain
from components.settings.checks.pds_env import read_env_file
from components.settings.sections.settings import Settings
from offline import ROOT
from offline.stackfile import parse_settings, read_settings, read_text

_KEYS = ("pds:members", "members")


class Questions(Protocol):
    """The member's answers. No answer is written down."""

    def secret(self, text: str) -> str:
        """Return a password or token."""
        ...

    def new_secret(self, text: str) -> str:
        """Return a new password, typed twice."""
        ...

    def agree(self, text: str) -> bool:
        """Return whether the member agrees."""
        ...


class Terminal:
    """The questions on the terminal."""

    def secret(self, text: str) -> str:
        """Return what is typed, unseen."""
        return str(click.prompt(text, hide_input=True, default="", show_default=False)).strip()

    def new_secret(self, text: str) -> str:
        """Return what is typed twice, unseen."""
        return str(click.prompt(text, hide_input=True, confirmation_prompt="Repeat the password"))

    def agree(self, text: str) -> bool:
        """Return whether the answer is yes."""
        return click.confirm(text, default=False)


@dataclass(frozen=True, kw_only=True)
class MigrationRequest:
    """An account `handle` at the server `source`. `new_handle` and `email` replace those of today if they are set."""

    handle: str
    source: str
    new_handle: str = ""
    email: str = ""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A stack and its PDS. `plc_url` is the server's directory of identities, `bypass` its key past rate limits."""

    stack: str
    settings: Settings
    admin: pds_admin.Server
    plc_url: str
    bypass: str = ""
    root: Path = field(default=ROOT)

    @classmethod
    def of(cls, stack: Stack) -> "Target":
        """Return the target from the stack's file and outputs. Raises StackError, StackFileError."""
        settings = read_settings(stack.name, stack.root)
        outputs = stack.required_outputs("url", "ipv4", "admin_password", "pds_env")
        environment = read_env_file(str(outputs["pds_env"]))
        return cls(
            stack=stack.name,
            settings=settings,
            admin=pds_admin.Server(outputs["url"], outputs["ipv4"], outputs["admin_password"]),
            plc_url=environment.get("PDS_DID_PLC_URL") or settings.pds.plc_url,
            bypass=environment.get("PDS_RATE_LIMIT_BYPASS_KEY", ""),
            root=stack.root,
        )

    @property
    def public_url(self) -> str:
        """The server's URL as identities name it (`publicUrl` in @atproto/pds, `config.js`)."""
        return f"https://{self.settings.hostname}"

    def member_edit(self, handle: str, email: str) -> StackFileEdit | None:
        """Return the stack file with the member, None if it names them. Raises StackFileError, also if the file would
        not be valid with them."""
        before = read_text(self.stack, self.root)
        settings = parse_settings(self.stack, before)
        if any(handle in (member.handle, member.was) for member in settings.members):
            return None
        entry: Entry = {"handle": handle, "email": email}
        path = self.root / f"Pulumi.{self.stack}.yaml"
        after = add_items(path.name, before, _KEYS, [entry])
        parse_settings(self.stack, after)
        return StackFileEdit(path, before, after)


def choose_handle(request: MigrationRequest, present: str, old_domains: tuple[str, ...], settings: Settings) -> str:
    """Return the handle of the new account. Raises MigrationError.

    A handle under the old server's domain is issued by that server and stays with it: a deactivated account's handle
    does not resolve any more (`identity/resolveHandle.js`). A handle of the member's own domain moves with them.
    """
    domains = settings.handle_domains
    issued_by = service_domain(present, old_domains)
    if request.new_handle:
        handle = request.new_handle.lower().removeprefix("@")
    elif issued_by:
        handle = present.removesuffix(issued_by).replace(".", "-") + domains[0]
    else:
        handle = present
    if service_domain(handle, old_domains) and not service_domain(handle, domains):
        raise MigrationError(f"{handle} would stay with the old server. Choose another one with --new-handle.")
    if is_reserved(handle, domains):
        raise MigrationError(
            f"The server reserves {handle}. Choose another one with --new-handle. To use it after the move, write "
            f"`handle: {handle}`, `was: OTHER` and `reserved: true` for the member in the stack file."
        )
    return handle
