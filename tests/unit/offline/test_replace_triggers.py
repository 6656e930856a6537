"""The table of inputs that replace a resource: it has every type of the program, and an unknown input counts as
replacing."""

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


def test_the_table_has_every_input_that_the_program_uses(dev: Evaluation, club: Evaluation) -> None:
    used = set(_used(dev, club))
    unknown = {
        (kind, key)
        for kind, key in used
        if key not in replace_triggers.known(kind)
        and not replace_triggers.replaces(kind, key)
        and key not in NEVER_REPLACES
    }
    assert unknown == set(), "regenerate the table: python -m offline.replace_triggers"
    listed = {kind for kind, _ in used if kind.split(":")[0] in replace_triggers.PACKAGES}
    assert all(replace_triggers.known(kind) for kind in listed)


def test_the_table_lists_no_input_that_the_pinned_packages_lack() -> None:
    for kind in COMPUTED:
        if replace_triggers.known(kind):
            args = args_class(kind)
            assert args is not None
            assert replace_triggers.known(kind) <= wire_names(args), (
                f"{kind}: regenerate the table: python -m offline.replace_triggers"
            )


def test_an_input_missing_from_the_table_counts_as_replacing() -> None:
    droplet = "digitalocean:index/droplet:Droplet"
    assert "gpuPartitionMode" not in replace_triggers.known(droplet), "a later schema added it"
    assert replace_triggers.replaces(droplet, "gpuPartitionMode"), "preflight must not pass because an input is unknown"
    assert replace_triggers.replaces(droplet, "region")
    assert not replace_triggers.replaces(droplet, "tags")


def test_dynamic_resources_replace_only_by_their_own_diff() -> None:
    assert not replace_triggers.replaces("pulumi-python:dynamic/pds:Account", "handle")
