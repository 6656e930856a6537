"""Messages at the end of `up`: what is pending, what differs from the stack file, and what to do."""

import pulumi

from components.dynamic.resources import DnsReady, ServerReady

_DONE = ("active", "set", "created", "done")
"""States that need no message."""


def warn_unless_done(what: str, state: pulumi.Output[str]) -> None:
    """Print at the end of `up` what is pending, and what differs from the stack file."""

    def report(text: str) -> None:
        if text not in _DONE:
            later = ". The next `pulumi up` continues" if text.startswith("pending") else ""
            pulumi.warn(f"{what}: {text.removesuffix('.')}{later}.")

    state.apply(report)


def warn_of_unlisted_accounts(stack: str, handles: pulumi.Output[list[str]]) -> None:
    """Print at the end of `up` which handles have no DNS record, and what creates it."""

    def report(unlisted: list[str]) -> None:
        if unlisted:
            pulumi.warn(
                f"{', '.join(unlisted)}: on the PDS, but not in Pulumi.{stack}.yaml, so these handles have no DNS "
                f"record. Apps may show 'invalid handle'. `./pds members {stack} --adopt` adds them to the file, and "
                "the next `pulumi up` creates the records."
            )

    handles.apply(report)


def warn_if_not_serving(ready: ServerReady, resolves: DnsReady, configuration: str) -> None:
    """Print at the end of `up` what is not as expected, and what to do."""

    def report(outputs: list[str]) -> None:
        state, dns, built_from = outputs
        if state not in ("serving", "paused"):
            pulumi.warn(f"The PDS is {state}. {dns}. The next `pulumi up` checks again.")
        if configuration and built_from != configuration:
            pulumi.warn(
                f"The host was built from cloud-init {built_from or 'unknown'}; the program now renders "
                f"{configuration}. Nothing was rebuilt. To rebuild the host, raise 'host.generation'."
            )

    pulumi.Output.all(ready.state, resolves.state, ready.host_configuration).apply(report)
