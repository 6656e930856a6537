"""The preview refuses changes of a stack's permanent properties, and a host is not destroyed under its clubs."""

from collections.abc import Iterator
from typing import Any

import pytest

from components.clients.errors import ServiceError
from components.dynamic.identity import StackIdentityProvider
from components.dynamic.nomad import HostInUseProvider
from components.settings.stack_identity import BLOBS_COPIED, BLOBS_MOVED, EXISTING_NOMAD, FORGET, MOVED_TO, OWN_DROPLET
from offline.mock_engine import Evaluation, Recorded
from policy.changes import between
from policy.preflight import of_changes
from tests.support.fake_nomad import FakeNomad, serve
from tests.support.invariants import waits_for
from tests.support.programs import BACKUP, BLOBS, CLUB, CLUBS, EXISTING, cluster, run, shared

MANAGEMENT = "06b05181-6ba5-a269-ae00-373e61ed46eb"


def _known(**changes: Any) -> dict[str, Any]:
    """The content of stack dev's state."""
    inputs = {"stack": "dev", "hostname": "noted.at", "on": "", "region": "fra1", "volume": "pds-dev", "adopt": ""}
    return {**inputs, "place": OWN_DROPLET, "volume_gib": 25, "blobs": "disk", "version": "1", **changes}


def _at(place: str) -> dict[str, Any]:
    """Inputs of stack dev at a place; a club has no volume of its own."""
    on = "" if place in (OWN_DROPLET, EXISTING_NOMAD) else place.partition("/")[0]
    own = {} if place == OWN_DROPLET else {"region": "", "volume": "", "volume_gib": 0}
    return _known(place=place, on=on, **own)


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a hostname with a typo": (
        {"hostname": "noted.ta"},
        ("pds:hostname", "the PDS of noted.at", "'hostname: noted.at'"),
    ),
    "another region": ({"region": "ams3"}, ("pds:host.region", "in fra1", "'region: fra1'", "leave the protection")),
    "a renamed stack": (
        {"stack": "club", "volume": "pds-club"},
        ("called dev", "'name: pds-dev'", "Pulumi.club.yaml", "pulumi stack rename dev"),
    ),
    "another name of the volume": ({"volume": "data"}, ("pds:volume.name", "'name: pds-dev'")),
    "a smaller volume": ({"volume_gib": 10}, ("pds:volume.size_gib", "25 GiB", "'size_gib: 25'")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_changes_that_would_lose_the_data_or_the_name(case: str) -> None:
    changes, expected_parts = REFUSED[case]
    with pytest.raises(ServiceError) as refused:
        StackIdentityProvider().diff("id", _known(), _known(**changes))
    text = str(refused.value)
    assert [part for part in expected_parts if part not in text] == []
    assert "Nothing was changed" in text
    assert "remove the protect" not in text, "the engine's own advice would lose the volume"
    with pytest.raises(ServiceError):  # an `up --skip-preview`, too
        StackIdentityProvider().update("id", _known(), _known(**changes))


ALLOWED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "a larger volume": ({}, {"volume_gib": 50}),
    "a renamed stack that keeps its volume's name": ({}, {"stack": "club"}),
    "a volume created from a snapshot": ({}, {"adopt": "506f78a4", "volume": "pds-restored", "volume_gib": 20}),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_accepts_changes_that_keep_data_and_name(case: str) -> None:
    known, new = (_known(**changes) for changes in ALLOWED[case])
    assert StackIdentityProvider().diff("id", known, new).changes == (known != new)


DATACENTER = "if house is not a cluster and only its datacenter got another name: `"

PLACES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "a club on another stack's host": (
        "ground", "dev", ("pds:on", "on the host of ground", "'on: ground'", "./pds move dev --to dev`"),
    ),
    "a club on another host of its cluster": (
        "fleet/a", "fleet/b", ("pds:nomad.datacenter", "'datacenter: a'", "./pds move dev --to fleet --host b`"),
    ),
    "a club of a stack that leaves out the datacenter": ("fleet/a", "fleet", ("'datacenter: a'",)),
    "an adopted host's PDS, from its former file": (
        "fleet/a", OWN_DROPLET, ("on host a of fleet", "on its own droplet", "./pds release fleet a --to dev`"),
    ),
    "a PDS with a droplet": (OWN_DROPLET, "fleet/a", ("./pds adopt fleet a --from dev` if fleet is a cluster",)),
    "a club of a host whose datacenter gets a name": (
        "house", "house/fra", ("Remove 'datacenter'", "--host fra` if house is a cluster", DATACENTER),
    ),
    "a club of a host whose datacenter loses its name": (
        "house/fra", "house", ("'datacenter: fra'", "--host HOST` if house is a cluster", DATACENTER),
    ),
    "a club of a host with a named datacenter, as a PDS with a droplet": (
        "house/fra", OWN_DROPLET, ("./pds release house fra --to dev` if house is a cluster, else by a backup",),
    ),
    "a PDS with a droplet, as a club": (OWN_DROPLET, "ground", ("a backup and a restore",)),
    "a PDS in another Nomad": (EXISTING_NOMAD, "ground", ("on an existing Nomad", "a backup and a restore")),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACES)
