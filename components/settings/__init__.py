"""A stack file as typed, immutable values. Only `load.py` reads `pulumi.Config`."""
