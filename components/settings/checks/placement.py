"""Options that conflict with the placement of a PDS."""

from collections.abc import Iterator

from components.settings.fields.errors import Fault
from components.settings.fields.option import Section
from components.settings.sections.placement import OnOptions
from components.settings.sections.settings import Settings

_OWN_HOST = {
    "host": None,
    "volume": None,
    "operators": None,
    "clubs": None,
    "nomad": ("version", "sha256", "mirror"),
    "secrets": ("nomad_management_token",),
}
"""Options of the stack's own droplet: section, and its options (None: all)."""

_OF_THE_HOSTS_INGRESS = ("image", "memory_mib", "license_hcl", "ssh_port", "backend", "acme_ca", "acme_email")


def placement_faults(settings: Settings) -> Iterator[Fault]:
    """Options that conflict with the placement of the PDS."""
    on = settings.on
    if on is None:
        if settings.operators is None:
            yield Fault(
                "operators",
                "this option is required.",
                "Write 'operators: {cidrs: [203.0.113.7/32], ssh_keys: [my-laptop]}': who may administer the host. "
                "Or 'on: STACK' for a PDS on another stack's host.",
            )
        return
    for section, names in _OWN_HOST.items():
        value = getattr(settings, section)
        configured = value.model_fields_set if isinstance(value, Section) else set(value or ())
        for name in sorted(configured if names is None else configured & set(names)):
            yield Fault(
                f"{section}.{name}",
                "it is an option of the stack's own droplet, and with 'on' there is none.",
                "Remove it, or 'on'.",
            )
    if (on.stack is None) == (on.nomad_address is None):
        yield Fault(
            "on",
            "it needs exactly one of a stack's name and a Nomad's address.",
            "Write 'on: STACK', or 'on: {nomad_address: https://…}'.",
        )
    elif on.stack:
        yield from _on_a_host(settings, on)
    else:
        yield from _on_a_nomad(settings, on)


def _on_a_host(settings: Settings, on: OnOptions) -> Iterator[Fault]:
    for name in sorted(on.model_fields_set - {"stack"}):
        yield Fault(f"on.{name}", "the host's stack determines it.", "Remove it.")
    for name in _OF_THE_HOSTS_INGRESS:
        if name in settings.ingress.model_fields_set:
            yield Fault(f"ingress.{name}", "the ingress is the host's.", "Remove it, or write it in its stack file.")
    if "port" not in settings.pds.model_fields_set:
        yield Fault(
            "pds.port",
            "on a shared host every PDS has its own port, which the host's stack assigns.",
            "Write the 'port' that 'clubs' in its stack file gives to this stack.",
        )


def _on_a_nomad(settings: Settings, on: OnOptions) -> Iterator[Fault]:
    if on.ipv4 is None:
        yield Fault("on.ipv4", "the address of the hostname is missing.", "Write the host's public address.")
    if on.nomad_token is None:
        yield Fault(
            "on.nomad_token",
            "this option is required.",
            "Run `pulumi config set --secret --path on.nomad_token`. Without ACLs every client of that Nomad "
            "can read the rotation key: run `nomad acl bootstrap` there first.",
        )
    if (on.nomad_client_cert_pem is None) != (on.nomad_client_key_pem is None):
        missing = "key" if on.nomad_client_key_pem is None else "cert"
        yield Fault(f"on.nomad_client_{missing}_pem", "certificate and key belong together.", "Write both, or neither.")
