"""`./pds restore`."""

import click

from cli.lib.stack import Stack
from cli.registry import Topic, command, did_option, stack_argument, stack_option, yes_option


@command(
    "restore",
    Topic.DATA,
    exit_codes="0 restored, 1 not restored, 2 it could not start. The command can always be repeated.",
)
@stack_argument()
@click.option("--snapshot", default="", metavar="ID", help="ID of a snapshot from --list (default: the newest). "
              "For a PDS also 'volume': the last snapshot on the host's own volume.")  # fmt: skip
@did_option("--only", default="", help="Restore only this account, from the newest backup in which it is whole, or "
            "from --snapshot.")  # fmt: skip
@did_option("--without", multiple=True, help="Account to leave out; can be repeated.")
@click.option("--without-directory", is_flag=True, help="Restore although the directory of identities does not answer: "
              "accounts without an answer as they are in the backup, also those that moved away, and accounts whose "
              "documents name another key deactivated.")  # fmt: skip
@click.option("--without-departures", is_flag=True, help="Restore although the list of departures cannot be fetched: "
              "accounts that were deleted or taken down after the backup come back.")  # fmt: skip
@stack_option("--to", help="Target stack, with the same hostname (default: the stack itself).")
@click.option("--sequence", type=int, default=0, metavar="N", help="A number above every event of this PDS, if no "
              "relay answers.")  # fmt: skip
@did_option("--bring-back", multiple=True, help="Also restore this account, which was deleted or taken down after the "
            "backup; can be repeated.")  # fmt: skip
@yes_option
@click.option("--list", "list_only", is_flag=True, help="Only list the backups in the bucket.")
@click.option("--forget-old", is_flag=True, help="Only remove the data that restores kept; refused while they hold "
              "the last copy of a signing key.")  # fmt: skip
def restore(
    stack: str,
    snapshot: str,
    only: str,
    without: tuple[str, ...],
    without_directory: bool,
    without_departures: bool,
    to: str | None,
    sequence: int,
    bring_back: tuple[str, ...],
    yes: bool,
    list_only: bool,
    forget_old: bool,
) -> int:
    """Restore a backup of STACK onto damaged data or an empty volume.

    The command pauses the PDS through the engine, runs the stack's job `pds-restore` on the host, starts the PDS again,
    asks the relays to crawl it, and runs the checks.

    For a cluster whose Nomad servers are all lost, it rebuilds them and restores Nomad's state from a snapshot
    (`cluster.snapshots`), with restic on this machine. The hosts are not touched.
    """
    from cli.backups import restore
    from cli.cluster import restore as of_cluster
    from offline.stackfile import read_settings

    source = Stack(stack)
    if read_settings(stack, source.root).cluster:
        if only or without or without_directory or without_departures or to or sequence or bring_back or forget_old:
            raise click.UsageError(f"{stack} is a cluster, which has no accounts. Give no option of a PDS.")
        if snapshot == "volume":
            raise click.UsageError(
                f"{stack} is a cluster, whose snapshots are in the bucket only. Give an ID from --list."
            )
        return of_cluster.list_snapshots(source) if list_only else of_cluster.restore(source, snapshot, yes=yes)
    if list_only:
        return restore.list_snapshots(source)
    if forget_old:
        return restore.forget_old(source)
    request = restore.RestoreRequest(
        snapshot=snapshot,
        only=only,
        without=without,
        without_directory=without_directory,
        without_departures=without_departures,
        sequence=sequence,
        bring_back=bring_back,
        source=source,
        yes=yes,
    )
    return restore.restore(Stack(to or stack), request)
