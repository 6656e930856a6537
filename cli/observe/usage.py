"""`./pds usage`: records, blobs and sizes by account, and the blobs that no record names.

The server's container reads them from the accounts' databases; no API of the server has them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cli.lib.nomad_exec import TruncatedOutputError, nomad_access, nomad_api, run_in_container, running_allocation
from cli.lib.stack import Stack
from components.clients.errors import ServiceError

USAGE_SCRIPT = Path(__file__).with_name("usage.cjs")
_MOST_BLOBS = 1000
_TRIES = 5
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_COLUMNS = ("account", "records", "blobs", "database", "blob bytes", "unreferenced")


@dataclass(frozen=True, kw_only=True)
class AccountUsage:
    """An account's counts, and its sizes in bytes; None if its database could not be read, with the `error`.

    `unreferenced` counts the blobs that no record names. They are among `blobs` and `blob_bytes`. `leftover_bytes` are
    uploads that another upload of the same blob replaced, and are in neither.
    """

    did: str
    handle: str | None
    database: int
    records: int | None = None
    blobs: int | None = None
    blob_bytes: int | None = None
    unreferenced: int | None = None
    unreferenced_bytes: int | None = None
    leftover_bytes: int | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class UnreferencedBlob:
    """A blob that no record names; `created` is the time of its first upload (RFC 3339)."""

    did: str
    cid: str
    size: int
    created: str


@dataclass(frozen=True, kw_only=True)
class UsageReport:
    """All accounts, the largest first, and the largest unreferenced blobs."""

    accounts: tuple[AccountUsage, ...]
    blobs: tuple[UnreferencedBlob, ...]

    def json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self), indent=1)

    def print_to(self, console: Console, *, show_blobs: bool) -> None:
        """Print the table, and each unreferenced blob if `show_blobs`."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in _COLUMNS:
            table.add_column(name, justify="left" if name == "account" else "right", overflow="fold")
        for account in self.accounts:
            table.add_row(*_cells(account))
        table.add_row(*self._total())
        console.print(table)
        for account in self.accounts:
            if account.error:
                console.print(f"{account.did}: its database cannot be read: {account.error}", markup=False)
        if show_blobs:
            self._print_blobs(console)

    def _total(self) -> tuple[str, ...]:
        sums = {
            name: sum(getattr(account, name) or 0 for account in self.accounts)
            for name in ("records", "blobs", "database", "blob_bytes", "unreferenced")
        }
        return (
            f"{len(self.accounts)} accounts",
            str(sums["records"]),
            str(sums["blobs"]),
            shown_size(sums["database"]),
            shown_size(sums["blob_bytes"]),
            f"{sums['unreferenced']}: {shown_size(sum(map(_unreferenced_bytes, self.accounts)))}",
        )

    def _print_blobs(self, console: Console) -> None:
        count = sum(account.unreferenced or 0 for account in self.accounts)
        console.print(
            "\nBlobs that no record names, the largest first:" if self.blobs else "\nA record names every blob."
        )
        for blob in self.blobs:
            line = f"{blob.did}  {blob.cid}  {shown_size(blob.size)}  {blob.created}"
            console.print(line, markup=False, soft_wrap=True)
        if count > len(self.blobs):
            console.print(f"and {count - len(self.blobs)} smaller ones.")


def usage(stack: Stack) -> UsageReport:
    """Return the usage of the stack's PDS. Raises StackError, ServiceError."""
    return read_usage(nomad_access(stack.outputs()))


def read_usage(nomad: Mapping[str, str]) -> UsageReport:
    """Return the same; `nomad` is that of `nomad_access`. Raises ServiceError."""
    allocation = running_allocation(nomad_api(nomad))
    if allocation is None:
        raise ServiceError("The PDS does not run, and its container reads the databases. `pulumi up` starts it.")
    command = ["node", "-e", USAGE_SCRIPT.read_text(), str(_MOST_BLOBS)]
    for _ in range(_TRIES - 1):
        try:
            return report_of(run_in_container(nomad, allocation, command, "the accounts' usage"))
        except TruncatedOutputError:
            continue
    return report_of(run_in_container(nomad, allocation, command, "the accounts' usage"))


def report_of(output: Mapping[str, Sequence[Mapping[str, Any]]]) -> UsageReport:
    """Return the report from the script's output."""
    accounts = [AccountUsage(**account) for account in output["accounts"]]
    accounts.sort(key=lambda account: account.database + (account.blob_bytes or 0), reverse=True)
    return UsageReport(accounts=tuple(accounts), blobs=tuple(UnreferencedBlob(**blob) for blob in output["blobs"]))


def shown_size(count: float) -> str:
    """Return a size in the largest unit of which there is one."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:.1f}".removesuffix(".0") + f" {unit}"


def _unreferenced_bytes(account: AccountUsage) -> int:
    return (account.unreferenced_bytes or 0) + (account.leftover_bytes or 0)


def _cells(account: AccountUsage) -> tuple[str, ...]:
    name = account.handle or account.did
    if account.error:
        return name, "-", "-", shown_size(account.database), "-", "-"
    return (
        name,
        str(account.records),
        str(account.blobs),
        shown_size(account.database),
        shown_size(account.blob_bytes or 0),
        f"{account.unreferenced}: {shown_size(_unreferenced_bytes(account))}",
    )
