"""Regions, sizes and images: the few that the project's stacks use, as the API describes them.

Incomplete and not updated: an unknown slug is refused, as a misspelt one would be.
"""

from typing import Any

from tests.e2e.digitalocean.errors import refused

Json = dict[str, Any]

_REGIONS = {
    "ams3": "Amsterdam 3",
    "blr1": "Bangalore 1",
    "fra1": "Frankfurt 1",
    "lon1": "London 1",
    "nyc1": "New York 1",
    "nyc3": "New York 3",
    "sfo3": "San Francisco 3",
    "sgp1": "Singapore 1",
    "syd1": "Sydney 1",
    "tor1": "Toronto 1",
}
_FEATURES = ["backups", "ipv6", "metadata", "install_agent", "storage", "image_transfer"]
# Slug: vCPUs, MiB, GB of disk, transfer in TB, USD a month.
_SIZES: dict[str, tuple[int, int, int, float, float]] = {
    "s-1vcpu-1gb": (1, 1024, 25, 1.0, 6.0),
    "s-1vcpu-2gb": (1, 2048, 50, 2.0, 12.0),
    "s-2vcpu-2gb": (2, 2048, 60, 3.0, 18.0),
    "s-2vcpu-4gb": (2, 4096, 80, 4.0, 24.0),
    "s-4vcpu-8gb": (4, 8192, 160, 5.0, 48.0),
    "s-8vcpu-16gb": (8, 16384, 320, 6.0, 96.0),
}
_IMAGES = {"debian-13-x64": (195932981, "13 x64"), "debian-12-x64": (159651797, "12 x64")}


def region(slug: str) -> Json:
    """The region object. Raises ApiError for a slug that does not exist."""
    if slug not in _REGIONS:
        raise refused("Region is not available")
    return {
        "name": _REGIONS[slug],
        "slug": slug,
        "features": list(_FEATURES),
        "available": True,
        "sizes": list(_SIZES),
    }


def size(slug: str) -> Json:
    """The size object. Raises ApiError for a slug that does not exist."""
    if slug not in _SIZES:
        raise refused("You specified an invalid size for Droplet creation.")
    vcpus, memory, disk, transfer, monthly = _SIZES[slug]
    return {
        "slug": slug,
        "memory": memory,
        "vcpus": vcpus,
        "disk": disk,
        "transfer": transfer,
        "price_monthly": monthly,
        "price_hourly": round(monthly / 672, 5),
        "regions": list(_REGIONS),
        "available": True,
        "description": "Basic",
    }


def sizes() -> list[Json]:
    """All size objects."""
    return [size(slug) for slug in _SIZES]


def image(slug: str) -> Json:
    """The image object. Raises ApiError for a slug that does not exist."""
    if slug not in _IMAGES:
        raise refused("You specified an invalid image for Droplet creation.")
    number, name = _IMAGES[slug]
    return {
        "id": number,
        "name": name,
        "distribution": "Debian",
        "slug": slug,
        "public": True,
        "regions": list(_REGIONS),
        "created_at": "2026-01-15T16:00:00Z",
        "type": "base",
        "min_disk_size": 10,
        "size_gigabytes": 0.9,
        "description": name,
        "tags": [],
        "status": "available",
        "error_message": "",
    }
