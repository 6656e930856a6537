"""Renders text: cloud-init, the Nomad agent, job specs, IO's file. Pure functions from settings to str."""
