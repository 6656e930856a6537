"""The recording engine itself: what it refuses, and what it records."""

from typing import Any

import pulumi
import pulumi_digitalocean as digitalocean
import pulumi_random as random
import pytest
from pulumi.runtime.proto import resource_pb2

from offline import mock_engine
from offline.mock_engine import COMPUTED, Evaluation, evaluate, fixed_secret


def _evaluate(program: Any, **more: Any) -> Evaluation:
    return evaluate("test", {}, program=program, **more)


def test_a_type_that_it_does_not_know_is_an_error() -> None:
    def program() -> None:
        digitalocean.Cdn("cdn", origin="noted.at")

    with pytest.raises(Exception, match=r"say in offline/mock_engine\.py what its provider computes"):
        _evaluate(program)


def test_a_function_that_it_does_not_know_is_an_error() -> None:
    def program() -> None:
        pulumi.export("region", digitalocean.get_region_output(slug="fra1").name)

    with pytest.raises(Exception, match="a function that no provider here answers"):
        _evaluate(program)


def test_a_program_that_registers_nothing_cannot_be_checked() -> None:
    evaluation = _evaluate(lambda: None)
    with pytest.raises(LookupError, match="registered no Volume"):
        evaluation.of("Volume")
    with pytest.raises(LookupError, match="registered no "):
        evaluation.of("")
    with pytest.raises(LookupError, match="0 resources are named x"):
        evaluation.one("x")


def test_one_of_two_resources_with_a_name_is_not_chosen() -> None:
    def program() -> None:
        digitalocean.Tag("same", name="a")
        random.RandomPassword("same", length=32)

    with pytest.raises(LookupError, match="2 resources are named same"):
        _evaluate(program).one("same")


def test_every_option_of_a_resource_is_kept() -> None:
    def program() -> None:
        first = digitalocean.Tag("first", name="a")
        digitalocean.Tag(
            "second",
            name="b",
            opts=pulumi.ResourceOptions(
                protect=True,
                retain_on_delete=True,
                delete_before_replace=True,
                depends_on=[first],
                deleted_with=first,
                ignore_changes=["name"],
                replacement_trigger="7",
                custom_timeouts=pulumi.CustomTimeouts(create="3m"),
                import_="b",
                aliases=[pulumi.Alias(name="old")],
            ),
        )

    evaluation = _evaluate(program)
    first, second = evaluation.one("first"), evaluation.one("second")
    assert second.protected
    assert not first.protected
    assert second.options["retainOnDelete"]
    assert second.options["deleteBeforeReplace"]
    assert second.options["dependencies"] == [first.urn]
    assert second.options["deletedWith"] == first.urn
    assert second.options["ignoreChanges"] == ["name"]
    assert second.options["replacementTrigger"] == "7"
    assert second.options["customTimeouts"] == {"create": "3m"}
    assert second.options["importId"] == "b"
    assert second.options["aliases"], "a renamed resource keeps its state by them"


def test_secrets_are_opened_and_remembered_as_secrets() -> None:
    def program() -> None:
        made = random.RandomPassword("made", length=32)
        digitalocean.Tag("tag", name=made.result)
        pulumi.export("secret", made.result)
        pulumi.export("plain", "plain")

    evaluation = _evaluate(program)
    tag = evaluation.one("tag")
    assert tag.inputs["name"] == fixed_secret("made", 32), "its value"
    assert tag.secret_inputs == {"name"}, "and its mark"
    assert evaluation.outputs == {"secret": fixed_secret("made", 32), "plain": "plain"}
    assert evaluation.secret_outputs == {"secret"}


def test_what_a_component_registers_is_kept() -> None:
    class Thing(pulumi.ComponentResource):
        def __init__(self) -> None:
            super().__init__("pds:index:Thing", "thing")
            self.register_outputs({"size": 7, "secret": pulumi.Output.secret("s")})

    evaluation = _evaluate(Thing)
    outputs = evaluation.registered[evaluation.one("thing").urn]
    assert outputs["size"] == 7
    assert outputs["secret"] != "s", "its secret mark is kept with it"


