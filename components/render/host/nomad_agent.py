"""The Nomad agent's configuration, `files/agent.hcl`, with this stack's values in its `${…}` placeholders.

The file holds the agent's whole configuration, but not the access to it (`files/stunnel.conf`), its start
(`files/nomad.service`), or its jobs. Names and defaults: `command/agent/config.go` and `drivers/docker/config.go` in
hashicorp/nomad at v2.0.4.
"""

from pathlib import Path
from string import Template

from components.settings.checks.capacity import SYSTEM_RESERVE_MIB
from components.settings.sections.settings import Settings

_TEMPLATE = Path(__file__).with_name("files") / "agent.hcl"


def agent_config(settings: Settings, configuration: str) -> str:
    """HCL for `/etc/nomad.d/agent.hcl`. Raises KeyError for a placeholder without a value.

    `configuration` is the hash of the cloud-init that built the host. It becomes the node's `pds_configuration`, in
    which a preview reads the configuration of a running host.
    """
    # The options' patterns allow no quotation mark and no backslash in region and datacenter.
    return Template(_TEMPLATE.read_text()).substitute(
        nomad_region=settings.nomad.region,
        nomad_datacenter=settings.nomad.datacenter,
        system_reserve_mib=SYSTEM_RESERVE_MIB,
        configuration=configuration,
        # Off by default: it costs the agent memory, and every holder of a certificate can read it without a token.
        metrics="true" if settings.metrics_store else "false",
    )
