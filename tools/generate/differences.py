"""Differences between the dev stack's job and the one in Agent IO's post (agent.io/posts/pds), with reasons.

A test compares both jobs attribute by attribute: it fails on an unlisted difference, and on a
listed attribute that no longer differs. Attributes are dotted paths below `job.pds`; one that ends in `.*` covers
everything below it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Deviation:
    """One attribute, or a group of them: the post's value, this program's value, and the reason."""

    attribute: str
    seed: str
    ours: str
    reason: str

    def covers(self, path: str) -> bool:
        """Whether this entry covers the attribute at `path`."""
        return path == self.attribute or (
            self.attribute.endswith(".*") and path.startswith(self.attribute.removesuffix("*"))
        )


_ENV = "group.pds.task.pds.env"
_TASK = "group.pds.task.pds"
_NONE = "–"
_BY_TEMPLATE = "by template, from a Nomad variable"
_READABLE = "Nomad's history keeps a job, readable with the right to read jobs; a variable is encrypted."

DEVIATIONS: tuple[Deviation, ...] = (
    Deviation("region", _NONE, "global", "Nomad's default, written out so that the file says where it runs."),
    Deviation(
        "group.pds.network.port.http.host_network",
        _NONE,
        "loopback",
        "Without it Docker publishes the server's plain HTTP on the droplet's public address, past its firewall rules.",
    ),
    Deviation(
        "group.pds.service.check.*",
        _NONE,
        "HTTP check of /xrpc/_health, restart after 18 failures",
        "`up` waits for a server that answers, and a hanging server is restarted.",
    ),
    Deviation("group.pds.shutdown_delay", _NONE, "2s", "The ingress stops sending requests before the server stops."),
    Deviation(
        "group.pds.restart.*",
        _NONE,
        "ten attempts, then continue",
        "Nomad's default stops after two; a single host has no other node for the server.",
    ),
    Deviation(
        "group.pds.reschedule.*",
        _NONE,
        "after 15 s, for ever",
        "Nomad's default waits up to an hour; faults are usually fixed sooner.",
    ),
    Deviation(
        "group.pds.update.*",
        _NONE,
        "no deployment",
        "A failed deployment can only be followed by a changed job; `up` itself waits for a healthy server.",
    ),
    Deviation(
        "group.pds.task.volume-check.*",
        _NONE,
        "a check before the server starts",
        "An empty or foreign volume would become a healthy PDS that gives known handles new identities.",
    ),
    Deviation(
        f"{_TASK}.config.image",
        "ghcr.io/bluesky-social/pds:0.4",
        "one exact tag, of packages 0.5",
        "`0.4` moves: the same job would run another server after a restart. The previous line ends at 0.4.219, "
        "on which an app on a sibling subdomain cannot sign in (fixed in package 0.5.27).",
    ),
    Deviation(f"{_TASK}.user", _NONE, "1000:1000", "The server needs no root; its image would give it root."),
    Deviation(
        f"{_TASK}.config.readonly_rootfs", _NONE, "true", "The server writes to its volume and to /tmp, nowhere else."
    ),
    Deviation(f"{_TASK}.config.mount.*", _NONE, "a tmpfs of 64 MiB at /tmp", "A read-only root requires it."),
    Deviation(f"{_TASK}.config.cap_drop", _NONE, "all", "The server uses no Linux capability."),
    Deviation(f"{_TASK}.config.security_opt", _NONE, "no-new-privileges", "The server may not gain privileges."),
    Deviation(f"{_TASK}.config.pids_limit", _NONE, "512", "A fork bomb stays in its container."),
    Deviation(
        f"{_TASK}.kill_timeout",
        _NONE,
        "60s",
        "Nomad's default kills after 5 s; the server gets time to close its data.",
    ),
    Deviation(
        f"{_TASK}.resources.*", _NONE, "500 MHz, 512 MiB", "Nomad's default, 300 MiB, is too little for a server."
    ),
    Deviation(f"{_TASK}.logs.*", _NONE, "5 files of 10 MB", "Logs must not fill the disk."),
    Deviation(
        f"{_TASK}.template.*",
        _NONE,
        "secrets as environment",
        "Every item of the variable becomes a line of the environment; a changed secret restarts the server.",
    ),
    Deviation(
        f"{_ENV}.NODE_OPTIONS",
        _NONE,
        "the volume check and durable writes",
        "The volume check runs at every start, also when a secret changed; upstream's writes are not flushed "
        "(decision 16).",
    ),
    Deviation(f"{_ENV}.PDS_JWT_SECRET", "in the job", _BY_TEMPLATE, _READABLE),
    Deviation(f"{_ENV}.PDS_ADMIN_PASSWORD", "in the job", _BY_TEMPLATE, _READABLE),
    Deviation(f"{_ENV}.PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX", "in the job", _BY_TEMPLATE, _READABLE),
    Deviation(
        f"{_ENV}.TZ",
        "PDT",
        "a time zone of the tz database, UTC by default",
        "The database has no zone PDT, so the server would silently fall back to UTC.",
    ),
    Deviation(f"{_ENV}.PDS_HOSTNAME", "redacted", "noted.at", "The stack's own; the post redacts it."),
    Deviation(f"{_ENV}.PDS_PORT", _NONE, "3000", "The image's default, written out: the port mapping depends on it."),
    Deviation(
        f"{_ENV}.PDS_BLOB_UPLOAD_LIMIT",
        "52428800",
        "104857600",
        "Upstream's installer writes this since 2025-11-05; a video of 60 MB, or an import with one, would be refused.",
    ),
    Deviation(
        f"{_ENV}.PDS_INVITE_REQUIRED", _NONE, "true", "The server's default, written out: a new default would open it."
    ),
    Deviation(f"{_ENV}.PDS_RATE_LIMITS_ENABLED", _NONE, "true", "Off by default."),
    Deviation(f"{_ENV}.LOG_ENABLED", _NONE, "true", "Off by default; without a log no fault can be found."),
)


def markdown_table() -> str:
    """The table for docs/differences-from-the-post.md."""
    rows = [f"| `{item.attribute}` | {_cell(item.seed)} | {_cell(item.ours)} | {item.reason} |" for item in DEVIATIONS]
    return "\n".join(["| Attribute of the job | The post | Here | Why |", "|---|---|---|---|", *rows]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
