"""`./pds verify-snapshot`."""

import sys
from pathlib import Path

import click

from cli.registry import Topic, command


@command("verify-snapshot", Topic.DATA, exit_codes="0 everything can be restored, 1 something cannot.")
@click.argument("folder", type=Path)
@click.option("--plc", default="https://plc.directory", metavar="URL", help="URL of the PLC directory.")
def verify_snapshot(folder: Path, plc: str) -> int:
    """Check every file of a snapshot in a folder.

    The command opens every database, checks every repository and its signatures, hashes every blob, and compares the
    signing keys with the PLC directory. It reports each account that cannot be restored as a whole.
    """
    import httpx

    from cli.snapshot.verify import WHOLE, counted, from_plc, verify

    if not folder.is_dir():
        raise click.BadParameter(f"{folder} is not a folder.", param_hint="FOLDER")
    with httpx.Client(timeout=30.0) as client:
        report = verify(folder, from_plc(plc, client))
    for note in report.notes:
        print(f"note: {note}")
    for problem in report.problems:
        print(problem, file=sys.stderr)
    if report.refusals:
        print(f"{folder}: nothing of it can be restored.", file=sys.stderr)
        return 1
    states = [verdict.state for verdict in report.accounts.values()]
    counts, manifest = report.manifest["counts"], report.manifest
    print(
        f"{folder} can be restored"
        + ("" if set(states) <= {WHOLE} else f", except as reported above: {', '.join(counted(states))}")
        + f".\n  PDS      {manifest['hostname']}, server {manifest['package_version']}\n"
        f"  as of    {manifest['started']}: everything acknowledged before is in it\n"
        f"  holds    {counts['accounts']} accounts, {counts['blobs']} blobs"
    )
    return 0 if set(states) <= {WHOLE} else 1
