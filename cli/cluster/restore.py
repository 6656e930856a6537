"""A cluster whose servers are all lost: new servers with Nomad's state from its newest snapshot; `./pds restore`.

Hosts and their clubs run meanwhile. Once Nomad has its state, their agents are restarted (`rejoin.py`).
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from cli.cluster.edit_value import set_number
from cli.cluster.hosts import ClusterError
from cli.cluster.lost_servers import Servers, accessor, are_rebuilt
from cli.cluster.rejoin import rejoin
from cli.lib.apply import up
from cli.lib.edit_stackfile import StackFileEdit
from cli.lib.nomad_exec import nomad_access, nomad_api
from cli.lib.private_files import write_private
from cli.lib.stack import Stack, StackError, digitalocean_token
from components.clients.nomad import NomadApi
from components.render.jobs.pds import JOB
from components.settings.sections.cluster import generation_of
from offline.stackfile import parse_settings, read_settings, read_text

_NEEDED = ("nomad_address", "nomad_ca_pem", "nomad_client_cert_pem", "nomad_client_key_pem", "nomad_management_token")
_RESTIC_SECONDS = 600


def list_snapshots(stack: Stack) -> int:
    """Print the snapshots in the bucket. Raises ClusterError, StackError."""
    print(_restic(_repository(stack), "snapshots", "--no-lock", "--compact").decode())
    return 0


def restore(stack: Stack, snapshot: str, *, yes: bool) -> int:
    """Replace all servers, and give them the state of a snapshot: an ID, or '' for the newest.

    Servers that an earlier run has rebuilt are not replaced again. Raises ClusterError, DigitalOceanError, StackError,
    StackFileError.
    """
    outputs = stack.required_outputs(*_NEEDED)
    servers = Servers.of(stack.state())
    api = nomad_api(nomad_access({**outputs, "nomad_token": outputs["nomad_management_token"]}))
    rebuilt = are_rebuilt(servers, api, digitalocean_token(stack) or "", outputs)
    # Read before anything changes; the file is gone with the folder.
    content = _restic(_repository(stack), "dump", "--no-lock", "--tag", "nomad", snapshot or "latest", "/nomad.snap")
    edit = None if rebuilt else _next_generations(stack)
    _announce(stack, edit)
    question = "Restore the snapshot into the rebuilt servers?" if edit is None else "Rebuild the servers?"
    if not yes and not click.confirm(question):
        return 1
    if edit is not None:
        edit.write()
    with tempfile.TemporaryDirectory(prefix="pds-restore-") as folder:
        file = Path(folder) / "nomad.snap"
        write_private(file, content)
        is_complete = _bring_up(stack, file, servers, api, edit, yes=yes)
    if accessor(api) != servers.cluster_id:
        raise ClusterError(
            f"`up` succeeded, but Nomad at {outputs['nomad_address']} does not have the state of the snapshot. Power "
            "the servers off (`doctl compute droplet-action power-off ID --wait`) and repeat the command."
        )
    print("\nNomad has the state of the snapshot.")
    is_whole = rejoin(stack)
    print("\nTo apply what changed after the snapshot, run:")
    print(f"  pulumi refresh --stack {stack.name} && pulumi up --stack {stack.name}")
    for name in read_settings(stack.name, stack.root).clubs:
        # The token in the state of a club that is newer than the snapshot is not in Nomad: the program has the new one.
        print(f"  pulumi refresh --run-program --stack {name} && pulumi up --stack {name}")
    return 0 if is_whole and is_complete else 1


def _bring_up(
    stack: Stack, snapshot: Path, servers: Servers, api: NomadApi, edit: StackFileEdit | None, *, yes: bool
) -> bool:
    """Run `up` with the snapshot, and return whether it succeeded. If it fails after Nomad got its state, the hosts
    still have to be restarted: a host's volume for a club that the snapshot does not know is made only then. Raises
    StackError if Nomad does not have its state."""
    try:
        up(stack, yes=yes, env={"PDS_NOMAD_SNAPSHOT": str(snapshot)})
    except (StackError, KeyboardInterrupt) as error:
        if isinstance(error, StackError) and accessor(api) == servers.cluster_id:
            print("\n`pulumi up` did not succeed, as shown above. Repeat it as soon as this command has ended.")
            return False
        if edit is not None:
            _take_back(stack, servers, edit)
        raise
    return True


def _announce(stack: Stack, edit: StackFileEdit | None) -> None:
    if edit is None:
        print("The servers are rebuilt already, and their Nomad is empty. This command restores the snapshot's state.")
    else:
        print("This command rebuilds all servers and restores the snapshot's state.")
    print("Hosts are not touched, and their clubs keep running. Nomad loses every change made after the snapshot.")
    print("`pulumi up` alone does not detect this. Afterwards run `pulumi refresh`, then `pulumi up`, of each stack.")
    for club in _moving(stack):
        print(
            f"WARNING: club {club} is being moved. If the snapshot is from before, Nomad starts its PDS with the data "
            f"of the former host. Stop that PDS before members write to it (`./pds nomad {stack.name} -- job stop "
            f"-namespace {club} {JOB}`). Then find out which host has its newest data."
        )
    if edit is not None:
        print(edit.diff("restored"))


def _moving(stack: Stack) -> list[str]:
    """The clubs with a second place, or whose own file has the note of a move."""
    found = []
    for club, grant in read_settings(stack.name, stack.root).clubs.items():
        file = stack.root / f"Pulumi.{club}.yaml"
        config = yaml.load(read_text(club, stack.root), yaml.CSafeLoader).get("config") if file.exists() else None
        if grant.leaving or "move:note" in (config or {}):
            found.append(club)
    return found


def _take_back(stack: Stack, before: Servers, edit: StackFileEdit) -> None:
    """After an `up` that was declined or failed: raised generations in the file let the next one empty Nomad."""
    if Servers.of(stack.state()) == before:
        StackFileEdit(edit.path, edit.after, edit.before).write()
        print(f"\nNo server was rebuilt. {edit.path.name} is as it was before.")
        return
    print(
        f"\nServers may have been rebuilt, so the generations stay in {edit.path.name}. Run no `pulumi up` of this "
        "stack now: their Nomad would stay empty. Repeat this command to continue."
    )


def _next_generations(stack: Stack) -> StackFileEdit:
    cluster = read_settings(stack.name, stack.root).cluster
    assert cluster
    before = after = read_text(stack.name, stack.root)
    file = f"Pulumi.{stack.name}.yaml"
    for number in range(1, cluster.servers.count + 1):
        generation = generation_of(cluster.servers, number) + 1
        after = set_number(file, after, ("cluster", "servers", "generations", str(number)), generation)
    parse_settings(stack.name, after)
    return StackFileEdit(stack.root / file, before, after)


def _repository(stack: Stack) -> dict[str, str]:
    """restic's environment. Raises ClusterError, StackError."""
    if not shutil.which("restic"):
        raise ClusterError("restic is not on PATH: https://restic.readthedocs.io/en/stable/020_installation.html.")
    escrow: Mapping[str, Any] = stack.output("escrow")
    if "snapshots" not in escrow:
        raise ClusterError(
            f"Stack {stack.name} takes no snapshots of Nomad's state ('cluster.snapshots'). docs/guide/cluster.md "
            "describes how to fill Nomad again without one."
        )
    return {**escrow["snapshots"], "RESTIC_REPOSITORY": escrow["snapshots_repository"]}


def _restic(repository: Mapping[str, str], *arguments: str) -> bytes:
    done = subprocess.run(
        ["restic", "--quiet", *arguments],
        env={**os.environ, **repository},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_RESTIC_SECONDS,
    )
    if done.returncode:
        raise ClusterError(f"restic failed: {done.stderr.decode(errors='replace').strip()[-600:]}")
    return done.stdout
