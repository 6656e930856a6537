"""`NomadTarget`: which Nomad a resource goes to, and the options every Nomad resource has to carry.

Handed by `pds.py` from the component that made the way in to those that use it. No resource is made here.
"""

from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_digitalocean as digitalocean
import pulumi_nomad as nomad

PATIENCE = pulumi.CustomTimeouts(create="15m", update="15m", delete="5m")
"""A job's registration waits for a place, not for health: that is what `Ready` waits for."""


@dataclass(frozen=True, kw_only=True)
class NomadTarget:
    """A bootstrapped Nomad: its provider, its identity and the droplet that it lives on."""

    provider: nomad.Provider
    """With the program's own token of limited rights."""
    cluster_id: pulumi.Output[str]
    """Changes when this Nomad has lost its state."""
    droplet: digitalocean.Droplet | None
    """None where the host is not this stack's."""
    namespace: str | None = None
    """For variables; None is the default one. A job's text names its own."""

    def options(self, parent: pulumi.Resource, *, left: bool = False, **more: Any) -> pulumi.ResourceOptions:
        """Options of a Nomad resource that is a child of `parent`.

        An emptied Nomad is refilled by one `up` (`replacement_trigger`). In Nomad the name is the identity: creating
        the new one and then deleting the old one would delete the new one (`delete_before_replace`). A host that is
        gone needs no deletes (`deleted_with`), and whatever is deleted with a host is made again with the next one.

        `left` is for tokens: an emptied Nomad refuses to delete one that it does not know, and `up` would end there;
        and a rebuilt host still knows them, so that those who have one need no other.
        """
        return pulumi.ResourceOptions(
            parent=parent,
            provider=self.provider,
            replacement_trigger=self.cluster_id,
            delete_before_replace=True,
            deleted_with=None if left else self.droplet,
            retain_on_delete=left or None,
            **more,
        )
