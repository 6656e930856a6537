"""Makes a host of a cluster a host with a droplet of its own, with the same volume and the same address; `./pds
release`. The way back of `adopt.py`.

The order: check everything, write the next owner onto the volume, write the stack files, let the cluster forget the
host, so that no takeover moves it, shut its worker down, detach, remove what the cluster's Nomad knows of it, then `up`
of the stack that gets the droplet, and of the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from cli.adoption import handover, remove_from_nomad
from cli.adoption.adopt import DROPLET, VOLUME
from cli.adoption.club_hosts import Placement, require_clubs_on_host, require_settled
from cli.adoption.released_state import is_nomad, name_of, release
from cli.adoption.stack_edits import Edits, configured, prepare
from cli.backups.restore import step
from cli.cluster.hosts import Cluster, answered, require_cluster
from cli.errors import CommandError
from cli.lib.apply import moved_to, up, written_place
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.edit_stackfile import StackFileEdit
from cli.lib.stack import Stack, digitalocean_token
from cli.move.own_disks import require_backups_in_buckets
from cli.stacks.pending_changes import refuse_changes
from components.clients.nomad import NomadApi
from components.settings.sections.settings import Settings
from offline.stackfile import read_settings


class ReleaseError(CommandError):
    """The host cannot be released, and nothing was changed; the text says what to do."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """What is released. `target` is the stack that gets the droplet, `clubs` are the others on the host."""

    cluster: Stack
    host: str
    target: Stack
    clubs: tuple[Stack, ...]
    volume: str
    address: str

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """All stacks with a PDS on the host."""
        return (self.target, *self.clubs)

    @property
    def command(self) -> str:
        """The command that continues."""
        return f"./pds release {self.cluster.name} {self.host} --to {self.target.name}"


def release_host(cluster: Stack, host: str, target: Stack, size: str, *, yes: bool) -> int:
    """Release host `host` of `cluster` to stack `target`, with a droplet of `size`; return the exit code.

    Raises CommandError and StackFileError.
    """
    fleet = read_settings(cluster.name, cluster.root)
    require_cluster(cluster.name, fleet)
    handover.require_distinct(cluster.name, target.name)
    with DigitalOceanAccount(digitalocean_token(cluster)) as account:
        settings = read_settings(target.name, target.root)
        if settings.on is None and settings.volume.adopt:
            plan = _begun(cluster, host, target, settings, fleet)
            is_handed_over = _is_handed_over(plan, account, fleet)
            _require_clubs_on_host(plan, fleet)
            if is_handed_over:
                return _end(plan, yes=yes)
            print(f"The release of host {host} to {target.name} has begun: Pulumi.{target.name}.yaml has its volume.")
            if not yes and not click.confirm("Shut its worker down and continue?"):
                return 1
        else:
            plan = _planned(cluster, host, target, fleet)
            _require_clubs_on_host(plan, fleet)
            if not _begin(plan, account, fleet, size, yes=yes):
                return 1
        return _finish(plan, account, yes=yes)


def _planned(cluster: Stack, host: str, target: Stack, fleet: Settings) -> Release:
    names = [name for name, club in fleet.clubs.items() if club.host == host]
    known = (cluster.outputs().get("hosts") or {}).get(host)
    if known is None:
        raise ReleaseError(f"{cluster.name} has no host {host}. Nothing was changed.")
    if target.name not in names:
        if not names:
            raise ReleaseError(f"No stack is on host {host}, so it cannot be released. Nothing was changed.")
        raise ReleaseError(
            f"{target.name} is not on host {host}. Name a stack that is: --to {' or --to '.join(names)}. Nothing was "
            "changed."
        )
    return Release(
        cluster=cluster,
        host=host,
        target=target,
        clubs=tuple(Stack(name, target.root) for name in names if name != target.name),
        volume=known["volume_id"],
        address=known["address"],
    )


def _begun(cluster: Stack, host: str, target: Stack, settings: Settings, fleet: Settings) -> Release:
    """The release that the target's file records. It does not record the host's name."""
    hosts = cluster.outputs().get("hosts") or {}
    known = hosts.get(host)
    if others := [name for name, item in hosts.items() if item["volume_id"] == settings.volume.adopt and name != host]:
        raise ReleaseError(
            f"The volume of {target.name} is that of host {others[0]} of {cluster.name}, and not of {host}. Name "
            f"{others[0]}. Nothing was changed."
        )
    is_named = bool(fleet.cluster and host in fleet.cluster.hosts)
    if (known or is_named) and (known or {}).get("volume_id") != settings.volume.adopt:
        raise ReleaseError(
            f"{target.name} has a host of its own, with another volume than host {host} of {cluster.name}. Name a "
            "stack on that host with --to. Nothing was changed."
        )
    return Release(
        cluster=cluster,
        host=host,
        target=target,
        clubs=tuple(Stack(name, target.root) for name in settings.clubs),
        volume=str(settings.volume.adopt),
        address=str(settings.host.reserved_ip_adopt),
    )


def _require_clubs_on_host(plan: Release, fleet: Settings) -> None:
    require_settled(plan.cluster, plan.host, fleet)
    require_clubs_on_host(_places(plan))


def _places(plan: Release) -> dict[Stack, tuple[Placement, Placement]]:
    """The host as it was, and as it is to be, of each stack on it."""
    there = (plan.cluster.name, plan.host)
    after = {plan.target: None, **dict.fromkeys(plan.clubs, plan.target.name)}
    return {stack: (there, (on, None)) for stack, on in after.items()}


def _begin(plan: Release, account: DigitalOceanAccount, fleet: Settings, size: str, *, yes: bool) -> bool:
    cluster, target = plan.cluster, plan.target
    step(1, f"Check whether host {plan.host} of {cluster.name} can become a host of {target.name}.")
    require_backups_in_buckets(plan.stacks)
    passes = Cluster.of(cluster).passes()
    place = next(item for item in passes.places if item.name == plan.host)
    view = answered(lambda: passes.view(place))
    if view.carrier is None or not view.is_serving:
        raise ReleaseError(f"Host {plan.host} is down. `./pds repair {cluster.name}` first. Nothing was changed.")
    volume = handover.volume_of(account, plan.volume)
    edits = [
        prepare(target, target_edits(plan, fleet, volume, size)),
        *(prepare(club, club_edits(target.name)) for club in plan.clubs),
        _cluster_edit(plan, fleet),
    ]
    for stack in (cluster, *plan.stacks):
        refuse_changes(stack)
    for edit in edits:
        print(f"\n{edit.diff('released')}", end="")
    print(
        f"\nVolume {plan.volume} and address {plan.address} move to {target.name}. The PDSes of "
        f"{', '.join(stack.name for stack in plan.stacks)} are down from the shutdown of droplet {view.carrier} until "
        "each stack's `up` has completed. Members keep accounts, posts and sessions."
    )
    if not yes and not click.confirm("Release it?"):
        return False
    for edit in edits:
        edit.require_current()
    step(2, f"Write the next owner onto the volume, and the host into Pulumi.{target.name}.yaml.")
    own = [f"clubs/pds-{target.name}", "pds"]
    handover.give_away(cluster.name, view.carrier, plan.address, [target.name, *own])
    edits[0].write()
    return True


def _finish(plan: Release, account: DigitalOceanAccount, *, yes: bool) -> int:
    cluster, target = plan.cluster, plan.target
    fleet = read_settings(cluster.name, cluster.root)
    assert fleet.cluster
    step(3, f"Remove the host from {cluster.name}. Its PDSes keep running.")
    if plan.host in fleet.cluster.hosts:
        _cluster_edit(plan, fleet).write()
    names = tuple(stack.name for stack in plan.stacks)
    release(cluster, lambda item: is_of_the_host(item, plan.host, names))
    up(cluster, yes=yes)
    step(4, "Shut the worker down cleanly, detach the volume, and unassign the address.")
    carrier = handover.carrier_of(account, plan.volume)
    workers = [str(item) for item in cluster.outputs().get("workers") or []]
    if carrier is not None and str(carrier) in workers:
        handover.set_free(account, plan.volume, plan.address, carrier, plan.command)
    step(5, "Remove the host's Nomad resources from the states, then from the cluster's Nomad.")
    _require_clubs_on_host(plan, read_settings(cluster.name, cluster.root))
    for club in plan.clubs:
        if configured(club, "on") != target.name:
            prepare(club, club_edits(target.name)).write()
    providers = (f"pds-host-provider-{cluster.name}",)
    for stack in plan.stacks:
        release(stack, lambda item: is_nomad(item, providers), written_place(stack))
    _require_detached(plan, account)
    remove_from_nomad.forget(_nomad(cluster), plan.host, names)
    return _up(plan, yes=yes)


def _require_detached(plan: Release, account: DigitalOceanAccount) -> None:
    """Nomad deletes no volume that a worker still has: its plugin would remove the directory of a PDS."""
    if (carrier := _droplet_in_the_way(plan, account)) is not None:
        raise ReleaseError(
            f"Droplet {carrier} has volume {plan.volume}, and it is not the droplet of {plan.target.name}. Nomad still "
            f"knows the host. Detach it: `doctl compute volume-action detach {plan.volume} {carrier} --wait` once that "
            f"droplet is off, then `{plan.command}`."
        )


def _droplet_in_the_way(plan: Release, account: DigitalOceanAccount) -> int | None:
    """The droplet that has the volume, if it is not the target's."""
    carrier = handover.carrier_of(account, plan.volume)
    droplet = plan.target.state().named(DROPLET)
    return carrier if droplet is None or str(carrier) != droplet.id else None


