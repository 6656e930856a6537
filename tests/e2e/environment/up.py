"""A real `pulumi up`, from nothing: `python -m tests.e2e.environment.up`, as root.

Starts the e2e environment in a folder of its own, runs preview, up and preview, and shows the engine's output; then a
table of results. Everything is destroyed and stopped at the end, unless `--keep`: then it runs until Ctrl-C, and the
environment to use it from another shell is printed.
"""

import argparse
import shlex
import signal
import sys
import tempfile
import threading
from pathlib import Path

from tests.e2e.environment.environment import ROOT, E2eEnvironment, e2e_env
from tests.e2e.environment.service import last_lines
from tests.e2e.environment.tools import E2eError


class Table:
    """The results, a line each, shown as they come and again at the end."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, bool, str]] = []

    def add(self, what: str, good: bool, remark: str = "") -> None:
        """One line."""
        self.rows.append((what, good, remark))
        print(f"== {what}: {'ok' if good else 'FAILED'} {remark}", flush=True)

    @property
    def good(self) -> bool:
        """Whether nothing failed, and something was checked."""
        return bool(self.rows) and all(good for _, good, _ in self.rows)

    def __str__(self) -> str:
        return "\n".join(f"{what:36} {'ok' if good else 'FAILED':8} {remark}" for what, good, remark in self.rows)


def main() -> int:
    """Return 0 if every check passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.environment.up", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where everything goes; a new temporary one if left out")
    parser.add_argument("--cache", type=Path, default=ROOT / "build/cache/e2e", help="images and packages, kept")
    parser.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C")
    parser.add_argument("--action-seconds", type=float, default=1.0, help="how long an action of the API takes")
    requested = parser.parse_args()
    # A termination signal ends it in order: it started processes and mounts.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    folder = requested.folder or Path(tempfile.mkdtemp(prefix="pds-bench-"))
    table = Table()
    try:
        with e2e_env(folder, requested.cache, requested.action_seconds) as running:
            try:
                walk(running, table)
            except E2eError as error:
                print(error, file=sys.stderr)
                _tell(running)
            if requested.keep:
                _wait(running)
            else:
                _destroy(running, table)
    except E2eError as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    print(f"\n{table}\n(logs, state and requests: {folder})")
    return 0 if table.good else 1


def walk(running: E2eEnvironment, table: Table) -> None:
    """Create a PDS until it answers and no change is left. Raises E2eError if the engine fails."""

    def step(name: str, *arguments: str) -> None:
        print(f"\n== pulumi {' '.join(arguments)}", flush=True)
        done = running.pulumi(*arguments, show=True, check=False)
        table.add(name, done.code == 0, f"{done.seconds:.0f} s")
        if done.code:
            raise E2eError(f"{name} ended with {done.code}")

    step("preview from nothing", "preview")
    step("up", "up", "--yes", "--skip-preview")
    status, text = running.health()
    table.add("the PDS, found as an ingress would", status == 200, f"{status} {text}")
    step("preview again: no changes", "preview", "--diff", "--expect-no-changes")
    step("refreshed preview: no changes", "preview", "--refresh", "--expect-no-changes")
    faults = [*running.world.failures, *running.machines.deaths()]
    table.add("machines and their services", not faults, "; ".join(faults))
    unknown = [item for item in running.api.requests() if item["status"] in (422, 501)]
    table.add("requests that the API refused", not unknown, str(len(unknown)))


def _destroy(running: E2eEnvironment, table: Table) -> None:
    """Unprotect, then destroy, as documented; retained resources stay in the account."""
    running.pulumi("state", "unprotect", "--all", "--yes", check=False)
    print("\n== pulumi destroy", flush=True)
    done = running.pulumi("destroy", "--yes", "--skip-preview", show=True, check=False)
    account = running.api.dump()
    kinds = ("droplets", "volumes", "reserved_ips", "firewalls", "tags", "domains")
    left = ", ".join(f"{len(account[kind])} {kind}" for kind in kinds if account[kind])
    table.add("destroy", done.code == 0, f"{done.seconds:.0f} s; kept on purpose: {left or 'nothing'}")


def _tell(running: E2eEnvironment) -> None:
    for line in [*running.world.failures, *running.machines.deaths()]:
        print(f"machine: {line}", file=sys.stderr)
    for machine in running.machines.machines():
        for name in ("nomad.log", "stunnel.log"):
            print(f"-- {name}\n{last_lines(machine.root.parent / name)}", file=sys.stderr)


def _wait(running: E2eEnvironment) -> None:
    shown = ("DIGITALOCEAN_TOKEN", "DIGITALOCEAN_API_URL", "PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE")
    print(f"\ncd {running.project}")
    print("export " + " ".join(f"{name}={shlex.quote(running.env[name])}" for name in shown))
    print(f"export DOCKER_HOST={running.docker_host}\nCtrl-C ends it.", flush=True)
    threading.Event().wait()  # no deadline: until Ctrl-C


if __name__ == "__main__":
    sys.exit(main())
