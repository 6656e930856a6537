"""Makes a host with a droplet of its own a host of a cluster, with the same volume and the same address; `./pds adopt`.

Nothing is copied and nothing is deleted before all is well. The order: check everything, write the next owner onto the
volume, shut the droplet down, detach, release the resources from the states, then `up` of the cluster, which imports
volume and address, and of each stack. The cluster's file is the record of progress: each step looks at what is already
so, and the same command continues.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from cli.adoption import handover
from cli.adoption.club_hosts import Placement, require_clubs_on_host, require_settled
from cli.adoption.handover import VolumeError
from cli.adoption.released_state import is_below, is_nomad, release
from cli.adoption.stack_edits import Edits, configured, prepare
from cli.backups.restore import step
from cli.cluster.hosts import Cluster, answered, require_cluster
from cli.errors import CommandError
from cli.lib.apply import moved_to, up, written_place
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.edit_stackfile import StackFileEdit
from cli.lib.stack import Stack, State, digitalocean_token
from cli.move.own_disks import require_backups_in_buckets
from cli.stacks.pending_changes import refuse_changes
from components.settings.checks.capacity import RESERVE_GIB, memory_demand
from components.settings.checks.pds_env import blob_location
from components.settings.checks.placement import OF_THE_HOSTS_INGRESS
from components.settings.sections.settings import Settings
from components.takeover.decide import choose_spare
from offline.stackfile import parse_settings, read_settings

VOLUME, ADDRESS, DROPLET = "pds-host-data-volume", "pds-host-network-ip", "pds-host-droplet"
_OWN_PROVIDERS = ("pds-host-nomad-admin", "pds-host-nomad-provider")
_STAYS = ("Droplet", "Firewall", "Project", "ProjectResources", "ReservedIpAssignment", "Tag", "Vpc")
"""Types of a host's resources that the engine deletes, or forgets, once the PDS serves on the cluster."""


class AdoptError(CommandError):
    """The host cannot be adopted, and nothing was changed; the text says what to do."""


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What is adopted. `clubs` are the other stacks on that host; `droplet` is None once it is deleted."""

    cluster: Stack
    host: str
    single: Stack
    clubs: tuple[Stack, ...]
    volume: str
    address: str
    droplet: int | None

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """All stacks with a PDS on the host."""
        return (self.single, *self.clubs)

    @property
    def command(self) -> str:
        """The command that continues."""
        return f"./pds adopt {self.cluster.name} {self.host} --from {self.single.name}"


def adopt(cluster: Stack, host: str, single: Stack, *, yes: bool) -> int:
    """Adopt the host of stack `single` as host `host` of `cluster`; return the exit code.

    Raises CommandError and StackFileError.
    """
    fleet = read_settings(cluster.name, cluster.root)
    hosts = require_cluster(cluster.name, fleet).hosts
    handover.require_distinct(cluster.name, single.name)
    with DigitalOceanAccount(digitalocean_token(cluster)) as account:
        if host in hosts:
            adoption = _begun(cluster, host, single, fleet)
            _require_clubs_on_host(adoption, fleet)
            is_new = _is_in_use(adoption, account)
        else:
            adoption, is_new = _planned(cluster, host, single), True
        if is_new and not _begin(adoption, account, fleet, yes=yes):
            return 1
        return _finish(adoption, account, yes=yes)


def _planned(cluster: Stack, host: str, single: Stack) -> Adoption:
    settings = read_settings(single.name, single.root)
    if settings.cluster or settings.on:
        raise AdoptError(f"{single.name} has no host with a droplet of its own. Nothing was changed.")
    state = single.state()
    made = {name: state.named(name) for name in (VOLUME, ADDRESS, DROPLET)}
    _refuse_older_checkout(single, state)
    if missing := [name for name, item in made.items() if item is None]:
        raise AdoptError(
            f"The state of {single.name} has no {missing[0]}. Complete `pulumi up --stack {single.name}` first."
        )
    ids = {name: item.id for name, item in made.items() if item}
    return Adoption(
        cluster=cluster,
        host=host,
        single=single,
        clubs=tuple(Stack(name, single.root) for name in settings.clubs),
        volume=ids[VOLUME],
        address=ids[ADDRESS],
        droplet=int(ids[DROPLET]),
    )


def _refuse_older_checkout(single: Stack, state: State) -> None:
    """The file has a host of its own, and the state gave it away: an `up` would make another volume and address."""
    identity = state.named("pds-identity")
    on = identity.outputs.get("on") if identity else ""
    released = state.named(DROPLET) is not None and state.named(VOLUME) is None
    if on or released:
        seen = f"has its PDS on {on}" if on else "has the droplet, and no volume"
        raise AdoptError(
            f"The adoption of {single.name} has begun already: its state {seen}. Pulumi.{single.name}.yaml is that of "
            "an older checkout. Repeat the command with the newer files, in which the cluster's host has 'adopt', and "
            "run no `pulumi up` with these. Nothing was changed."
        )


def _begun(cluster: Stack, host: str, single: Stack, fleet: Settings) -> Adoption:
    """The adoption that the cluster's file records."""
    assert fleet.cluster
    adopted = fleet.cluster.hosts[host].adopt
    names = [name for name, club in fleet.clubs.items() if club.host == host]
    if adopted is None or single.name not in names:
        raise AdoptError(f"{cluster.name} already has a host {host}, from another stack. Choose another name.")
    state = single.state()
    made = {name: item.id if (item := state.named(name)) else None for name in (VOLUME, ADDRESS, DROPLET)}
    if not _is_on(single, cluster) and (
        (made[VOLUME], made[ADDRESS]) != (adopted.volume, str(adopted.address)) or made[DROPLET] is None
    ):
        raise AdoptError(
            f"pds:cluster.hosts.{host}.adopt: Pulumi.{cluster.name}.yaml does not match the state of {single.name}: "
            f"volume or address differ, or the state has no droplet. Remove host {host} and its clubs from that file, "
            "and repeat the command, which writes them. Nothing was changed."
        )
    return Adoption(
        cluster=cluster,
        host=host,
        single=single,
        clubs=tuple(Stack(name, single.root) for name in names if name != single.name),
        volume=adopted.volume,
        address=str(adopted.address),
        droplet=int(made[DROPLET] or 0) or None,
    )


