"""Compares the dev stack's job and ingress with those of the post that the project is based on (agent.io/posts/pds)."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.render.ingress.agent_io import ingress_file
from components.render.jobs.pds import pds_job
from components.settings.sections.settings import Settings
from offline.hcl_reader import flat, job_of, parse
from tools.generate.differences import DEVIATIONS, Deviation, markdown_table

SEED = Path(__file__).parents[1] / "seed" / "pds.nomad.hcl"
MISSING = "missing"


def _ours() -> dict[str, Any]:
    from tests.support.programs import settings_of

    return flat(job_of(pds_job(settings_of(), "dev"), "pds"))


def _compare(seed: dict[str, Any], ours: dict[str, Any], deviations: tuple[Deviation, ...]) -> list[str]:
    """Unlisted differences, and listed ones that do not differ."""
    differing = {key for key in seed.keys() | ours.keys() if seed.get(key, MISSING) != ours.get(key, MISSING)}
    findings = [
        f"{key}: {seed.get(key, MISSING)!r} in the post, {ours.get(key, MISSING)!r} here, and no reason given"
        for key in sorted(differing)
        if not any(item.covers(key) for item in deviations)
    ]
    findings += [
        f"{item.attribute} is listed and does not differ"
        for item in deviations
        if not any(item.covers(key) for key in differing)
    ]
    return findings


def test_each_attribute_equals_the_post_s_or_has_a_reason() -> None:
    assert _compare(flat(job_of(SEED.read_text(), "pds")), _ours(), DEVIATIONS) == []


def test_the_fixture_is_the_complete_job_of_the_post() -> None:
    seed = flat(job_of(SEED.read_text(), "pds"))
    assert len(seed) == 31, "attributes of the post's job"
    assert len([key for key in seed if ".env." in key]) == 15, "of these, environment variables"
    assert seed["group.pds.task.pds.env.TZ"] == "PDT"


def test_changes_only_these_attributes_of_the_post_s_job() -> None:
    seed, ours = flat(job_of(SEED.read_text(), "pds")), _ours()
    equal = {key for key, value in seed.items() if ours.get(key) == value}
    changed = {key.rpartition(".")[2] for key in seed.keys() - equal}
    assert changed == {
        "image",
        "TZ",
        "PDS_HOSTNAME",
        "PDS_BLOB_UPLOAD_LIMIT",
        "PDS_JWT_SECRET",
        "PDS_ADMIN_PASSWORD",
        "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX",
    }, "attributes of the post with another value here"


def test_finds_a_difference_without_a_reason() -> None:
    ours = _ours() | {"priority": 80}
    assert _compare(flat(job_of(SEED.read_text(), "pds")), ours, DEVIATIONS) == [
        "priority: 'missing' in the post, 80 here, and no reason given"
    ]


def test_finds_a_reason_without_a_difference() -> None:
    ours = _ours() | {"group.pds.task.pds.env.TZ": "PDT"}
    findings = _compare(flat(job_of(SEED.read_text(), "pds")), ours, DEVIATIONS)
    assert findings == ["group.pds.task.pds.env.TZ is listed and does not differ"]


def test_a_wildcard_covers_only_the_attributes_below_it() -> None:
    group = Deviation("group.pds.update.*", "", "", "")
    assert group.covers("group.pds.update.canary")
    assert not group.covers("group.pds.updated"), "a name with the same beginning is another attribute"
    assert not Deviation("a.b", "", "", "").covers("a.b.c"), "without the star it covers one attribute"


def test_the_table_has_the_job_s_actual_values() -> None:
    ours = _ours()
    for item in DEVIATIONS:
        value = ours.get(item.attribute)
        if value is not None and not isinstance(value, list) and " " not in item.ours:
            assert item.ours == str(value).lower() or item.ours == str(value), f"{item.attribute} is {value} now"


def test_the_table_has_one_row_per_deviation() -> None:
    lines = markdown_table().splitlines()
    assert len(lines) == len(DEVIATIONS) + 2, "a heading, a rule, and a row each"
    assert all(len(re.split(r"(?<!\\)\|", line)) == 6 for line in lines), "four columns in each row"
    assert all(item.reason.endswith(".") for item in DEVIATIONS), "a reason is a sentence"


def test_the_ingress_of_the_2025_dialect_equals_the_post_s(settings: Callable[..., Settings]) -> None:
    assert ingress_file(settings(ingress={"dialect": "host"}), "dev") == (
        'host "noted.at" {\n  name = "pds"\n  backend = "nomad:pds"\n}\n'
    )


@pytest.mark.parametrize("dialect", ["host", "ingress"])
def test_both_dialects_parse_to_the_same_ingress(dialect: str, settings: Callable[..., Settings]) -> None:
    entry = {"noted.at": {"name": "pds", "backend": "nomad:pds"}}
    assert parse(ingress_file(settings(ingress={"dialect": dialect}), "dev")) == {dialect: [entry]}


def test_extra_hcl_follows_the_ingress_and_parses(settings: Callable[..., Settings]) -> None:
    extra = 'host "other.noted.at" {\n  backend = "127.0.0.1:8080"\n}'
    parsed = parse(ingress_file(settings(ingress={"dialect": "host", "extra_hcl": extra}), "dev"))
    assert [list(entry) for entry in parsed["host"]] == [["noted.at"], ["other.noted.at"]]
