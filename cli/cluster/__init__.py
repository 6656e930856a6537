"""Hosts of a cluster: who carries which, and moving one by hand."""
