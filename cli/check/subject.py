"""The subject of a check, and its possible verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.check.site import Site
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.stack import State
from components.settings.checks.pds_env import read_env_file
from components.settings.sections.settings import Settings

if TYPE_CHECKING:
    from cli.check.host import HostStatus


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
    host: "HostStatus | None" = None
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
