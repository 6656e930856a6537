"""The settings of one host of a cluster, for what is rendered for it as for a host with a droplet of its own."""

from components.settings.host_contract import ingress_namespace
from components.settings.sections import OnOptions
from components.settings.sections.settings import Settings


def host_settings(settings: Settings, host: str) -> Settings:
    """The settings with the datacenter of `host`, and the namespace of its ingress."""
    nomad = settings.nomad.model_copy(update={"datacenter": host})
    on = OnOptions(nomad_address="http://127.0.0.1:4646", namespace=ingress_namespace(host))
    return settings.model_copy(update={"nomad": nomad, "on": on})
