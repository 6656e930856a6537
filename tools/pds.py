"""`./pds VERB STACK`: what an owner does beside `pulumi`. One verb, one function."""

import argparse
import sys
from pathlib import Path

from tools import escrow


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; the exit code."""
    parser = argparse.ArgumentParser(prog="./pds", description="What an owner does beside `pulumi`.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = verbs.add_parser("escrow", help="write one encrypted file with all that rebuilds the PDS elsewhere")
    verb.add_argument("stack")
    verb.add_argument("--to", type=Path, default=Path.cwd(), metavar="FOLDER", help="where to write it (here)")
    verb.set_defaults(run=_escrow)

    verb = verbs.add_parser("escrow-check", help="open an escrow file and say whether it suffices")
    verb.add_argument("file", type=Path)
    verb.set_defaults(run=_escrow_check)

    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except escrow.EscrowError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _escrow(options: argparse.Namespace) -> None:
    path = escrow.write(options.stack, options.to)
    print(
        f"Wrote {path}.\nPut it, and its passphrase, where neither this machine nor DigitalOcean is. Check it with\n"
        f"  ./pds escrow-check {path.name}\nthen set 'pds: {{escrow: made}}' in Pulumi.{options.stack}.yaml."
    )


def _escrow_check(options: argparse.Namespace) -> None:
    content = escrow.read(options.file)
    print(
        f"{options.file} opens and is complete.\n"
        f"  PDS      {content['hostname']} (stack {content['stack']}, server {content['package_version']})\n"
        f"  written  {content['written']}\n"
        f"  holds    rotation key, {len(content['secrets'])} secrets in all, the Nomad CA and management token, the\n"
        f"           stack file; address {content['ipv4']}, volume {content['volume_id']}\n"
        "It does not hold the members' data: that is on the volume and in its backups."
    )


if __name__ == "__main__":
    sys.exit(main())
