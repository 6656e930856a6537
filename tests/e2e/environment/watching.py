"""Observations of a running e2e_env: the engine's steps, the server's outages, and the places of secrets."""

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx

from components.settings.checks.pds_env import read_env_file
from tests.e2e.environment.environment import E2eEnvironment, Run, Stack
from tests.e2e.environment.tools import E2eError

_STEP = re.compile(
    r"^\s*(?:\+|~|-|\+-|--|\+\+)\s+(?P<type>\S+:\S+) (?P<name>\S+)\s+"
    r"(?P<operation>created replacement|deleted original|created|updated|deleted|replaced)\b",
    re.MULTILINE,
)


def steps(run: Run) -> dict[str, list[str]]:
    """Map resource name to its steps, in order; an unchanged resource is not in it."""
    found: dict[str, list[str]] = {}
    for step in _STEP.finditer(run.output):
        found.setdefault(step["name"], []).append(step["operation"])
    return found


@contextmanager
def meanwhile(work: Callable[[threading.Event], None], patience: float = 60) -> Iterator[None]:
    """Run `work` in a thread while the block runs. Its argument is set at the end, and so many seconds are waited."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(patience)


@dataclass
class Outage:
    """How often and how long the server did not answer a client on the host."""

    seconds: float = 0.0
    """The longest period without an answer."""
    queries: int = 0
    failures: list[str] = field(default_factory=list)


@contextmanager
def polled(health: Callable[[], tuple[int, str]]) -> Iterator[Outage]:
    """Query the server's health (status and text), ten times a second, while the block runs."""
    seen = Outage()

    def poll(ended: threading.Event) -> None:
        last_good = time.monotonic()
        while not ended.wait(0.1):
            seen.queries += 1
            try:
                status, text = health()
                fault = "" if status == 200 else f"{status} {text}"
            except (E2eError, httpx.HTTPError, ValueError) as error:
                fault = f"{type(error).__name__}: {error}"
            if fault:
                seen.failures.append(fault)
            else:
                # The longest time between two good answers, including failed ones in between.
                seen.seconds = max(seen.seconds, time.monotonic() - last_good)
                last_good = time.monotonic()

    with meanwhile(poll, patience=15):
        yield seen


def secrets_of(running: E2eEnvironment) -> dict[str, str]:
    """Every secret of the stack, by name: its secret outputs, and those on the machine."""
    outputs = running.outputs()
    shown = running.pulumi("stack", "output", "--json").output
    hidden = [name for name, value in json.loads(shown).items() if value == "[secret]"]
    found: dict[str, str] = {}
    for name in hidden:
        value = outputs[name]
        for part, text in _parts(name, value):
            found[part] = text
    for machine in running.machines.machines():
        for name, file in (("server key", "stunnel/pds/server.key"), ("worker key", "pds/tls/worker.key")):
            if (key := machine.root / "etc" / file).exists():
                found[f"{name} {machine.droplet_id}" if name in found else name] = key.read_text()
    return {name: text for name, text in found.items() if len(text) >= 16}


_NOT_SECRET = re.compile(r"https?://|did:|true$|false$|[0-9]+$|/")


def _parts(name: str, value: object) -> Iterator[tuple[str, str]]:
    """The secrets inside of a secret output: a file of assignments and a document have plain values too."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("secrets", "nomad_management_token", "nomad_ca_key_pem"):
                yield from _parts(f"{name}.{key}", inner)
            elif name.endswith(".secrets"):
                yield f"{name}.{key}", str(inner)
    elif isinstance(value, str) and name == "pds_env":
        for key, text in read_env_file(value).items():
            if re.search("KEY|SECRET|PASSWORD|SMTP", key) and not _NOT_SECRET.match(text):
                yield f"{name}.{key}", text
    elif isinstance(value, str):
        yield name, value


def forms(secret: str) -> Iterator[tuple[str, str]]:
    """The written forms of a secret: unchanged, in base64, in hex, URL-encoded, as JSON text, and a key by its body."""
    raw = secret.encode()
    yield "plain", secret
    yield "base64", base64.b64encode(raw).decode().rstrip("=")[:-1]
    yield "hex", raw.hex()
    yield "url", quote(secret, safe="")
    yield "json", json.dumps(secret)[1:-1]
    if "PRIVATE KEY" in secret:
        # The middle of a PEM's first line is the same in every curve's key; a later one is this key's own.
        yield "body", secret.splitlines()[2]


def hits(secrets: Mapping[str, str], text: str) -> list[str]:
    """Which secrets `text` holds, and in which form."""
    return [
        f"{name} ({form})"
        for name, secret in secrets.items()
        for form, written in forms(secret)
        if len(written) >= 8 and written in text
    ]


def state_text(running: Stack) -> str:
    """All files of the engine's state: checkpoints, their backups and the history."""
    return "\n".join(
        file.read_text(errors="replace")
        for file in sorted((running.folder / "state").rglob("*"))
        if file.is_file() and file.suffix != ".gz"
    )


def command_lines() -> str:
    """The command lines of all processes on this machine."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return "\n".join(found)
