"""Resources of a cluster's stack in the account that are not in its state. The names are the program's own."""

from collections.abc import Iterator, Mapping

from cli.drift.claims import Claims
from cli.drift.orphan import Orphan, unknown_droplet, volume_deletion
from cli.lib.digitalocean import DigitalOceanAccount, Json
from cli.lib.stack import State
from components.render.cluster.user_data import server_tag, volume_prefix, worker_tag
from components.settings.sections.settings import Settings


def cluster_orphans(
    stack: str, settings: Settings, state: State, account: DigitalOceanAccount, claims: Claims
) -> Iterator[Orphan]:
    """Yield them, first what blocks others. Raises DigitalOceanError."""
    assert settings.cluster
    volumes = {
        item["id"]: item
        for host in settings.cluster.hosts
        for item in account.list_all("volumes", name=f"{volume_prefix(stack)}{host}")
    }
    tags = (server_tag(stack), worker_tag(stack))
    droplets = [item for tag in tags for item in account.list_all("droplets", tag_name=tag)]
    own = {str(item["id"]) for item in droplets}
    yield from _droplets(droplets, volumes, state, claims)
    yield from _volumes(stack, volumes, own, settings, state, claims)
    yield from _addresses(own, settings, state, account, claims)
    for item in account.list_all("firewalls"):
        if item["name"] in tags and item["id"] not in state.ids("Firewall"):
            yield Orphan(
                kind="firewall",
                id=item["id"],
                about=f"{item['name']}. The next `up` creates another one, which needs the name.",
                delete=(("doctl", "compute", "firewall", "delete", item["id"]),),
                blocks=True,
            )
    for item in account.list_all("vpcs"):
        if item["name"] == f"pds-{stack}" and item["id"] not in state.ids("Vpc"):
            yield Orphan(
                kind="vpc",
                id=item["id"],
                about=f"{item['name']}, {item['ip_range']}. It can be deleted once no droplet is in it.",
                delete=(("doctl", "vpcs", "delete", item["id"]),),
                blocks=True,
            )
    for tag in tags:
        if tag not in state.ids("Tag") and account.get(f"tags/{tag}"):
            yield Orphan(
                kind="tag",
                id=tag,
                about="It costs nothing, and the next `up` takes it over.",
                delete=(("doctl", "compute", "tag", "delete", tag),),
            )


def _droplets(droplets: list[Json], volumes: Mapping[str, Json], state: State, claims: Claims) -> Iterator[Orphan]:
    known = state.ids("Droplet")
    for item in droplets:
        if str(item["id"]) in known or claims.in_a_state(str(item["id"])):
            continue
        held = sorted(volumes[one]["name"] for one in item["volume_ids"] if one in volumes)
        yield unknown_droplet(
            item,
            volumes,
            f"It has volume {', '.join(held)} and runs the clubs of that host. Deleting it ends them and keeps the "
            "volume."
            if held
            else "It holds no volume, and therefore no data.",
        )


def _volumes(
    stack: str, volumes: Mapping[str, Json], own: set[str], settings: Settings, state: State, claims: Claims
) -> Iterator[Orphan]:
    assert settings.cluster
    known, prefix = state.ids("Volume"), volume_prefix(stack)
    adopted = {host.adopt.volume for host in settings.cluster.hosts.values() if host.adopt}
    for number, item in volumes.items():
        if number in known:
            continue
        droplets = [str(held) for held in item["droplet_ids"]]
        where = f"attached to droplet {', '.join(droplets)}" if droplets else "attached to nothing"
        here = item["region"]["slug"] == settings.host.region
        taken = number in adopted
        other = "" if taken else claims.on_a_volume(number, item["name"], droplets, own | state.ids("Droplet"))
        if other and not here:
            continue
        host = item["name"].removeprefix(prefix)
        rename = f"Give host {host} another name in Pulumi.{stack}.yaml: the volume keeps this one."
        yield Orphan(
            kind="volume",
            id=number,
            about=f"{item['name']}, {item['size_gigabytes']} GiB in {item['region']['slug']}, created "
            f"{item['created_at']}, {where}. {_TAKEN if taken else other or _DATA}",
            delete=() if taken or other else volume_deletion(number, droplets),
            instead=_KEPT if taken else rename if other else "",
            taken=taken,
            data=True,
            blocks=here and not taken,
        )


_TAKEN = "The stack file adopts it: the next `up` takes it."
_KEPT = "For the command that deletes it, first remove 'adopt' from the stack file."
_DATA = "It holds the data of every club on that host, whose only other copies are backups: check before you delete it."


def _addresses(
    droplets: set[str], settings: Settings, state: State, account: DigitalOceanAccount, claims: Claims
) -> Iterator[Orphan]:
    assert settings.cluster
    known = state.ids("ReservedIp")
    adopted = {str(host.adopt.address) for host in settings.cluster.hosts.values() if host.adopt}
    for item in account.list_all("reserved_ips"):
        ip, droplet = item["ip"], item["droplet"]
        own = droplet and str(droplet["id"]) in droplets
        if ip in known or (droplet and not own) or (not droplet and item["region"]["slug"] != settings.host.region):
            continue
        taken = ip in adopted
        if not taken and claims.of(ip):
            continue
        whose = (
            f"Assigned to droplet {droplet['id']}."
            if droplet
            else "Assigned to nothing."
            if taken
            else "Assigned to nothing. A reserved IP has no name: this may belong to another project."
        )
        note = _TAKEN if taken else "Records of clubs may point to it."
        yield Orphan(
            kind="reserved-ip",
            id=ip,
            about=f"{whose} {note} It is billed while it is assigned to nothing.",
            delete=() if taken else (("doctl", "compute", "reserved-ip", "delete", ip),),
            instead=_KEPT if taken else "",
            taken=taken,
        )
