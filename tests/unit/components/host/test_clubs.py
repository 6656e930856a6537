"""Several PDSes on one host: the host's resources for them, the clubs' stacks, and no conflict among fifty of them."""

import json
import re
from typing import Any

import pulumi
import pytest

from components.settings.fields.errors import SettingsError
from components.settings.host_contract import HostContractError, accepted_terms
from components.settings.parse import read
from components.settings.sections.settings import Settings
from offline.hcl_reader import only_job
from offline.mock_engine import Evaluation
from policy.checks import findings
from policy.secrets import find_secrets_in_texts, find_secrets_in_the_open
from policy.view import of_evaluation
from tests.support.invariants import CHECKS, kind
from tests.support.programs import BACKUP, CLUB, CLUBS, EXISTING, ON_A_HOST, run, settings_of, shared
from tools.preview import rendered

TOKEN = "f0e1d2c3-b4a5-9687-7869-5a4b3c2d1e0f"
TERMS = {
    "schema": 1,
    "port": 3101,
    "disk_gib": 5,
    "memory_mib": 896,
    "ingress": "io",
    "dialect": "ingress",
    "datacenter": "dc1",
    "region": "global",
    "droplet_region": "fra1",
    "ipv4": "203.0.113.10",
}


@pytest.fixture(scope="module")
def host() -> Evaluation:
    """The dev stack with two clubs."""
    return run(**CLUBS)


@pytest.fixture(scope="module")
def chess(host: Evaluation) -> Evaluation:
    """One of them."""
    return shared(host=host)


def chess_settings(**changes: Any) -> Settings:
    return read({**ON_A_HOST, **changes}, "Pulumi.chess.yaml", "chess")


# The host.


def test_invariants_hold_for_a_host_with_clubs(host: Evaluation) -> None:
    assert {name: found for name, check in CHECKS.items() if (found := check(host))} == {}
    assert [finding for found in findings(of_evaluation(host)).values() for finding in found] == []


def test_every_club_has_a_namespace_a_token_for_it_and_a_volume_with_a_quota(host: Evaluation) -> None:
    for club, gib in (("chess", 5), ("rooks", 9)):
        name = f"pds-host-clubs-{club}"
        rules = host.one(f"{name}-policy").inputs["rulesHcl"]
        assert f'namespace "{club}"' in rules
        assert 'policy = "write"' not in rules.partition("host_volume")[0], (
            "rules must name capabilities, never grant them all"
        )
        assert not {"chess", "rooks"} - {club} & set(rules.replace('"', " ").replace("/", " ").split())
        assert host.one(f"{name}-token").inputs["policies"] == [f"pds-club-{club}"]
        volume = host.one(f"{name}-namespace").inputs
        assert (volume["club"], volume["volume"], volume["disk_gib"]) == (club, f"pds-{club}", gib)


def test_club_gets_no_management_token(host: Evaluation) -> None:
    club_access = json.dumps(host.outputs["club_access"])
    assert host.outputs["nomad_management_token"] not in club_access
    assert host.outputs["nomad_token"] not in club_access, "nor the token of the host"
    tokens = [access["token"] for access in host.outputs["club_access"].values()]
    assert len(set(tokens)) == len(tokens) == 2
    assert "club_access" in host.secret_outputs
    assert "clubs" not in host.secret_outputs, "so that a wrong passphrase can be distinguished from a missing club"


def test_refuses_a_port_that_two_servers_would_use() -> None:
    clubs = {"chess": {"port": 3000}, "rooks": {"port": 3101}, "pawns": {"port": 3101}}
    with pytest.raises(SettingsError) as caught:
        settings_of(clubs=clubs, host={"size": "s-8vcpu-16gb"})
    found = {fault.key: fault for fault in caught.value.faults}
    assert set(found) == {"clubs.chess.port", "clubs.pawns.port"}
    remedies = [fault.remedy for fault in found.values()]
    assert remedies == ["Write 3102.", "Write 3103."], "each remedy must name another port"


def test_refuses_clubs_that_do_not_fit_the_droplet() -> None:
    with pytest.raises(SettingsError, match="clubs 1792"):
        settings_of(clubs=CLUBS["clubs"])


# A club.


def test_club_creates_no_host_and_no_nomad(chess: Evaluation) -> None:
    kinds = {kind(item) for item in chess.resources}
    assert not kinds & {"Droplet", "Volume", "ReservedIp", "Firewall", "NomadBootstrap", "AclPolicy", "AclToken"}
    assert [item.name for item in chess.of("job:Job")] == ["pds-server-job"], "the ingress is the host's"


