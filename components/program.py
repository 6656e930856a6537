"""What a stack is: one PDS, or a cluster for the PDSes of other stacks."""

import pulumi

from components.cluster import Cluster, ClusterArgs
from components.pds import Pds, PdsArgs
from components.settings.sections.settings import Settings


def create(settings: Settings, stack: str, project: str) -> dict[str, pulumi.Input[object]]:
    """Create the stack's resources; return its exports."""
    if settings.cluster:
        return Cluster("pds", ClusterArgs(settings=settings, stack=stack, project=project)).outputs
    return Pds("pds", PdsArgs(settings=settings, stack=stack, project=project)).outputs