def _is_handed_over(plan: Release, account: DigitalOceanAccount, fleet: Settings) -> bool:
    """Whether only `up` of the stacks is left.

    That the target's state has the volume is no proof: another person's `up` of it between two steps imports the volume
    while a worker of the cluster still has it.
    """
    if plan.target.state().named(VOLUME) is None:
        return False
    if plan.host in {*(plan.cluster.outputs().get("hosts") or {}), *(fleet.cluster.hosts if fleet.cluster else ())}:
        return False
    if _droplet_in_the_way(plan, account) is not None:
        return False
    provider = f"pds-host-provider-{plan.cluster.name}"
    return (
        all(configured(club, "on") == plan.target.name for club in plan.clubs)
        and all(stack.state().named(provider) is None for stack in plan.stacks)
        and remove_from_nomad.is_forgotten(_nomad(plan.cluster), plan.host)
    )


def _end(plan: Release, *, yes: bool) -> int:
    """The last step of a release, after the others are over.

    Raises ReleaseError if this step is over too. The target's file keeps `volume.adopt` for good.
    """
    provider = f"pds-host-provider-{plan.target.name}"
    waiting = [club.name for club in plan.clubs if club.state().named(provider) is None]
    if plan.target.state().named(DROPLET) is None:
        waiting.insert(0, plan.target.name)
    if not waiting:
        raise ReleaseError(
            f"{plan.target.name} has a host of its own already, with volume {plan.volume}: a release to it is over. "
            f"Nothing was changed. For another host of {plan.cluster.name}, name a stack on that host with --to."
        )
    return _up(plan, yes=yes)


