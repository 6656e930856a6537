"""Checks of the project: does the host match the program, is there an escrow file?"""

from collections.abc import Mapping

from tools import escrow
from tools.check.subject import Subject, Verdict, good, skipped, todo


def host(subject: Subject) -> Verdict:
    """Check that the host's first boot used the cloud-init that the program renders now."""
    born = subject.outputs.get("host_configuration")
    if subject.configuration == "":
        return skipped("the host is not this stack's")
    if subject.configuration is None:
        return skipped(f"Pulumi.{subject.stack}.yaml cannot be read here")
    if born != subject.configuration:
        return todo(
            f"the host was born from cloud-init {born or 'unknown'}, the program has {subject.configuration}. "
            "Nothing is wrong with it; to rebuild it, raise 'pds:host: {generation: …}'."
        )
    return good("born from today's cloud-init")


def escrow_made(subject: Subject) -> Verdict:
    """Check that there is a second copy of what only the state holds."""
    run = f"Run `./pds escrow {subject.stack}`, put the file away, then set 'pds: {{escrow: made}}'."
    if subject.escrow == "declined":
        return good("declined in the stack file: losing the state is losing every identity")
    content = subject.outputs.get("escrow")
    if not isinstance(content, Mapping):
        return todo(f"the state has no escrow. {run}")
    try:
        # Other entries of the file are added when it is written.
        escrow.check({**content, "stack_file": "here", "written": "now"})
    except escrow.EscrowError as error:
        return todo(str(error))
    if subject.escrow != "made":
        return todo(f"not made yet, according to the stack file. {run}")
    return good("made, according to the stack file; `./pds escrow-check FILE` opens it")
