"""The disk of each droplet size.

Of 2026-11-26, from copies of the API's list of sizes in public repositories; for s-2vcpu-2gb also
docs.digitalocean.com/reference/doctl/reference/compute/droplet-action/resize.
"""

import re
from collections.abc import Mapping

_DISKS_GB: Mapping[str, int] = {
    "s-1vcpu-1gb": 25,
    "s-1vcpu-2gb": 50,
    "s-2vcpu-2gb": 60,
    "s-2vcpu-4gb": 80,
    "s-4vcpu-8gb": 160,
    "s-8vcpu-16gb": 320,
}


def disk_gb(size: str) -> int | None:
    """Return the disk of a droplet size in GB, by its slug (`s-1vcpu-2gb-70gb-intel`) or the table; None if unknown."""
    in_slug = re.search(r"gb-([0-9]{1,6})gb(-|$)", size)
    return int(in_slug[1]) if in_slug else _DISKS_GB.get(size)