def test_pds_changes_its_place_only_with_the_command_that_moves_its_data(
    monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """An older checkout's `up` would start old data, or an empty PDS, under the live name."""
    known, wanted, parts = PLACES[case]
    provider = StackIdentityProvider()
    monkeypatch.setenv(MOVED_TO, known)
    for attempt in (provider.diff, provider.update):
        with pytest.raises(ServiceError) as refused:
            attempt("id", _at(known), _at(wanted))
        text = str(refused.value)
        remedies = ("Nothing was changed", "git pull", f"{MOVED_TO}='{wanted}' pulumi up --stack dev", *parts)
        assert [part for part in remedies if part not in text] == []
    monkeypatch.setenv(MOVED_TO, wanted)
    assert provider.diff("id", _at(known), _at(wanted)).changes
    assert (provider.update("id", _at(known), _at(wanted)).outs or {})["place"] == wanted


def test_state_without_a_place_accepts_one_and_has_it_from_then_on() -> None:
    known = {key: value for key, value in _at("ground").items() if key != "place"}
    assert StackIdentityProvider().diff("id", known, _at("ground")).changes
    updated = StackIdentityProvider().update("id", known, _at("ground")).outs or {}
    assert not StackIdentityProvider().diff("id", updated, _at("ground")).changes


def test_a_permission_without_a_value_permits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MOVED_TO, "")
    with pytest.raises(ServiceError, match="places it on"):
        StackIdentityProvider().diff("id", _at("ground"), _at("dev"))


@pytest.mark.parametrize(
    ("evaluate", "place"),
    [
        (run, OWN_DROPLET),
        (shared, "dev"),
        (
            lambda: shared(on="fleet", host=cluster(), nomad={"datacenter": "a"}, ingress={"kind": "caddy"}),
            "fleet/a",
        ),
        (lambda: run(**EXISTING), EXISTING_NOMAD),
        (cluster, ""),
    ],
    ids=["a droplet of its own", "another stack's host", "a host of a cluster", "another's Nomad", "a cluster"],
)
def test_records_the_place_of_the_pds(evaluate: Any, place: str) -> None:
    assert evaluate().one("pds-identity").inputs["place"] == place


def test_club_keeps_the_name_by_which_its_host_knows_it() -> None:
    own = {"on": "dev", "region": "", "volume": "", "volume_gib": 0}
    with pytest.raises(ServiceError, match=r"pulumi stack rename chess"):
        StackIdentityProvider().diff("id", _known(stack="chess", **own), _known(stack="rooks", **own))