def test_club_has_a_separate_provider_for_each_host(chess: Evaluation, host: Evaluation) -> None:
    """The provider that created its resources on the old host deletes them; the engine keeps it until then."""
    moved = shared(host=host, on="ground")
    assert chess.one("pds-host-provider-dev")
    assert moved.one("pds-host-provider-ground")
    differ = {item.name for item in chess.resources} ^ {item.name for item in moved.resources}
    assert differ == {"pds-host-provider-dev", "pds-host-provider-ground"}, (
        "all other names are the same, and those resources are replaced"
    )


def test_no_secret_of_a_club_is_readable(chess: Evaluation) -> None:
    assert find_secrets_in_the_open(chess) + find_secrets_in_texts(chess) == []
    assert [finding for found in findings(of_evaluation(chess)).values() for finding in found] == []


def test_nomad_address_of_a_club_is_plain_and_its_credentials_are_secret(chess: Evaluation) -> None:
    assert "nomad_address" not in chess.secret_outputs, "an error may name it"
    assert {"nomad_token", "nomad_client_key_pem"} <= set(chess.secret_outputs)


def test_everything_of_a_club_but_its_ingress_file_is_in_its_namespace(chess: Evaluation) -> None:
    namespaces = {item.name: item.inputs.get("namespace") for item in chess.of("variable:Variable")}
    assert namespaces.pop("pds-ingress-file-variable") is None
    assert set(namespaces.values()) == {"chess"}
    job = only_job(chess.one("pds-server-job").inputs["jobspec"])
    assert job["namespace"] == "chess"
    (group,) = job["group"][0].values()
    assert group["volume"][0]["pds"]["source"] == "pds-chess"
    assert group["network"][0]["port"][0]["http"]["static"] == 3101
    assert chess.one("pds-server-ready").inputs["namespace"] == "chess"


def test_club_with_every_option_stays_in_its_namespace(host: Evaluation) -> None:
    backup = {"access_key_id": "DO00OWNERS", "secret_access_key": "owners+secret/of=Spaces"}
    members = [{"handle": "ann.pds.chess-club.org", "email": "a@b.org", "email_verified": True}]
    alerts = {"email": ["owner@bench.test"], "ping_url": "https://hc-ping.com/5bf66975"}
    wide = {**CLUBS, "clubs": {"chess": {"port": 3101, "memory_mib": 2000}}}
    whole = shared(host=run(**wide), alerts=alerts, backup=backup, members=members)
    for job in whole.of("job:Job"):
        text = job.inputs["jobspec"]
        assert only_job(text)["namespace"] == "chess", job.name
        (group,) = (body for item in only_job(text)["group"] for body in item.values())
        mounted = {body["source"] for item in group.get("volume", []) for body in item.values()}
        assert mounted <= {"pds-chess"}, f"{job.name} must not mount the host's own volume"
    assert "MonitorAlert" not in {kind(item) for item in whole.resources}, "only the host's stack monitors the droplet"
    assert "UptimeCheck" in {kind(item) for item in whole.resources}
    assert rendered(whole).keys() == {
        "pds.nomad.hcl", "confirm-email.nomad.hcl", "alerts.nomad.hcl", "ingress.hcl",
        "backup.nomad.hcl", "restore.nomad.hcl", "drill.nomad.hcl", "upgrade-trial.nomad.hcl",
    }  # fmt: skip


def test_ingress_file_of_a_club_waits_until_its_name_resolves(host: Evaluation) -> None:
    items = shared(host=host).one("pds-ingress-file-variable").inputs["items"]
    assert items["text"] == 'ingress "pds.chess-club.org" {\n  name = "pds-chess"\n  backend = "127.0.0.1:3101"\n}\n'
    before = shared(host=host, preview=True)
    assert before.one("pds-ingress-file-variable").inputs["items"] is None, "the host's ingress already runs"
    assert before.outputs["ingress_file"] == items["text"], "and the preview shows the later text"


def test_first_preview_of_a_club_shows_its_whole_job(host: Evaluation) -> None:
    assert isinstance(shared(host=host, preview=True).one("pds-server-job").raw["jobspec"], str)


# The terms of the host.


def test_accepts_terms_that_match_the_stack_file() -> None:
    assert accepted_terms(chess_settings(), "chess", {"chess": TERMS}, secret_readable=True) == TERMS


