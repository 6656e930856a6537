"""The API as a separate process, until it is interrupted. Its droplets are only records;
`tests.e2e.environment.machine` makes them run."""

import argparse
import signal
import threading
from pathlib import Path

from tests.e2e.digitalocean.account import add_key
from tests.e2e.digitalocean.names import add_domain
from tests.e2e.digitalocean.server import Api
from tests.e2e.digitalocean.world import World


def main() -> None:
    """Serve as the arguments specify."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.digitalocean", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0, the default, is a free one")
    parser.add_argument("--state", type=Path, required=True, help="where the request log and the account's dump go")
    parser.add_argument("--print-port", action="store_true", help="print the port alone instead of the URL")
    parser.add_argument("--action-seconds", type=float, default=1.0, help="how long an asynchronous action takes")
    parser.add_argument("--token", help="the one token that is taken; without it, any")
    parser.add_argument("--ssh-key", action="append", default=[], metavar="NAME=KEY", help="a key of the account")
    parser.add_argument("--domain", action="append", default=[], help="a zone of the account")
    options = parser.parse_args()
    world = World(action_seconds=options.action_seconds, token=options.token)
    for key_option in options.ssh_key:
        name, _, key = key_option.partition("=")
        add_key(world, name, key)
    for domain in options.domain:
        add_domain(world, domain)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with Api(world, options.state, options.port) as api:
        use = f"export DIGITALOCEAN_API_URL={api.url} DIGITALOCEAN_TOKEN={options.token or 'any'}"
        print(api.port if options.print_port else use, flush=True)
        ended.wait()  # no deadline: it serves until it is stopped


if __name__ == "__main__":
    main()
