"""`./pds escrow-check`."""

from pathlib import Path

import click

from cli.registry import Topic, command


@command("escrow-check", Topic.DATA)
@click.argument("file", type=Path)
def escrow_check(file: Path) -> None:
    """Decrypt an escrow file and check that no key is missing."""
    from cli.lib import escrow

    content = escrow.read(file)
    if hosts := content.get("hosts"):
        print(
            f"{file} opens and is complete.\n"
            f"  cluster  stack {content['stack']}, hosts {', '.join(sorted(hosts))}\n"
            f"  written  {content['written']}\n"
            "  holds    the Nomad CA and management token, volumes and addresses, the stack file\n"
            "It does not hold the keys of its clubs: each club's stack has an escrow file of its own."
        )
        return
    backups = "whose address and password are in it." if content.get("backup") else "of which this stack makes none."
    print(
        f"{file} opens and is complete.\n"
        f"  PDS      {content['hostname']} (stack {content['stack']}, server {content['package_version']})\n"
        f"  written  {content['written']}\n"
        f"  holds    rotation key, {len(content['secrets'])} secrets in all, the stack file, "
        f"{escrow.describe_host(content)}\n"
        f"It does not hold the members' data: that is on the volume and in its backups, {backups}"
    )
