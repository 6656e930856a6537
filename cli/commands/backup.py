"""`./pds backup`."""

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument


@command("backup", Topic.DATA, exit_codes="0 the backup succeeded, 1 it failed, 2 it could not start.")
@stack_argument()
@click.option("--new-repository", is_flag=True, help="Begin new backups if the bucket or disk no longer has "
              "the earlier ones, which otherwise fails each backup.")  # fmt: skip
def backup(stack: str, new_repository: bool) -> int:
    """Make a backup now, and send it."""
    from cli.backups import restore
    from components.render.jobs.backup import JOB

    if new_repository:
        restore.forget_repository(Stack(stack))
    return restore.run_now(Stack(stack), JOB)
