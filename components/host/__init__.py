"""Where a PDS runs: a droplet of this stack, another stack's host, or an existing Nomad."""
