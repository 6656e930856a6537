"""Blocking clients of Nomad, name servers and the PDS, for the dynamic providers and the CLI. None imports Pulumi."""
