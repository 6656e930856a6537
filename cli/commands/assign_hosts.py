"""`./pds assign-hosts`."""

from cli.registry import Topic, command, stack_argument


@command("assign-hosts", Topic.CHANGE, exit_codes="0 every club has a host, 2 it could not choose one.")
@stack_argument()
def assign_hosts(stack: str) -> int:
    """Choose a host for each club without one: the host with the most free memory.

    The command writes the choice into the cluster's stack file and shows the difference. It changes nothing else.
    `pulumi up` refuses a club without a host, because it could choose another one the next time. `./pds new --on`
    chooses the host of a new club itself.
    """
    from cli.cluster import hosts, placement
    from offline import ROOT
    from offline.stackfile import read_settings

    edit = placement.assign_hosts(stack, ROOT)
    if edit is None:
        hosts.require_cluster(stack, read_settings(stack, ROOT))
        print(f"Every club in Pulumi.{stack}.yaml has a host.")
        return 0
    print(edit.diff("with hosts"))
    print(f"Next: pulumi up --stack {stack}")
    return 0
