"""A project folder with several stacks, and a stand-in for `pulumi` on PATH that the Automation API accepts.

It changes nothing and records its commands. A preview is that of the offline evaluation, with or without a change; an
`up` ends as configured. `tests/e2e/scenarios/e2e_club_tools.py` uses the real engine.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import pytest

from offline.mock_engine import ROOT, Evaluation
from offline.stackfile import evaluate_stack, read_settings, read_text
from tests.support.engine_json import Step, preview_of, same

HOST = """config:
  pds:hostname: noted.at
  pds:operators: {cidrs: [203.0.113.7/32], ssh_keys: [laptop]}
"""
"""The minimum of a host's stack file."""

_PROGRAM = """#!/bin/sh
# In sh, because Python takes thirty times as long to start, and a test runs up to fifty commands.
folder={folder} stack= secret= previous=
[ "$1" = --non-interactive ] && shift
for item in "$@"; do
  [ "$previous" = --stack ] && stack=$item
  [ "$previous" = --secrets-provider ] && provider=$item
  [ "$item" = --show-secrets ] && secret=yes
  previous=$item
done
fail() {{
  echo "error: $1" >&2
  exit "${{2:-1}}"
}}
record() {{
  printf '{{"verb": "%s", "stack": "%s"%s}}\\n' "$verb" "$stack" "$1" >>"$folder/ran.jsonl"
}}
verb=$1
[ "$verb" = stack ] && verb=$2
case $verb in
version) echo v3.260.0 ;;
ls)
  separator=
  printf '['
  [ -e "$folder/made" ] && while read -r name; do
    printf '%s{{"name": "%s", "current": false, "lastUpdate": "2026-01-01T00:00:00.000Z"' "$separator" "$name"
    printf ', "resourceCount": 1}}'
    separator=', '
  done <"$folder/made"
  echo ']'
  ;;
init)
  stack=$3
  record ", \\"provider\\": \\"$provider\\""
  [ -e "$folder/refuses" ] && fail "$(cat "$folder/refuses")"
  echo "$stack" >>"$folder/made"
  echo 'encryptionsalt: v1:x' >>"Pulumi.$stack.yaml"
  ;;
preview)
  record
  set -- "$folder/preview-$stack-"*.json
  [ -e "$1" ] || fail 'no passphrase is set'
  cat "$1"
  if [ $# -gt 1 ]; then rm "$1"; fi
  ;;
up)
  hangs= meets= fails=
  [ -e "$folder/up-$stack" ] && . "$folder/up-$stack"
  canceled() {{
    if [ "$hangs" = finishes ]; then
      record ', "done": true'
      exit 0
    fi
    echo 'error: update canceled'
    record ', "canceled": true'
    exit 1
  }}
  trap canceled INT
  record ', "begun": true'
  printf 'Updating (%s):\\n +  nomad:index:Variable pds-secrets-variable creating\\n' "$stack"
  waited=0
  begun="\\"up\\", \\"stack\\": \\"$meets\\""
  while [ -n "$hangs" ] || {{ [ -n "$meets" ] && ! grep -q "$begun" "$folder/ran.jsonl"; }}; do
    [ "$waited" -lt 12000 ] || fail "$meets was not begun meanwhile"
    waited=$((waited + 1))
    sleep 0.05
  done
  if [ -n "$fails" ]; then
    printf 'Diagnostics:\\n  nomad:index:Job (pds-server-job):\\n    error: %s\\n' "$fails"
    printf '\\nResources:\\n    1 errored\\n'
    exit 255
  fi
  record ', "done": true'
  ;;
output)
  [ -n "$secret" ] && [ -e "$folder/locked" ] && fail 'failed to decrypt: incorrect passphrase'
  file="$folder/outputs-$stack${{secret:+-shown}}.json"
  if [ -e "$file" ]; then cat "$file"; else echo '{{}}'; fi
  ;;
history)
  printf '[{{"kind": "update", "startTime": "2026-01-01T00:00:00.000Z", "message": "", "environment": {{}}'
  printf ', "config": {{}}, "result": "succeeded", "endTime": "2026-01-01T00:00:01.000Z"'
  printf ', "version": 1, "resourceChanges": {{}}}}]\\n'
  ;;
*) fail "not known here: $*" ;;
esac
"""


_EVALUATED: dict[tuple[str, ...], Evaluation] = {}


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
        program.write_text(_PROGRAM.format(folder=quote(str(self._folder))))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    def stack(self, name: str, text: str, state: str | None = "serving", **outputs: Any) -> None:
        """A stack with this file; without `state` it was never up."""
        (self.root / f"Pulumi.{name}.yaml").write_text(text)
        self.made(name)
        shown = outputs | ({"state": state} if state else {})
        hidden = {key: value if key in ("state", "worker_tag") else "[secret]" for key, value in shown.items()}
        for suffix, values in (("", hidden), ("-shown", shown)):
            self._write(f"outputs-{name}{suffix}.json", json.dumps(values))

    def made(self, *names: str) -> None:
        """Add these stacks to the backend."""
        with (self._folder / "made").open("a") as file:
            file.writelines(f"{name}\n" for name in names)

    def locked(self) -> None:
        """Let decryption fail as with a wrong passphrase."""
        self._write("locked", "")

    def refuses(self, why: str) -> None:
        """Let `stack init` fail with this error."""
        self._write("refuses", why)

    def previews(self, name: str, *changes: str) -> None:
        """Make the previews of this stack in turn change this resource, or nothing if its name is empty; the last one
        stays."""
        evaluation = self.evaluated(name)
        steps = [[_updated(same(evaluation.one(change)))] if change else [] for change in changes]
        self.preview_texts(name, *(preview_of(evaluation, *each) for each in steps))

    def evaluated(self, name: str) -> Evaluation:
        """The program for this stack; evaluated once for all tests with the same file of it and of its host."""
        on = read_settings(name, self.root).on
        hosts = {on.stack: self.evaluated(on.stack)} if on and on.stack else {}
        key = (name, *(read_text(stack, self.root) for stack in (name, *hosts)))
        if key not in _EVALUATED:
            _EVALUATED[key] = evaluate_stack(name, root=self.root, hosts=hosts)
        return _EVALUATED[key]

    def preview_texts(self, name: str, *texts: str) -> None:
        """Let the previews of this stack in turn be these; the last one stays."""
        for number, text in enumerate(texts):
            self._write(f"preview-{name}-{number}.json", text)

    def up(self, name: str, **behavior: str) -> None:
        """Let an `up` of this stack run until SIGINT (`hangs`; 'finishes' lets it succeed then), until the `up` of
        another stack has begun (`meets`), or fail (`fails`)."""
        self._write(f"up-{name}", "".join(f"{key}={quote(value)}\n" for key, value in behavior.items()))

    @property
    def ran(self) -> list[Mapping[str, Any]]:
        """The recorded commands: `up`, `preview` and `stack init`."""
        log = self._folder / "ran.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def ups(self) -> list[str]:
        """The stacks whose `up` was started, in order."""
        return [item["stack"] for item in self.ran if item["verb"] == "up" and item.get("begun")]

    def _write(self, name: str, content: str) -> None:
        (self._folder / name).write_text(content)


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
