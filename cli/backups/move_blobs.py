"""Moves a PDS's blobs between its volume and its bucket; `./pds blobs`.

`components/render/scripts/blobs.cjs` copies them on the host. This module has the order of the steps: the server
changes its place only through the engine, after everything is there. The stack file's `blobs.serve` is the progress.
"""

from collections.abc import Mapping
from typing import Literal

from cli.backups.restore import refuse_during_move, repository_access, run_blobs_job, step
from cli.check.run import run_checks, subject_of
from cli.lib import nomad_jobs
from cli.lib.apply import change, pause, up
from cli.lib.nomad_exec import running_allocation
from cli.lib.stack import Stack, StackError
from components.clients.nomad import NomadApi
from components.render.jobs.backup import JOB as BACKUP
from components.settings.checks.pds_env import blob_location
from components.settings.sections.settings import Settings
from components.settings.stack_identity import BLOBS_COPIED
from offline.stackfile import read_settings

_SERVE, _PAUSED = "pds:blobs.serve", "pds:pds.paused"

Store = Literal["bucket", "disk"]


def move_blobs(stack: Stack, to: Store, *, yes: bool, accept_losses: bool) -> int:
    """Move all blobs of `stack`; return the exit code. Raises StackError, StackFileError, ServiceError."""
    settings = _with_blobs(stack)
    refuse_during_move(stack)
    target = _location(settings, to)
    present = _present_location(stack)
    _refuse_another_bucket(settings, present)
    api = nomad_jobs.stack_nomad_api(stack)
    paused = _pause_if_stopped(stack, settings, api)
    if present == target and not paused:
        _serve_from(stack, to, target, yes=yes)
        print(f"\nThe blobs of {stack.name} are served from the {_shown(target)} already.")
        return 0
    losses = {"accept_losses": "yes" if accept_losses else ""}
    if present != target or paused != settings.pds.paused:
        step(1, "Apply the stack file: the bucket, its key, and the job that copies. The location stays.")
        up(stack, yes=yes)
    running = "The PDS is paused already, and starts at the end." if paused else "The PDS keeps running."
    step(2, f"Copy the blobs to the {_shown(target)} and check each. {running}")
    if not run_blobs_job(api, {"step": "copy", "to": to} | losses):
        print(_still_paused(stack) if paused else "\nNothing was changed. The reason is above. Repeat the command.")
        return 1

    step(3, "Pause the PDS through the engine, and copy the rest.")
    pause(stack, yes=yes)
    if not run_blobs_job(api, {"step": "finish", "to": to} | losses):
        print(_still_paused(stack))
        return 1

    step(4, f"Start the PDS with its blobs in the {_shown(target)}.")
    _serve_from(stack, to, target, yes=yes)
    step(5, "The checks.")
    for result in run_checks(subject_of(stack, None, None, None, mail=None, relay=False)):
        print(result, flush=True)
    print(
        f"\nMoved. The old copies are kept until you run `./pds blobs {stack.name} --forget-old`. "
        f"`--to {'disk' if to == 'bucket' else 'bucket'}` moves the blobs back."
    )
    return 0


def _pause_if_stopped(stack: Stack, settings: Settings, api: NomadApi) -> bool:
    """Return whether the PDS is paused. One that does not run is paused first.

    A run that was interrupted at its end may have recorded another place on the volume than the state has. Then the
    server starts with neither. The stack file gets the state's place again, because `up` refuses any other.
    """
    assert settings.blobs
    here: Store = "disk" if _present_location(stack) == "disk" else "bucket"
    stopped = not settings.pds.paused and running_allocation(api) is None
    if stopped:
        print("The PDS does not run. It is paused, and starts once all blobs are in one location.")
        change(stack, _PAUSED, "true")
    if settings.blobs.serve != here:
        change(stack, _SERVE, here)
    return settings.pds.paused or stopped


def _still_paused(stack: Stack) -> str:
    return (
        "\nThe PDS is paused, and its blobs have not moved. Fix the fault above and repeat the command, or "
        f"start the PDS as it was: `pulumi config set --path pds.paused false --stack {stack.name}` and "
        "`pulumi up`. If it does not start, repeat the command, with either location."
    )


def forget_old(stack: Stack) -> int:
    """Remove the copies at the place that the server does not use; return the exit code. Raises as above."""
    refuse_during_move(stack)
    # A backup of before the blobs were moved may still copy them.
    nomad_jobs.wait_for_other_runs(nomad_jobs.stack_nomad_api(stack), BACKUP)
    return _run_alone(stack, {"step": "forget"})


def repair(stack: Stack, source: Stack | None = None) -> int:
    """Bring lost blobs back from the other place or the backups, which are those of `source` if given; return the exit
    code. Raises as above."""
    items = repository_access(source, _with_blobs(stack)) if source and source != stack else None
    return _run_alone(stack, {"step": "repair"}, items)


def show(stack: Stack) -> int:
    """Show the place of the blobs, with counts and sizes; return the exit code. Raises as above."""
    return _run_alone(stack, {"step": "show"})


def _run_alone(stack: Stack, meta: dict[str, str], items: Mapping[str, str] | None = None) -> int:
    _with_blobs(stack)
    return 0 if run_blobs_job(nomad_jobs.stack_nomad_api(stack), meta, items) else 1


def _serve_from(stack: Stack, to: Store, target: str, *, yes: bool) -> None:
    """Update the stack with the new place, and start the server there."""
    settings = read_settings(stack.name, stack.root)
    assert settings.blobs
    if settings.blobs.serve != to:
        change(stack, _SERVE, to)
    if settings.pds.paused:
        change(stack, _PAUSED, "false")
    up(stack, yes=yes, env={BLOBS_COPIED: target})


def _with_blobs(stack: Stack) -> Settings:
    settings = read_settings(stack.name, stack.root)
    if settings.s3:
        raise StackError(
            f"Pulumi.{stack.name}.yaml has 's3', a bucket of your own. The program moves blobs only between the volume "
            "and the bucket of 'blobs'."
        )
    if settings.blobs is None:
        raise StackError(
            f"Pulumi.{stack.name}.yaml has no 'blobs'. Set 'blobs.bucket' to a name that no other bucket in "
            f"the world has, and repeat the command. The current location is '{_present_location(stack)}'."
        )
    return settings


def _location(settings: Settings, place: Store) -> str:
    assert settings.blobs
    return blob_location(settings.model_copy(update={"blobs": settings.blobs.model_copy(update={"serve": place})}))


def _present_location(stack: Stack) -> str:
    """The location in the stack's state. A stack that recorded none has its blobs on the volume."""
    identity = stack.state().named("pds-identity")
    if identity is None:
        raise StackError(
            f"Stack {stack.name} has no server yet, so there is nothing to move. Run `pulumi up --stack {stack.name}`."
        )
    return str(identity.outputs.get("blobs") or "disk")


def _refuse_another_bucket(settings: Settings, present: str) -> None:
    bucket = _location(settings, "bucket")
    if present not in ("disk", bucket):
        raise StackError(
            f"The blobs are in the {present}, and the stack file names the {bucket}. Nothing was changed. Write the "
            "former location back. For another bucket see docs/guide/blobs.md#another-bucket."
        )


def _shown(location: str) -> str:
    return "volume" if location == "disk" else location
