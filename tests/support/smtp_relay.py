"""A mail relay that is as strict as a relay (RFC 5321, 3207, 4954): plain, with STARTTLS, or with TLS from the first
byte.

It refuses a login before TLS, a wrong password, a message without a login, a sender or a recipient that it does not
accept, commands out of order, and lines that do not end with CRLF. `taken` holds what it accepted.
"""

import base64
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from tests.support.serving import LOOPBACK

Tls = Literal["none", "starttls", "implicit"]


@dataclass(frozen=True)
class Message:
    """A message that the relay accepted."""

    sender: str
    recipients: tuple[str, ...]
    text: str


@dataclass
class SmtpRelay:
    """The relay's state; a test changes it while the relay runs."""

    tls: Tls = "none"
    context: ssl.SSLContext | None = None
    login: tuple[str, str] | None = None
    """User and password; None if it takes messages from everyone."""
    senders: frozenset[str] | None = None
    """Verified domains of senders; None accepts all."""
    busy: bool = False
    """Whether it refuses every recipient."""
    port: int = 0
    taken: list[Message] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    """Each command as received, without passwords."""


class _Handler(socketserver.StreamRequestHandler):
    timeout = 30  # seconds without a command
    server: "_Server"

    def setup(self) -> None:
        super().setup()
        self.relay = self.server.relay
        self.secure = False
        self._forget()

    def _forget(self) -> None:
        """The state after a greeting and after STARTTLS (RFC 3207, section 4.2)."""
        self.greeted = self.authenticated = False
        self.sender: str | None = None
        self.recipients: list[str] = []

    def handle(self) -> None:
        try:
            if self.relay.tls == "implicit":
                self._start_tls()
            self._say("220 relay.test ESMTP")
            while (line := self._line()) is not None:
                if not self._answer(line):
                    return
        except (OSError, ValueError):
            return  # a client that hangs up, speaks TLS too early or sends a line without CRLF

    def _start_tls(self) -> None:
        assert self.relay.context
        self.request = self.relay.context.wrap_socket(self.request, server_side=True)
        self.rfile = self.request.makefile("rb")
        self.wfile = self.request.makefile("wb", buffering=0)
        self.secure = True
        self._forget()

    def _line(self) -> str | None:
        raw = self.rfile.readline(1001)
        if not raw:
            return None
        if not raw.endswith(b"\r\n"):
            raise ValueError("a line without CRLF, or longer than 1000 bytes")
        return str(raw[:-2].decode())

    def _say(self, *lines: str) -> None:
        for number, line in enumerate(lines):
            more = "-" if number < len(lines) - 1 else " "
            text = line if len(lines) == 1 else f"{line[:3]}{more}{line[4:]}"
            self.wfile.write(f"{text}\r\n".encode())

    def _answer(self, line: str) -> bool:
        """Answer one command; whether the session goes on."""
        verb = line.partition(" ")[0].upper()
        self.relay.commands.append("AUTH …" if verb == "AUTH" else line)
        known = {"EHLO": self._ehlo, "STARTTLS": self._starttls, "AUTH": self._auth, "MAIL": self._mail}
        known |= {"RCPT": self._rcpt, "DATA": self._data}
        if verb == "QUIT":
            self._say("221 2.0.0 bye")
            return False
        if verb != "EHLO" and not self.greeted:
            self._say("503 5.5.1 EHLO first")
        elif verb in known:
            known[verb](line)
        else:
            self._say("500 5.5.2 unknown command")
        return True

    def _ehlo(self, _line: str) -> None:
        self.greeted = True
        offers = ["250 relay.test"]
        offers += ["250 STARTTLS"] if self.relay.tls == "starttls" and not self.secure else []
        offers += ["250 AUTH PLAIN"] if self.relay.login and self._may_log_in() else []
        self._say(*offers, "250 8BITMIME")

    def _may_log_in(self) -> bool:
        return self.secure or self.relay.tls == "none"

    def _starttls(self, _line: str) -> None:
        if self.relay.tls != "starttls" or self.secure:
            self._say("503 5.5.1 TLS is not available")
            return
        self._say("220 2.0.0 go ahead")
        self._start_tls()

    def _auth(self, line: str) -> None:
        if not self._may_log_in():
            self._say("530 5.7.0 Must issue a STARTTLS command first")
            return
        kind, _, initial = line.partition(" ")[2].partition(" ")
        if kind.upper() != "PLAIN" or not initial:
            self._say("504 5.5.4 AUTH PLAIN with an initial response only")
            return
        _, user, password = base64.b64decode(initial).decode().split("\0")
        self.authenticated = (user, password) == self.relay.login
        self._say("235 2.7.0 accepted" if self.authenticated else "535 5.7.8 Authentication credentials invalid")

    def _mail(self, line: str) -> None:
        sender = line.partition("<")[2].partition(">")[0]
        if self.relay.login and not self.authenticated:
            self._say("530 5.7.0 Authentication required")
        elif self.relay.senders is not None and sender.rpartition("@")[2] not in self.relay.senders:
            self._say(f"550 5.7.1 The domain of {sender} is not verified")
        else:
            self.sender, self.recipients = sender, []
            self._say("250 2.1.0 ok")

    def _rcpt(self, line: str) -> None:
        if self.sender is None:
            self._say("503 5.5.1 MAIL first")
        elif self.relay.busy:
            self._say("550 5.1.1 not here")
        else:
            self.recipients.append(line.partition("<")[2].partition(">")[0])
            self._say("250 2.1.5 ok")

    def _data(self, _line: str) -> None:
        if self.sender is None or not self.recipients:
            self._say("503 5.5.1 RCPT first")
            return
        self._say("354 go on")
        lines: list[str] = []
        while (line := self._line()) not in (".", None):
            lines.append(str(line).removeprefix("."))
        self.relay.taken.append(Message(self.sender, tuple(self.recipients), "\n".join(lines)))
        self.sender = None
        self._say(f"250 2.0.0 Ok: queued as {len(self.relay.taken)}")


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    relay: SmtpRelay


@contextmanager
def serve(relay: SmtpRelay, address: str = LOOPBACK) -> Iterator[SmtpRelay]:
    """Run the relay at its `port`, or at a free one, which is then its `port`."""
    server = _Server((address, relay.port), _Handler)
    server.relay = relay
    relay.port = int(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        server.shutdown()
        server.server_close()
        thread.join(600)
