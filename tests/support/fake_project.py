"""A project folder with several stacks, and a stand-in for `pulumi` on PATH that the Automation API accepts.

It changes nothing and records its commands. A preview is that of the offline evaluation, with or without a change; an
`up` ends as configured. `tests/e2e/scenarios/e2e_club_tools.py` uses the real engine.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from offline.mock_engine import ROOT, Evaluation
from offline.stackfile import evaluate_stack
from tests.support.engine_json import Step, preview_of, same

HOST = """config:
  pds:hostname: noted.at
  pds:operators: {cidrs: [203.0.113.7/32], ssh_keys: [laptop]}
"""
"""The minimum of a host's stack file."""

_PROGRAM = """#!{python} -IS
import json, os, pathlib, signal, sys, time
folder, arguments = pathlib.Path({folder!r}), [item for item in sys.argv[1:] if item != "--non-interactive"]
def read(name, default):
    file = folder / name
    return json.loads(file.read_text()) if file.exists() else default
def record(**what):
    with (folder / "ran.jsonl").open("a") as log:
        print(json.dumps(what), file=log)
stack = arguments[arguments.index("--stack") + 1] if "--stack" in arguments else None
made = read("made.json", [])
verb = arguments[0] if arguments[0] != "stack" else arguments[1]
if verb == "version":
    print("v3.260.0")
elif verb == "ls":
    found = [dict(name=name, current=False, lastUpdate="2026-01-01T00:00:00.000Z", resourceCount=1) for name in made]
    print(json.dumps(found))
elif verb == "init":
    name, provider = arguments[2], arguments[arguments.index("--secrets-provider") + 1]
    record(verb=verb, stack=name, provider=provider)
    if read("refuses.json", []):
        sys.exit("error: " + read("refuses.json", [])[0])
    (folder / "made.json").write_text(json.dumps([*made, name]))
    with pathlib.Path("Pulumi." + name + ".yaml").open("a") as file:
        file.write("encryptionsalt: v1:x\\n")
elif verb == "preview":
    record(verb=verb, stack=stack)
    texts = sorted(folder.glob("preview-" + stack + "-*.json"))
    if not texts:
        sys.exit("error: no passphrase is set")
    print(texts[0].read_text())
    if len(texts) > 1:
        texts[0].unlink()
elif verb == "up":
    behavior = read("up.json", {{}}).get(stack, {{}})
    def canceled(*_):
        if behavior.get("hangs") == "finishes":
            record(verb=verb, stack=stack, done=True)
            sys.exit(0)
        print("error: update canceled", flush=True)
        record(verb=verb, stack=stack, canceled=True)
        sys.exit(1)
    signal.signal(signal.SIGINT, canceled)
    record(verb=verb, stack=stack, begun=True)
    print("Updating (" + stack + "):\\n +  nomad:index:Variable pds-secrets-variable creating", flush=True)
    end = time.monotonic() + 600
    while behavior.get("hangs") and time.monotonic() < end:
        time.sleep(0.05)
    while behavior.get("meets") and time.monotonic() < end:
        seen = [json.loads(line) for line in (folder / "ran.jsonl").read_text().splitlines()]
        if any(item["verb"] == "up" and item["stack"] == behavior["meets"] for item in seen):
            break
        time.sleep(0.05)
    else:
        if behavior.get("meets"):
            sys.exit("error: " + behavior["meets"] + " was not begun meanwhile")
    if behavior.get("fails"):
        print("Diagnostics:\\n  nomad:index:Job (pds-server-job):\\n    error: " + behavior["fails"])
        print("\\nResources:\\n    1 errored")
        sys.exit(255)
    record(verb=verb, stack=stack, done=True)
elif verb == "output":
    secret = "--show-secrets" in arguments
    if secret and read("locked.json", []):
        sys.exit("error: failed to decrypt: incorrect passphrase")
    found = read("outputs.json", {{}}).get(stack, {{}})
    plain = found if secret else ("state", "worker_tag")
    print(json.dumps({{key: value if key in plain else "[secret]" for key, value in found.items()}}))
elif verb == "history":
    summary = dict(kind="update", startTime="2026-01-01T00:00:00.000Z", message="", environment={{}}, config={{}},
                   result="succeeded", endTime="2026-01-01T00:00:01.000Z", version=1, resourceChanges={{}})
    print(json.dumps([summary]))
else:
    sys.exit("error: not known here: " + " ".join(arguments))
"""


