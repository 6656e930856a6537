"""Recorded inputs match the SDK's types, and each kind of fault is found.

Pulumi's mocks accept anything. Only the real provider drops or refuses a misspelt key in a nested block, during an
`up`.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from offline.mock_engine import COMPUTED, Evaluation
from tests.support.input_types import args_class, find_faulty_inputs
from tests.support.mail import ALL_PARTS, RESEND
from tests.support.programs import ALERTS, BACKUP, CLUB, CLUBS, EXISTING, cluster, run, shared

Change = Callable[[dict[str, Any]], None]


def _changed(evaluation: Evaluation, name: str, change: Change) -> Evaluation:
    """The evaluation with the inputs of one resource changed."""
    inputs = copy.deepcopy(evaluation.one(name).inputs)
    change(inputs)
    resources = [replace(item, inputs=inputs) if item.name == name else item for item in evaluation.resources]
    return replace(evaluation, resources=resources)


def test_every_input_of_the_dev_stack_matches_its_sdk_type(dev: Evaluation) -> None:
    assert find_faulty_inputs(dev) == []


def test_every_input_of_stacks_with_every_option_matches_its_sdk_type() -> None:
    evaluation = run(
        hostname="pds.noted.at",
        host={"vpc_ip_range": "10.20.0.0/24", "project": "club", "tags": ["club"]},
        dns={"zone": "noted.at", "create_zone": True, "caa": ["letsencrypt.org"]},
        operators={"cidrs": ["203.0.113.7/32", "2001:db8::/48"]},
        ingress={"license_hcl": 'license "x" {}'},
        service_handle_domains=[".noted.at"],
        alerts=ALERTS,
        backup=BACKUP,
        mail={**RESEND, "dns": ALL_PARTS},
        **CLUB,
    )
    others = (evaluation, run(**CLUBS), run(**EXISTING), cluster())
    types = {item.type for each in others for item in each.resources}
    assert set(COMPUTED) - types == set(), "a type that the mock engine knows is in none of these stacks"
    assert [finding for each in (*others, shared()) for finding in find_faulty_inputs(each)] == []


def test_every_provider_resource_has_an_sdk_class(dev: Evaluation) -> None:
    without = {item.type for item in dev.resources if args_class(item.type) is None}
    assert {token.split(":")[0] for token in without} == {"pds", "pulumi-python"}, "only these have no SDK"


def _misspell(rule: dict[str, Any]) -> None:
    rule["inboundRules"][0]["sourceAddreses"] = rule["inboundRules"][0].pop("sourceAddresses")


FAULTS: dict[str, tuple[str, Change, str]] = {
    "a wrong key": ("pds-host-droplet", lambda i: i.update(user_data=i.pop("userData")), "has no 'user_data'"),
    "a wrong key in a nested block": ("pds-host-network-firewall", _misspell, "has no 'sourceAddreses'"),
    "a missing required key": ("pds-host-data-volume", lambda i: i.pop("size"), "demands 'size'"),
    "a missing required nested key": (
        "pds-host-network-firewall",
        lambda i: i["inboundRules"][0].pop("protocol"),
        "demands 'protocol'",
    ),
    "text for a number": ("pds-host-data-volume", lambda i: i.update(size="25"), "'25' is no int"),
    "a number for text": ("pds-host-network-tag", lambda i: i.update(name=7), "7 is no str"),
    "a boolean for a number": ("pds-host-data-volume", lambda i: i.update(size=True), "True is no int"),
    "text for a boolean": ("pds-server-job", lambda i: i.update(detach="false"), "'false' is no bool"),
    "text for a list": ("pds-host-network-firewall", lambda i: i.update(tags="pds-dev"), "'pds-dev' is no list"),
    "a list for a block": ("pds-ingress-job", lambda i: i.update(hcl2=[]), "[] is no JobHcl2Args"),
    "a number in a map of texts": (
        "pds-ingress-job",
        lambda i: i["hcl2"]["vars"].update(ingress_state=1),
        "1 is no str",
    ),
    "an unknown region": ("pds-host-data-volume", lambda i: i.update(region="fra9"), "'fra9' is not one of Region"),
    "an unknown size": ("pds-host-droplet", lambda i: i.update(size="s-1cpu"), "is not one of DropletSlug"),
    "an unknown record type": ("pds-dns-a", lambda i: i.update(type="ANAME"), "is not one of RecordType"),
    "a wrong key of a provider": ("pds-host-nomad-provider", lambda i: i.update(token="x"), "has no 'token'"),
    "a wrong type in a provider": (
        "pds-host-nomad-provider",
        lambda i: i.update(ignoreEnvVars='{"NOMAD_REGION": "yes"}'),
        "'yes' is no bool",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_finds_the_fault(fault: str, dev: Evaluation) -> None:
    name, change, expected = FAULTS[fault]
    findings = find_faulty_inputs(_changed(dev, name, change))
    assert len(findings) == 1, f"one fault was planted: {findings}"
    assert name in findings[0], "the finding names the resource"
    assert expected in findings[0], "the finding describes the fault"


def test_finds_a_droplet_id_that_is_not_a_number(dev: Evaluation) -> None:
    resources = [replace(item, id="abc") if item.name == "pds-host-droplet" else item for item in dev.resources]
    assert find_faulty_inputs(replace(dev, resources=resources)) == [
        "pds-host-droplet: a droplet's id is a number, not abc"
    ]
    assert dev.one("pds-host-address").inputs["dropletId"] == int(dev.one("pds-host-droplet").id)
