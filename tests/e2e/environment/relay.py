"""One connection to another. QEMU runs this for each connection of a virtual machine to an address that leads to
another virtual machine, with the connection as standard input.

    python -m tests.e2e.environment.relay ADDRESS PORT
"""

import os
import socket
import sys
import threading

_CHUNK = 1 << 16


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(_CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # One end is gone, and so is the connection.
        os._exit(1)


def main() -> None:
    """Copy both directions until both ends have closed."""
    near = socket.socket(fileno=os.dup(0))
    far = socket.create_connection((sys.argv[1], int(sys.argv[2])), 30)
    far.settimeout(None)
    back = threading.Thread(target=_copy, args=(far, near), daemon=True)
    back.start()
    _copy(near, far)
    back.join()  # no deadline: the connection lasts as long as the machines want it


if __name__ == "__main__":
    main()
