"""One run from the first resource to the last removal."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.table import Table

from cli.lib.subprocesses import ignore_signals, orderly_end
from cli.stacks.prices import PRICE_TABLE
from components.takeover.services import Http
from tools.measure_account.account import GIB, Account, MeasureError, Worker
from tools.measure_account.cases import Measuring, Move, wait
from tools.measure_account.droplets import Droplets, user_data
from tools.measure_account.questions import scopes_first, tag_rule

HOURS_A_MONTH = 672
"""By which DigitalOcean's monthly prices become hourly ones, as `price_monthly` and `price_hourly` of /v2/sizes do."""

Say = Callable[[str], None]


def plan(region: str, size: str, hourly: float) -> str:
    """Return what the run makes and what it costs. `hourly` is the price of a droplet in USD."""
    volume = GIB * float(PRICE_TABLE["volumes"]["usd_per_gib_and_month"]) / HOURS_A_MONTH
    return (
        f"This makes two droplets of {size} with Debian 13, a volume of {GIB} GiB, a reserved IP, a firewall and a tag "
        f"in {region}, and removes all of them at the end, also after Ctrl-C. It changes nothing else of the account. "
        "It is made for half an hour, and for an hour if DigitalOcean is slow.\n"
        f"Cost: {2 * hourly + volume:.4f} USD an hour: droplets 2 x {hourly:.5f} (this account's own price), volume "
        f"{volume:.5f} (table of {PRICE_TABLE['volumes']['date']}). A reserved IP costs nothing while it is assigned. "
        "For a few minutes it is not. Tax is not included.\n"
        "DigitalOcean mails a root password for each droplet, because they get no SSH key, and makes the region's "
        "default VPC if there is none yet. That one stays. This machine has to reach port 80 of the droplets without a "
        "proxy."
    )


@contextmanager
def removed_at_the_end(account: Account, say: Say) -> Iterator[None]:
    """Remove everything of the run at the end of the block, whatever ends it. Raises MeasureError if something is
    left."""
    with orderly_end():
        try:
            yield
        finally:
            ignore_signals()
            say(f"Removing everything of {account.run}; Ctrl-C has no effect until that is done.")
            left = account.remove()
            if left:
                raise MeasureError(
                    f"Not removed: {'; '.join(left)}. "
                    f"Run `venv/bin/python -m tools.measure_account --remove {account.run}`."
                )
            say("Everything is removed.")


def measure(
    account: Account,
    droplets: Callable[[str], Droplets],
    region: str,
    size: str,
    tokens: tuple[Http, Http | None],
    say: Say,
) -> tuple[list[Move], dict[str, str]]:
    """Make what is needed and measure. `droplets` makes the client for a secret path, `tokens` are the full and the
    limited one. Returns the moves and the answers. Raises MeasureError, Unavailable and Refused."""
    account.record.write()
    say("Making the volume and the droplets.")
    key = secrets.token_hex(16)
    client = droplets(key)
    volume = account.make_volume(region)
    numbers = {name: account.make_droplet(name, region, size, user_data(name, account.run, key)) for name in ("a", "b")}
    boot = account.pace.boot

    def booted(name: str) -> Worker:
        return wait(account, f"droplet {name} is up", lambda: account.worker(name, numbers[name]), boot)

    a, b = booted("a"), booted("b")
    address = wait(account, "the reserved IP is made", lambda: account.make_address(a.number), boot)
    firewall = account.make_firewall()
    for worker in (a, b):
        wait(account, f"droplet {worker.name} answers", lambda: client.status(worker.public), boot)  # noqa: B023 (at once)
    wait(account, "droplet a answers at the reserved IP", lambda: client.status(address), boot)
    wait(account, "the firewall is applied", lambda: account.is_firewall_applied(firewall))
    answers = _answers(account, client, (a, b), address, tokens, say)
    measuring = Measuring(account, client, volume, address, (a, b), say)
    measuring.attach_first()
    return list(measuring.moves()), answers


def _answers(
    account: Account,
    client: Droplets,
    workers: tuple[Worker, Worker],
    address: str,
    tokens: tuple[Http, Http | None],
    say: Say,
) -> dict[str, str]:
    full, limited = tokens
    say("Asking for the firewall's rule and the token's scopes.")
    try:
        found = tag_rule(client, workers[1], workers[0], address)
    except OSError as error:
        found = {"the firewall's rule for a tag": f"not measured: droplet b does not answer ({error})"}
    if limited is None:
        return {**found, "a token's scopes": "not measured: DIGITALOCEAN_LIMITED_TOKEN is not set"}
    return {**found, **scopes_first(account, full, limited)}


def table(moves: list[Move]) -> Table:
    """The moves, one row for each time."""
    made = Table("the droplet", "what", "s", title="Seconds from each request")
    for move in moves:
        rows = [(what, f"{seconds:.1f}") for what, seconds in move.seconds.items()]
        if move.found is not None:
            is_whole = move.found >= move.acknowledged
            kept = f"all {move.acknowledged}" if is_whole else f"NOT ALL: {move.found} of {move.acknowledged}"
            rows.append(("acknowledged rows on the volume", kept))
        if move.refused:
            rows.append(("attaches refused before one was accepted", str(move.refused)))
        rows += [(text, "") for text in (move.remark, move.fault) if text]
        for number, row in enumerate(rows):
            made.add_row("" if number else move.case, *row, end_section=number == len(rows) - 1)
    return made
