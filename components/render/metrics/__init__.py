"""Metrics: the store's Nomad job, and the files that it reads: targets, dashboards, alert rules."""