def test_in_a_preview_what_a_provider_computes_is_unknown() -> None:
    def program() -> None:
        ip = digitalocean.ReservedIp("ip", region="fra1")
        pulumi.export("ip", ip.ip_address)
        pulumi.export("region", ip.region)

    preview, up = _evaluate(program, preview=True), _evaluate(program)
    assert preview.outputs == {"ip": None, "region": "fra1"}
    assert up.outputs == {"ip": "203.0.113.10", "region": "fra1"}
    assert preview.one("ip").id == "", "nothing was made"


def test_evaluations_are_independent_of_each_other() -> None:
    def program() -> None:
        digitalocean.Tag("tag", name="a")
        pulumi.export("stack", pulumi.get_stack())
        pulumi.log.warn("a warning")

    one, two = _evaluate(program), evaluate("other", {}, program=program)
    assert [len(one.resources), len(two.resources)] == [1, 1], "neither holds the other's"
    assert (one.outputs, two.outputs) == ({"stack": "test"}, {"stack": "other"})
    assert [text for severity, text in two.messages if severity == "warning"] == ["a warning"]


@pytest.mark.parametrize("first", [{}, {"stack": "test"}], ids=["none first", "the program's first"])
def test_outputs_are_kept_whichever_registration_of_the_stack_arrives_first(first: dict[str, str]) -> None:
    evaluation = Evaluation("test")
    monitor = mock_engine._Monitor(mock_engine._Providers(fixed_secret, False, {}), evaluation)
    for outputs in (first, {} if first else {"stack": "test"}):
        urn = "urn:pulumi:test::pds::pulumi:pulumi:Stack::pds-test"
        request = resource_pb2.RegisterResourceOutputsRequest(urn=urn)
        request.outputs.update(outputs)
        monitor.RegisterResourceOutputs(request)
    assert evaluation.outputs == {"stack": "test"}


def test_configuration_of_one_evaluation_is_gone_in_the_next() -> None:
    def program() -> None:
        pulumi.export("hostname", pulumi.Config("pds").get("hostname") or "none")

    assert evaluate("test", {"pds:hostname": "noted.at"}, program=program).outputs == {"hostname": "noted.at"}
    assert evaluate("test", {}, program=program).outputs == {"hostname": "none"}


def test_an_exception_of_the_program_comes_out_as_it_is() -> None:
    def program() -> None:
        digitalocean.Tag("tag", name="a")
        raise ZeroDivisionError("of the program")

    with pytest.raises(ZeroDivisionError, match="of the program"):
        _evaluate(program)
    assert len(_evaluate(lambda: None).resources) == 0, "the next evaluation does not suffer from it"


def test_an_exception_inside_an_apply_comes_out_too() -> None:
    def program() -> None:
        tag = digitalocean.Tag("tag", name="a")
        pulumi.export("broken", tag.name.apply(lambda name: 1 // 0))

    with pytest.raises(Exception, match="division"):
        _evaluate(program)


def test_a_resource_whose_input_fails_comes_out_too() -> None:
    def program() -> None:
        digitalocean.Tag("tag", name=pulumi.Output.from_input("a").apply(lambda name: str(1 // 0)))

    with pytest.raises(Exception, match="division"):
        _evaluate(program)


def test_a_random_secret_can_be_chosen_by_the_caller() -> None:
    def program() -> None:
        pulumi.export("made", random.RandomPassword("made", length=40).result)

    chosen = _evaluate(program, secret=lambda name, digits: f"{name}{digits}")
    assert chosen.outputs == {"made": "made40"}
    assert chosen.one("made").id == "none", "as the real provider's, whose id says nothing"


def test_fixed_secrets_are_fixed_and_of_the_length_asked_for() -> None:
    assert fixed_secret("a", 64) == fixed_secret("a", 64)
    assert fixed_secret("a", 64) != fixed_secret("b", 64)
    assert [len(fixed_secret("a", digits)) for digits in (32, 64)] == [32, 64]
    assert int(fixed_secret("a", 64), 16) > 0, "hex digits"


def test_every_stand_in_secret_of_a_provider_is_marked_as_one() -> None:
    secret = {
        token.rpartition(":")[2]: [key for key, value in compute("n", {}).items() if isinstance(value, dict)]
        for token, compute in COMPUTED.items()
    }
    assert {kind: keys for kind, keys in secret.items() if keys} == {
        "PrivateKey": ["privateKeyPem"],
        "AclToken": ["secretId"],
        "Account": ["initial_password"],
        "Invites": ["codes"],
        "SpacesKey": ["secretKey"],
    }
