"""`./pds place`."""

from cli.registry import Topic, command, stack_argument


@command("place", Topic.CHANGE, exit_codes="0 every club has a host, 2 it could not choose one.")
@stack_argument()
def place(stack: str) -> int:
    """Assign a host to each club of a cluster that has none: the one with the most free memory.

    The command changes the stack file only, and shows the diff. `pulumi up` refuses a club without a host, because it
    could choose another one the next time. `./pds new --on` chooses the host of a new club itself.
    """
    from cli.cluster import hosts, placement
    from offline import ROOT
    from offline.stackfile import read_settings

    edit = placement.place(stack, ROOT)
    if edit is None:
        hosts.require_cluster(stack, read_settings(stack, ROOT))
        print(f"Every club in Pulumi.{stack}.yaml has a host.")
        return 0
    print(edit.diff("with hosts"))
    print(f"Next: pulumi up --stack {stack}")
    return 0
