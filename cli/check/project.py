"""Checks of the project: does the host match the program, is there an escrow file?"""

from collections.abc import Mapping

from cli.check.subject import CheckVerdict, Subject, failed, passed, skipped
from cli.lib import escrow
from components.clients.errors import ServiceError
from components.settings.fields.nomad_version import version_numbers


def host(subject: Subject) -> CheckVerdict:
    """Check that the host's first boot used the cloud-init that the program renders now. An older one is no fault,
    unless it installed an older Nomad."""
    born = subject.outputs.get("host_configuration")
    if subject.configuration == "":
        return skipped("the host is not this stack's")
    if subject.configuration is None:
        return skipped(f"Pulumi.{subject.stack}.yaml cannot be read here")
    if born == subject.configuration:
        return passed("built from the current cloud-init")
    if old := _older_nomad(subject):
        return failed(f"{old}. Raise 'host.generation' to rebuild the host.")
    return skipped(
        f"the host was built from cloud-init {born or 'unknown'}; the program now renders {subject.configuration}. "
        "No action is needed. To rebuild the host, raise 'host.generation'."
    )


def _older_nomad(subject: Subject) -> str:
    """That the host runs an older Nomad than the stack file names; empty if not, or if Nomad does not answer."""
    if subject.host is None or subject.settings is None:
        return ""
    try:
        nodes = subject.host.api.get("/v1/nodes")
    except ServiceError:
        return ""  # another check reports it
    wanted = subject.settings.nomad.version
    # Nomad lists a lost or rebuilt node for a day (node_gc_threshold).
    running = [node["Version"] for node in nodes if node["Status"] == "ready"]
    old = [version for version in running if version_numbers(version) < version_numbers(wanted)]
    return f"the host runs Nomad {old[0]}, and the stack file names {wanted}" if old else ""


def escrow_made(subject: Subject) -> CheckVerdict:
    """Check that there is a second copy of what only the state holds."""
    if subject.escrow == "declined":
        return passed("declined in the stack file: if the state is lost, every identity is lost")
    return escrow_of(subject.stack, subject.escrow, subject.outputs.get("escrow"), "pds.escrow")


def escrow_of(stack: str, value: str, content: object, option: str) -> CheckVerdict:
    """Check the output `escrow` of a stack, and the `value` of its stack file's option."""
    run = (
        f"Run `./pds escrow {stack}`, store the file safely, then run "
        f"`pulumi config set --path {option} made --stack {stack}`."
    )
    if value == "declined":
        return passed("declined in the stack file")
    if not isinstance(content, Mapping):
        return failed(f"the state has no escrow. {run}")
    try:
        # Other entries of the file are added when it is written.
        escrow.check_escrow({**content, "stack_file": "here", "written": "now"})
    except escrow.EscrowError as error:
        return failed(str(error))
    if value != "made":
        return failed(f"not made yet, according to the stack file. {run}")
    return passed("made, according to the stack file; `./pds escrow-check FILE` opens it")
