"""The line `host` of `./pds check`: an older cloud-init is no fault, an older Nomad is."""

from typing import cast

import pytest

from cli.check import project
from cli.check.site import Site
from cli.check.subject import CheckVerdict, HostStatus, Subject
from tests.support.answers import Answer, Answers
from tests.support.programs import settings_of


class _Host(HostStatus):
    """A host whose Nomad gives one answer about its nodes."""

    def __init__(self, answer: Answer) -> None:
        super().__init__({})
        self.__dict__["api"] = Answers({"GET /v1/nodes": answer})


def _host(answer: Answer, born: str = "of yesterday") -> CheckVerdict:
    subject = Subject(
        stack="dev",
        outputs={"host_configuration": born},
        site=cast(Site, None),
        configuration="of today",
        settings=settings_of(nomad={"version": "2.0.6"}),
        host=_Host(answer),
    )
    return project.host(subject)


@pytest.mark.parametrize(
    "answer",
    [
        (200, [{"Version": "2.0.6", "Status": "ready"}]),
        (200, [{"Version": "2.1.0", "Status": "ready"}]),
        (500, "No cluster leader"),
    ],
    ids=["as in the stack file", "newer", "no answer"],
)
def test_an_older_cloud_init_is_nothing_to_do(answer: Answer) -> None:
    verdict = _host(answer)
    assert verdict.ok is None
    assert "No action is needed" in verdict.remark


def test_an_older_nomad_than_the_stack_file_names_is_to_be_replaced() -> None:
    verdict = _host((200, [{"Version": "2.0.5", "Status": "ready"}]))
    assert verdict.ok is False
    assert verdict.remark == (
        "the host runs Nomad 2.0.5, and the stack file names 2.0.6. Raise 'host.generation' to rebuild the host."
    )


def test_the_node_of_a_lost_host_is_not_to_be_replaced() -> None:
    """Nomad lists it for a day, and the host that runs now would be rebuilt for nothing."""
    nodes = [{"Version": "2.0.5", "Status": "down"}, {"Version": "2.0.6", "Status": "ready"}]
    assert _host((200, nodes)).ok is None


def test_a_host_of_the_current_cloud_init_passes_whatever_runs_there() -> None:
    assert _host((200, [{"Version": "2.0.5", "Status": "ready"}]), born="of today").ok
