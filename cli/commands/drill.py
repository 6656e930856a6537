"""`./pds drill`."""

from cli.lib.stack import Stack
from cli.registry import Topic, command, stack_argument


@command("drill", Topic.DATA, exit_codes="0 the drill succeeded, 1 it failed, 2 it could not start.")
@stack_argument()
def drill(stack: str) -> int:
    """Fetch the newest backup on the host, check it, and start a server on it.

    The server of the drill has no network, and its data are deleted afterwards.
    """
    from cli.backups import restore
    from components.render.jobs.drill import JOB

    return restore.run_now(Stack(stack), JOB)
