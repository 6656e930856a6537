"""Options of a host of the stack's own: droplet, volume, DNS records, access, Nomad agent."""

import re
from typing import Annotated, Literal

from pydantic import Field

from components.settings.fields.nomad_version import OLDEST_NOMAD_TEXT
from components.settings.fields.option import Section, option
from components.settings.fields.types import (
    Address,
    Cidr,
    Domain,
    HttpsUrl,
    NameServer,
    Sha256,
    SshKey,
    VpcRange,
    is_public_key,
)

NOMAD_PORT = 4650
"""Port of the endpoint in front of Nomad's loopback API. It requires a client certificate."""

_NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


class HostOptions(Section):
    """The droplet. Raising `generation` rebuilds it; no other option does."""

    generation: int = option(1, ge=1, doc="Generation of the droplet. Raise by one to rebuild from current cloud-init.")
    region: str = option("fra1", pattern=r"^[a-z]{3}[0-9]$", doc="DigitalOcean region slug, three letters and a digit.")
    size: str = option(
        "s-1vcpu-2gb",
        pattern=r"^[a-z0-9._-]{1,40}-[0-9]{1,6}(gb|mb)(-[a-z0-9-]{1,40})?$",
        doc="Droplet size slug, which contains the memory size.",
    )
    image: str = option(
        "debian-13-x64", pattern=r"^debian-13-x64$", doc="Operating system image. Cloud-init requires Debian 13."
    )
    swap_gib: int = option(1, ge=0, le=16, doc="Size of the swap file in GiB; 0 disables swap.")
    tags: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9:_-]{1,255}$")], ...], Field(strict=False)] = (
        option(
            (),
            doc="Additional DigitalOcean tags of the droplet: letters, digits, ':', '_' and '-'. Tags are "
            "case-insensitive.",
            example=["club"],
        )
    )
    reserved_ip_adopt: Address | None = option(None, doc="Existing reserved IP to use instead of a new one.")
    vpc_ip_range: VpcRange | None = option(
        None, doc="Address range of a dedicated VPC. Without it, the region's default VPC is used."
    )
    project: str | None = option(None, min_length=1, max_length=175, doc="Name of a DigitalOcean project to create.")

    @property
    def memory_mib(self) -> int:
        """Memory that the size slug states, in MiB (DigitalOcean's `gb` in a slug is GiB)."""
        found = re.search(r"-([0-9]+)(gb|mb)(-|$)", self.size)
        assert found, "the pattern of `size` demands it"
        return int(found[1]) * (1024 if found[2] == "gb" else 1)


class VolumeOptions(Section):
    """The block storage volume with all persistent data. It survives the droplet and `pulumi destroy`."""

    size_gib: int = option(25, ge=1, le=16384, doc="Size in GiB. It can grow, never shrink. The file system grows too.")
    name: str | None = option(
        None,
        pattern=r"^[a-z]([a-z0-9-]{0,62}[a-z0-9])?$",
        doc="Name of the volume at DigitalOcean. Default: `pds-STACK`. An adopted volume keeps its own.",
    )
    adopt: str | None = option(
        None,
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        doc="ID of an existing volume that holds this PDS, to use instead of a new one.",
        example="506f78a4-e098-11e5-ad9f-000f53306ae1",
    )


class DnsOptions(Section):
    """The DNS records of the PDS's hostname."""

    provider: Literal["digitalocean", "manual"] = option(
        "digitalocean", doc="DNS provider: 'digitalocean', or 'manual' for a table of records to create by hand."
    )
    zone: Domain | None = option(None, doc="DNS zone of the hostname. Default: the hostname, if it has two labels.")
    create_zone: bool = option(False, doc="Create the zone at DigitalOcean; false if it exists already.")
    ttl: int = option(300, ge=30, le=86400, doc="Time to live of the records in seconds. DigitalOcean's minimum is 30.")
    wildcard: bool = option(True, doc="Create a wildcard record for each handle domain, such as `*.HOSTNAME`.")
    caa: Annotated[tuple[Domain, ...], Field(strict=False)] = option(
        (), doc="Certificate authorities allowed for the hostname, for example 'letsencrypt.org'; empty: no CAA record."
    )
    nameservers: Annotated[tuple[NameServer, ...], Field(strict=False)] = option(
        (), doc="Name servers (`IP` or `IP:PORT`) to check the hostname with. Default: the zone's own name servers."
    )


class OperatorsOptions(Section):
    """Access to the host's SSH, IO's console and the Nomad endpoint."""

    cidrs: Annotated[tuple[Cidr, ...], Field(strict=False, min_length=1)] = option(
        doc="Address ranges of the operators, for example 203.0.113.7/32.", example=["203.0.113.7/32"]
    )
    nomad_anywhere: bool = option(
        False, doc="Open the Nomad endpoint to every address. It requires a client certificate and a token."
    )
    ssh_keys: Annotated[tuple[SshKey, ...], Field(strict=False, min_length=1)] = option(
        doc="SSH keys: names or MD5 fingerprints of keys in the account (at least one), or public keys as text.",
        example=["my-laptop"],
    )

    @property
    def account_keys(self) -> tuple[str, ...]:
        """Keys given by name or fingerprint. An account accepts each public key once."""
        return tuple(key for key in self.ssh_keys if not is_public_key(key))

    @property
    def text_keys(self) -> tuple[str, ...]:
        """Keys given as text. Cloud-init installs them; they need no resource."""
        return tuple(key for key in self.ssh_keys if is_public_key(key))


class NomadOptions(Section):
    """The Nomad agent on the host."""

    version: str = option(
        "2.0.6", pattern=r"^[0-9]{1,4}(\.[0-9]{1,4}){2}$", doc=f"Nomad release; {OLDEST_NOMAD_TEXT} or newer."
    )
    # Source of the sum: hashicorp/homebrew-tap, Formula/nomad.rb, linux/amd64; renovate.json reads it.
    sha256: Sha256 = option(
        "c6da734081a41d51cadf15ec880d5eab0313093a29d2ee0984ca5ae1cdf867ec",
        doc="SHA-256 of the release's linux_amd64 zip. Change it together with `version`.",
    )
    mirror: HttpsUrl = option("https://releases.hashicorp.com/nomad", doc="Base URL of `VERSION/nomad_VERSION_….zip`.")
    datacenter: str = option("dc1", pattern=_NAME, doc="Nomad datacenter.")
    region: str = option("global", pattern=_NAME, doc="Nomad region.")
