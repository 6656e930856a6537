"""`./pds preview-all`."""

import click

from cli.registry import Topic, allow_option, command, stack_argument


@command("preview-all", Topic.CHANGE, exit_codes="0 all is well, 1 a preflight failed, 2 the check could not run.")
@stack_argument("stacks", nargs=-1, metavar="[STACK]...")
@allow_option
@click.option("--at-once", type=int, default=4, metavar="N", help="Engines to run at once (default: 4).")
def preview_all(stacks: tuple[str, ...], allow: tuple[str, ...], at_once: int) -> int:
    """Preview every stack, or those given, and check each as `./pds preflight` does.

    Without arguments, it previews all created stacks that have a file here. `build/logs/STACK.log` has the engine's
    output.
    """
    from cli.stacks import selection

    return selection.preview_all(stacks, allow, at_once)
