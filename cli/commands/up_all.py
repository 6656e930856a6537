"""`./pds up-all`."""

import click

from cli.registry import Topic, allow_option, command, stack_argument, stack_option


@command(
    "up-all", Topic.CHANGE, exit_codes="0 all is well, 1 an update or a preflight failed, 2 the check could not run."
)
@stack_argument("stacks", nargs=-1, metavar="[STACK]...")
@allow_option
@click.option("--at-once", type=int, default=4, metavar="N", help="Engines to run at once (default: 4).")
@click.option("--all", "unchanged_too", is_flag=True, help="Include stacks without a change.")
@stack_option("--canary", help="Stack to update first, alone.")
def up_all(
    stacks: tuple[str, ...], allow: tuple[str, ...], at_once: int, unchanged_too: bool, canary: str | None
) -> int:
    """Update every stack, or those given.

    Each stack gets a preview, the preflight checks, `up`, and a check that its PDS serves. The canary comes first.
    Hosts come before their clubs, and the clubs of a host one after the other; several hosts run at once. The run stops
    after the first stack that does not serve. If a preview shows a failure, nothing is started. `build/logs/STACK.log`
    has the engine's output.

    Without `--canary`, the canary is the first stack with a change on the host with the fewest changed PDSes, because a
    fault there affects the fewest.
    """
    from cli.stacks import selection

    return selection.up_all(stacks, allow, at_once, unchanged_too=unchanged_too, canary=canary)
