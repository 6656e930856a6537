"""`./pds repair`."""

from cli.lib.stack import Stack, digitalocean_token
from cli.registry import Topic, command, stack_argument, yes_option


@command("repair", Topic.REPAIR, exit_codes="0 all is well, 1 something is left to do, 2 the check could not run.")
@stack_argument()
@yes_option
def repair(stack: str, yes: bool) -> int:
    """Repair the stack after a lost droplet, an emptied Nomad, or a killed engine.

    The command inspects the state, the account and Nomad, reports its findings, and runs the engine's own commands: a
    `pulumi refresh` of the resources that differ from the state, then `pulumi up`. It shows each before it runs. If
    data or an address is lost, or a resource in the account blocks the way, it runs nothing and names the decision.

    For a cluster, it assigns the servers' address to a server that answers, moves the hosts that are down to spare
    workers, and assigns each address to the droplet that has the host's volume. Then it finishes what a killed engine
    had begun.
    """
    from cli.cluster import hosts
    from cli.drift import repair
    from cli.lib.digitalocean import DigitalOceanAccount
    from offline.stackfile import read_settings

    target = Stack(stack)
    if read_settings(stack, target.root).cluster:
        repair.readable(target)
        return hosts.repair(target, yes=yes) or repair.after_killed_engine(target, yes=yes)
    with DigitalOceanAccount(digitalocean_token(target)) as account:
        return repair.repair(target, account, yes=yes)
