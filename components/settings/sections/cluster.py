"""A cluster: servers of Nomad, hosts, and workers that carry them.

A host is a volume and a reserved IP. A worker is a droplet without anything to keep. Which worker carries which host is
decided at run time (docs/decisions/0021).
"""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from components.settings.fields.option import READ_ONLY_MAP, Section, option
from components.settings.fields.types import Address, HttpsUrl, SecretUrl, VpcRange

_SIZE = r"^[a-z0-9._-]{1,40}-[0-9]{1,6}(gb|mb)(-[a-z0-9-]{1,40})?$"
_GENERATIONS = "Raise a number by one to rebuild that droplet."

HostName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,14}$")]
Number = Annotated[str, Field(pattern=r"^[1-9][0-9]?$")]
Generation = Annotated[int, Field(ge=1)]


class ServersOptions(Section):
    """The droplets with the servers of Nomad. Their state is replicated, so nothing on them has to be kept."""

    count: Literal[1, 3] = option(3, doc="Number of servers: 3 survive the loss of one; 1 survives no loss.")
    size: str = option("s-1vcpu-1gb", pattern=_SIZE, doc="Droplet size slug.")
    endpoint: int = option(1, ge=1, le=3, doc="Number of the Nomad server that `pulumi up` and `./pds` connect to.")
    generations: Annotated[Mapping[Number, Generation], *READ_ONLY_MAP] = option(
        default_factory=dict, doc=f"Generation of each server, by number; 1 if absent. {_GENERATIONS}", example={"2": 2}
    )


class AdoptedHostOptions(Section):
    """Volume and address of a host that had a droplet of its own. `./pds adopt` writes them."""

    volume: str = option(
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        doc="ID of the volume, which keeps its name at DigitalOcean.",
        example="506f78a4-e098-11e5-ad9f-000f53306ae1",
    )
    address: Address = option(doc="The reserved IP.", example="203.0.113.10")


class ClusterHostOptions(Section):
    """A host: a volume and a reserved IP that move together."""

    volume_gib: int = option(50, ge=1, le=16384, doc="Size of its volume in GiB. It can grow, never shrink.")
    adopt: AdoptedHostOptions | None = option(
        None, doc="Existing volume and address to use instead of new ones. Ignored once they are in the state."
    )


class WorkersOptions(Section):
    """The droplets that run hosts: one for each host, and spares that wait for a volume."""

    size: str = option("s-2vcpu-4gb", pattern=_SIZE, doc="Droplet size slug, which contains the memory size.")
    spares: int = option(1, ge=0, le=10, doc="Number of workers without a host.")
    generations: Annotated[Mapping[Number, Generation], *READ_ONLY_MAP] = option(
        default_factory=dict, doc=f"Generation of each worker, by number; 1 if absent. {_GENERATIONS}", example={"2": 2}
    )

    @property
    def memory_mib(self) -> int:
        """Memory that the size slug states, in MiB."""
        found = re.search(r"-([0-9]+)(gb|mb)(-|$)", self.size)
        assert found, "the pattern of `size` demands it"
        return int(found[1]) * (1024 if found[2] == "gb" else 1)


class TakeoverOptions(Section):
    """The job that moves a host that is down to a spare. Without this section, run `./pds repair` instead."""

    token: SecretStr = option(doc="DigitalOcean token of the job; docs/guide/cluster.md names its scopes.")
    after_seconds: int = option(
        60, ge=30, le=3600, doc="Time without a heartbeat of a host before its volume is moved."
    )
    api_url: HttpsUrl = option("https://api.digitalocean.com", doc="Base URL of DigitalOcean's API.")
    notify_url: SecretUrl | None = option(
        None,
        doc="Receives a POST with a JSON `text` about each step, as Slack's incoming webhooks do.",
        example="https://hooks.slack.com/services/…",
    )
    ping_url: SecretUrl | None = option(
        None,
        doc="URL of a dead man's switch, such as a check of healthchecks.io, which is pinged once a minute while the "
        "job looks at all hosts. It reports when the job does not.",
        example="https://hc-ping.com/…",
    )


class SnapshotsOptions(Section):
    """Snapshots of Nomad's state in a bucket, encrypted by restic. Without this section, there are none."""

    region: str | None = option(
        None,
        pattern=r"^[a-z0-9-]{1,64}$",
        doc="Region of the bucket. Default for Spaces: `ams3`; choose a region other than the droplets'.",
        example="ams3",
    )
    bucket: str | None = option(
        None,
        pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$",
        doc="Name of the bucket, unique world-wide. Default: `STACK-nomad-backup`.",
    )
    adopt: bool = option(False, doc="Use the existing bucket of that name instead of a new one.")
    endpoint: HttpsUrl | None = option(
        None,
        doc="Endpoint of another S3 service. Its bucket must exist; no Spaces bucket or key is created.",
        example="https://s3.eu-central-1.amazonaws.com",
    )
    access_key_id: SecretStr | None = option(
        None,
        min_length=1,
        doc="Access key that may create Spaces buckets; with `endpoint`, the key that the snapshots use.",
    )
    secret_access_key: SecretStr | None = option(None, min_length=1, doc="Secret key of that access key.")
    password: SecretStr | None = option(
        None, min_length=1, doc="Password of existing snapshots, from the escrow file. Generated by default."
    )
    interval_hours: Literal[1, 2, 3, 4, 6, 8, 12, 24] = option(1, doc="Hours between two snapshots.")
    keep_days: int = option(
        14,
        ge=3,
        le=3650,
        doc="Days that snapshots are kept: all of the newest 2 days, then one a day. Days without a snapshot do not "
        "count. The bucket keeps deleted ones for 30 more days.",
    )
    ping_url: SecretUrl | None = option(
        None,
        doc="URL of a dead man's switch, such as a check of healthchecks.io, which is pinged after each snapshot. It "
        "reports when the newest one is too old.",
        example="https://hc-ping.com/…",
    )


def generation_of(droplets: ServersOptions | WorkersOptions, number: int) -> int:
    """The generation of a server or a worker: another one than in the last `up` rebuilds it."""
    return droplets.generations.get(str(number), 1)


class ClusterOptions(Section):
    """A cluster of servers, hosts and workers for the PDSes of other stacks."""

    servers: ServersOptions = option(default_factory=ServersOptions, doc="The servers of Nomad.")
    hosts: Annotated[Mapping[HostName, ClusterHostOptions], *READ_ONLY_MAP] = option(
        doc="The hosts, by name: each a volume and a reserved IP.", example={"a": {"volume_gib": 50}}
    )
    workers: WorkersOptions = option(default_factory=WorkersOptions, doc="The droplets that run the hosts.")
    vpc_ip_range: VpcRange = option(
        "10.118.0.0/20", doc="Address range of the cluster's own VPC, which no other VPC of the account may overlap."
    )
    takeover: TakeoverOptions | None = option(None, doc="The job that moves a host that is down to a spare.")
    snapshots: SnapshotsOptions | None = option(None, doc="Snapshots of Nomad's state.")
    escrow: Literal["pending", "made", "declined"] = option(
        "pending",
        doc="State of the escrow file: 'pending', 'made' once it is stored safely, 'declined' to run without one.",
    )

    @property
    def worker_count(self) -> int:
        """Number of workers: one a host, and the spares."""
        return len(self.hosts) + self.workers.spares
