"""The subject of a check, and its possible verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cli.check.site import Site
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.nomad_exec import TruncatedOutputError, nomad_access, nomad_api, run_in_container, running_allocation
from cli.lib.stack import State
from components.clients.nomad import NomadApi
from components.render.metrics.job import TASK as METRICS_TASK
from components.settings.checks.pds_env import read_env_file
from components.settings.sections.settings import Settings

HOST_SCRIPT = Path(__file__).with_name("host.sh")
STORE_SCRIPT = Path(__file__).with_name("metrics_targets.sh")
_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class CheckVerdict:
    """`ok` is None for a skipped check; `remark` has the observation or the remedy."""

    ok: bool | None
    remark: str


def passed(remark: str) -> CheckVerdict:
    """Passed."""
    return CheckVerdict(ok=True, remark=remark)


def failed(remark: str) -> CheckVerdict:
    """Failed; `remark` has the remedy."""
    return CheckVerdict(ok=False, remark=remark)


def skipped(remark: str) -> CheckVerdict:
    """Skipped; `remark` has the reason."""
    return CheckVerdict(ok=None, remark=remark)


@dataclass(frozen=True)
class HostStatus:
    """A stack's Nomad and the container of its server, queried once. Raises ServiceError if they do not answer."""

    outputs: Mapping[str, Any]

    @cached_property
    def api(self) -> NomadApi:
        """Nomad, with the program's own token."""
        return nomad_api(nomad_access(self.outputs))

    @cached_property
    def seen(self) -> Mapping[str, Any]:
        """Return the output of `host.sh`; empty while no server runs."""
        allocation = running_allocation(self.api)
        if allocation is None:
            return {}
        command = ["sh", "-c", HOST_SCRIPT.read_text()]
        for _ in range(_TRIES - 1):
            try:
                return dict(run_in_container(nomad_access(self.outputs), allocation, command, "its volume"))
            except TruncatedOutputError:
                continue
        return dict(run_in_container(nomad_access(self.outputs), allocation, command, "its volume"))

    def answering(self, allocation: str) -> frozenset[str]:
        """Return the targets that answer the metrics store, which runs in this allocation."""
        command = ["sh", "-c", STORE_SCRIPT.read_text()]
        access = nomad_access(self.outputs)
        answer = run_in_container(access, allocation, command, "the targets of the metrics store", METRICS_TASK)
        return frozenset(item["metric"]["job"] for item in answer["data"]["result"] if item["value"][1] == "1")

    @property
    def run_statuses(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the files that jobs of the host wrote to DATA/.run-status, by name."""
        statuses: Mapping[str, Mapping[str, Any]] = self.seen.get("run_status", {})
        return statuses


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A stack's outputs, secrets in clear text, and the ways to its PDS."""

    stack: str
    outputs: Mapping[str, Any]
    site: Site
    second: Site | None = None
    """The same from another address of this machine."""
    escrow: str = "pending"
    """The stack file's value for it."""
    configuration: str | None = None
    """Hash of the cloud-init that the program renders now; None if the stack file cannot be read here."""
    nameservers: tuple[str, ...] = ()
    """Addresses (`IP` or `IP:PORT`) to query for handles; empty for the system's."""
    settings: Settings | None = None
    """The stack file's settings; None if it cannot be read here."""
    program: Mapping[str, str | None] | None = None
    """Names of the resources that the program registers now, with the text of each Nomad job; None if the stack file
    cannot be read here."""
    resolves: Mapping[str, Any] | None = None
    """The program's parameters for resolving the hostname: `zone` and `issuer`."""
    state: State | None = None
    """The engine's state; None if it cannot be read here."""
    account: DigitalOceanAccount | None = None
    """The DigitalOcean account; None without a token."""
    host: HostStatus | None = None
    """Nomad and the server's container; None if they are not to be queried."""
    mail: str | None = None
    """Address of an account that gets a message."""
    relay: bool = False
    """Whether to query the relays."""

    @property
    def environment(self) -> dict[str, str]:
        """The server's whole environment, secrets included."""
        return read_env_file(str(self.outputs.get("pds_env", "")))

    @property
    def hostname(self) -> str:
        """The PDS's name."""
        return self.site.hostname

    @property
    def handle_domains(self) -> tuple[str, ...]:
        """Domains under which the server issues handles, each with its leading dot."""
        domains = self.environment.get("PDS_SERVICE_HANDLE_DOMAINS", "")
        return tuple(domains.split(",")) if domains else (f".{self.hostname}",)
