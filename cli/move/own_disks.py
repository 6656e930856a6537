"""Refuses a stack whose backups are on a disk of the droplet that it leaves: the disk stays there, and may be the only
place with backups."""

from collections.abc import Sequence

from cli.errors import CommandError
from cli.lib.stack import Stack
from offline.stackfile import read_settings


class BackupsStayError(CommandError):
    """A stack's backups would stay behind; the text says what to do."""


def require_backups_in_buckets(stacks: Sequence[Stack]) -> None:
    """Require each stack's backups, if it has any, to be in a bucket. Raises BackupsStayError and StackFileError."""
    for stack in stacks:
        backup = read_settings(stack.name, stack.root).backup
        if backup and backup.volume:
            raise BackupsStayError(
                f"pds:backup.volume: the backups of {stack.name} are on disk {backup.volume} of the droplet, which "
                f"does not come along. Write a bucket instead of 'volume' into Pulumi.{stack.name}.yaml "
                f"(docs/guide/backups.md), run `pulumi up --stack {stack.name}` and `./pds backup {stack.name}`, then "
                "repeat the command. Nothing was changed."
            )
