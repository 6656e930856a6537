"""Faults on demand: the Nth matching call fails, in one of the ways in which calls fail.

Tests set rules through `Api.fail`. A rule is used once; the used ones are kept.
"""

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.e2e.digitalocean.calls import Fields, read_fields
from tests.e2e.digitalocean.errors import refused

KINDS = ("500", "429", "hang", "lost", "held")
"""`500` and `429`: that answer, nothing done. `hang`: nothing done, no answer for `seconds`, then the connection is
cut. `lost`: done, and the connection is cut before the answer. `held`: done, no answer for `seconds`, then the
connection is cut; the caller can be killed meanwhile."""


@dataclass
class Fault:
    """`path` is a regular expression for the whole path; `nth` counts matching calls from 1."""

    method: str
    path: str
    kind: str
    nth: int = 1
    retry_after: int = 1
    """Seconds, of a 429."""
    seconds: float = 3600
    """Of a call that hangs or is held; the default is longer than any caller waits."""
    seen: int = 0
    struck: bool = False

    def matches(self, method: str, path: str) -> bool:
        """Whether the rule applies to this call."""
        return self.method in ("*", method) and re.fullmatch(self.path, path) is not None


@dataclass
class Faults:
    """The rules of one server."""

    rules: list[Fault] = field(default_factory=list)

    def add(self, body: Any) -> Fault:
        """Add a rule. Raises ApiError."""
        known: Fields = {
            "method": str,
            "path": str,
            "kind": str,
            "nth": int,
            "retry_after": int,
            "seconds": (int, float),
        }
        requested = read_fields(body, known, required=("method", "path", "kind"))
        if requested["kind"] not in KINDS:
            raise refused(f"kind has to be one of {', '.join(KINDS)}")
        self.rules.append(Fault(**requested))
        return self.rules[-1]

    def strike(self, method: str, path: str) -> Fault | None:
        """Return the rule for this call, if it is its turn."""
        hit = None
        for rule in self.rules:
            if rule.struck or not rule.matches(method, path):
                continue
            rule.seen += 1
            if rule.seen == rule.nth and hit is None:
                rule.struck = True
                hit = rule
        return hit

    def shown(self) -> list[dict[str, Any]]:
        """Every rule and its result."""
        return [asdict(rule) for rule in self.rules]