def test_unused_hostname_can_be_forgotten_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = StackIdentityProvider()
    monkeypatch.setenv(FORGET, "another.at")
    with pytest.raises(ServiceError, match=FORGET):
        provider.diff("id", _known(), _known(hostname="noted.ta"))
    monkeypatch.setenv(FORGET, "noted.at")
    assert provider.diff("id", _known(), _known(hostname="noted.ta")).changes
    assert (provider.update("id", _known(), _known(hostname="noted.ta")).outs or {})["hostname"] == "noted.ta"


BUCKET, OTHER = "bucket club-blobs in fra1", "bucket other-blobs in fra1"
OWN, OWN_OTHER = "s3 bucket theirs at fra1.digitaloceanspaces.com", "s3 bucket theirs at s3.my-club.org"


@pytest.mark.parametrize(
    ("known", "wanted", "parts"),
    [
        ("disk", BUCKET, ("on its volume", "club-blobs", "./pds blobs dev --to bucket")),
        (BUCKET, "disk", ("bucket club-blobs", "'bucket: club-blobs'", "./pds blobs dev --to disk")),
        (BUCKET, OTHER, ("bucket other-blobs", "'bucket: club-blobs'", "'region: fra1'")),
        (OWN, BUCKET, (OWN, BUCKET, "back as it was")),
        ("disk", OWN, ("'disk'", f"{BLOBS_MOVED}='{OWN}' pulumi up --stack dev")),
        (OWN, "disk", (OWN, f"{BLOBS_MOVED}='disk'")),
        (OWN, OWN_OTHER, (OWN, f"{BLOBS_MOVED}='{OWN_OTHER}'")),
    ],
)
@pytest.mark.parametrize("variable", [BLOBS_MOVED, BLOBS_COPIED])
def test_blobs_change_their_place_only_after_they_were_moved(
    monkeypatch: pytest.MonkeyPatch, known: str, wanted: str, parts: tuple[str, ...], variable: str
) -> None:
    provider = StackIdentityProvider()
    monkeypatch.setenv(variable, known)
    with pytest.raises(ServiceError) as refused:
        provider.diff("id", _known(blobs=known), _known(blobs=wanted))
    text = str(refused.value)
    assert [part for part in ("pds:blobs", "Nothing was changed", *parts) if part not in text] == []
    monkeypatch.setenv(variable, wanted)
    assert provider.diff("id", _known(blobs=known), _known(blobs=wanted)).changes
    assert (provider.update("id", _known(blobs=known), _known(blobs=wanted)).outs or {})["blobs"] == wanted


def test_state_of_a_stack_that_recorded_no_location_of_the_blobs_accepts_one() -> None:
    known = {key: value for key, value in _known().items() if key != "blobs"}
    assert StackIdentityProvider().diff("id", known, _known()).changes


@pytest.mark.parametrize(
    "evaluate",
    [
        lambda: run(backup=BACKUP, blobs=BLOBS, dns={"create_zone": True}),
        shared,
        lambda: run(**EXISTING),
    ],
    ids=["own host", "another's host", "another's Nomad"],
)
def test_every_resource_that_can_lose_data_depends_on_the_comparison(evaluate: Any) -> None:
    found: Evaluation = evaluate()
    kinds = (":DnsRecord", ":Domain", ":Volume", ":ReservedIp", ":Tag", ":Droplet", ":Job", ":Variable")
    late = [item for item in found.resources if item.type.startswith(("nomad:", "digitalocean:"))]
    late = [item for item in late if item.type.endswith(kinds)]
    assert len(late) > 3
    assert [item.name for item in late if "pds-identity" not in waits_for(found, item)] == [], (
        "with `--skip-preview` it would be changed before the refusal"
    )


def test_preflight_refuses_another_hostname_between_two_revisions(dev: Evaluation) -> None:
    typo = run(hostname="noted.ta")
    found = of_changes(between(dev, typo), ())
    assert any(line.startswith("identity: pds:hostname") and "noted.at" in line for line in found)
    assert not [line for line in of_changes(between(dev, dev), ()) if line.startswith("identity")]


# A renamed stack, and its firewall.


