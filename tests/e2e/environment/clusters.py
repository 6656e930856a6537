"""A cluster in the e2e environment: a stack that has no host of its own, and the stacks of clubs on it."""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.e2e.environment.cluster_machines import ClusterMachines
from tests.e2e.environment.directory import directory
from tests.e2e.environment.environment import PROGRAMS, ROOT, STACK, E2eEnvironment, e2e_env
from tests.e2e.environment.tools import E2eError, missing

UP = ("up", "--yes", "--skip-preview")
AFTER_SECONDS = 50
"""Time without a heartbeat of a host before a takeover moves it, of which Nomad waits 20 to 30 s."""


@dataclass(frozen=True)
class Cluster:
    """The cluster's stack, its droplets, and what a club needs."""

    stack: E2eEnvironment
    machines: ClusterMachines
    alone: Mapping[str, Any]
    """The `config` of a stack with a host of its own."""
    server: Mapping[str, Any]
    """Section `pds` of a club: an image that knows the local directory, and open registration."""

    def configure(self, options: Mapping[str, Any], **sections: Any) -> None:
        """Write the section `cluster`, and others. A takeover gets the API, its time and a token."""
        if "takeover" not in options:
            self.stack.configure(cluster=options, **sections)
            return
        takeover = {"api_url": self.stack.api.url, "after_seconds": AFTER_SECONDS, **options["takeover"]}
        self.stack.configure(cluster={**options, "takeover": takeover}, **sections)
        self.set_secret("takeover.token", self.stack.takeover_token())

    def set_secret(self, key: str, value: str) -> None:
        """Write a secret below `cluster`."""
        self.stack.pulumi("config", "set", "--secret", "--path", f"pds:cluster.{key}", value)

    def club(self, name: str, port: int, **sections: Any) -> E2eEnvironment:
        """The stack of a PDS at `NAME.test`, without an ingress: the hosts of process grade share this machine's ports.
        `sections` are further ones, as `on="bench"`."""
        config = {
            "pds:hostname": f"{name}.test",
            "pds:dns": {"zone": f"{name}.test", "create_zone": True, "nameservers": [self.stack.nameserver]},
            "pds:ingress": {"kind": "none"},
            "pds:pds": {**self.server, "new": True, "port": port},
            **{f"pds:{section}": values for section, values in sections.items()},
        }
        return self.stack.beside(name, config)


@contextmanager
def cluster_env(*programs: str, kind: type[ClusterMachines] = ClusterMachines) -> Iterator[Cluster]:
    """Start everything, with a stack whose section `cluster` is not written yet. `programs` are needed beside the
    usual ones. Raises E2eError with everything that is missing."""
    if lines := missing(*PROGRAMS, *programs):
        raise E2eError("\n".join(lines))
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with ExitStack() as stack:
        # Not pytest's folder, which only root may enter: a takeover runs as `daemon`.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pds-cluster-", ignore_cleanup_errors=True))
        Path(folder).chmod(0o711)
        made = stack.enter_context(e2e_env(Path(folder), cache, kind=kind))
        assert isinstance(made.machines, ClusterMachines)
        plc = stack.enter_context(directory(made.folder / "plc", cache, made.docker_host, made.authority))
        alone = yaml.load((made.project / f"Pulumi.{STACK}.yaml").read_text(), yaml.CSafeLoader)["config"]
        made.configure(hostname=None, dns=None, pds=None)
        server = {key: alone["pds:pds"][key] for key in ("escrow", "crawlers")} | {
            "image": plc.pds_image,
            "plc_url": plc.url,
            "memory_mib": 256,
            "invite_required": False,
            "open_registration": True,
        }
        yield Cluster(made, made.machines, alone, server)


def with_ssh(stack: E2eEnvironment, script: str) -> E2eEnvironment:
    """The environment with a stand-in for ssh, a shell script, first on its PATH."""
    programs = stack.folder / "programs"
    programs.mkdir()
    (programs / "ssh").write_text(script)
    (programs / "ssh").chmod(0o755)
    return replace(stack, env={**stack.env, "PATH": f"{programs}:{stack.env['PATH']}"})


def health(url: str) -> int:
    """Status of a PDS's health; 0 without an answer."""
    try:
        return httpx.get(f"{url}/xrpc/_health", trust_env=False, timeout=5).status_code
    except httpx.HTTPError:
        return 0


def refuse_changes(cluster: E2eEnvironment, *clubs: E2eEnvironment) -> None:
    """Assert that no stack has a change, before and after a refresh."""
    for refreshed in ([], ["--refresh"]):
        cluster.pulumi("preview", "--expect-no-changes", *refreshed)
        for club in clubs:
            output = club.pulumi("preview", *refreshed).output
            # Without an ingress its accounts cannot be listed, so that one resource stays pending.
            assert "UnlistedAccounts: pending" in output
            assert "~ 1 to update" in output
            assert not [word for word in ("to create", "to replace", "to delete") if word in output], output


def until(done: Any, seconds: float, what: str) -> None:
    """Wait until `done()`. Fails with `what` if it takes longer than `seconds`."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"{what} after {seconds:.0f} s"
        time.sleep(0.5)
