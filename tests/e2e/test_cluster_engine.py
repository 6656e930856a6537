"""A cluster's first `up` that is refused before anything is created: the real engine and provider. Nothing boots."""

from collections.abc import Iterator

import pytest

from tests.e2e.digitalocean import World, catalog
from tests.e2e.environment.api_client import Machines
from tests.e2e.environment.environment import Run, Stack, stack
from tests.e2e.environment.tools import missing
from tests.support.programs import BACKUP, CLUSTER


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A cluster's stack before its first `up`."""
    if lines := missing("pulumi", "pulumi-language-python"):
        pytest.skip("the engine is missing, so a refused `up` cannot be tested. " + "; ".join(lines))
    world = World(machines=Machines(), action_seconds=0.2)
    file = {f"pds:{key}": value for key, value in CLUSTER.items() if key != "cluster"}
    with stack(tmp_path_factory.mktemp("fleet"), world, lambda _names: file) as made:
        section = {"hosts": CLUSTER["cluster"]["hosts"], "takeover": {"api_url": made.api.url}, "snapshots": {}}
        made.configure(cluster=section)
        for name, text in BACKUP.items():
            made.pulumi("config", "set", "--secret", "--path", f"pds:cluster.snapshots.{name}", text)
        yield made


def _refused(fleet: Stack, token: str) -> Run:
    """`up` with this token of a takeover, after which nothing is in the account."""
    fleet.pulumi("config", "set", "--secret", "--path", "pds:cluster.takeover.token", token)
    done = fleet.pulumi("up", "--yes", "--skip-preview", check=False)
    assert done.code, done.output
    assert token not in done.output
    account = fleet.api.dump()
    kinds = ("droplets", "volumes", "reserved_ips", "firewalls", "vpcs", "tags")
    assert {kind: account[kind] for kind in kinds if account[kind]} == {}
    return done


def test_the_first_preview_shows_the_whole_cluster(fleet: Stack) -> None:
    token = fleet.takeover_token()
    fleet.pulumi("config", "set", "--secret", "--path", "pds:cluster.takeover.token", token)
    done = fleet.pulumi("preview")
    for name in ("pds-cluster-account", "pds-cluster-droplets-server-3", "pds-snapshots-job", "pds-takeover-job"):
        assert f" {name} " in done.output
    assert token not in done.output


def test_a_token_with_full_access_is_refused_before_anything_is_created(fleet: Stack) -> None:
    done = _refused(fleet, fleet.env["DIGITALOCEAN_TOKEN"])
    assert "'cluster.takeover.token' may do more than a takeover needs, such as domain:read" in done.output


def test_a_size_that_the_region_lacks_is_refused_before_anything_is_created(fleet: Stack) -> None:
    every = catalog.sizes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "sizes", lambda: [{**size, "regions": ["nyc3"]} for size in every])
        done = _refused(fleet, fleet.takeover_token())
    assert "'cluster.servers.size': region 'fra1' has no size 's-1vcpu-1gb', which is in: nyc3" in done.output, (
        done.output
    )
