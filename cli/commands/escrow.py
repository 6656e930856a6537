"""`./pds escrow`."""

from pathlib import Path

import click

from cli.registry import Topic, command, stack_argument


@command("escrow", Topic.DATA)
@stack_argument()
@click.option("--to", "folder", type=Path, default=Path(), metavar="FOLDER", help="Target folder (default: this one).")
def escrow(stack: str, folder: Path) -> None:
    """Write an encrypted file with all keys and settings of the stack, to rebuild it elsewhere.

    It does not hold the members' data. The file's format is age's: `age -d FILE` opens it without this program. The
    command prompts for a passphrase, or reads it from the file that PDS_ESCROW_PASSPHRASE_FILE names.
    """
    from cli.lib import escrow

    path = escrow.write(stack, folder)
    print(
        f"Wrote {path}.\nStore it and its passphrase off this machine and off DigitalOcean. Check it with\n"
        f"  ./pds escrow-check {path.name}\nthen run\n  pulumi config set --path pds.escrow made --stack {stack}"
    )
