"""A real PDS and a real PLC directory on loopback, driven from Python.

Owns: installing the two pinned servers from npm (`node`), running them (`directory`, `pds`), doing
what an owner does first (`owner`), showing it (`show`), and the whole of it as one session
(`session`).

Does not own: where the environment comes from. The caller takes it out of the rendered job, so that what is tried
here is what would run on the droplet.
"""


class LiveError(Exception):
    """Something here cannot go on. The text is for the reader: what is wrong, where, and what to do instead."""
