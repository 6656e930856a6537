"""Whether the Internet reaches the PDS through an ingress. Without imports of this program: every layer uses it."""

from enum import StrEnum


class IngressState(StrEnum):
    """The state of the ingress for one PDS, as an input of the dynamic resources and a variable of the ingress job."""

    OPEN = "open"
    """The hostname resolves to the host, so the ingress serves it."""
    CLOSED = "closed"
    """The hostname does not resolve yet. A certificate order now would fail, and a CA limits failures."""
    NONE = "none"
    """This stack has no ingress."""
    PAUSED = "paused"
    """The PDS is paused."""