def test_tag_keeps_the_name_with_which_it_was_created(dev: Evaluation) -> None:
    assert dev.one("pds-host-network-tag").options["ignoreChanges"] == ["name"], (
        "renaming the stack would delete the tag: the droplet would lose its firewall"
    )
    [change] = [item for item in between(dev, run(stack="club")) if item.type.endswith(":Tag")]
    assert change.op == "update", "it must not be replaced"


# A host under its clubs.


@pytest.fixture(scope="module")
def host() -> Evaluation:
    return run(backup=BACKUP, alerts={"email": ["owner@bench.test"]}, **CLUB, **CLUBS)


@pytest.fixture
def nomad() -> Iterator[FakeNomad]:
    with serve(FakeNomad(tokens={MANAGEMENT: "accessor-1"})) as fake:
        yield fake


def _check_inputs(host: Evaluation, nomad: FakeNomad) -> dict[str, Any]:
    inputs = host.one("pds-host-in-use").inputs
    return {**inputs, "address": nomad.address, "ca_pem": "", "cert_pem": "", "key_pem": "", "token": MANAGEMENT}


def test_host_is_deleted_only_after_the_check_for_clubs(host: Evaluation) -> None:
    check = host.one("pds-host-in-use")
    before = waits_for(host, check)
    real = [item for item in host.resources if not item.type.startswith("pds:index:")]
    assert {item.name for item in real} - before == {check.name}, (
        "the engine immediately deletes resources on which nothing else depends"
    )


def test_host_without_clubs_is_destroyed_without_a_check(dev: Evaluation) -> None:
    assert not [item for item in dev.resources if item.type.endswith(":HostInUse")], "a check would need a running host"


def _job(name: str, **more: Any) -> dict[str, Any]:
    return {"ID": name, "ParentID": "", "Stop": False, "Status": "running", **more}


@pytest.mark.parametrize("status", ["running", "dead"])
def test_host_with_a_club_is_not_destroyed(host: Evaluation, nomad: FakeNomad, status: str) -> None:
    nomad.jobs_of = {"chess": [_job("pds", Status=status)], "rooks": []}
    with pytest.raises(ServiceError) as refused:
        HostInUseProvider().delete("id", _check_inputs(host, nomad))
    text = str(refused.value)
    assert "stack chess" in text, "the club is named, running or paused"
    assert "rooks" not in text
    for part in ("Nothing was destroyed", "./pds move chess --to STACK", "pulumi destroy --stack chess"):
        assert part in text
    assert {token for _method, _path, token in nomad.asked} == {MANAGEMENT}, "the program's own token can read no club"


def test_host_is_destroyed_if_its_clubs_are_gone(host: Evaluation, nomad: FakeNomad) -> None:
    stopped, run_before = _job("pds", Stop=True), _job("pds-backup/periodic-1", ParentID="pds-backup", Status="dead")
    nomad.jobs_of = {"chess": [stopped, run_before]}
    HostInUseProvider().delete("id", _check_inputs(host, nomad))


def test_unreachable_host_is_kept_and_the_command_to_forget_it_is_printed(host: Evaluation) -> None:
    check = host.one("pds-host-in-use").inputs
    silent = {**check, "address": "http://127.0.0.1:1", "ca_pem": "", "cert_pem": "", "key_pem": ""}
    with pytest.raises(ServiceError) as refused:
        HostInUseProvider().delete("id", silent)
    text = str(refused.value)
    assert "stack chess and of stack rooks" in text
    assert "./pds repair dev" in text
    assert f"pulumi state delete --stack dev '{check['urn']}'" in text
    assert MANAGEMENT not in text


def test_printed_urn_is_the_urn_of_the_resource(host: Evaluation) -> None:
    check: Recorded = host.one("pds-host-in-use")
    # The engine omits the stack's type in the URN of a resource without another parent; the recording monitor does not.
    assert check.inputs["urn"] == check.urn.replace("pulumi:pulumi:Stack$", "")
