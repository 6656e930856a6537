"""Where a PDS runs: on its own droplet, on another stack's host, or in an existing Nomad.

Declares the options of both sides, `on` and `clubs`. `checks/placement.py` checks their combinations. A preview
compares them with what the other side provides (`components/host/shared.py`, `components/host/existing.py`).
"""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, SecretStr

from components.settings.fields.errors import shown
from components.settings.fields.job_demand import PDS_MHZ, JobDemand
from components.settings.fields.option import Section, option, refuse
from components.settings.fields.types import Address, has_host

STACK_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
"""Pattern of a stack's name, which is part of names at DigitalOcean and in Nomad."""

FIRST_CLUB_PORT = 3101
"""First port that is assigned to a club."""


def _stack_name(text: str) -> str:
    if not STACK_NAME.fullmatch(text):
        # Not shown: the value may be one of the secrets of `on`, written here by mistake.
        refuse("this is not the name of a stack.", "Write the name that `pulumi stack ls` shows, for example 'dev'.")
    if text == "default":
        refuse("'default' is the Nomad namespace of the host itself.", "Give the stack another name.")
    return text


def _nomad_address(text: str) -> str:
    if not re.fullmatch(r"https://[^/\s@]+|http://(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", text) or not has_host(text):
        refuse(
            f"{shown(text)} is not the address of a Nomad to which a token may be sent.",
            "Write 'https://HOST:4646', or 'http://127.0.0.1:4646' for the end of a tunnel.",
        )
    return text


StackName = Annotated[str, AfterValidator(_stack_name)]


class OnOptions(Section):
    """Where the PDS runs, if not on its own droplet. `on: STACK` is short for `on: {stack: STACK}`."""

    stack: StackName | None = option(
        None, doc="Stack whose host the PDS shares. That stack's `clubs` must name this one.", example="dev"
    )
    nomad_address: Annotated[str, AfterValidator(_nomad_address)] | None = option(
        None, doc="Address of an existing Nomad to use instead.", example="https://nomad.my-club.org:4646"
    )
    nomad_token: SecretStr | None = option(
        None,
        min_length=36,
        max_length=36,
        doc="ACL token for that Nomad; a management token, unless `ingress.kind` is 'none'.",
    )
    nomad_ca_pem: str | None = option(None, doc="Certificate of the CA to trust. Default: the system's CAs.")
    nomad_client_cert_pem: str | None = option(None, doc="Client certificate, if that Nomad requires one.")
    nomad_client_key_pem: SecretStr | None = option(None, doc="Private key of the client certificate.")
    namespace: str = option("default", pattern=r"^[a-zA-Z0-9-]{1,128}$", doc="Nomad namespace of the jobs.")
    volume: str = option("pds", pattern=r"^[a-zA-Z0-9_-]{1,128}$", doc="Nomad host volume for the PDS's data.")
    ipv4: Address | None = option(None, doc="Address that the hostname must resolve to.", example="203.0.113.10")


def _long_form(value: Any) -> Any:
    return {"stack": value} if isinstance(value, str) else value


Placement = Annotated[OnOptions | None, BeforeValidator(_long_form, json_schema_input_type=str | OnOptions | None)]


_CLUSTER_HOST = r"^[a-z][a-z0-9]{0,14}$"


class LeftPlace(Section):
    """The host that a club leaves when it moves to another host of its cluster."""

    host: str = option(pattern=_CLUSTER_HOST, doc="Host that the PDS leaves.", example="a")
    port: int = option(ge=1024, le=65535, doc="Port of the PDS on that host.", example=3101)


class ClubOptions(Section):
    """Resources for another stack's PDS on this stack's host."""

    port: int = option(ge=1024, le=65535, doc="Exclusive port on the host's loopback interface.", example=3101)
    host: str | None = option(
        None, pattern=_CLUSTER_HOST, doc="Host of the cluster that the PDS runs on. Required on a cluster."
    )
    leaving: LeftPlace | None = option(
        None, doc="Second host of the PDS in the cluster, during a move. `./pds move` writes and removes it."
    )
    disk_gib: int = option(5, ge=1, le=16384, doc="Limit of the club's data on the volume, in GiB.")
    memory_mib: int = option(
        896, ge=256, le=262144, doc="Memory limit of all its jobs together, in MiB: a PDS 512, its backup 384."
    )

    @property
    def job_demand(self) -> JobDemand:
        return JobDemand(memory_mib=self.memory_mib, mhz=PDS_MHZ)
