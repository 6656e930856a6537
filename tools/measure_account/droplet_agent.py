"""Runs on a droplet of a measurement, as root, with Debian's Python alone: writes to the volume, and reports.

As soon as the volume's disk is there it is mounted, and a row is appended and flushed ten times a second until an error
ends it. Over HTTP, below a secret path: `GET status`, `POST connect` with `{"host", "port"}`, and `POST panic`, which
stops the kernel for good. Two more ports only accept connections.

Environment: MEASURE_KEY (the secret path), MEASURE_NAME, MEASURE_VOLUME (its name). In tests MEASURE_ROOT,
MEASURE_ADDRESS and MEASURE_PORTS (the port of HTTP first) replace the file system's root, the address and the ports.
"""

import errno
import json
import os
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORTS = (80, 8081, 8082)
"""HTTP; one that the firewall admits by tag; one that it admits to none."""

ROOT = Path(os.environ.get("MEASURE_ROOT", "/"))
DISK = ROOT / "dev/disk/by-id" / f"scsi-0DO_Volume_{os.environ.get('MEASURE_VOLUME', '')}"
FOLDER = ROOT / "mnt/measure"
_PAUSE = 0.1
_CONNECT_SECONDS = 5.0


class Writer:
    """The rows on the volume. `status` may be read by any thread."""

    def __init__(self) -> None:
        boot = ROOT / "proc/sys/kernel/random/boot_id"
        self.status: dict[str, Any] = {
            "name": os.environ.get("MEASURE_NAME", ""),
            "boot": boot.read_text().strip() if boot.exists() else str(os.getpid()),
            "found": None,
            "row": None,
            "error": None,
            "error_at": None,
        }

    def run(self) -> None:
        """Wait for the disk, and write until an error; it ends only with that."""
        while not DISK.exists():  # no deadline: the program plugs it, or deletes the droplet
            time.sleep(_PAUSE)
        try:
            FOLDER.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "-o", "noatime", str(DISK), str(FOLDER)], check=True, timeout=120)
            self._write()
        except subprocess.SubprocessError as error:
            self._failed(f"mount: {error}")
        except OSError as error:
            self._failed(errno.errorcode.get(error.errno or 0, str(error)))

    def _write(self) -> None:
        rows = FOLDER / "rows"
        row = last_row(rows.read_bytes()) if rows.exists() else 0
        self.status |= {"found": row, "row": row}
        # A row that a power cut left incomplete ends here.
        with rows.open("ab", buffering=0) as file:
            file.write(b"\n")
            while True:  # no deadline: it writes until the disk is away
                row += 1
                file.write(b"%d\n" % row)
                os.fsync(file.fileno())
                self.status["row"] = row
                time.sleep(_PAUSE)

    def _failed(self, text: str) -> None:
        self.status |= {"error": text, "error_at": time.time()}
        subprocess.run(["umount", "--lazy", str(FOLDER)], check=False, capture_output=True, timeout=60)


def last_row(text: bytes) -> int:
    """The number in the last complete row, 0 if there is none."""
    complete = text[: text.rfind(b"\n") + 1].split()
    return int(complete[-1]) if complete else 0


def connects(host: str, port: int) -> bool:
    """Whether a connection is accepted."""
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def stop_kernel() -> None:
    """Panic, and stay there: no restart, no answer to a hot-unplug."""
    for name, text in (("sys/kernel/panic", "0\n"), ("sys/kernel/sysrq", "1\n"), ("sysrq-trigger", "c\n")):
        (ROOT / "proc" / name).write_text(text)


def handler(writer: Writer, key: str) -> type[BaseHTTPRequestHandler]:
    """The handler of requests below the secret path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({**writer.status, "now": time.time()} if self.path == f"/{key}/status" else None)

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == f"/{key}/connect":
                requested = json.loads(text)
                self._answer({"connects": connects(str(requested["host"]), int(requested["port"]))})
            elif self.path == f"/{key}/panic":
                self._answer({})
                threading.Timer(0.5, stop_kernel).start()
            else:
                self._answer(None)

        def _answer(self, body: dict[str, Any] | None) -> None:
            data = json.dumps(body or {}).encode()
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            """The path is a secret, so it goes to no log."""

    return Handler


def main() -> None:
    """Serve for ever."""
    address = os.environ.get("MEASURE_ADDRESS", "0.0.0.0")  # noqa: S104 (the firewall decides)
    ports = os.environ.get("MEASURE_PORTS")
    first, *others = map(int, ports.split(",")) if ports else PORTS
    writer = Writer()
    threading.Thread(target=writer.run, daemon=True).start()
    for port in others:
        listening = socket.create_server((address, port))
        threading.Thread(target=_accept, args=(listening,), daemon=True).start()
    ThreadingHTTPServer((address, first), handler(writer, os.environ["MEASURE_KEY"])).serve_forever()


def _accept(listening: socket.socket) -> None:
    while True:
        listening.accept()[0].close()


if __name__ == "__main__":
    main()
