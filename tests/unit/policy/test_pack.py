"""The policy pack's policies, on resources as pulumi-policy passes them: inputs, without marks of secrets."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pulumi.runtime import rpc

from offline.mock_engine import ROOT, Evaluation, Recorded
from policy import checks, pack
from policy.pack import POLICIES, missing_resources
from tests.support.programs import BACKUP, run
from tools.policy_pack import write

BY_NAME = {policy.name: policy for policy in POLICIES}


class UnknownValueError(Exception):
    """As pulumi_policy.proxy raises it."""


class Props(Mapping[str, Any]):
    """As `_DictProxy` of pulumi_policy.proxy: reading an unknown entry raises."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return _read(self._values[key])

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)


class Entries(Sequence[Any]):
    """As `_ListProxy`."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values

    def __getitem__(self, index: Any) -> Any:
        return _read(self._values[index])

    def __len__(self) -> int:
        return len(self._values)


def _read(value: Any) -> Any:
    if value == rpc.UNKNOWN:
        raise UnknownValueError
    if isinstance(value, Mapping):
        # The SDK unwraps secrets before a policy sees them.
        return _read(value["value"]) if rpc._special_sig_key in value else Props(value)
    return Entries(value) if isinstance(value, list) else value


@dataclass
class Args:
    """As `ResourceValidationArgs`."""

    resource_type: str
    name: str
    urn: str
    props: Mapping[str, Any]
    opts: Any = field(default_factory=lambda: SimpleNamespace(protect=False))


def args_of(item: Recorded, **changes: Any) -> Args:
    """What the engine would have analyzed, with changed inputs."""
    return Args(item.type, item.name, item.urn, Props({**item.raw, **changes}), SimpleNamespace(protect=item.protected))


def found(resources: Sequence[Args], **choices: bool) -> dict[str, list[str]]:
    """The findings of every policy, by its name; policies without one are left out."""
    by_policy = {
        policy.name: [text for each in resources for text in policy.findings(each, choices, UnknownValueError)]
        for policy in POLICIES
    }
    return {name: texts for name, texts in by_policy.items() if texts}


@pytest.fixture(scope="module")
def backed_up() -> Evaluation:
    """The dev stack with a bucket for backups: it has a resource for every policy."""
    return run(backup=BACKUP)


def test_the_program_passes_with_and_without_known_values(
    dev: Evaluation, club: Evaluation, dev_preview: Evaluation, backed_up: Evaluation
) -> None:
    for evaluation in (dev, club, dev_preview, backed_up):
        resources = [args_of(item) for item in evaluation.resources]
        assert found(resources) == {}
        assert missing_resources(resources) == []


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_every_policy_looks_at_a_resource_of_the_program(policy: pack.PackPolicy, backed_up: Evaluation) -> None:
    resources = [args_of(item) for item in backed_up.resources]
    looked_at = [item for item in resources if item.resource_type.endswith(policy.types)]
    assert [item for item in looked_at if not policy.only or item.name == policy.only], "else it passes over nothing"
    known = [item for item in looked_at if all(name in item.props for name in policy.needs)]
    assert known, "its inputs have these names"


def job(evaluation: Evaluation, pattern: str, new: str) -> Args:
    item = evaluation.one(checks.SERVER_JOB)
    text, count = re.subn(pattern, new, item.inputs["jobspec"])
    assert count
    return args_of(item, jobspec=text)


def unprotected(evaluation: Evaluation) -> Args:
    args = args_of(evaluation.one("pds-host-data-volume"))
    args.opts.protect = False
    return args


def widely_open(evaluation: Evaluation) -> Args:
    item = evaluation.one("pds-host-network-firewall")
    rules = [
        rule | {"sourceAddresses": ["0.0.0.0/0"]} if rule["portRange"] in ("22", "4650") else rule
        for rule in item.inputs["inboundRules"]
    ]
    return args_of(item, inboundRules=rules)


PLANTED: dict[str, tuple[Callable[[Evaluation], Args], str]] = {
    "protected-state": (unprotected, "Volume pds-host-data-volume is not protected"),
    "operator-ports": (widely_open, "port 22 is open to 0.0.0.0/0"),
    "server-port": (
        lambda evaluation: job(evaluation, 'host_network = "loopback"', 'host_network = "public"'),
        "port http of the PDS is not on the loopback network but on ['public']",
    ),
    "exact-images": (
        lambda evaluation: job(evaluation, r"(bluesky-social/pds):[0-9.]+", r"\1:latest"),
        "which can change under the same name",
    ),
    "invites": (
        lambda evaluation: job(evaluation, r'(PDS_INVITE_REQUIRED *= )"true"', r'\1"false"'),
        "PDS_INVITE_REQUIRED is false",
    ),
    "job-secrets": (
        lambda evaluation: job(evaluation, "PDS_INVITE_REQUIRED( *=)", r"PDS_ADMIN_PASSWORD\1"),
        "PDS_ADMIN_PASSWORD is a literal in the job's text",
    ),
    "user-data": (
        lambda evaluation: args_of(
            item := evaluation.one("pds-host-droplet"),
            userData=item.inputs["userData"].replace('cidr = "127.0.0.1/32"', 'cidr = "10.0.0.0/8"'),
        ),
        "the network 'loopback' is 10.0.0.0/8",
    ),
    "secret-types": (
        lambda evaluation: args_of(evaluation.one("pds-secrets-jwt-secret"), lower=True),
        "pds-secrets-jwt-secret is not 32 or 64 hex digits",
    ),
    "backup-bucket": (
        lambda evaluation: args_of(evaluation.one("pds-backup-bucket"), acl="public-read"),
        "is readable by others",
    ),
    "backup-key": (
        lambda evaluation: args_of(
            evaluation.one("pds-backup-key"), grants=[{"bucket": "", "permission": "fullaccess"}]
        ),
        "may do more than read and write one bucket",
    ),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_planted_defect_is_found_by_its_policy(name: str, backed_up: Evaluation) -> None:
    plant, text = PLANTED[name]
    findings = found([plant(backed_up)])
    assert any(text in finding for finding in findings[name]), findings
    assert findings.keys() - {name} <= {"invites"}, "and no other policy minds"


def test_another_generator_of_secrets_is_found(dev: Evaluation) -> None:
    item = dev.one("pds-secrets-jwt-secret")
    other = Args("random:index/randomBytes:RandomBytes", "mine", item.urn, Props({}))
    assert found([other]) == {"secret-types": ["mine is a RandomBytes"]}


def test_what_a_team_allows_is_no_finding(dev: Evaluation) -> None:
    open_registration = PLANTED["invites"][0](dev)
    assert found([open_registration], openRegistration=True) == {}
    item = dev.one("pds-host-network-firewall")
    everywhere = ["0.0.0.0/0", "::/0"]
    rules = [
        rule | {"sourceAddresses": everywhere} if rule["portRange"] == "4650" else rule
        for rule in item.inputs["inboundRules"]
    ]
    anywhere = args_of(item, inboundRules=rules)
    assert found([anywhere], nomadAnywhere=True) == {}
    assert found([anywhere]) == {"operator-ports": ["port 4650 is open to 0.0.0.0/0, ::/0"]}
    assert found([widely_open(dev)], nomadAnywhere=True)["operator-ports"], "SSH is not allowed with it"


def test_an_unknown_input_is_no_finding_and_no_failure(dev: Evaluation) -> None:
    unknown = [
        args_of(dev.one(checks.SERVER_JOB), jobspec=rpc.UNKNOWN),
        args_of(dev.one("pds-host-droplet"), userData=rpc.UNKNOWN),
        args_of(dev.one("pds-host-network-firewall"), inboundRules=rpc.UNKNOWN, tags=[rpc.UNKNOWN]),
    ]
    assert found(unknown) == {}


def test_a_stack_that_lacks_what_is_checked_does_not_pass(dev: Evaluation) -> None:
    everything = [args_of(item) for item in dev.resources]

    def without(*kinds: str) -> list[str] | None:
        return missing_resources([item for item in everything if not item.resource_type.endswith(kinds)])

    assert without("Volume", "ReservedIp") == ["there is no ReservedIp", "there is no Volume"]
    assert without("Firewall", "job:Job") == ["there is no job pds-server-job", "there is no Firewall"]
    assert without("index:Pds") is None, "another program's stack"


def test_every_policy_has_a_name_a_sentence_and_documentation() -> None:
    page = (ROOT / "docs/guide/ci.md").read_text()
    assert len(BY_NAME) == len(POLICIES)
    assert BY_NAME.keys() == PLANTED.keys(), "each has a planted defect above"
    for name, description in [(item.name, item.description) for item in POLICIES] + [
        (pack.COMPLETE_NAME, pack.COMPLETE_DESCRIPTION)
    ]:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
        assert name != "all", "reserved"
        assert description.endswith(".")
        assert f"| `{name}` |" in page
    for choice, text in (choice for policy in POLICIES for choice in policy.choices):
        assert f"`{choice}`" in page
        assert text.endswith(".")


def _pins(path: Path) -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_pack_has_the_program_s_pins() -> None:
    ours = _pins(ROOT / "policy/requirements.txt")
    program = _pins(ROOT / "requirements.txt") | _pins(ROOT / "tools/requirements.txt")
    assert {name: version for name, version in ours.items() if program.get(name, version) != version} == {}
    assert ours.keys() - program.keys() == {"pulumi-policy"}


def test_the_published_folder_is_complete(tmp_path: Path) -> None:
    folder = write(tmp_path / "pack")
    project = yaml.load((folder / "PulumiPolicy.yaml").read_text(), yaml.CSafeLoader)
    assert project["runtime"]["options"]["virtualenv"] == "venv", "inside the folder"
    assert {path.name for path in folder.iterdir()} == {
        "PulumiPolicy.yaml", "__main__.py", "requirements.txt", "components", "offline", "policy",
    }  # fmt: skip
    assert not list(folder.rglob("__pycache__"))
    assert (folder / "policy/pack.py").read_text() == (ROOT / "policy/pack.py").read_text()
