"""The runs of a club's batch jobs during a move: backups, drills, and restores of killed commands."""

from cli.lib import nomad_jobs
from components.clients.nomad import NomadApi
from components.clients.wait import until

_IDLE = 3600  # seconds; a drill or a backup that has begun comes to its end


def wait(api: NomadApi, seconds: float = _IDLE) -> None:
    """Wait until none of the club's batch jobs runs. Raises ServiceError."""
    reported = False

    def idle() -> str | None:
        nonlocal reported
        busy = nomad_jobs.active_runs(api)
        if not busy:
            return None
        if not reported:
            print(f"Wait for the end of {', '.join(busy)}.", flush=True)
        reported = True
        return f"{', '.join(busy)} is running"

    until(idle, seconds, "The club's other jobs")


def settle(api: NomadApi) -> None:
    """Stop the runs that no host has begun, and wait for the end of the others. For a host that the club leaves: a run
    that waits for one that is down would never end, or begin after the club has left. Raises ServiceError."""
    for run in nomad_jobs.active_runs(api):
        if not nomad_jobs.is_placed(api, run):
            nomad_jobs.stop(api, run)
    wait(api)
