"""Messages at the end of `up`: what is pending, what differs from the stack file, and what to do."""

import pulumi

from components.facts import Ready, Resolves

_AS_ASKED = ("there", "hers", "done", "made")
"""States that need no message."""


def tell_of(what: str, state: pulumi.Output[str]) -> None:
    """Print at the end of `up` what is pending, and what differs from the stack file."""

    def say(found: str) -> None:
        if found not in _AS_ASKED:
            later = ". The next `pulumi up` continues" if found.startswith("pending") else ""
            pulumi.warn(f"{what}: {found.removesuffix('.')}{later}.")

    state.apply(say)


def tell_of_strangers(stack: str, handles: pulumi.Output[list[str]]) -> None:
    """Print at the end of `up` which handles have no DNS record, and what creates it."""

    def say(found: list[str]) -> None:
        if found:
            pulumi.warn(
                f"{', '.join(found)}: on the PDS and not in Pulumi.{stack}.yaml, so without a DNS record; apps may "
                f"show 'invalid handle'. `./pds members {stack} --adopt` writes them into it, and the next `pulumi up` "
                "makes the records."
            )

    handles.apply(say)


def tell(ready: Ready, resolves: Resolves, configuration: str) -> None:
    """Print at the end of `up` what is not as expected, and what to do."""

    def say(found: list[str]) -> None:
        state, dns, born = found
        if state not in ("serving", "paused"):
            pulumi.warn(f"The PDS is {state}. {dns}. The next `pulumi up` checks again.")
        if configuration and born != configuration:
            pulumi.warn(
                f"The host was built from cloud-init {born or 'unknown'}, the program now has {configuration}. "
                "Nothing was rebuilt. To rebuild it, raise 'pds:host: {generation: …}'."
            )

    pulumi.Output.all(ready.state, resolves.state, ready.host_configuration).apply(say)
