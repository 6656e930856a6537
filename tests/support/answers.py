"""A stand-in for Nomad's API that returns responses from a table and records every request."""

from typing import Any

from components.clients.nomad import NomadApi

Answer = tuple[int, Any]


class Answers(NomadApi):
    """`answers` maps 'METHOD PATH' to status and response; for requests without a token, 'anonymous METHOD PATH'."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        super().__init__("http://127.0.0.1:1", "", "", "", "a token")
        self.answers = answers
        self.asked: list[tuple[str, Any]] = []

    def request(self, method: str, path: str, body: Any = None, token: str | None = None) -> Answer:
        """Record the request and return its response from the table."""
        request = f"{'anonymous ' if token == '' else ''}{method} {path}"
        self.asked.append((request, body))
        return self.answers[request]
