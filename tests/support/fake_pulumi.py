"""A stand-in for `pulumi` on PATH with a given state and outputs. It records its commands; `config set` and `config rm`
change the stack files."""

import json
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

_PROGRAM = """#!{python} -IS
import json, pathlib, sys
sys.path.append({packages!r})  # for yaml, which not every command needs; -IS starts in a fifth of the time
folder, arguments = pathlib.Path({folder!r}), sys.argv[1:]
def read(name, default):
    file = folder / name
    return json.loads(file.read_text()) if file.exists() else default
if arguments[0] == "whoami":
    print(json.dumps({{"user": "alice", "url": "file://" + str(folder / "backend")}}))
elif any(not file.stat().st_size for file in folder.rglob("*.attrs")):
    sys.exit("error: failed to load checkpoint: EOF")
elif arguments[:2] == ["stack", "export"]:
    print(json.dumps(read("state.json", {{"version": 3, "deployment": {{}}}})))
elif arguments[:2] == ["stack", "output"]:
    found = read("outputs.json", {{}})
    stack = arguments[arguments.index("--stack") + 1]
    file = pathlib.Path("Pulumi." + stack + ".yaml")
    on = ""
    if file.exists() and "pds:on:" in file.read_text():
        import yaml
        on = yaml.safe_load(file.read_text())["config"].get("pds:on", "")
    found = read("outputs-" + stack + "-on-" + str(on) + ".json", read("outputs-" + stack + ".json", found))
    sys.exit("error: " + found["error"]) if "error" in found else print(json.dumps(found))
elif arguments[:2] == ["config", "get"]:
    value = read("config.json", {{}}).get(arguments[2])
    sys.exit("error: no such key") if value is None else print(value)
else:
    with (folder / "ran.jsonl").open("a") as log:
        print(json.dumps(arguments), file=log)
    if arguments[:2] == ["stack", "import"]:
        (folder / "state.json").write_text(pathlib.Path(arguments[arguments.index("--file") + 1]).read_text())
    answers = read("answers.json", {{}})
    code, text = answers.get(arguments[0], [[0, ""]]).pop(0) if answers.get(arguments[0]) else (0, "")
    (folder / "answers.json").write_text(json.dumps(answers))
    if arguments[0] == "config" and not code:
        import yaml
        file = pathlib.Path("Pulumi." + arguments[arguments.index("--stack") + 1] + ".yaml")
        document = yaml.safe_load(file.read_text())
        secret = "--secret" in arguments
        words = [word for word in arguments[2:] if not word.startswith("--")]
        pairs = [(words + [""])[:2]]
        if arguments[1] == "set-all":
            pairs = [word.split("=", 1) for word in words if "=" in word]
        for key, value in pairs:
            *sections, option = key.split(".")
            options = document["config"]
            for section in sections:
                options = options.setdefault(section, {{}})
            if arguments[1] == "rm":
                options.pop(option, None)
            else:
                options[option] = {{"secure": str(len(sys.stdin.read()))}} if secret else yaml.safe_load(value)
        file.write_text(yaml.safe_dump(document))
    print(text)
    sys.exit(code)
"""

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
        packages = str(Path(yaml.__file__).parents[1])
        program.write_text(_PROGRAM.format(python=sys.executable, packages=packages, folder=str(self._folder)))
        program.chmod(0o755)
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

    def outputs(self, stack: str = "", on: str = "", **outputs: Any) -> None:
        """Let every stack have these outputs, or only `stack`, or that while its file has this `on`; `error` is the
        CLI's output instead."""
        name = f"outputs-{stack}-on-{on}" if on else f"outputs-{stack}" if stack else "outputs"
        self._write(f"{name}.json", outputs)

    def config(self, **values: str) -> None:
        """Let these keys be configured, a colon written as two underscores."""
        self._write("config.json", {key.replace("__", ":"): value for key, value in values.items()})

    def answers(self, verb: str, *answers: tuple[int, str]) -> None:
        """Let the next commands of `verb` end with these codes and print these texts."""
        self._write("answers.json", {verb: answers})

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
        log = self._folder / "ran.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def _write(self, name: str, content: Any) -> None:
        (self._folder / name).write_text(json.dumps(content))


def _resource(made: Made) -> dict[str, Any]:
    name, kind, number, outputs = made
    return {"urn": f"urn:pulumi:dev::pds::pds:index:Pds${kind}::{name}", "type": kind, "id": number, "outputs": outputs}