def _up(plan: Release, *, yes: bool) -> int:
    cluster, target = plan.cluster, plan.target
    step(6, f"`pulumi up` of {target.name}, which imports volume and address, and of the others.")
    for stack, places in _places(plan).items():
        require_clubs_on_host({stack: places})
        up(stack, yes=yes, env=moved_to(stack))
    print(
        f"\nHost {plan.host} of {cluster.name} is the host of {target.name}. {cluster.name} has one more spare: lower "
        "'cluster.workers.spares' only if the last worker runs no host (`./pds list`). The worker that was shut "
        "down is a spare again once it is on, or rebuilt. Run `./pds check` and `./pds escrow` for each stack."
    )
    return 0


def _nomad(cluster: Stack) -> NomadApi:
    names = ("nomad_address", "nomad_ca_pem", "nomad_client_cert_pem", "nomad_client_key_pem", "nomad_management_token")
    outputs = cluster.required_outputs(*names)
    return NomadApi(*(outputs[name] for name in names))


def target_edits(plan: Release, fleet: Settings, volume: Mapping[str, Any], size: str) -> Edits:
    """The stack that gets the droplet: what a cluster's file has for all of its droplets."""
    assert fleet.cluster
    assert fleet.operators
    name = str(volume["name"])
    clubs = {
        club.name: {key: getattr(fleet.clubs[club.name], key) for key in ("port", "disk_gib", "memory_mib")}
        for club in plan.clubs
    }
    ingress = {
        f"ingress.{key}": str(getattr(fleet.ingress, key))
        for key in ("acme_email", "acme_ca", "image", "memory_mib")
        if key in fleet.ingress.model_fields_set
    }
    return {
        "on": None,
        "nomad.datacenter": None,
        "pds.new": False,
        "host": {
            "region": fleet.host.region,
            "size": size or fleet.cluster.workers.size,
            "reserved_ip_adopt": plan.address,
        },
        "volume": {
            "size_gib": int(volume["size_gigabytes"]),
            "adopt": plan.volume,
            **({} if name == f"pds-{plan.target.name}" else {"name": name}),
        },
        "operators": {
            "cidrs": list(map(str, fleet.operators.cidrs)),
            "ssh_keys": list(fleet.operators.ssh_keys),
            **({"nomad_anywhere": True} if fleet.operators.nomad_anywhere else {}),
        },
        **({"clubs": clubs} if clubs else {}),
        **ingress,
    }


def club_edits(on: str) -> Edits:
    """Another club's file."""
    return {"on": on, "nomad.datacenter": None, "pds.new": False}


def _cluster_edit(plan: Release, fleet: Settings) -> StackFileEdit:
    """Without the host and its clubs. The number of workers stays, so that no worker with a host is deleted."""
    assert fleet.cluster
    clubs = dict.fromkeys(f"clubs.{stack.name}" for stack in plan.stacks)
    workers = {"cluster.workers.spares": fleet.cluster.workers.spares + 1}
    return prepare(plan.cluster, {f"cluster.hosts.{plan.host}": None, **clubs, **workers})


def is_of_the_host(item: Mapping[str, Any], host: str, clubs: tuple[str, ...]) -> bool:
    """Whether a resource of the cluster's state stands for this host, or for a club on it."""
    name = name_of(dict(item))
    if name in (f"pds-cluster-hosts-{host}-volume", f"pds-cluster-hosts-{host}-ip", f"pds-cluster-namespace-{host}"):
        return True
    parts = (f"pds-ingress-{host}", *(f"pds-cluster-clubs-{club}-{part}" for club in clubs for part in _OF_A_CLUB))
    return name in parts or name == "pds-host-in-use"


_OF_A_CLUB = ("policy", "token", "namespace")
