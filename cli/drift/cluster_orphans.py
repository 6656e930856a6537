"""Resources of a cluster's stack in the account that are not in its state. The names are the program's own."""

from collections.abc import Iterator, Mapping

from cli.drift.orphan import Orphan
from cli.lib.digitalocean import DigitalOceanAccount, Json
from cli.lib.stack import State
from components.render.cluster.user_data import server_tag, volume_prefix, worker_tag
from components.settings.sections.settings import Settings


def cluster_orphans(stack: str, settings: Settings, state: State, account: DigitalOceanAccount) -> Iterator[Orphan]:
    """Yield them, first what blocks others. Raises DigitalOceanError."""
    assert settings.cluster
    volumes = {
        item["id"]: item
        for host in settings.cluster.hosts
        for item in account.list_all("volumes", name=f"{volume_prefix(stack)}{host}")
    }
    tags = (server_tag(stack), worker_tag(stack))
    droplets = [item for tag in tags for item in account.list_all("droplets", tag_name=tag)]
    yield from _droplets(droplets, volumes, state)
    yield from _volumes(volumes, settings, state)
    yield from _addresses({str(item["id"]) for item in droplets}, settings, state, account)
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


def _droplets(droplets: list[Json], volumes: Mapping[str, Json], state: State) -> Iterator[Orphan]:
    known = state.ids("Droplet")
    for item in droplets:
        number = str(item["id"])
        if number in known:
            continue
        held = sorted(volumes[one]["name"] for one in item["volume_ids"] if one in volumes)
        holds = (
            f"It has volume {', '.join(held)} and runs the clubs of that host. Deleting it ends them and keeps the "
            "volume"
            if held
            else "It holds no volume of this cluster, and therefore no data"
        )
        off = (
            [("doctl", "compute", "droplet-action", "shutdown", number, "--wait")] if item["status"] == "active" else []
        )
        yield Orphan(
            kind="droplet",
            id=number,
            about=f"{item['name']}, {item['status']}, created {item['created_at']}. {holds}.",
            delete=(*off, ("doctl", "compute", "droplet", "delete", number)),
        )


def _volumes(volumes: Mapping[str, Json], settings: Settings, state: State) -> Iterator[Orphan]:
    known = state.ids("Volume")
    for number, item in volumes.items():
        if number in known:
            continue
        droplets = [str(held) for held in item["droplet_ids"]]
        where = f"attached to droplet {', '.join(droplets)}" if droplets else "attached to nothing"
        yield Orphan(
            kind="volume",
            id=number,
            about=f"{item['name']}, {item['size_gigabytes']} GiB in {item['region']['slug']}, created "
            f"{item['created_at']}, {where}. It holds the data of every club on that host, whose only other copies are "
            "backups: check before you delete it.",
            delete=(
                *(("doctl", "compute", "volume-action", "detach", number, held, "--wait") for held in droplets),
                ("doctl", "compute", "volume", "delete", number),
            ),
            data=True,
            blocks=item["region"]["slug"] == settings.host.region,
        )


def _addresses(droplets: set[str], settings: Settings, state: State, account: DigitalOceanAccount) -> Iterator[Orphan]:
    known = state.ids("ReservedIp")
    for item in account.list_all("reserved_ips"):
        ip, droplet = item["ip"], item["droplet"]
        own = droplet and str(droplet["id"]) in droplets
        if ip in known or (droplet and not own) or (not droplet and item["region"]["slug"] != settings.host.region):
            continue
        whose = (
            f"Assigned to droplet {droplet['id']}."
            if droplet
            else "Assigned to nothing. A reserved IP has no name: this may belong to another project."
        )
        yield Orphan(
            kind="reserved-ip",
            id=ip,
            about=f"{whose} Records of clubs may point to it. It is billed while it is assigned to nothing.",
            delete=(("doctl", "compute", "reserved-ip", "delete", ip),),
        )
