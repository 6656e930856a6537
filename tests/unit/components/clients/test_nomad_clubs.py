"""A club's namespace and volume, created and removed repeatedly; Nomad's responses are those of 2.0."""

from typing import Any

import pytest

from components.clients import nomad_clubs
from components.clients.errors import ServiceError
from tests.support.answers import Answers

pytestmark = pytest.mark.usefixtures("clock")

GIB = 1024**3
LIST, CREATE = "GET /v1/volumes?type=host&namespace=chess", "PUT /v1/volume/host/create?namespace=chess"
NAMESPACE, NAMESPACES = "PUT /v1/namespace/chess", "GET /v1/namespaces"
FORGET = "DELETE /v1/namespace/chess"
ONE, DELETE = "GET /v1/volume/host/v-1?namespace=chess", "DELETE /v1/volume/host/v-1?namespace=chess"


def nomad(*, gib: int | None = 5, allocations: int = 0, delete: tuple[int, Any] = (200, {})) -> Answers:
    """A Nomad with the volume at this quota; None for one without it."""
    stub = {"ID": "v-1", "NodeID": "n-1", "Name": "pds-chess", "State": "ready"}
    other = {"ID": "v-2", "NodeID": "n-1", "Name": "pds-chess-club", "State": "ready"}
    api = Answers(
        {
            LIST: (200, [other, *([stub] if gib is not None else [])]),
            CREATE: (200, {"Volume": {"ID": "v-1"}}),
            DELETE: delete,
            NAMESPACE: (200, None),
            NAMESPACES: (200, [{"Name": "default"}, {"Name": "chess"}] if gib is not None else [{"Name": "default"}]),
            FORGET: (200, None),
        }
    )
    if gib is not None:
        api.answers[ONE] = (200, {"RequestedCapacityMaxBytes": gib * GIB, "Allocations": [{}] * allocations})
    return api


def created(api: Answers) -> list[dict[str, Any]]:
    return [body["Volume"] for question, body in api.asked if question == CREATE]


def test_a_volume_is_made_with_its_quota_and_for_readers_too() -> None:
    api = nomad(gib=None)
    api.answers[LIST] = (200, [])

    def there(_method: str, _path: str) -> None:
        api.answers[LIST] = (200, [{"ID": "v-1", "Name": "pds-chess", "State": "ready"}])

    answer = api.request

    def request(method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        found = answer(method, path, body, token)
        if f"{method} {path}" == CREATE:
            there(method, path)
        return found

    api.request = request  # type: ignore[method-assign]
    assert nomad_clubs.create_club(api, "chess", "pds-chess", 5) == "v-1"
    (volume,) = created(api)
    assert volume["RequestedCapacityMaxBytes"] == 5 * GIB
    assert volume["PluginID"] == "pds-dir", "Nomad's own plugin erases what it deletes"
    assert [mode["AccessMode"] for mode in volume["RequestedCapabilities"]] == [
        "single-node-writer",
        "single-node-reader-only",
    ], "backup and watch mount it for reading"


def test_a_volume_that_is_there_is_left_alone() -> None:
    api = nomad(gib=5, allocations=1)
    assert nomad_clubs.create_club(api, "chess", "pds-chess", 5) == "v-1", "as on a rebuilt host"
    assert created(api) == []


def test_a_quota_grows_under_the_same_id() -> None:
    api = nomad(gib=5)
    nomad_clubs.create_club(api, "chess", "pds-chess", 9)
    (volume,) = created(api)
    assert (volume["ID"], volume["NodeID"], volume["RequestedCapacityMaxBytes"]) == ("v-1", "n-1", 9 * GIB)


@pytest.mark.parametrize(
    ("gib", "allocations", "words"),
    [(9, 1, "only while its PDS is stopped"), (4, 0, "can grow, never shrink. It is 5 GiB: write 'disk_gib: 5'")],
)
def test_what_nomad_would_refuse_is_a_sentence(gib: int, allocations: int, words: str) -> None:
    api = nomad(gib=5, allocations=allocations)
    with pytest.raises(ServiceError, match=words):
        nomad_clubs.create_club(api, "chess", "pds-chess", gib)
    assert created(api) == []


def test_a_node_that_has_not_joined_yet_is_waited_for() -> None:
    api = nomad(gib=None)
    api.answers[CREATE] = (500, "could not place volume: no node meets constraints")
    with pytest.raises(ServiceError, match="no node meets constraints, after"):
        nomad_clubs.create_club(api, "chess", "pds-chess", 5)
    assert len(created(api)) > 2, "on a slow host the node joins late"


def test_giving_up_what_is_gone_is_nothing() -> None:
    api = nomad(gib=None)
    nomad_clubs.remove_club(api, "chess", "pds-chess")
    assert [question for question, _ in api.asked] == [LIST, NAMESPACES], "an emptied Nomad would refuse a delete"


def test_the_volume_goes_before_its_namespace() -> None:
    api = nomad()
    nomad_clubs.remove_club(api, "chess", "pds-chess")
    assert [question for question, _ in api.asked if question.startswith("DELETE")] == [DELETE, FORGET]


def test_a_namespace_with_something_in_it_says_whose_that_is() -> None:
    api = nomad()
    api.answers[FORGET] = (500, 'namespace "chess" has variables associated with it')
    with pytest.raises(ServiceError, match=r"has variables associated .* `pulumi destroy --stack chess`"):
        nomad_clubs.remove_club(api, "chess", "pds-chess")


def test_a_club_that_runs_is_not_given_up() -> None:
    api = nomad(delete=(500, "volume v-1 in use by allocations: [a]"))
    with pytest.raises(ServiceError, match=r"The PDS of stack chess still runs on this host"):
        nomad_clubs.remove_club(api, "chess", "pds-chess")