def _is_in_use(adoption: Adoption, account: DigitalOceanAccount) -> bool:
    """Whether the droplet still serves from the volume: an adoption in the file alone is checked like a new one."""
    carrier = handover.carrier_of(account, adoption.volume)
    return carrier is not None and carrier == adoption.droplet and handover.is_on(account, carrier)


def _begin(adoption: Adoption, account: DigitalOceanAccount, fleet: Settings, *, yes: bool) -> bool:
    """Check everything, ask, write the next owner onto the volume, and record it in the cluster's file.

    If the file has it already, an operator wrote it, or this step was interrupted: only the file is left as it is.
    """
    cluster, single = adoption.cluster, adoption.single
    is_recorded = _is_recorded(adoption, fleet)
    step(1, f"Check whether the host of {single.name} can become host {adoption.host} of {cluster.name}.")
    settings = read_settings(single.name, single.root)
    _require_fitting(adoption, fleet, settings)
    _require_clubs_on_host(adoption, fleet)
    require_backups_in_buckets(adoption.stacks)
    volume = _require_present(adoption, account)
    _require_spare(cluster)
    edits = [_edit(adoption, stack) for stack in adoption.stacks]
    as_a_club = parse_settings(single.name, edits[0].after)
    _refuse_moved_blobs(settings, as_a_club, single)
    record = prepare(cluster, cluster_edits(adoption, settings, as_a_club, int(volume["size_gigabytes"])))
    # The preview of a cluster with an adoption fails while the droplet has the volume.
    for stack in (*(() if is_recorded else (cluster,)), *adoption.stacks):
        refuse_changes(stack)
    changes = edits if is_recorded else [record, *edits]
    for edit in changes:
        print(f"\n{edit.diff('adopted')}", end="")
    names = ", ".join(stack.name for stack in adoption.stacks)
    print(
        f"\nVolume {adoption.volume} and address {adoption.address} move to {cluster.name}. The PDSes of {names} are "
        f"down from the shutdown of droplet {adoption.droplet} until each stack's `up` has completed. That droplet and "
        f"its firewall are deleted at the end. Members keep accounts, posts and sessions."
    )
    if not yes and not click.confirm("Adopt it?"):
        return False
    for edit in changes:
        edit.require_current()
    step(2, f"Write the next owner onto the volume, and host {adoption.host} into Pulumi.{cluster.name}.yaml.")
    assert adoption.droplet
    club = parse_settings(cluster.name, record.before if is_recorded else record.after).clubs[single.name]
    own = ["pds", f"clubs/pds-{single.name}", str(club.disk_gib)]
    owner = [f"{cluster.name}-{adoption.host}", *own]
    handover.give_away(single.name, adoption.droplet, adoption.address, owner)
    if not is_recorded:
        record.write()
    return True


