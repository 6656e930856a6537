"""A PLC directory on loopback, with its operations kept in a folder.

Owns: running the real directory server with PGlite (PostgreSQL in the same process) as its database, so that the
identities of one run still exist in the next.

Does not own: the public directory. Nothing here may ever write to it: an identity there is permanent.
"""

from __future__ import annotations

import os
from pathlib import Path

from tools.trial.node import SERVERS, Install
from tools.trial.process import LOOPBACK, ServerProcess, free_port


class PlcDirectory(ServerProcess):
    """The directory as a context manager; `url` is where a PDS and a client find it.

    Raises ServerEndedError when it does not come up.
    """

    def __init__(self, install: Install, *, data: Path, log: Path) -> None:
        port = free_port()
        # By name: the PDS refuses to fetch from a bare address, whatever its settings ("Invalid hostname").
        self.url = f"http://localhost:{port}"
        data.mkdir(parents=True, exist_ok=True)
        super().__init__(
            name="PLC directory",
            # PostgreSQL as WebAssembly is not optimized: it serves a few operations, and optimizing it takes longer.
            command=[str(install.node), "--liftoff-only", str(SERVERS / "plc.mjs"), str(data.resolve()), str(port)],
            folder=install.folder,
            env={"PATH": os.defpath, "LOG_ENABLED": "true"},
            log=log,
            health=f"http://{LOOPBACK}:{port}/_health",
        )
