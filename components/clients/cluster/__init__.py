"""Clients of a cluster: its account, its hosts, and snapshots of its Nomad."""
