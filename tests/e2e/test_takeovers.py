"""What the scenarios of takeovers take for two writers, from answers in the form of Docker's."""

import json
from typing import Any

import httpx

from tests.e2e.environment.takeovers import Writers

_LABEL = "com.hashicorp.nomad.alloc_id"


def _container(allocation: str, source: str, destination: str = "/pds") -> dict[str, Any]:
    mounts = [{"Source": "/images", "Destination": "/local"}, {"Source": source, "Destination": destination}]
    return {"Labels": {_LABEL: allocation}, "Mounts": mounts}


def _looked(*samples: list[dict[str, Any]]) -> Writers:
    writers, asked = Writers(), []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.url.params["filters"]))
        return httpx.Response(200, json=samples[len(asked) - 1])

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://docker") as docker:
        for _ in samples:
            writers.look(docker)
    assert asked == [{"label": [_LABEL], "status": ["running"]}] * len(samples)
    return writers


def test_two_allocations_on_the_same_data_at_one_moment_are_two_writers() -> None:
    writers = _looked([_container("old", "/srv/a")], [_container("old", "/srv/a"), _container("new", "/srv/a")], [])
    assert writers.together() == {"/srv/a": {"old", "new"}}


def test_one_after_the_other_and_two_tasks_of_one_allocation_are_one_writer() -> None:
    first = [_container("old", "/srv/a"), _container("old", "/srv/a"), _container("other", "/srv/b")]
    writers = _looked(first, [_container("new", "/srv/a"), _container("new", "/io", "/data")])
    assert writers.together() == {}
    assert set(writers.most) == {"/srv/a", "/srv/b"}
