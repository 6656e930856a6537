"""`./pds escrow-check`."""

from pathlib import Path

import click

from cli.registry import Topic, command


@command("escrow-check", Topic.DATA)
@click.argument("file", type=Path)
def escrow_check(file: Path) -> None:
    """Decrypt an escrow file and check that it suffices to rebuild the PDS."""
    from cli.lib import escrow

    content = escrow.read(file)
    backups = "whose address and password are in it." if content.get("backup") else "of which this stack makes none."
    print(
        f"{file} opens and is complete.\n"
        f"  PDS      {content['hostname']} (stack {content['stack']}, server {content['package_version']})\n"
        f"  written  {content['written']}\n"
        f"  holds    rotation key, {len(content['secrets'])} secrets in all, the stack file, "
        f"{escrow.describe_host(content)}\n"
        f"It does not hold the members' data: that is on the volume and in its backups, {backups}"
    )
