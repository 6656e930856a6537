"""`./pds new`."""

import click

from cli.registry import Topic, command, stack_option


@command(
    "new",
    Topic.CHANGE,
    exit_codes="0 created and its preflight passed, 1 its preflight failed, 2 refused or the check could not run.",
)
@click.argument("name")
@click.option("--hostname", required=True, metavar="DOMAIN", help="Domain name of the PDS; permanent.")
@stack_option("--on", help="Stack whose host it shares (default: its own droplet).")
@click.option("--host", metavar="NAME", help="Host of the cluster `--on` (default: the one with the most free memory).")
@click.option("--memory-mib", type=click.IntRange(1), metavar="N", help="Memory limit of the server.")
@click.option("--disk-gib", type=click.IntRange(1), metavar="N", help="Quota on the host, or size of its own volume.")
@click.option("--zone", metavar="DOMAIN", help="DNS zone of the name at DigitalOcean.")
@click.option("--create-zone", is_flag=True, help="Also create that zone.")
@click.option("--manual-dns", is_flag=True, help="You create the records by hand, in a zone elsewhere.")
@click.option("--cidr", "cidrs", multiple=True, metavar="RANGE", help="Address range of the operators of its own "
              "host; can be repeated.")  # fmt: skip
@click.option("--ssh-key", "ssh_keys", multiple=True, metavar="NAME", help="SSH key of the account for its own "
              "host; can be repeated.")  # fmt: skip
def new(
    name: str,
    hostname: str,
    on: str | None,
    host: str | None,
    memory_mib: int | None,
    disk_gib: int | None,
    zone: str | None,
    create_zone: bool,
    manual_dns: bool,
    cidrs: tuple[str, ...],
    ssh_keys: tuple[str, ...],
) -> int:
    """Add a PDS: write its stack file, create its stack, preview.

    With `--on STACK` the command also adds the club to that stack's file: the lowest free port, a quota, a memory limit
    and, on a cluster, the host. It copies values that have to agree from there. It checks everything before it writes,
    and overwrites nothing. If the engine does not create the stack, the command restores the files.
    """
    from cli.stacks import new_stack

    request = new_stack.NewStackRequest(
        name=name,
        hostname=hostname,
        on=on,
        host=host,
        memory_mib=memory_mib,
        disk_gib=disk_gib,
        zone=zone,
        create_zone=create_zone,
        manual_dns=manual_dns,
        cidrs=cidrs,
        ssh_keys=ssh_keys,
    )
    return new_stack.create(request)
