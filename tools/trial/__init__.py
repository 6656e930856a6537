"""A real PDS and a real PLC directory on loopback, driven from Python.

Owns: installing the two pinned servers from npm (`node`), running them (`directory`, `pds`), an owner's first actions
(`owner`), their display (`show`), and all of it as one session (`session`).

Does not own: the environment. The caller takes it from the rendered job, so that this runs what would run on the
droplet.
"""


class LiveError(Exception):
    """A step cannot continue. The text says what is wrong, where, and what to do instead."""
