"""The operator of a club and of two hosts, and the commands and requests of a move."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cli.lib import apply
from cli.lib.stack import Stack, StackError
from cli.move import second_place
from cli.stacks import pending_changes
from components.settings import stack_identity
from components.settings.host_contract import terms_for
from offline.stackfile import parse_settings, read_settings
from policy.changes import Change
from policy.digest import Digest
from tests.conftest import Clock
from tests.support.fake_nomad import FakeNomad, serve
from tests.support.fake_project import host
from tests.support.fake_pulumi import FakePulumi
from tests.support.programs import BACKUP
from tests.unit.cli.test_nomad_jobs import TOKEN, allocations
from tests.unit.cli.test_restore import KEY

OTHER = "11111111-6ba5-a269-ae00-373e61ed46eb"
"""Token of the club on the new host."""


@dataclass
class Owner:
    """The operator of the club `chess` and of two hosts: `dev`, where the club runs, and `ground`."""

    pulumi: FakePulumi
    old: FakeNomad
    new: FakeNomad
    club: Stack
    pending: dict[str, list[str]] = field(default_factory=dict)
    """Stack to the names of the resources that its preview changes."""
    down: set[str] = field(default_factory=set)
    """Hosts of a cluster that are not ready."""
    serving: dict[str, Any] = field(default_factory=lambda: {"state": "serving"})
    """Outputs of the club after an `up` that does not pause it."""
    place: str = ""
    """The place of the PDS in the club's state."""

    def file(self, name: str) -> dict[str, Any]:
        """The configuration in a stack's file."""
        config: dict[str, Any] = yaml.load((self.pulumi.root / f"Pulumi.{name}.yaml").read_text(), yaml.CSafeLoader)[
            "config"
        ]
        return config

    def write(self, name: str, text: str) -> None:
        """Write a stack's file."""
        (self.pulumi.root / f"Pulumi.{name}.yaml").write_text(text)

    def chess(self, **changes: Any) -> None:
        """Write the club's file."""
        options = {"hostname": "chess.test", "on": "dev", "dns": {"provider": "manual"}, "pds": {"port": 3101}}
        options |= {"backup": BACKUP} | changes
        self.write(
            "chess", yaml.safe_dump({"config": {f"pds:{key}": value for key, value in options.items() if value}})
        )

    def note(self, **note: Any) -> None:
        """Write the progress of a move into the club's file; with a snapshot the file names the new host (`moved`)."""
        file = self.pulumi.root / "Pulumi.chess.yaml"
        document = yaml.load(file.read_text(), yaml.CSafeLoader)
        document["config"]["move:note"] = {"from": "dev", "to": "ground", **note}
        if note.get("snapshot") and note.pop("moved", True):
            document["config"] |= {"pds:on": "ground", "pds:pds": {"port": 3102, "paused": True}}
        file.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper))
        self.applied()

    def hosts(self, old: str, new: str) -> None:
        """Write the hosts' files, and set their outputs as after an `up`."""
        for name, text, nomad, token in (("dev", old, self.old, TOKEN), ("ground", new, self.new, OTHER)):
            self.write(name, text)
            settings = parse_settings(name, text)
            granted = {
                club: terms_for(settings, grant) | {"ipv4": f"203.0.113.{len(name)}"}
                for club, grant in settings.clubs.items()
            }
            self.pulumi.outputs(
                name,
                ipv4="203.0.113.1",
                clubs=granted,
                club_access={club: _access(nomad, token) for club in granted},
                nomad_address=nomad.address,
                nomad_ca_pem="a",
                nomad_client_cert_pem="b",
                nomad_client_key_pem="c",
                nomad_token=token,
            )

    def recorded(self, place: str) -> None:
        """Let the club's state have the PDS at this place."""
        self.place = place
        self.pulumi.state(("pds-identity", "pulumi-python:dynamic/pds:StackIdentity", "1", {"place": place}))

    def applied(self) -> None:
        """Set the club's state and outputs as after an `up` with its present file."""
        self.recorded(stack_identity.place(read_settings("chess", self.pulumi.root)))
        paused = (self.file("chess").get("pds:pds") or {}).get("paused")
        for name, nomad, token in (("dev", self.old, TOKEN), ("ground", self.new, OTHER)):
            outputs = {
                "ipv4": "203.0.113.1",
                "resolves": "chess.test resolves",
                "records": [],
                "nomad_address": nomad.address,
                "nomad_ca_pem": "a",
                "nomad_client_cert_pem": "b",
                "nomad_client_key_pem": "c",
                "nomad_token": token,
                "nomad_namespace": "chess",
                "pds_env": "PDS_CRAWLERS=http://localhost:1\n",
                "escrow": {"secrets": {"PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX": KEY}},
            }
            self.pulumi.outputs("chess", name, **outputs | ({"state": "paused"} if paused else self.serving))

    def commands(self) -> list[str]:
        """The engine's commands, shortened."""
        return [short(command) for command in self.pulumi.ran]