@pytest.mark.parametrize("terms_by_club", [None, {}, {"rooks": TERMS}])
def test_missing_club_requires_up_of_the_host_first(terms_by_club: dict[str, Any] | None) -> None:
    with pytest.raises(
        HostContractError, match=r"'chess: \{port: 3101\}' to 'pds:clubs'.* `pulumi up --stack dev` first"
    ):
        accepted_terms(chess_settings(), "chess", terms_by_club, secret_readable=False)


def test_terms_without_readable_secrets_mean_a_wrong_passphrase() -> None:
    with pytest.raises(HostContractError, match=r"secrets of stack dev cannot be decrypted.*share its passphrase"):
        accepted_terms(chess_settings(), "chess", {"chess": TERMS}, secret_readable=False)


def test_warns_about_a_bucket_in_the_region_of_the_droplet_of_the_host(host: Evaluation) -> None:
    def warns(region: str) -> bool:
        found = shared(host=host, backup=BACKUP | {"region": region}).messages
        return any("fra1 is the droplet's region too" in text for _severity, text in found)

    assert (warns("fra1"), warns("ams3")) == (True, False)


def test_refuses_terms_of_another_version() -> None:
    with pytest.raises(HostContractError, match="Another version of this program"):
        accepted_terms(chess_settings(), "chess", {"chess": {**TERMS, "schema": 2}}, secret_readable=True)


def test_names_every_difference_with_what_to_write() -> None:
    # Numbers have a fraction in another stack's state.
    theirs = {**TERMS, "port": 3109.0, "ingress": "caddy", "datacenter": "fra", "region": "eu", "memory_mib": 256.0}
    with pytest.raises(SettingsError) as caught:
        accepted_terms(chess_settings(), "chess", {"chess": theirs}, secret_readable=True)
    assert {fault.key: fault.remedy for fault in caught.value.faults} == {
        "pds.port": "Write 'port: 3109'.",
        "ingress.kind": "Write 'kind: caddy'.",
        "nomad.datacenter": "Write 'datacenter: fra'.",
        "nomad.region": "Write 'region: eu'.",
        "pds.memory_mib": "Write less, or raise 'memory_mib' of this stack among the 'clubs' in Pulumi.dev.yaml.",
    }


@pytest.mark.parametrize(("on_a_cluster", "refused"), [({"ingress_namespace": "host-a"}, True), ({}, False)])
def test_refuses_backups_on_a_disk_of_a_worker(on_a_cluster: dict[str, str], refused: bool) -> None:
    """A takeover moves the PDS away from the disk, and a rebuild deletes it. A single host keeps its disk."""
    settings = chess_settings(backup={"volume": "second-disk"})
    terms = {"chess": {**TERMS, **on_a_cluster}}
    if not refused:
        assert accepted_terms(settings, "chess", terms, secret_readable=True)
        return
    with pytest.raises(SettingsError, match=r"pds:backup\.volume: the disk stays on its worker(.|\n)*Write a bucket"):
        accepted_terms(settings, "chess", terms, secret_readable=True)


def test_dialect_must_match_only_for_io() -> None:
    with pytest.raises(SettingsError, match="Write 'dialect: host'"):
        accepted_terms(chess_settings(), "chess", {"chess": {**TERMS, "dialect": "host"}}, secret_readable=True)
    caddy = chess_settings(ingress={"kind": "caddy"})
    accepted_terms(caddy, "chess", {"chess": {**TERMS, "ingress": "caddy", "dialect": "host"}}, secret_readable=True)


def test_program_fails_with_the_error_of_the_contract() -> None:
    with pytest.raises(pulumi.RunError, match="does not list chess as a club"):
        shared(host=run())


