"""Differences between a stack, its DigitalOcean account and its Nomad, and their repair."""
