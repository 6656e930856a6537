"""The PDS as a process on loopback, and the settings that must differ from the droplet for it to run there.

Owns: starting the real server with a given environment as upstream's image does, and the short list of local
differences. Refuses to start a server whose environment names a directory or a relay that is not on this machine.

Does not own: the environment itself, or the container: image, user and file system are not tested here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tools.trial import LiveError
from tools.trial.node import SERVERS, Install
from tools.trial.process import LOOPBACK, ServerProcess

IMAGE_ENVIRONMENT = {"NODE_ENV": "production", "UV_USE_IO_URING": "0", "PDS_PORT": "3000"}
"""Variables that upstream's Dockerfile sets before the container's own environment."""

FILES = Path(__file__).parents[2] / "components" / "render" / "scripts"
_PRELOAD = re.compile(r"--(require|import)=/local/([\w-]+\.[cm]js)")

_LOCAL_HOSTS = frozenset({"localhost", LOOPBACK, "::1"})
_MAIL = (
    "PDS_EMAIL_SMTP_URL",
    "PDS_EMAIL_FROM_ADDRESS",
    "PDS_MODERATION_EMAIL_SMTP_URL",
    "PDS_MODERATION_EMAIL_ADDRESS",
)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One variable that differs from the program's value: `None` means unset. `why` is one short reason."""

    name: str
    program: str | None
    local: str | None
    why: str


def differences(env: Mapping[str, str], *, data: Path, plc_url: str, port: int, line: str) -> list[Difference]:
    """Return the required differences from `env` for the PDS of `line` to run on this machine with its files below
    `data`."""
    found: dict[str, Difference] = {}

    def differ(name: str, local: str | None, why: str) -> None:
        if env.get(name) != local:
            found[name] = Difference(name=name, program=env.get(name), local=local, why=why)

    data = data.resolve()
    root = PurePosixPath(env.get("PDS_DATA_DIRECTORY", "/pds"))
    differ("PDS_DATA_DIRECTORY", str(data), "no volume here")
    for name, value in env.items():
        if name.startswith("PDS_BLOBSTORE_S3_"):
            differ(name, None, "no object storage here")
        elif name.startswith("PDS_REDIS_"):
            differ(name, None, "no Redis here")
        elif value.startswith("/") and PurePosixPath(value).is_relative_to(root):
            differ(name, str(data / PurePosixPath(value).relative_to(root)), "no volume here")
        elif name in _MAIL:
            differ(name, None, "no mail leaves this machine")
    if "PDS_BLOBSTORE_S3_BUCKET" in env:
        differ("PDS_BLOBSTORE_DISK_LOCATION", str(data / "blocks"), "no object storage here")
    differ("PDS_DID_PLC_URL", plc_url, "no identity leaves this machine")
    # If they refuse, the server exits here as there.
    preloads = _PRELOAD.sub(lambda found: f'--{found[1]}="{FILES / found[2]}"', env.get("NODE_OPTIONS", ""))
    differ("NODE_OPTIONS", preloads or None, "the same preloads, out of this checkout")
    for name in ("PDS_VOLUME_CHECK_NEW", "PDS_VOLUME_CHECK_ADOPT"):
        differ(name, "true", "data of this machine's own")
    differ("PDS_CRAWLERS", None, "no relay hears of this server")
    differ("PDS_PORT", str(port), "the first free port")
    if line != "0.4":
        # From 0.5 on the server fetches DID documents through the guard that also forbids plain HTTP.
        differ("PDS_DISABLE_SSRF_PROTECTION", "true", "the local directory speaks plain HTTP")
    return sorted(found.values(), key=lambda difference: difference.name)


def applied(env: Mapping[str, str], changes: list[Difference]) -> dict[str, str]:
    """Return `env` with `changes` made."""
    result = dict(env)
    for change in changes:
        if change.local is None:
            result.pop(change.name, None)
        else:
            result[change.name] = change.local
    return result


class PdsProcess(ServerProcess):
    """The PDS as a context manager; `url` is its address on loopback.

    It gets `env`, the variables of the image itself, a PATH, and a folder for compiled code, with which it starts a
    fifth faster; nothing of this process's environment. Values of the names in `secrets` are kept out of errors.
    Raises ServerEndedError with the server's own output if it refuses to
    start, and LiveError if `env` names a public directory or relay.
    """

    def __init__(
        self,
        install: Install,
        env: Mapping[str, str],
        log: Path,
        *,
        secrets: frozenset[str] = frozenset(),
        deadline: float = 300.0,
    ) -> None:
        _refuse_public(env)
        whole = IMAGE_ENVIRONMENT | dict(env)
        self.url = f"http://{LOOPBACK}:{whole['PDS_PORT']}"
        super().__init__(
            name="PDS",
            command=[str(install.node), str(SERVERS / "pds.mjs")],
            folder=install.folder,
            env={"PATH": os.defpath, "NODE_COMPILE_CACHE": str(install.folder.parent / "compiled")} | whole,
            log=log,
            health=f"{self.url}/xrpc/_health",
            deadline=deadline,
            secrets={name: env[name] for name in secrets if name in env},
        )


def _refuse_public(env: Mapping[str, str]) -> None:
    plc_url = env.get("PDS_DID_PLC_URL", "")
    if urlsplit(plc_url).hostname not in _LOCAL_HOSTS:
        raise LiveError(
            f"A local PDS needs a PLC directory on this machine, but PDS_DID_PLC_URL is {plc_url or 'unset'!r} (unset "
            "means the public one). Pass the address of a PlcDirectory."
        )
    if env.get("PDS_CRAWLERS"):
        raise LiveError("A local PDS must not announce itself, but PDS_CRAWLERS names a relay. Leave it out.")
