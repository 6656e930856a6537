"""A stand-in for `pulumi` on PATH with a given state and outputs. It records its commands; `config set` and `config rm`
change the stack files."""

import atexit
import json
import os
import shutil
import tempfile
import threading
import traceback
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from shlex import quote
from typing import Any

import pytest
import yaml

_PROGRAM = """#!/bin/sh
# What only reads is in sh, because Python takes thirty times as long to start.
folder={folder} stack= previous=
for item in "$@"; do
  [ "$previous" = --stack ] && stack=$item
  previous=$item
done
if [ "$1" = whoami ]; then
  cat "$folder/whoami.json"
  exit
fi
for file in "$folder"/backend/.pulumi/stacks/*/*.attrs; do
  if [ -e "$file" ] && [ ! -s "$file" ]; then
    echo 'error: failed to load checkpoint: EOF' >&2
    exit 1
  fi
done
case "$1 $2" in
"stack export")
  file=$folder/state-$stack.json
  [ -e "$file" ] || file=$folder/state.json
  [ -e "$file" ] || file=$folder/empty.json
  if [ -e "$folder/state-$stack.error" ]; then
    cat "$folder/state-$stack.error" >&2
    exit 255
  fi
  ;;
"stack output")
  file=$folder/outputs-$stack.json
  [ -e "$file" ] || file=$folder/outputs.json
  set -- "$folder/outputs-$stack-on-"*.json
  if [ -e "$1" ] && [ -e "Pulumi.$stack.yaml" ]; then
    on=$(sed -n 's/^ *pds:on: *//p' "Pulumi.$stack.yaml")
    [ -e "$folder/outputs-$stack-on-$on.json" ] && file=$folder/outputs-$stack-on-$on.json
  fi
  if [ ! -e "$file" ]; then
    echo '{{}}'
    exit
  fi
  if [ -e "${{file%.json}}.error" ]; then
    cat "${{file%.json}}.error" >&2
    exit 1
  fi
  ;;
"config get")
  file=$folder/config/$3
  if [ ! -e "$file" ]; then
    echo 'error: no such key' >&2
    exit 1
  fi
  ;;
*)
  {{ printf '%s\\037' "$@"; printf '\\036'; }} >>"$folder/ran"
  code=0 verb=$1 text=
  if [ "$1 $2" = "stack import" ]; then
    for item in "$@"; do
      [ "$previous" = --file ] && cp "$item" "$folder/state.json"
      previous=$item
    done
  fi
  for answer in "$folder/answer-$verb-"*; do
    [ -e "$answer" ] || break
    {{ read -r code; text=$(cat); }} <"$answer"
    rm "$answer"
    break
  done
  if [ "$verb" = config ] && [ "$code" = 0 ]; then
    secret=
    case " $* " in *" --secret "*) secret=$(cat) ;; esac
    mkfifo "$folder/edited-$$"
    printf '%s\\037' "$folder/edited-$$" "$PWD" "${{#secret}}" "$@" "$(printf '\\036')" >{edits}
    read -r code <"$folder/edited-$$"
    [ "$code" = 0 ] || exit "$code"
  fi
  printf '%s\\n' "$text"
  exit "$code"
  ;;
esac
cat "$file"
echo
"""

_END = b"\x1e\x1f"


