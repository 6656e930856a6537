"""The ingress's Nomad job and its configuration, for IO and for Caddy."""
