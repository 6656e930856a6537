"""`./pds logs` and `./pds traffic` of an ingress on a cluster: which command shows it."""

import pytest
import yaml

from cli import app
from tests.support.fake_pulumi import FakePulumi
from tests.support.programs import CLUSTER
from tests.unit.cli.test_logs import CLUB_FILE
from tests.unit.cli.test_logs import nomad as nomad
from tests.unit.cli.test_logs import stacks as stacks


@pytest.mark.parametrize("arguments", [["logs", "chess", "--task", "caddy"], ["traffic", "chess"]])
def test_names_the_ingress_of_a_club_on_a_cluster(
    stacks: FakePulumi, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    options = {**CLUSTER, "cluster": {"hosts": {"a": {}, "b": {}}}}
    text = yaml.safe_dump({"config": {f"pds:{key}": value for key, value in options.items()}})
    (stacks.root / "Pulumi.fleet.yaml").write_text(text)
    club = CLUB_FILE.replace("on: dev", "on: fleet") + "  pds:nomad: {datacenter: a}\n"
    (stacks.root / "Pulumi.chess.yaml").write_text(club)
    assert app.main(arguments) == 2
    command = "`./pds nomad fleet -- alloc logs -namespace host-a -f -job caddy`"
    assert command in " ".join(capsys.readouterr().err.split())
    assert app.main([arguments[0], "fleet", *arguments[2:]]) == 2
    assert "fleet has an ingress on each host (a, b)" in " ".join(capsys.readouterr().err.split())
