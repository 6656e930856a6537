"""Where a PDS runs: on a droplet of its own, on another stack's host, or in a Nomad that is there already.

Here are the options of both sides, `on` and `clubs`; what goes with which is in `placement_checks.py`. What the other
side really offers is not known here: it is held against these at preview (`components/shared.py`,
`components/existing.py`).
"""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, SecretStr

from components.settings.faults import shown
from components.settings.model import Section, option, refuse
from components.settings.names import Address

STACK_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
"""A stack's name is part of names at DigitalOcean and in Nomad."""

FIRST_CLUB_PORT = 3101
"""From here on the ports of clubs are handed out."""


def _stack_name(text: str) -> str:
    if not STACK_NAME.fullmatch(text):
        # Not shown: what stands here by mistake may be one of the secrets of `on`.
        refuse("this is no stack's name.", "Write the name that `pulumi stack ls` shows, for example 'dev'.")
    if text == "default":
        refuse("'default' is the Nomad namespace of the host itself.", "Give the stack another name.")
    return text


def _nomad_address(text: str) -> str:
    if not re.fullmatch(r"https://[^/\s@]+|http://(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", text):
        refuse(
            f"{shown(text)} is no address of a Nomad that a token may be sent to.",
            "Write 'https://HOST:4646', or 'http://127.0.0.1:4646' for the end of a tunnel.",
        )
    return text


StackName = Annotated[str, AfterValidator(_stack_name)]


class On(Section):
    """Where the PDS runs, if not on a droplet of its own. `on: STACK` is short for `on: {stack: STACK}`."""

    stack: StackName | None = option(
        None, doc="The stack whose host it shares; that stack's `clubs` has to name this one.", example="dev"
    )
    nomad_address: Annotated[str, AfterValidator(_nomad_address)] | None = option(
        None, doc="A Nomad that is there already, instead.", example="https://nomad.my-club.org:4646"
    )
    nomad_token: SecretStr | None = option(
        None, min_length=36, max_length=36, doc="ACL token for it: a management token, where the ingress is ours too."
    )
    nomad_ca_pem: str | None = option(None, doc="Certificate of the CA to trust; the system's CAs where left out.")
    nomad_client_cert_pem: str | None = option(None, doc="Client certificate, where that Nomad demands one.")
    nomad_client_key_pem: SecretStr | None = option(None, doc="Its key.")
    namespace: str = option("default", pattern=r"^[a-zA-Z0-9-]{1,128}$", doc="Nomad namespace of the jobs.")
    volume: str = option("pds", pattern=r"^[a-zA-Z0-9_-]{1,128}$", doc="Host volume for the PDS's data, as the post's.")
    ipv4: Address | None = option(None, doc="The address that the hostname has to resolve to.", example="203.0.113.10")


def _long_form(value: Any) -> Any:
    return {"stack": value} if isinstance(value, str) else value


Placement = Annotated[On | None, BeforeValidator(_long_form, json_schema_input_type=str | On | None)]


class Club(Section):
    """What another stack's PDS gets on this stack's host."""

    port: int = option(ge=1024, le=65535, doc="Port on the host's loopback, its own alone.", example=3101)
    disk_gib: int = option(5, ge=1, le=16384, doc="Most that its data may take of the volume, in GiB.")
    memory_mib: int = option(
        896, ge=128, le=262144, doc="Most that its jobs may ask for together, in MiB: a PDS 512, its backup 384."
    )