def _access(nomad: FakeNomad, token: str) -> dict[str, str]:
    return {
        "address": nomad.address, "ca_pem": "a", "cert_pem": "b", "key_pem": "c", "token": token, "namespace": "chess",
    }  # fmt: skip


def require_place(stack: Stack, known: str, env: Mapping[str, str] | None) -> None:
    """Fail as `up` does if the stack's file has another place than the state, and the shell does not permit it."""
    wanted = stack_identity.place(read_settings(stack.name, stack.root))
    if known and wanted not in (known, (env or {}).get(stack_identity.MOVED_TO)):
        raise StackError(f"`pulumi up` did not succeed: {stack.name} is at {known}, and not at {wanted}")


def short(command: list[str]) -> str:
    """A command without its options, after the name of its stack."""
    stack = command[command.index("--stack") + 1]
    words = [word for word in command[:-2] if not word.startswith("--")]
    return f"{stack}: {' '.join(words)}"


OLD_HOST = host("chess")
NEW_HOST = OLD_HOST.replace("port: 3101", "port: 3102")


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Owner]:
    """Both hosts are up, the club `chess` is on `dev`, and `ground` grants it a place."""
    with ExitStack() as stack:
        old, new = (
            stack.enter_context(serve(FakeNomad(tokens={token: "accessor"}, runs=[allocations("complete")])))
            for token in (TOKEN, OTHER)
        )
        old.logs = {("restore", "stdout"): "snapshot 33a97191 saved\n"}
        new.logs = {("restore", "stdout"): "ready                        3 accounts in use, 0 not\n"}
        pulumi = FakePulumi(tmp_path, monkeypatch)
        operator = Owner(pulumi, old, new, Stack("chess", pulumi.root))
        operator.hosts(OLD_HOST, NEW_HOST)
        operator.chess()
        operator.applied()
        engine_up = apply.up

        def up(stack: Stack, *, yes: bool, env: Mapping[str, str] | None = None) -> None:
            if stack.name == "chess":
                require_place(stack, operator.place, env)
            engine_up(stack, yes=yes, env=env)
            operator.applied()

        monkeypatch.setattr(apply, "up", up)
        monkeypatch.setattr(second_place, "is_ready", lambda _stack, host: host not in operator.down)
        show_previews(monkeypatch, operator.pending)
        yield operator


def show_previews(monkeypatch: pytest.MonkeyPatch, pending: Mapping[str, Sequence[str]]) -> None:
    """Let the preview of each stack change the resources that `pending` names for it, as they are at that time."""

    def digest(_text: str, stack: str) -> Digest:
        changes = tuple(Change(type="t", name=name, op="update") for name in pending.get(stack, ()))
        return Digest(view=None, changes=changes, errors=(), warnings=())  # type: ignore[arg-type]

    monkeypatch.setattr(pending_changes, "Engine", lambda: None)
    monkeypatch.setattr(
        pending_changes, "Workspace", lambda _engine, _root: SimpleNamespace(preview=lambda stack: stack)
    )
    monkeypatch.setattr(pending_changes, "read_digest", digest)


def posted(nomad: FakeNomad) -> list[str]:
    """Paths of the POST requests that `nomad` received, in order, without query strings."""
    return [path.partition("?")[0] for method, path, _ in nomad.asked if method == "POST"]


PAUSED = ["chess: config set pds:pds.paused true", "chess: up"]
ON_NEW_HOST = ["chess: config set-all pds:on=ground pds:pds.port=3102"]
RUN = ["chess: config set-all move:note.run=33a97191 pds-restore/dispatch-1-a"]
OPENED = ["chess: config set-all move:note.opened=true", "chess: config set pds:pds.paused false", "chess: up"]
RELEASED = ["dev: config rm pds:clubs.chess", "dev: up", "chess: config rm move:note"]
WITHDRAWN = ["ground: config rm pds:clubs.chess", "ground: up", "chess: config rm move:note"]
STARTED = ["chess: config set-all move:note.from=dev move:note.to=ground"]
SNAPSHOT = ["chess: config set-all move:note.snapshot=33a97191"]

VERIFIED = ["/v1/job/pds-backup/periodic/force", "/v1/job/pds-restore/dispatch"]
