"""Nomad's API as a table of responses, for code that queries it and decides; every request is recorded."""

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
        """See the class."""
        question = f"{'anonymous ' if token == '' else ''}{method} {path}"
        self.asked.append((question, body))
        return self.answers[question]
