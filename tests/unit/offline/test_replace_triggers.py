"""The table of inputs that replace: it has every type of the program, and an unknown input counts as one that
replaces."""

from collections.abc import Iterator

from offline import replace_triggers
from offline.mock_engine import COMPUTED, Evaluation
from tests.support.input_types import args_class, wire_names

NEVER_REPLACES = {"earlyRenewalHours"}
"""Left out of `_BY_CODE` (terraform-provider-tls, resource_locally_signed_cert.go: no plan modifier replaces it)."""


def _used(*evaluations: Evaluation) -> Iterator[tuple[str, str]]:
    for evaluation in evaluations:
        for item in evaluation.resources:
            if item.type.split(":")[0] in (*replace_triggers.PACKAGES, "random", "tls"):
                yield from ((item.type, key) for key in item.inputs)


def test_every_input_that_the_program_uses_is_in_the_table(dev: Evaluation, club: Evaluation) -> None:
    used = set(_used(dev, club))
    unknown = {
        (kind, key)
        for kind, key in used
        if key not in replace_triggers.known(kind)
        and not replace_triggers.replaces(kind, key)
        and key not in NEVER_REPLACES
    }
    assert unknown == set(), "make the table anew: python -m offline.replace_triggers"
    listed = {kind for kind, _ in used if kind.split(":")[0] in replace_triggers.PACKAGES}
    assert all(replace_triggers.known(kind) for kind in listed)


def test_the_table_lists_no_input_that_the_pinned_packages_lack() -> None:
    for kind in COMPUTED:
        if replace_triggers.known(kind):
            args = args_class(kind)
            assert args is not None
            assert replace_triggers.known(kind) <= wire_names(args), (
                f"{kind}: make the table anew: python -m offline.replace_triggers"
            )


def test_an_input_that_a_later_package_added_counts_as_one_that_replaces() -> None:
    droplet = "digitalocean:index/droplet:Droplet"
    assert "gpuPartitionMode" not in replace_triggers.known(droplet), "it came after the schema of the table"
    assert replace_triggers.replaces(droplet, "gpuPartitionMode"), "a green gate must not come from not knowing"
    assert replace_triggers.replaces(droplet, "region")
    assert not replace_triggers.replaces(droplet, "tags")


def test_a_type_of_ours_is_judged_by_its_own_diff_alone() -> None:
    assert not replace_triggers.replaces("pulumi-python:dynamic/pds:Account", "handle")
