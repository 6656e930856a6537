"""A socket in the file system that leads to a port, as `ssh -L SOCKET:HOST:PORT` makes it."""

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.serving import LOOPBACK


@contextmanager
def tunnel(path: Path, port: int) -> Iterator[Path]:
    """Forward connections to `path` to the port on loopback during the block."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=_accept, args=(listener, port), daemon=True).start()
        yield path


def _accept(listener: socket.socket, port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            near = listener.accept()[0]
            try:
                far = socket.create_connection((LOOPBACK, port), 10)
            except OSError:
                near.close()  # as ssh does if nothing listens there
                continue
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def main(words: list[str]) -> int:
    """Stand in for `ssh … -L SOCKET:HOST:PORT …` until a signal ends it."""
    path, _host, port = words[words.index("-L") + 1].split(":")
    with tunnel(Path(path), int(port)):
        signal.pause()
    return 255


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
