"""The program on the droplets: how it gets there, and its client."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Protocol

import yaml

from tools.measure_account.droplet_agent import PORTS

Json = dict[str, Any]

_AGENT = "/usr/local/lib/pds-measure.py"
_UNIT = """\
[Unit]
After=network-online.target
Wants=network-online.target
[Service]
Environment=MEASURE_KEY={key} MEASURE_NAME={name} MEASURE_VOLUME={volume}
ExecStart=/usr/bin/python3 {agent}
Restart=always
[Install]
WantedBy=multi-user.target
"""
_SECONDS = 2.0
"""For an answer: a droplet that does not answer in this time counts as silent."""


def user_data(name: str, volume: str, key: str) -> str:
    """Return the cloud-init of a droplet. `key` is the secret path of its commands, for the hour that it exists."""
    unit = _UNIT.format(name=name, volume=volume, key=key, agent=_AGENT)
    files = [
        {"path": _AGENT, "content": Path(__file__).with_name("droplet_agent.py").read_text()},
        {"path": "/etc/systemd/system/pds-measure.service", "content": unit, "permissions": "0600"},
    ]
    commands = [
        # Else the image mounts an attached volume by itself (digitalocean/openapi, volumes/models/attributes.yml).
        "rm -f /etc/udev/rules.d/99-digitalocean-automount.rules",
        "systemctl enable --now pds-measure.service",
    ]
    return "#cloud-config\n" + yaml.dump(
        {"write_files": files, "runcmd": commands}, Dumper=yaml.CSafeDumper, sort_keys=False
    )


class Droplets(Protocol):
    """What is asked of the program on a droplet, by one of the droplet's addresses."""

    def status(self, address: str) -> Json | None:
        """Return its status, or None without an answer."""

    def stop_kernel(self, address: str) -> None:
        """Let its kernel panic."""

    def connects(self, address: str, host: str, port: int) -> bool:
        """Return whether it gets a connection to `host`. Raises OSError without an answer."""


class HttpDroplets:
    """The same over HTTP."""

    def __init__(self, key: str, port: int = PORTS[0]) -> None:
        self._key, self._port = key, port

    def status(self, address: str) -> Json | None:
        """See `Droplets`."""
        try:
            return self._ask(address, "status")
        except (OSError, ValueError):
            return None

    def stop_kernel(self, address: str) -> None:
        """See `Droplets`."""
        self._ask(address, "panic", {})

    def connects(self, address: str, host: str, port: int) -> bool:
        """See `Droplets`."""
        return bool(self._ask(address, "connect", {"host": host, "port": port}, seconds=10)["connects"])

    def _ask(self, address: str, what: str, body: Json | None = None, seconds: float = _SECONDS) -> Json:
        url = f"http://{address}:{self._port}/{self._key}/{what}"
        data = None if body is None else json.dumps(body).encode()
        # Without a proxy: it would answer for a droplet that is silent.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(url, data), timeout=seconds) as answer:
            found: Json = json.loads(answer.read())
        return found
