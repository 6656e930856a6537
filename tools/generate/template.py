"""The `template` of Pulumi.yaml: what `pulumi new GIT-URL` asks for, and the commands it shows at its end.

It asks for text only, so for each required option that is text. The required options that are lists follow as
commands (pulumi, pkg/cmd/pulumi/project/newcmd/config.go: an answer is one value of one key, never a path).
"""

from typing import Any

from components.settings.fields.option import options
from components.settings.sections import OperatorsOptions
from components.settings.sections.settings import Settings

PROVIDER_TOKEN = "digitalocean:token"  # noqa: S105 (the key's name)
_FIRST_START = "pds.new"
"""The option without which a first `up` refuses its empty volume."""
_ZONE = "my-club.org"
"""The zone of the examples' hostname. The settings refuse a hostname of three labels without one."""


def template(description: str) -> dict[str, Any]:
    """Return the section. Every key of `config` is in the stack file afterwards, unless its answer is empty."""
    required = {key: field for key, field in Settings.model_fields.items() if field.is_required()}
    token = {
        "description": "API token of DigitalOcean. Leave it empty if DIGITALOCEAN_TOKEN is set in your shell.",
        "secret": True,
    }
    return {
        "displayName": "Bluesky PDS on DigitalOcean",
        "description": description,
        "metadata": {"cloud": "digitalocean"},
        "config": {PROVIDER_TOKEN: token}
        | {key: {"description": (field.description or "").rstrip(".")} for key, field in required.items()},
        "quickstart": _quickstart(),
    }


def commands() -> list[str]:
    """Return the commands that complete a stack file after the answers."""
    sets = [
        f"pulumi config set --path 'operators.{name}[0]' {field.examples[0][0]}"
        for name, field in options(OperatorsOptions)
        if field.is_required() and field.examples
    ]
    zone = f"pulumi config set --path dns.zone {_ZONE}"
    return [zone, *sets, f"pulumi config set --path {_FIRST_START} true"]


def _quickstart() -> str:
    lines = "\n".join(f"    {command}" for command in commands())
    return f"""\
Write the DNS zone of the hostname, your address, and the name of an SSH key of your DigitalOcean account:

{lines}

Then create the server, and check it:

    pulumi up
    ./pds check STACK

docs/guide/first-hour.md lists every step, docs/options.md every option. The project has to keep the name pds.
"""
