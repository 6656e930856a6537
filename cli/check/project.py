"""Checks of the project: does the host match the program, is there an escrow file?"""

from collections.abc import Mapping

from cli.check.subject import CheckVerdict, Subject, failed, passed, skipped
from cli.lib import escrow


def host(subject: Subject) -> CheckVerdict:
    """Check that the host's first boot used the cloud-init that the program renders now."""
    born = subject.outputs.get("host_configuration")
    if subject.configuration == "":
        return skipped("the host is not this stack's")
    if subject.configuration is None:
        return skipped(f"Pulumi.{subject.stack}.yaml cannot be read here")
    if born != subject.configuration:
        return failed(
            f"the host was built from cloud-init {born or 'unknown'}; the program now renders {subject.configuration}. "
            "No action is needed. To rebuild the host, raise 'host.generation'."
        )
    return passed("built from the current cloud-init")


def escrow_made(subject: Subject) -> CheckVerdict:
    """Check that there is a second copy of what only the state holds."""
    run = (
        f"Run `./pds escrow {subject.stack}`, store the file safely, then run "
        f"`pulumi config set --path pds.escrow made --stack {subject.stack}`."
    )
    if subject.escrow == "declined":
        return passed("declined in the stack file: if the state is lost, every identity is lost")
    content = subject.outputs.get("escrow")
    if not isinstance(content, Mapping):
        return failed(f"the state has no escrow. {run}")
    try:
        # Other entries of the file are added when it is written.
        escrow.check_escrow({**content, "stack_file": "here", "written": "now"})
    except escrow.EscrowError as error:
        return failed(str(error))
    if subject.escrow != "made":
        return failed(f"not made yet, according to the stack file. {run}")
    return passed("made, according to the stack file; `./pds escrow-check FILE` opens it")
