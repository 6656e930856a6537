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
JOBS, PDS = "GET /v1/jobs?namespace=chess", "GET /v1/job/pds?namespace=chess"
ONE, DELETE = "GET /v1/volume/host/v-1?namespace=chess", "DELETE /v1/volume/host/v-1?namespace=chess"


def nomad(*, gib: int | None = 5, allocations: int = 0, delete: tuple[int, Any] = (200, {})) -> Answers:
    """A Nomad with the volume at this quota; None means without the volume."""
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
            JOBS: (200, []),
        }
    )
    if gib is not None:
        api.answers[ONE] = (200, {"RequestedCapacityMaxBytes": gib * GIB, "Allocations": [{}] * allocations})
    return api


def created(api: Answers) -> list[dict[str, Any]]:
    return [body["Volume"] for question, body in api.asked if question == CREATE]


def test_volume_is_created_with_its_quota_for_a_writer_and_readers() -> None:
    api = nomad(gib=None)
    api.answers[LIST] = (200, [])

    def add_volume_to_list(_method: str, _path: str) -> None:
        api.answers[LIST] = (200, [{"ID": "v-1", "Name": "pds-chess", "State": "ready"}])

    answer = api.request

    def request(method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        found = answer(method, path, body, token)
        if f"{method} {path}" == CREATE:
            add_volume_to_list(method, path)
        return found

    api.request = request  # type: ignore[method-assign]
    assert nomad_clubs.create_club(api, "chess", "pds-chess", 5) == "v-1"
    (volume,) = created(api)
    assert volume["RequestedCapacityMaxBytes"] == 5 * GIB
    assert volume["PluginID"] == "pds-dir", "Nomad's own plugin erases what it deletes"
    assert [mode["AccessMode"] for mode in volume["RequestedCapabilities"]] == [
        "single-node-writer",
        "single-node-reader-only",
    ], "the backup and alerts jobs mount it read-only"


def test_existing_volume_is_left_unchanged() -> None:
    api = nomad(gib=5, allocations=1)
    assert nomad_clubs.create_club(api, "chess", "pds-chess", 5) == "v-1", "as on a rebuilt host"
    assert created(api) == []


def test_quota_is_raised_under_the_same_id() -> None:
    api = nomad(gib=5)
    nomad_clubs.create_club(api, "chess", "pds-chess", 9)
    (volume,) = created(api)
    assert (volume["ID"], volume["NodeID"], volume["RequestedCapacityMaxBytes"]) == ("v-1", "n-1", 9 * GIB)


@pytest.mark.parametrize(
    ("gib", "allocations", "words"),
    [(9, 1, "only while its PDS is stopped"), (4, 0, "can grow, never shrink. It is 5 GiB: write 'disk_gib: 5'")],
)
def test_refuses_a_quota_change_that_nomad_would_refuse(gib: int, allocations: int, words: str) -> None:
    api = nomad(gib=5, allocations=allocations)
    with pytest.raises(ServiceError, match=words):
        nomad_clubs.create_club(api, "chess", "pds-chess", gib)
    assert created(api) == []


def test_waits_for_a_node_that_has_not_joined_yet() -> None:
    api = nomad(gib=None)
    api.answers[CREATE] = (500, "could not place volume: no node meets constraints")
    with pytest.raises(ServiceError, match="no node meets constraints, after"):
        nomad_clubs.create_club(api, "chess", "pds-chess", 5)
    assert len(created(api)) > 2, "on a slow host the node joins late, so creation is retried"


def test_removing_a_missing_club_sends_no_delete() -> None:
    api = nomad(gib=None)
    nomad_clubs.remove_club(api, "chess", "pds-chess")
    assert [question for question, _ in api.asked] == [NAMESPACES, LIST], "an emptied Nomad would refuse a DELETE"


def test_volume_is_deleted_before_its_namespace() -> None:
    api = nomad()
    nomad_clubs.remove_club(api, "chess", "pds-chess")
    assert [question for question, _ in api.asked if question.startswith("DELETE")] == [DELETE, FORGET]


def test_non_empty_namespace_fails_and_names_the_stack_to_destroy() -> None:
    api = nomad()
    api.answers[FORGET] = (500, 'namespace "chess" has variables associated with it')
    with pytest.raises(ServiceError, match=r"has variables associated .* `pulumi destroy --stack chess`"):
        nomad_clubs.remove_club(api, "chess", "pds-chess")


def test_paused_club_is_not_removed() -> None:
    api = nomad()
    api.answers[JOBS] = (200, [job("pds"), job("pds-backup"), job("pds-backup/periodic-1", parent="pds-backup")])
    with pytest.raises(ServiceError, match=r"chess is still on this host.* its jobs pds, pds-backup\..*Nothing"):
        nomad_clubs.remove_club(api, "chess", "pds-chess")
    assert deleted(api) == [], "no allocation protects its volume, so Nomad would remove it"


def test_club_whose_jobs_were_destroyed_is_removed() -> None:
    api = nomad()
    api.answers[JOBS] = (200, [job("pds", stop=True), job("pds-backup/periodic-1", parent="pds-backup")])
    nomad_clubs.remove_club(api, "chess", "pds-chess")
    assert deleted(api) == [DELETE, FORGET], "Nomad remembers stopped jobs, and runs of destroyed ones, for a while"


def job(name: str, *, stop: bool = False, parent: str = "") -> dict[str, Any]:
    return {"ID": name, "Stop": stop, "ParentID": parent}


def test_club_whose_server_is_still_stopping_is_not_removed() -> None:
    api = nomad(delete=(500, "volume v-1 in use by allocations: [a]"))
    with pytest.raises(ServiceError, match=r"The PDS of stack chess still runs on this host"):
        nomad_clubs.remove_club(api, "chess", "pds-chess")


def _job(*, on: str, count: int = 1, stop: bool = False) -> dict[str, Any]:
    """The server's job, on this host."""
    return {"Stop": stop, "Datacenters": [on], "TaskGroups": [{"Count": count}]}


def on_cluster(**volumes: str) -> Answers:
    """A Nomad of a cluster with the club's volume on these hosts: its ID by host."""
    api = nomad(gib=None)
    api.answers[CREATE] = (200, {"Volume": {"ID": "v-new"}})
    api.answers[PDS] = (200, _job(on="b"))
    stub = {"Name": "pds-chess", "Namespace": "chess", "State": "ready"}
    stubs = [{**stub, "ID": id_, "NodeID": f"n-{host}"} for host, id_ in volumes.items()]
    api.answers[LIST] = (200, stubs)
    for host in ("a", "b"):
        own = {"pds-chess": {"ID": volumes[host]}} if host in volumes else None
        api.answers[f"GET /v1/node/n-{host}"] = (200, {"Datacenter": host, "Status": "ready", "HostVolumes": own})
    api.answers["GET /v1/node/m-0"] = (200, {"Datacenter": "a", "Status": "ready"})
    api.answers["GET /v1/nodes"] = (200, [{"ID": f"n-{host}", "Datacenter": host, "Status": "ready"} for host in "ab"])
    for id_ in volumes.values():
        api.answers[f"GET /v1/volume/host/{id_}?namespace=chess"] = (200, {"RequestedCapacityMaxBytes": 5 * GIB})
        api.answers[f"DELETE /v1/volume/host/{id_}?namespace=chess"] = (200, {})
    request = api.request

    def answer(method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        if f"{method} {path}" == CREATE:
            (constraint,) = body["Volume"]["Constraints"]
            nodes = [node for node in api.answers["GET /v1/nodes"][1] if node["Datacenter"] == constraint["RTarget"]]
            node = body["Volume"].get("NodeID", nodes[0]["ID"])  # also one that is down (placeHostVolume)
            if next(item["Status"] for item in nodes if item["ID"] == node) != "ready":
                return 500, "No path to node"
            stub = {"ID": "v-new", "NodeID": node, "Name": "pds-chess", "State": "ready"}
            kept = [item for item in stubs if not any(f"/{item['ID']}?" in question for question in deleted(api))]
            api.answers[LIST] = (200, [*kept, stub])
        return request(method, path, body, token)

    api.request = answer  # type: ignore[method-assign]
    return api


def deleted(api: Answers) -> list[str]:
    return [question for question, _ in api.asked if question.startswith("DELETE")]


def test_volume_of_a_cluster_s_host_is_created_on_its_node() -> None:
    api = on_cluster()
    assert nomad_clubs.create_club(api, "chess", "pds-chess", 5, "a") == "v-new"
    (volume,) = created(api)
    assert volume["Constraints"] == [{"LTarget": "${node.datacenter}", "RTarget": "a", "Operand": "="}]


def test_quota_on_a_cluster_s_host_is_raised_under_the_same_id() -> None:
    api = on_cluster(a="v-a")
    assert nomad_clubs.create_club(api, "chess", "pds-chess", 9, "a") == "v-new"
    (volume,) = created(api)
    assert (volume["ID"], volume["NodeID"], volume["RequestedCapacityMaxBytes"]) == ("v-a", "n-a", 9 * GIB)


def test_refuses_another_host_than_that_of_the_data() -> None:
    api = on_cluster(a="v-a")
    with pytest.raises(ServiceError, match=r"are on host a, and the stack file names b\. They were not touched"):
        nomad_clubs.create_club(api, "chess", "pds-chess", 5, "b")
    assert created(api) == [], "the jobs would wait for a volume that is elsewhere"
    assert deleted(api) == []


def test_a_node_that_nomad_has_forgotten_is_named_by_its_host() -> None:
    api = on_cluster(a="v-a")
    api.answers["GET /v1/node/n-a"] = (404, "node not found")
    of_host = {"LTarget": "${node.datacenter}", "RTarget": "a", "Operand": "="}
    details = "GET /v1/volume/host/v-a?namespace=chess"
    api.answers[details] = (200, {**api.answers[details][1], "Constraints": [of_host]})
    for ask in (nomad_clubs.volume_id, lambda *_arguments: nomad_clubs.create_club(api, "chess", "pds-chess", 5, "a")):
        with pytest.raises(ServiceError, match=r"forgotten the node of host a, .* pds-chess.*`\./pds repair`"):
            ask(api, "chess", "pds-chess", "a")
    assert (created(api), deleted(api)) == ([], []), "the data come back with the host"


def test_a_record_without_a_volume_is_named_and_not_removed() -> None:
    """It may be older than a move, or the agent failed to set the volume up, whose data are there."""
    api = on_cluster(a="v-a")
    api.answers["GET /v1/node/n-a"] = (200, {"Datacenter": "a", "Status": "ready", "HostVolumes": None})
    with pytest.raises(
        ServiceError, match=r"does not have the volume.*`\./pds nomad STACK -- volume delete .* chess v-a`"
    ):
        nomad_clubs.create_club(api, "chess", "pds-chess", 5, "b")
    assert (created(api), deleted(api)) == ([], [])


def test_a_club_that_moves_has_a_volume_on_both_hosts() -> None:
    api = on_cluster(a="v-a")
    assert nomad_clubs.create_club(api, "chess", "pds-chess", 5, "b", "a") == "v-new"
    assert len(created(api)) == 1
    assert deleted(api) == []
    api = on_cluster(a="v-a", b="v-b")
    assert nomad_clubs.create_club(api, "chess", "pds-chess", 5, "b", "a") == "v-b", "a second `up` changes nothing"
    assert created(api) == []
    assert deleted(api) == []


def test_a_club_that_has_moved_keeps_the_volume_of_its_host_only() -> None:
    api = on_cluster(a="v-a", b="v-b")
    assert nomad_clubs.create_club(api, "chess", "pds-chess", 5, "b", "") == "v-b"
    assert deleted(api) == ["DELETE /v1/volume/host/v-a?namespace=chess"]


def test_a_host_on_which_the_club_still_runs_is_not_left() -> None:
    api = on_cluster(a="v-a", b="v-b")
    api.answers["DELETE /v1/volume/host/v-a?namespace=chess"] = (500, "volume v-a in use by allocations: [x]")
    with pytest.raises(ServiceError, match=r"volume of stack chess on host a, which it left.*in use by allocations"):
        nomad_clubs.create_club(api, "chess", "pds-chess", 5, "b", "")


@pytest.mark.parametrize(
    "pds",
    [
        (200, _job(on="b", count=0)),
        (200, _job(on="b", stop=True)),
        (404, "job not found"),
        # No allocation protects the volume of a server that has failed and waits for its next attempt.
        (200, _job(on="a")),
    ],
    ids=["paused", "stopped", "removed", "still on the first host, and the file of an older checkout"],
)
def test_a_host_is_not_left_before_the_club_runs_on_the_other_one(pds: tuple[int, Any]) -> None:
    api = on_cluster(a="v-a", b="v-b")
    api.answers[PDS] = pds
    with pytest.raises(ServiceError, match=r"Its data may exist only on host a.*Nothing was changed.*git pull"):
        nomad_clubs.create_club(api, "chess", "pds-chess", 5, "b", "")
    assert deleted(api) == [], "in the middle of a move the volume on b is empty"


def test_a_refresh_finds_the_volume_of_the_club_s_host() -> None:
    assert nomad_clubs.volume_id(on_cluster(a="v-a", b="v-b"), "chess", "pds-chess", "b") == "v-b"
    assert nomad_clubs.volume_id(on_cluster(a="v-a"), "chess", "pds-chess", "b") == ""


def test_removing_a_club_in_the_middle_of_a_move_removes_both_volumes() -> None:
    api = on_cluster(a="v-a", b="v-b")
    nomad_clubs.remove_club(api, "chess", "pds-chess")
    assert len(deleted(api)) == 2


def with_another_node(api: Answers, former: str, *others: str) -> Answers:
    """Host a has further nodes of these statuses, and its volume is on the one of status `former`."""
    api.answers["GET /v1/node/n-a"] = (200, {"Datacenter": "a", "Status": former})
    stubs = [{"ID": f"m-{at}", "Datacenter": "a", "Status": status} for at, status in enumerate(others)]
    api.answers["GET /v1/nodes"] = (200, [{"ID": "n-a", "Datacenter": "a", "Status": former}, *stubs])
    api.answers["DELETE /v1/volume/host/v-a?namespace=chess&force=true"] = (200, {})
    return api


def test_a_volume_on_a_node_that_its_host_no_longer_has_is_created_on_the_present_one() -> None:
    api = with_another_node(on_cluster(a="v-a"), "down", "ready")
    assert nomad_clubs.volume_id(api, "chess", "pds-chess", "a") == "", "a refresh tells the next `up` to create it"
    assert nomad_clubs.create_club(api, "chess", "pds-chess", 5, "a") == "v-new"
    (volume,) = created(api)
    assert ("ID" in volume, volume["NodeID"]) == (False, "m-0"), "Nomad itself takes a node that is down, too"
    assert deleted(api) == ["DELETE /v1/volume/host/v-a?namespace=chess&force=true"], "no agent renames the directory"


@pytest.mark.parametrize(("former", "others"), [("down", []), ("down", ["down"]), ("ready", ["ready"])])
def test_a_volume_whose_node_may_come_back_is_kept(former: str, others: list[str]) -> None:
    api = with_another_node(on_cluster(a="v-a"), former, *others)
    assert nomad_clubs.create_club(api, "chess", "pds-chess", 5, "a") == "v-a"
    assert (created(api), deleted(api)) == ([], [])
