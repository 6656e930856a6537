"""Whether `make e2e` can run here: exit code 0, or 1 and one line that names what is missing. For `.ci/run`."""

import os
import sys

from tests.e2e.environment.tools import BUILD_PROGRAMS, PROGRAMS, absent


def main() -> int:
    """See the module."""
    programs = absent(*PROGRAMS, *BUILD_PROGRAMS)
    lacking = [f"{', '.join(programs)} on PATH"] if programs else []
    lacking += ["to be run as root"] if os.geteuid() != 0 else []
    if lacking:
        print(f"Not run: `make e2e`, which needs {' and '.join(lacking)}.")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
