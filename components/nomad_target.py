"""`NomadTarget`: the Nomad of a resource, and the options that every Nomad resource needs.

`pds.py` passes it from the component that made the connection to those that use it. No resource is created here.
"""

from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_digitalocean as digitalocean
import pulumi_nomad as nomad

JOB_TIMEOUTS = pulumi.CustomTimeouts(create="15m", update="15m", delete="5m")
"""A job's registration waits for placement, not for health: `ServerReady` waits for that."""


@dataclass(frozen=True, kw_only=True)
class NomadTarget:
    """A bootstrapped Nomad: its provider, its identity and its droplet."""

    provider: nomad.Provider
    """With the program's own token of limited rights."""
    cluster_id: pulumi.Output[str]
    """Changes if this Nomad has lost its state."""
    droplet: digitalocean.Droplet | None
    """None if the host is not this stack's."""
    namespace: str | None = None
    """The namespace of variables; None for the default one. A job states its namespace itself."""

    def options(self, parent: pulumi.Resource, *, retained: bool = False, **more: Any) -> pulumi.ResourceOptions:
        """Options of a Nomad resource that is a child of `parent`.

        One `up` refills an emptied Nomad (`replacement_trigger`). Nomad identifies an object by its name: creating the
        new one and then deleting the old one would delete the new one (`delete_before_replace`). Resources of a removed
        host need no deletes (`deleted_with`). They are created again with the next host.

        `retained` is for tokens. An emptied Nomad refuses to delete an unknown token, and `up` would fail. A rebuilt
        host still knows its tokens, so their holders need no new ones. It is also for a node pool, which cannot be
        deleted while it has nodes.
        """
        return pulumi.ResourceOptions(
            parent=parent,
            provider=self.provider,
            replacement_trigger=self.cluster_id,
            delete_before_replace=True,
            deleted_with=None if retained else self.droplet,
            retain_on_delete=retained or None,
            **more,
        )
