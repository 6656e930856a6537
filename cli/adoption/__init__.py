"""A host with a droplet of its own that becomes one of a cluster, and back."""