def _finish(adoption: Adoption, account: DigitalOceanAccount, *, yes: bool) -> int:
    step(3, "Shut the droplet down cleanly, detach the volume, and unassign the address.")
    if adoption.droplet is not None:
        handover.set_free(account, adoption.volume, adoption.address, adoption.droplet, adoption.command)
    step(
        4,
        "Write the stack files. Remove volume, address and the old Nomad's resources from the states. Nothing is "
        "deleted.",
    )
    _require_clubs_on_host(adoption, read_settings(adoption.cluster.name, adoption.cluster.root))
    for stack in adoption.stacks:
        if not _is_on(stack, adoption.cluster):
            _edit(adoption, stack).write()
    release(adoption.single, is_of_the_single_host, written_place(adoption.single))
    providers = (f"pds-host-provider-{adoption.single.name}",)
    for club in adoption.clubs:
        release(club, lambda item: is_nomad(item, providers), written_place(club))
    step(5, f"`pulumi up` of {adoption.cluster.name}, which imports volume and address, and places the host.")
    up(adoption.cluster, yes=yes)
    step(6, "`pulumi up` of each stack with a PDS on it.")
    for stack, places in _places(adoption).items():
        require_clubs_on_host({stack: places})
        up(stack, yes=yes, env=moved_to(stack))
    print(
        f"\nThe host of {adoption.single.name} is host {adoption.host} of {adoption.cluster.name}. `./pds list` shows "
        f"it. 'adopt' may be removed from Pulumi.{adoption.cluster.name}.yaml: it has no effect any more. Run `./pds "
        f"check` and `./pds escrow` for {', '.join(stack.name for stack in adoption.stacks)}."
    )
    return 0


def _require_clubs_on_host(adoption: Adoption, fleet: Settings) -> None:
    require_settled(adoption.cluster, adoption.host, fleet)
    require_clubs_on_host(_places(adoption))


def _places(adoption: Adoption) -> dict[Stack, tuple[Placement, Placement]]:
    """The host as it was, and as it is to be, of each stack on it."""
    there = (adoption.cluster.name, adoption.host)
    before = {adoption.single: None, **dict.fromkeys(adoption.clubs, adoption.single.name)}
    return {stack: ((on, None), there) for stack, on in before.items()}


def _require_fitting(adoption: Adoption, fleet: Settings, settings: Settings) -> None:
    """Refuse what cannot be the same on the cluster."""
    files = f"Pulumi.{adoption.single.name}.yaml", f"Pulumi.{adoption.cluster.name}.yaml"
    for key, own, other in (
        ("host.region", settings.host.region, fleet.host.region),
        ("nomad.region", settings.nomad.region, fleet.nomad.region),
        ("ingress.kind", settings.ingress.kind, fleet.ingress.kind),
    ):
        if own != other:
            fix = (
                "A volume and an address never leave their region: a cluster there can adopt them."
                if key == "host.region"
                else "Make them equal, and run `pulumi up`."
            )
            raise AdoptError(f"pds:{key}: {files[0]} has '{own}', and {files[1]} has '{other}'. {fix}")
    if settings.metrics_store:
        raise AdoptError(
            f"pds:metrics.store: a cluster has no metrics store. Remove it from {files[0]}, and run `pulumi up`."
        )
    clubs = fleet.clubs.items()
    others = {name for name, club in clubs if club.host != adoption.host or not _is_recorded(adoption, fleet)}
    if taken := [stack.name for stack in adoption.stacks if stack.name in others]:
        raise AdoptError(f"pds:clubs.{taken[0]}: {files[1]} has this club on another host already. Remove it there.")


def _require_spare(cluster: Stack) -> None:
    """The worker that gets the host. Another one is made by the same `up`."""
    passes = Cluster.of(cluster).passes()
    if answered(lambda: choose_spare(passes.cloud.workers(passes.tag), passes.retired())) is None:
        raise AdoptError(
            f"{cluster.name} has no spare worker. Nothing was changed. Raise 'cluster.workers.spares', and run `pulumi "
            f"up --stack {cluster.name}`."
        )


