"""The mock engine: what it refuses and what it records."""

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


def test_refuses_an_unknown_resource_type() -> None:
    def program() -> None:
        digitalocean.Cdn("cdn", origin="noted.at")

    with pytest.raises(Exception, match=r"say in offline/mock_engine\.py what its provider computes"):
        _evaluate(program)


def test_refuses_an_unknown_function() -> None:
    def program() -> None:
        pulumi.export("region", digitalocean.get_region_output(slug="fra1").name)

    with pytest.raises(Exception, match="a function that no provider here answers"):
        _evaluate(program)


def test_lookups_fail_if_the_program_registers_nothing() -> None:
    evaluation = _evaluate(lambda: None)
    with pytest.raises(LookupError, match="registered no Volume"):
        evaluation.of("Volume")
    with pytest.raises(LookupError, match="registered no "):
        evaluation.of("")
    with pytest.raises(LookupError, match="0 resources are named x"):
        evaluation.one("x")


def test_a_lookup_by_name_fails_if_two_resources_have_it() -> None:
    def program() -> None:
        digitalocean.Tag("same", name="a")
        random.RandomPassword("same", length=32)

    with pytest.raises(LookupError, match="2 resources are named same"):
        _evaluate(program).one("same")


def test_records_every_option_of_a_resource() -> None:
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
    assert second.options["aliases"], "aliases keep the state of a renamed resource"


def test_records_secrets_in_plain_text_and_that_they_are_secret() -> None:
    def program() -> None:
        made = random.RandomPassword("made", length=32)
        digitalocean.Tag("tag", name=made.result)
        pulumi.export("secret", made.result)
        pulumi.export("plain", "plain")

    evaluation = _evaluate(program)
    tag = evaluation.one("tag")
    assert tag.inputs["name"] == fixed_secret("made", 32), "the value is recorded in plain text"
    assert tag.secret_inputs == {"name"}, "and that it is secret"
    assert evaluation.outputs == {"secret": fixed_secret("made", 32), "plain": "plain"}
    assert evaluation.secret_outputs == {"secret"}


def test_records_the_outputs_that_a_component_registers() -> None:
    class Thing(pulumi.ComponentResource):
        def __init__(self) -> None:
            super().__init__("pds:index:Thing", "thing")
            self.register_outputs({"size": 7, "secret": pulumi.Output.secret("s")})

    evaluation = _evaluate(Thing)
    outputs = evaluation.registered[evaluation.one("thing").urn]
    assert outputs["size"] == 7
    assert outputs["secret"] != "s", "the value stays wrapped as a secret"


def test_provider_outputs_are_unknown_in_a_preview() -> None:
    def program() -> None:
        ip = digitalocean.ReservedIp("ip", region="fra1")
        pulumi.export("ip", ip.ip_address)
        pulumi.export("region", ip.region)

    preview, up = _evaluate(program, preview=True), _evaluate(program)
    assert preview.outputs == {"ip": None, "region": "fra1"}
    assert up.outputs == {"ip": "203.0.113.10", "region": "fra1"}
    assert preview.one("ip").id == "", "nothing was created"


def test_evaluations_are_independent_of_each_other() -> None:
    def program() -> None:
        digitalocean.Tag("tag", name="a")
        pulumi.export("stack", pulumi.get_stack())
        pulumi.log.warn("a warning")

    one, two = _evaluate(program), evaluate("other", {}, program=program)
    assert [len(one.resources), len(two.resources)] == [1, 1], "each has only its own resource"
    assert (one.outputs, two.outputs) == ({"stack": "test"}, {"stack": "other"})
    assert [text for severity, text in two.messages if severity == "warning"] == ["a warning"]


@pytest.mark.parametrize("first", [{}, {"stack": "test"}], ids=["empty first", "outputs first"])
def test_keeps_the_outputs_if_an_empty_registration_arrives_before_or_after(first: dict[str, str]) -> None:
    evaluation = Evaluation("test")
    monitor = mock_engine._Monitor(mock_engine._Providers(fixed_secret, False, {}), evaluation)
    for outputs in (first, {} if first else {"stack": "test"}):
        urn = "urn:pulumi:test::pds::pulumi:pulumi:Stack::pds-test"
        request = resource_pb2.RegisterResourceOutputsRequest(urn=urn)
        request.outputs.update(outputs)
        monitor.RegisterResourceOutputs(request)
    assert evaluation.outputs == {"stack": "test"}


def test_an_evaluation_does_not_see_the_configuration_of_the_previous_one() -> None:
    def program() -> None:
        pulumi.export("hostname", pulumi.Config("pds").get("hostname") or "none")

    assert evaluate("test", {"pds:hostname": "noted.at"}, program=program).outputs == {"hostname": "noted.at"}
    assert evaluate("test", {}, program=program).outputs == {"hostname": "none"}


def test_raises_the_program_s_exception_unchanged() -> None:
    def program() -> None:
        digitalocean.Tag("tag", name="a")
        raise ZeroDivisionError("of the program")

    with pytest.raises(ZeroDivisionError, match="of the program"):
        _evaluate(program)
    assert len(_evaluate(lambda: None).resources) == 0, "the next evaluation is not affected"


def test_raises_an_exception_of_an_apply() -> None:
    def program() -> None:
        tag = digitalocean.Tag("tag", name="a")
        pulumi.export("broken", tag.name.apply(lambda name: 1 // 0))

    with pytest.raises(Exception, match="division"):
        _evaluate(program)


def test_raises_an_exception_of_a_resource_s_input() -> None:
    def program() -> None:
        digitalocean.Tag("tag", name=pulumi.Output.from_input("a").apply(lambda name: str(1 // 0)))

    with pytest.raises(Exception, match="division"):
        _evaluate(program)


def test_the_caller_can_choose_random_secrets() -> None:
    def program() -> None:
        pulumi.export("made", random.RandomPassword("made", length=40).result)

    chosen = _evaluate(program, secret=lambda name, digits: f"{name}{digits}")
    assert chosen.outputs == {"made": "made40"}
    assert chosen.one("made").id == "none", "the real provider's id is `none`, too"


def test_fixed_secrets_are_stable_and_have_the_requested_length() -> None:
    assert fixed_secret("a", 64) == fixed_secret("a", 64)
    assert fixed_secret("a", 64) != fixed_secret("b", 64)
    assert [len(fixed_secret("a", digits)) for digits in (32, 64)] == [32, 64]
    assert int(fixed_secret("a", 64), 16) > 0, "hex digits"


def test_every_secret_output_of_a_provider_is_marked_secret() -> None:
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
