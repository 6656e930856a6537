"""`./pds backup`."""

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument


@command("backup", Topic.DATA, exit_codes="0 the backup succeeded, 1 it failed, 2 it could not start.")
@stack_argument()
def backup(stack: str) -> int:
    """Make a backup now, and send it."""
    from cli.backups import restore
    from components.render.jobs.backup import JOB

    return restore.run_now(Stack(stack), JOB)
