"""Alerts, backups, blobs in a bucket and metrics; a cluster's takeover and Nomad snapshots."""