def _require_present(adoption: Adoption, account: DigitalOceanAccount) -> dict[str, Any]:
    volume = handover.volume_of(account, adoption.volume)
    assert adoption.droplet
    mine = {f"Pulumi.{stack.name}.yaml" for stack in (adoption.cluster, adoption.single)}
    files = [file.name for file in adoption.cluster.root.glob("Pulumi.*.yaml") if file.name not in mine]
    others = [name for name in files if adoption.volume in (adoption.cluster.root / name).read_text("utf-8")]
    if others or not volume["droplet_ids"]:
        raise VolumeError(
            f"`./pds adopt` of {adoption.single.name} was interrupted: "
            + (
                f"{others[0]} has its volume {adoption.volume}. "
                if others
                else f"no droplet has volume {adoption.volume}. "
            )
            + "Repeat it with the same cluster and host. Do not switch the droplet on. Nothing was changed."
        )
    if adoption.droplet not in volume["droplet_ids"] or not handover.is_on(account, adoption.droplet):
        raise VolumeError(
            f"Droplet {adoption.droplet} of stack {adoption.single.name} is off, or does not have its volume. "
            f"`./pds repair {adoption.single.name}` first. Nothing was changed."
        )
    return volume


def _refuse_moved_blobs(settings: Settings, as_a_club: Settings, single: Stack) -> None:
    before, after = blob_location(settings), blob_location(as_a_club)
    if before != after:
        raise AdoptError(
            f"pds:blobs: without 'host' the location of the blobs would change from '{before}' to '{after}'. Write "
            f"'region: {settings.host.region}' into 'pds:blobs' of Pulumi.{single.name}.yaml, and run `pulumi up`."
        )


def _edit(adoption: Adoption, stack: Stack) -> StackFileEdit:
    if stack.name == adoption.single.name:
        settings = read_settings(stack.name, stack.root)
        return prepare(stack, single_edits(adoption.cluster.name, adoption.host, settings))
    return prepare(stack, club_edits(adoption.cluster.name, adoption.host))


def cluster_edits(adoption: Adoption, settings: Settings, as_a_club: Settings, gib: int) -> Edits:
    """The host, and its clubs. The former PDS of the host itself gets what the others leave of the volume's `gib` GiB.

    `settings` are those of its stack, `as_a_club` those after the adoption.
    """
    left = gib - RESERVE_GIB - sum(club.disk_gib for club in settings.clubs.values())
    if left < 1:
        raise AdoptError(
            f"pds:volume.size_gib: the volume has {gib} GiB. On a cluster, the PDS of {adoption.single.name} needs a "
            f"quota, in addition to those of 'clubs' and {RESERVE_GIB} GiB for the host. Raise 'size_gib' in "
            f"Pulumi.{adoption.single.name}.yaml, and run `pulumi up`."
        )
    own = {
        "host": adoption.host,
        "port": settings.pds.port,
        "disk_gib": left,
        "memory_mib": memory_demand(as_a_club),
    }
    clubs = {
        name: {"host": adoption.host, "port": club.port, "disk_gib": club.disk_gib, "memory_mib": club.memory_mib}
        for name, club in settings.clubs.items()
    }
    host = {"volume_gib": gib, "adopt": {"volume": adoption.volume, "address": adoption.address}}
    clubs_edits = {f"clubs.{name}": values for name, values in {adoption.single.name: own, **clubs}.items()}
    return {f"cluster.hosts.{adoption.host}": host, **clubs_edits}


def single_edits(cluster: str, host: str, settings: Settings) -> Edits:
    """A stack with a host of its own becomes a club: its host's options leave the file."""
    removed = dict.fromkeys(
        (
            *("host", "volume", "operators", "clubs", "secrets.nomad_management_token"),
            *(f"nomad.{key}" for key in ("version", "sha256", "mirror")),
            *(f"ingress.{key}" for key in OF_THE_HOSTS_INGRESS),
        )
    )
    return {**removed, **club_edits(cluster, host), "pds.port": settings.pds.port}


def club_edits(on: str, datacenter: str) -> Edits:
    """A club's file. A server that finds an empty volume must not start as a new PDS."""
    return {"on": on, "nomad.datacenter": datacenter, "pds.new": False}


def _is_recorded(adoption: Adoption, fleet: Settings) -> bool:
    return fleet.cluster is not None and adoption.host in fleet.cluster.hosts


def _is_on(stack: Stack, cluster: Stack) -> bool:
    return configured(stack, "on") in (cluster.name, {"stack": cluster.name})


def is_of_the_single_host(item: Mapping[str, Any]) -> bool:
    """Whether a resource of the state of a host's stack leaves with the host: volume, address, and all of its Nomad."""
    resource = dict(item)
    kind = str(resource["type"]).rpartition(":")[2]
    if is_nomad(resource, _OWN_PROVIDERS):
        return True
    if kind == "HostInUse":
        return True
    return is_below(resource, "OwnHost") and bool(resource.get("custom")) and kind not in _STAYS
