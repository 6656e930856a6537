"""The data of a PLC directory without identities, made once and copied.

Creating the database is most of a directory's first start: 5.7 s of processor time instead of 1.4 s (`os.times`, busy
machine, 2026-11-27). `test_session.py` also has a session that begins without one.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tools.trial.directory import PlcDirectory
from tools.trial.node import Install, alone


def copy_empty_directory(server: Install, to: Path) -> Path:
    """Copy the data of an empty directory of the installed `server` to the new folder `to`; return `to`.

    The original is beside the install and is made by the first caller.
    """
    original = server.folder.with_name(f"{server.folder.name}-data")
    with alone(original.with_name(f".{original.name}.lock")):
        if not original.is_dir():
            with tempfile.TemporaryDirectory(prefix=f".{original.name}-", dir=original.parent) as partial:
                made = Path(partial) / "data"
                with PlcDirectory(server, data=made, log=Path(partial) / "plc.log"):
                    pass
                made.rename(original)
    shutil.copytree(original, to)
    return to
