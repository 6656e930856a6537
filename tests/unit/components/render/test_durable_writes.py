"""The preload `components/render/scripts/durable.cjs` in a plain Node: its effect on files, and what it leaves
unchanged.

With the real server: `tests/contract/test_durable_writes.py` and `test_power_cut.py`.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.render.jobs.pds import pds_job
from components.render.jobs.upgrade_trial import upgrade_trial_job
from tests.support.programs import BACKUP, settings_of
from tests.unit.components.render.test_volume_check import VOLUME_CHECK
from tests.unit.components.render.test_volume_check import _node as node

PRELOAD = VOLUME_CHECK.with_name("durable.cjs")


@dataclass
class Process:
    """A data directory, and Node processes in the server's container."""

    folder: Path

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "pds"

    def run(self, *arguments: str, code: int = 0) -> str:
        """The output of Node, with the preload as in the server's container."""
        env = {
            "NODE_OPTIONS": f'--require="{PRELOAD}"',
            "PDS_DATA_DIRECTORY": str(self.data),
            "OUTSIDE": str(self.folder / "outside"),
        }
        done = subprocess.run(
            [node(), *arguments], env=env, cwd=self.folder, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    def script(self, text: str, code: int = 0) -> str:
        """The output of a program in a file, with `fs` (promises), `data` and `outside`."""
        file = self.folder / "program.mjs"
        file.write_text(
            'import fs from "node:fs/promises";\n'
            "const [data, outside] = [process.env.PDS_DATA_DIRECTORY, process.env.OUTSIDE];\n" + text
        )
        return self.run(str(file), code=code)


@pytest.fixture
def process(tmp_path: Path) -> Process:
    for name in ("pds", "outside"):
        (tmp_path / name).mkdir()
    return Process(tmp_path)


def test_killed_write_leaves_no_partial_file_under_the_final_name(process: Process) -> None:
    """The server treats an existing blob as complete, even if the member uploads it again."""
    process.script(
        "const half = async function* () { yield 'half'; process.exit(9); };\n"
        "await fs.writeFile(`${data}/blob`, half());",
        code=9,
    )
    assert not (process.data / "blob").exists()


def test_overwritten_file_is_the_old_or_the_new_one_and_keeps_its_mode(process: Process) -> None:
    old = process.data / "key"
    old.write_text("old")
    old.chmod(0o600)
    process.script(
        "const half = async function* () { yield 'half'; throw new Error('full'); };\n"
        "await fs.writeFile(`${data}/key`, half()).catch((error) => console.log(error.message));"
    )
    assert old.read_text() == "old"
    process.script("await fs.writeFile(`${data}/key`, 'new');")
    assert (old.read_text(), old.stat().st_mode & 0o777) == ("new", 0o600)
    assert list((process.data / ".writing").iterdir()) == [], "a failed write leaves nothing"


def test_write_options_work_as_in_node(process: Process) -> None:
    (process.data / "there").write_text("there")
    process.script(
        "await fs.writeFile(`${data}/text`, 'é', 'latin1');\n"
        "await fs.writeFile(`${data}/mode`, Buffer.from([1]), { mode: 0o640 });\n"
        "await fs.writeFile(`${data}/there`, ', and more', { flag: 'a' });\n"
        "await fs.mkdir(`${data}/a/b`, { recursive: true });\n"
        "await fs.mkdir(`${data}/a/b`, { recursive: true });\n"
        "await fs.rename(`${data}/text`, `${data}/a/b/text`);\n"
        "await fs.writeFile(`${outside}/file`, 'as before');"
    )
    assert (process.data / "a" / "b" / "text").read_bytes() == b"\xe9"
    assert (process.data / "mode").stat().st_mode & 0o777 == 0o640
    assert (process.data / "there").read_text() == "there, and more"
    assert [path.name for path in (process.folder / "outside").iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("attempt", "code"),
    [
        ("fs.writeFile(`${data}/none/file`, '')", "ENOENT"),
        ("fs.writeFile(data + '/folder', '')", "EISDIR"),
        ("fs.writeFile(`${data}/there`, '', { flag: 'wx' })", "EEXIST"),
        ("fs.rename(`${data}/none`, `${data}/other`)", "ENOENT"),
        ("fs.mkdir(`${data}/folder`)", "EEXIST"),
        ("fs.mkdir(`${data}/none/below`)", "ENOENT"),
    ],
)
def test_failed_writes_raise_the_same_codes_as_node(process: Process, attempt: str, code: str) -> None:
    (process.data / "folder").mkdir()
    (process.data / "there").touch()
    assert process.script(f"await {attempt}.catch((error) => console.log(error.code));").strip() == code


def test_script_run_in_the_server_container_is_not_patched(process: Process) -> None:
    """`./pds email-token` and other commands run `node -e` in the container and read the last line of its output."""
    output = process.run("-e", "console.log(JSON.stringify([String(process.dlopen), fs.promises.writeFile.name]))")
    dlopen, write = json.loads(output)
    assert "native code" in dlopen
    assert write == "writeFile"
    (line,) = output.splitlines()
    assert not list(process.data.iterdir()), line


def test_worker_thread_can_listen_without_the_server_stores(process: Process) -> None:
    (process.folder / "worker.cjs").write_text(
        'const server = require("node:net").createServer().listen(0, () => {\n'
        '  require("node:worker_threads").parentPort.postMessage("listens");\n'
        "  server.close();\n"
        "});\n"
    )
    output = process.script(
        '(new (await import("node:worker_threads")).Worker("./worker.cjs")).on("message", console.log);'
    )
    assert output == "listens\n", "only the server's main thread must prove its stores"


def test_without_the_option_no_job_has_the_preload() -> None:
    for render in (pds_job, upgrade_trial_job):
        for durable in (True, False):
            job = render(settings_of(backup=BACKUP, pds={"durable_writes": durable}), "dev")
            assert ("/local/durable.cjs" in job) == durable, "in the environment"
            assert ("local/durable.cjs" in job) == durable, "among the files"


def test_refuses_to_listen_without_the_server_stores(process: Process) -> None:
    with pytest.raises(AssertionError, match=r"REFUSED: .*Cannot find module '@atproto/pds/package.json'"):
        process.script('(await import("node:net")).createServer().listen(0);')


def test_preload_contains_no_nomad_template_action() -> None:
    text = PRELOAD.read_text()
    assert "{{" not in text, "Nomad's template engine would read it as an action"
    assert "}}" not in text
