"""The command; see the package.

Environment: DIGITALOCEAN_TOKEN, with full access. Optional: DIGITALOCEAN_LIMITED_TOKEN, a custom token with the one
scope `account:read`; DIGITALOCEAN_API_URL. Exit codes: 0 measured and removed, 1 not confirmed, 2 it could not measure
everything, or something is left.
"""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from components.takeover.services import API, Http, Refused, Unavailable
from offline.mock_engine import ROOT
from tools.measure_account.account import Account, MeasureError, Record
from tools.measure_account.droplets import HttpDroplets
from tools.measure_account.run import measure, plan, removed_at_the_end, table

FOLDER = ROOT / "build/measure-account"


def main(arguments: list[str] | None = None, folder: Path = FOLDER) -> int:
    """Run it. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.measure_account", description=__doc__.partition("\n")[0])
    parser.add_argument("--region", default="fra1")
    parser.add_argument("--size", default="s-1vcpu-1gb")
    parser.add_argument("--yes", action="store_true", help="do not ask before it starts")
    parser.add_argument("--remove", metavar="RUN", help="only remove what a killed run left; its name was printed")
    options = parser.parse_args(arguments)
    console = Console(emoji=False, highlight=False)
    try:
        return _run(options, folder, console)
    except (MeasureError, Refused, Unavailable) as error:
        console.print(f"{error}", style="red", markup=False)
        return 2
    except (KeyboardInterrupt, SystemExit):
        console.print("Interrupted. Nothing of this run is left.")
        return 2


def _run(options: argparse.Namespace, folder: Path, console: Console) -> int:
    token = os.environ.get("DIGITALOCEAN_TOKEN")
    if not token:
        raise MeasureError("There is no DigitalOcean token. Set DIGITALOCEAN_TOKEN.")
    limited = os.environ.get("DIGITALOCEAN_LIMITED_TOKEN")
    full = _http(token)

    def say(text: str) -> None:
        console.print(text, markup=False)

    if options.remove:
        with removed_at_the_end(Account(full, Record.read(folder, options.remove)), say):
            return 0
    account = Account(full, Record.new(folder))
    say(plan(options.region, options.size, account.hourly(options.region, options.size)))
    if not limited:
        say("DIGITALOCEAN_LIMITED_TOKEN is not set, so the order of a token's checks is not measured.")
    if not options.yes and not _confirmed():
        say("Nothing was made.")
        return 1
    say(f"Run {account.run}.")
    with removed_at_the_end(account, say):
        moves, answers = measure(
            account, HttpDroplets, options.region, options.size, (full, _http(limited) if limited else None), say
        )
        console.print(table(moves))
        for question, answer in answers.items():
            say(f"{question}: {answer}")
    return 2 if any(move.fault for move in moves) else 0


def _http(token: str) -> Http:
    url = os.environ.get("DIGITALOCEAN_API_URL") or API
    return Http(url, {"Authorization": f"Bearer {token}"})


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise MeasureError("There is no terminal to confirm it. Use --yes.")
    return input("Type yes to start: ").strip() == "yes"


if __name__ == "__main__":
    sys.exit(main())