@cache
def _edits() -> Path:
    """The FIFO of a thread that edits stack files for the program. A Python for each edit would take 50 ms."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    fifo = folder / "edits"
    os.mkfifo(fifo)
    threading.Thread(target=_edit_all, args=(fifo,), daemon=True).start()
    return fifo


def _edit_all(fifo: Path) -> None:
    requests, text = os.open(fifo, os.O_RDWR), b""  # for writing, too: else it ends with the first writer
    while True:
        *complete, text = (text + os.read(requests, 65536)).split(_END)
        for request in complete:
            done, folder, secret_length, *arguments = request.decode().split("\x1f")[:-1]
            try:
                _edit(Path(folder), arguments, secret_length)
                code = 0
            except Exception:
                traceback.print_exc()
                code = 1
            Path(done).write_text(f"{code}\n")


def _edit(folder: Path, arguments: list[str], secret_length: str) -> None:
    """What `pulumi config` does with these arguments; a secret is its length."""
    path = folder / f"Pulumi.{arguments[arguments.index('--stack') + 1]}.yaml"
    document = yaml.load(path.read_text(), yaml.CSafeLoader)
    words = [word for word in arguments[2:] if not word.startswith("--")]
    pairs = [(*words, "")[:2]]
    if arguments[1] == "set-all":
        pairs = [(key, value) for key, found, value in (word.partition("=") for word in words) if found]
    for key, value in pairs:
        *sections, option = key.split(".")
        options = document["config"]
        for section in sections:
            options = options.setdefault(section, {})
        if arguments[1] == "rm":
            options.pop(option, None)
        elif "--secret" in arguments:
            options[option] = {"secure": secret_length}
        else:
            options[option] = yaml.load(value, yaml.CSafeLoader)
    path.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper))


_HOST = "urn:pulumi:dev::pds::pds:index:Pds$digitalocean:index/droplet:Droplet::pds-host-droplet"
_REPLACING = {"pendingReplacement": True, "deletedWith": _HOST}

Made = tuple[str, str, str, dict[str, Any]]
"""Name, type, id and outputs of a resource of the state."""


class FakePulumi:
    """The CLI of one stack, and its project's folder, `root`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder / "pulumi"
        self.root = folder / "project"
        for made in (self._folder, self.root):
            made.mkdir()
        program = self._folder / "bin/pulumi"
        program.parent.mkdir()
        program.write_text(_PROGRAM.format(edits=quote(str(_edits())), folder=quote(str(self._folder))))
        program.chmod(0o755)
        (self._folder / "config").mkdir()
        self._write("whoami.json", {"user": "alice", "url": f"file://{self._folder}/backend"})
        self._write("empty.json", {"version": 3, "deployment": {}})
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    def state(self, *made: Made, pending: Sequence[tuple[str, Made]] = (), replacing: Collection[str] = ()) -> None:
        """Let the state hold the stack's own resource and these, interrupted operations, and names that the engine had
        begun to replace with the host."""
        resources = [{"urn": "urn:pulumi:dev::pds::pulumi:pulumi:Stack::pds-dev", "type": "pulumi:pulumi:Stack"}]
        self._write(
            "state.json",
            {
                "version": 3,
                "deployment": {
                    "resources": resources
                    + [_resource(item) | (_REPLACING if item[0] in replacing else {}) for item in made],
                    "pending_operations": [{"type": kind, "resource": _resource(item)} for kind, item in pending],
                },
            },
        )

    def state_of(self, stack: str, *made: Made) -> None:
        """Let the state of one of several stacks hold these."""
        resources = [_resource(item) for item in made]
        self._write(f"state-{stack}.json", {"version": 3, "deployment": {"resources": resources}})

    def no_state_of(self, stack: str, error: str) -> None:
        """Let the CLI print this instead of the state of one of several stacks."""
        (self._folder / f"state-{stack}.error").write_text(f"error: {error}\n")

    def outputs(self, stack: str = "", on: str = "", **outputs: Any) -> None:
        """Let every stack have these outputs, or only `stack`, or that while its file has this `on`; `error` is the
        CLI's output instead."""
        name = f"outputs-{stack}-on-{on}" if on else f"outputs-{stack}" if stack else "outputs"
        self._write(f"{name}.json", outputs)
        error = self._folder / f"{name}.error"
        error.unlink(missing_ok=True)
        if "error" in outputs:
            error.write_text(f"error: {outputs['error']}\n")

    def config(self, **values: str) -> None:
        """Let these keys be configured, a colon written as two underscores."""
        for key, value in values.items():
            (self._folder / "config" / key.replace("__", ":")).write_text(value)

    def answers(self, verb: str, *answers: tuple[int, str]) -> None:
        """Let the next commands of `verb` end with these codes and print these texts."""
        for number, (code, text) in enumerate(answers):
            (self._folder / f"answer-{verb}-{number}").write_text(f"{code}\n{text}")

    def cut_short(self) -> Path:
        """Leave the state as an engine that is killed while it writes it; return the empty file."""
        file = self._folder / "backend/.pulumi/stacks/pds/dev.json.attrs"
        file.parent.mkdir(parents=True)
        file.touch()
        return file

    @property
    def replacing(self) -> list[str]:
        """Names that the state marks as being replaced."""
        resources = json.loads((self._folder / "state.json").read_text())["deployment"]["resources"]
        return [item["urn"].rpartition("::")[2] for item in resources if item.get("pendingReplacement")]

    @property
    def ran(self) -> list[list[str]]:
        """The commands that would have changed something."""
        log = self._folder / "ran"
        commands = log.read_text().split("\x1e")[:-1] if log.exists() else []
        return [command.split("\x1f")[:-1] for command in commands]

    def _write(self, name: str, content: Any) -> None:
        (self._folder / name).write_text(json.dumps(content))


def _resource(made: Made) -> dict[str, Any]:
    name, kind, number, outputs = made
    return {"urn": f"urn:pulumi:dev::pds::pds:index:Pds${kind}::{name}", "type": kind, "id": number, "outputs": outputs}
