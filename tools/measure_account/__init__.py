"""Measurements on a real DigitalOcean account of what no double can show; `python -m tools.measure_account`.

How long does a detach take from a droplet that writes, that is off, whose kernel has stopped, or that is deleted? How
long do the attach to another droplet and the move of a reserved IP take? Does a firewall's rule for a tag admit a
droplet's public address? Is a token that lacks a scope refused before DigitalOcean looks for the resource?

`account.py` owns everything that is made and removed, `droplet_agent.py` runs on the droplets, `cases.py` measures.
Each resource has the run's name or tag, and nothing else is ever changed. docs/guide/cluster.md says when to use it.
"""
