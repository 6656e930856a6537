"""Who carries which host of a cluster: observed, decided, and changed one step at a time.

The standard library only: the same files run as a Nomad job on the servers, in `pulumi up`, and in `./pds`.
"""
