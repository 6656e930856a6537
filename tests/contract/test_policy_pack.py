"""The policy pack as the engine runs it: the real SDK in its own environment, asked over gRPC as the engine does."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import analyzer_pb2, analyzer_pb2_grpc

from cli.lib.subprocesses import child
from offline.mock_engine import ROOT, Evaluation, Recorded
from policy import pack
from tools.policy_pack import write

pytestmark = pytest.mark.contract

REQUIREMENTS = ROOT / "policy/requirements.txt"
CACHE = ROOT / "build/cache"
_INSTALL = 900
"""Seconds for pip, once for each change of the requirements."""
_ANSWER = 600.0


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of an environment with the pack's requirements."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = CACHE / f"policy-pack-{version}-{digest}"
    found, done = folder / "bin/python", folder / ".installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, timeout=_INSTALL)
        install = [
            str(found),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--disable-pip-version-check",
            "-r",
            str(REQUIREMENTS),
        ]
        subprocess.run(install, check=True, timeout=_INSTALL)
        done.touch()
    return found


@pytest.fixture(scope="module", params=["in the repository", "published"])
def analyzer(
    request: pytest.FixtureRequest, python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[analyzer_pb2_grpc.AnalyzerStub]:
    """The running pack, from `policy/` and from what `pulumi policy publish` would pack."""
    folder = (
        ROOT / "policy" if request.param == "in the repository" else write(tmp_path_factory.mktemp("pack") / "pack")
    )
    # As the engine's language host starts it: the folder is the program.
    with child([python, "-u", folder], 600, cwd=folder, stdout=subprocess.PIPE) as process:
        assert process.stdout
        port = process.stdout.readline().strip()
        assert port.isdecimal(), "the SDK prints its port"
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield analyzer_pb2_grpc.AnalyzerStub(channel)


def request_of(item: Recorded, protect: bool | None = None, **changes: Any) -> Any:
    """What the engine asks about a resource; its secrets are marked."""
    properties = struct_pb2.Struct()
    json_format.ParseDict({**item.raw, **changes}, properties)
    options = analyzer_pb2.AnalyzerResourceOptions(protect=item.protected if protect is None else protect)
    return analyzer_pb2.AnalyzeRequest(
        type=item.type, urn=item.urn, name=item.name, properties=properties, options=options
    )


def messages(response: Any) -> list[tuple[str, str]]:
    """Policy and last line of each finding."""
    return [(item.policyName, item.message.splitlines()[-1]) for item in response.diagnostics]


def test_the_pack_names_its_policies_with_level_and_description(analyzer: Any) -> None:
    info = analyzer.GetAnalyzerInfo(empty_pb2.Empty(), timeout=_ANSWER)
    assert info.name == pack.PACK
    assert {(item.name, item.description) for item in info.policies} == {
        *((policy.name, policy.description) for policy in pack.POLICIES),
        (pack.COMPLETE_NAME, pack.COMPLETE_DESCRIPTION),
    }
    assert {item.enforcementLevel for item in info.policies} == {analyzer_pb2.MANDATORY}


def test_the_program_passes_and_planted_defects_do_not(analyzer: Any, dev: Evaluation, dev_preview: Evaluation) -> None:
    for item in (*dev.resources, *dev_preview.resources):
        assert messages(analyzer.Analyze(request_of(item), timeout=_ANSWER)) == [], item.name
    volume = request_of(dev.one("pds-host-data-volume"), protect=False)
    assert messages(analyzer.Analyze(volume, timeout=_ANSWER)) == [
        ("protected-state", "Volume pds-host-data-volume is not protected")
    ]
    firewall = dev.one("pds-host-network-firewall")
    rules = [
        rule | {"sourceAddresses": ["0.0.0.0/0", "::/0"]} if rule["portRange"] == "4650" else rule
        for rule in firewall.inputs["inboundRules"]
    ]
    open_to_all = request_of(firewall, inboundRules=rules)
    finding = ("operator-ports", "port 4650 is open to 0.0.0.0/0, ::/0")
    assert messages(analyzer.Analyze(open_to_all, timeout=_ANSWER)) == [finding]
    properties = struct_pb2.Struct()
    properties.update({"nomadAnywhere": True})
    allowed = analyzer_pb2.PolicyConfig(enforcementLevel=analyzer_pb2.MANDATORY, properties=properties)
    analyzer.Configure(analyzer_pb2.ConfigureAnalyzerRequest(policyConfig={"operator-ports": allowed}), timeout=_ANSWER)
    assert messages(analyzer.Analyze(open_to_all, timeout=_ANSWER)) == []
    analyzer.Configure(analyzer_pb2.ConfigureAnalyzerRequest(), timeout=_ANSWER)


def test_a_whole_stack_has_to_be_complete(analyzer: Any, dev: Evaluation) -> None:
    def judged(*without: str) -> Any:
        resources = [
            analyzer_pb2.AnalyzerResource(
                type=item.type, urn=item.urn, name=item.name, options=analyzer_pb2.AnalyzerResourceOptions()
            )
            for item in dev.resources
            if not item.type.endswith(without or ("none",))
        ]
        return analyzer.AnalyzeStack(analyzer_pb2.AnalyzeStackRequest(resources=resources), timeout=_ANSWER)

    assert messages(judged()) == []
    assert messages(judged("volume:Volume")) == [("complete-stack", "there is no Volume")]
    other = judged("index:Pds")
    assert messages(other) == []
    assert [item.policy_name for item in other.not_applicable] == ["complete-stack"]
