"""The relay between two virtual machines, started as QEMU starts it."""

import socket
import sys

from cli.lib.subprocesses import child
from offline.mock_engine import ROOT


def test_both_directions_pass_and_each_end_is_passed_on() -> None:
    near, given = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server, near, given:
        port = str(server.getsockname()[1])
        command = [sys.executable, "-m", "tests.e2e.environment.relay", "127.0.0.1", port]
        with child(command, 600, cwd=ROOT, stdin=given.fileno()) as process:
            given.close()
            far, _ = server.accept()
            with far:
                near.settimeout(60)
                far.settimeout(60)
                near.sendall(b"question")
                assert far.recv(100) == b"question"
                near.shutdown(socket.SHUT_WR)
                assert far.recv(100) == b"", "the far end would wait for more"
                far.sendall(b"answer")
                assert near.recv(100) == b"answer"
                far.shutdown(socket.SHUT_WR)
                assert near.recv(100) == b""
            assert process.wait(600) == 0
