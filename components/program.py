"""What a stack is: one PDS, or a cluster for the PDSes of other stacks."""

from collections.abc import Mapping

import pulumi

from components.cluster import Cluster, ClusterArgs
from components.pds import Pds, PdsArgs
from components.settings.sections.settings import Settings
from components.settings.stack_identity import BLOBS_MOVED


def create(settings: Settings, stack: str, project: str, shell: Mapping[str, str]) -> dict[str, pulumi.Input[object]]:
    """Create the stack's resources; return its exports. `shell`: the variables of the operator's shell."""
    if settings.cluster:
        return Cluster("pds", ClusterArgs(settings=settings, stack=stack, project=project)).outputs
    args = PdsArgs(settings=settings, stack=stack, project=project, blobs_moved=shell.get(BLOBS_MOVED, ""))
    return Pds("pds", args).outputs