# A stack file with `on`.


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("host.size", {"host": {"size": "s-2vcpu-4gb"}}),
        ("volume.adopt", {"volume": {"adopt": "506f78a4-e098-11e5-ad9f-000f53306ae1"}}),
        ("operators.cidrs", {"operators": {"cidrs": ["203.0.113.7/32"], "ssh_keys": ["laptop"]}}),
        ("clubs.rooks", {"clubs": {"rooks": {"port": 3102}}}),
        ("nomad.version", {"nomad": {"version": "2.0.4"}}),
        (
            "secrets.nomad_management_token",
            {"secrets": {"nomad_management_token": TOKEN}},
        ),
        ("ingress.image", {"ingress": {"image": "agentio/io:1"}}),
        ("ingress.backend", {"ingress": {"backend": "static"}}),
        ("pds.port", {"pds": {}}),
    ],
)
def test_refuses_options_that_a_club_cannot_have(key: str, changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        chess_settings(**changes)
    assert key in {fault.key for fault in caught.value.faults}


@pytest.mark.parametrize("on", [{}, {"stack": "dev", "nomad_address": "https://nomad.my-club.org:4646"}])
def test_on_requires_exactly_one_way_to_name_the_host(on: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="it needs exactly one of"):
        chess_settings(on=on or {"namespace": "chess"})


def test_refuses_a_plain_http_address_for_a_token() -> None:
    with pytest.raises(SettingsError, match="not the address of a Nomad to which a token may be sent"):
        chess_settings(on={"nomad_address": "http://203.0.113.10:4646"})


# An existing Nomad.


def test_existing_nomad_gets_jobs_and_no_host_is_created() -> None:
    evaluation = run(**EXISTING)
    kinds = {kind(item) for item in evaluation.resources}
    assert not kinds & {"Droplet", "Volume", "ReservedIp", "Firewall", "NomadBootstrap", "ClubNamespace", "AclToken"}
    assert {item.name for item in evaluation.of("job:Job")} == {"pds-server-job", "pds-ingress-job"}
    requirements, provider = evaluation.one("pds-host-requirements"), evaluation.one("pds-host-provider")
    assert requirements.inputs["required"]["ingress"] == "io"
    before = provider.options["propertyDependencies"]["address"]["urns"]
    assert requirements.urn in before, "the requirements are checked before anything is created"
    assert find_secrets_in_the_open(evaluation) + find_secrets_in_texts(evaluation) == []


def test_existing_nomad_namespace_and_volume_are_configurable() -> None:
    on = {**EXISTING["on"], "namespace": "people", "volume": "repos"}
    evaluation = run(**{**EXISTING, "on": on}, ingress={"kind": "none"})
    job = only_job(evaluation.one("pds-server-job").inputs["jobspec"])
    (group,) = job["group"][0].values()
    assert (job["namespace"], group["volume"][0]["pds"]["source"]) == ("people", "repos")
    assert {item.inputs["namespace"] for item in evaluation.of("variable:Variable")} == {"people"}
    assert evaluation.one("pds-host-requirements").inputs["required"]["ingress"] == ""


# Many.

NAMES = [
    f"{first}{rest}"
    for first in ("a", "b", "a-b", "pds", "z9")
    for rest in ("", "a", "0", "-0", "-a", "--a", "-dev", "-club", "-ingress", "-0123456789-abcdef")
]
"""Names that are prefixes of others, or differ in a hyphen or in what the program itself adds to names."""


def test_fifty_clubs_never_conflict() -> None:
    assert len(set(NAMES)) == 50
    clubs = {name: {"port": 3101 + number, "memory_mib": 512, "disk_gib": 1} for number, name in enumerate(NAMES)}
    host = run(clubs=clubs, host={"size": "s-24vcpu-128gb"})
    seen: dict[str, list[Any]] = {
        "records": [],
        "namespaces": [],
        "ports": [],
        "volumes": [],
        "files": [],
    }
    seen["records"] += [(record["zone"], record["name"], record["type"]) for record in host.outputs["records"]]
    seen["files"].append(host.one("pds-ingress-file-variable").inputs["path"])
    for name, gets in clubs.items():
        zone = f"{name}.clubs.test"
        config = {**ON_A_HOST, "hostname": zone, "pds": {"port": gets["port"], "memory_mib": 256}}
        club = shared(host=host, stack=name, **config)
        jobspec = club.one("pds-server-job").inputs["jobspec"]  # a parser would take most of the test's time
        for what, key in (("namespaces", "namespace"), ("ports", "static"), ("volumes", "source")):
            [value] = re.findall(rf'^ +{key} += "?([\w-]+)"?$', jobspec, re.MULTILINE)
            seen[what].append(value)
        seen["files"].append(club.one("pds-ingress-file-variable").inputs["path"])
        seen["records"] += [(record["zone"], record["name"], record["type"]) for record in club.outputs["records"]]
    for what, found in seen.items():
        assert len(set(found)) == len(found), f"two clubs have the same {what}"
    assert {item.inputs["volume"] for item in host.of(":ClubNamespace")} == set(seen["volumes"]), (
        "each club finds its own volume"
    )


def test_member_accounts_of_a_club_use_the_address_of_the_host(chess: Evaluation, host: Evaluation) -> None:
    members = [{"handle": "ann.pds.chess-club.org", "email": "a@b.org"}]
    people = shared(host=host, members=members, invites=CLUB["invites"])
    account = people.one("pds-people-member-ann.pds.chess-club.org-account")
    assert account.inputs["ip"] == chess.outputs["ipv4"] == "203.0.113.10"