_EVALUATED: dict[tuple[str, tuple[str, ...]], Evaluation] = {}


class FakeProject:
    """`root` is the project's folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self.root = folder / "pulumi", folder / "project"
        for made in (self._folder, self.root):
            made.mkdir()
        for name in ("Pulumi.yaml", "__main__.py"):
            shutil.copy2(ROOT / name, self.root)
        program = self._folder / "bin/pulumi"
        program.parent.mkdir()
        program.write_text(_PROGRAM.format(python=sys.executable, folder=str(self._folder)))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        self._outputs: dict[str, Any] = {}
        self._ups: dict[str, Any] = {}

    def stack(self, name: str, text: str, state: str | None = "serving", **outputs: Any) -> None:
        """A stack with this file; without `state` it was never up."""
        (self.root / f"Pulumi.{name}.yaml").write_text(text)
        self.made(name)
        self._outputs[name] = outputs | ({"state": state} if state else {})
        self._write("outputs.json", self._outputs)

    def made(self, *names: str) -> None:
        """Add these stacks to the backend."""
        file = self._folder / "made.json"
        existing = json.loads(file.read_text()) if file.exists() else []
        self._write("made.json", [*existing, *names])

    def locked(self) -> None:
        """Let decryption fail as with a wrong passphrase."""
        self._write("locked.json", [True])

    def refuses(self, why: str) -> None:
        """Let `stack init` fail with this error."""
        self._write("refuses.json", [why])

    def previews(self, name: str, *changes: str) -> None:
        """Make the previews of this stack in turn change this resource, or nothing if its name is empty; the last one
        stays."""
        evaluation = self.evaluated(name)
        steps = [[_updated(same(evaluation.one(change)))] if change else [] for change in changes]
        self.preview_texts(name, *(preview_of(evaluation, *each) for each in steps))

    def evaluated(self, name: str) -> Evaluation:
        """The program for this stack; evaluated once for all tests with the same files."""
        texts = tuple(file.read_text() for file in sorted(self.root.glob("Pulumi.*.yaml")))
        if (name, texts) not in _EVALUATED:
            _EVALUATED[name, texts] = evaluate_stack(name, root=self.root)
        return _EVALUATED[name, texts]

    def preview_texts(self, name: str, *texts: str) -> None:
        """Let the previews of this stack in turn be these; the last one stays."""
        for number, text in enumerate(texts):
            (self._folder / f"preview-{name}-{number}.json").write_text(text)

    def up(self, name: str, **behavior: Any) -> None:
        """Let an `up` of this stack run until SIGINT (`hangs`; 'finishes' lets it succeed then), until the `up` of
        another stack has begun (`meets`), or fail (`fails`)."""
        self._ups[name] = behavior
        self._write("up.json", self._ups)

    @property
    def ran(self) -> list[Mapping[str, Any]]:
        """The recorded commands: `up`, `preview` and `stack init`."""
        log = self._folder / "ran.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def ups(self) -> list[str]:
        """The stacks whose `up` was started, in order."""
        return [item["stack"] for item in self.ran if item["verb"] == "up" and item.get("begun")]

    def _write(self, name: str, content: Any) -> None:
        (self._folder / name).write_text(json.dumps(content))


def _updated(step: Step) -> Step:
    return step | {"op": "update", "diffReasons": ["ttl"], "detailedDiff": {"ttl": {"kind": "update"}}}


def club(name: str, port: int, host: str = "dev", **pds: Any) -> str:
    """A stack file for a club."""
    more = "".join(f"    {key}: {json.dumps(value)}\n" for key, value in pds.items())
    return (
        f"config:\n  pds:hostname: {name}.test\n  pds:on: {host}\n  pds:dns: {{provider: manual}}\n"
        f"  pds:pds:\n    port: {port}\n{more}"
    )


def host(*clubs: str, size: str = "s-8vcpu-16gb") -> str:
    """A stack file for a host with a place for these."""
    places = "".join(f"    {name}: {{port: {3101 + number}}}\n" for number, name in enumerate(clubs))
    return HOST + f"  pds:host: {{size: {size}}}\n" + (f"  pds:clubs:\n{places}" if clubs else "")
