"""What `up` says at its end: what is pending, what differs from the stack file, and what to do. Words only."""

import pulumi

from components.facts import Ready, Resolves

_AS_ASKED = ("there", "hers", "done", "made")
"""States in which nothing is left to say."""


def tell_of(what: str, state: pulumi.Output[str]) -> None:
    """Say at the end of `up` what is pending, and what differs from the stack file."""

    def say(found: str) -> None:
        if found not in _AS_ASKED:
            later = ". The next `pulumi up` goes on" if found.startswith("pending") else ""
            pulumi.warn(f"{what}: {found.removesuffix('.')}{later}.")

    state.apply(say)


def tell_of_strangers(stack: str, handles: pulumi.Output[list[str]]) -> None:
    """Say at the end of `up` whose handle has no DNS record, and what makes it."""

    def say(found: list[str]) -> None:
        if found:
            pulumi.warn(
                f"{', '.join(found)}: on the PDS and not in Pulumi.{stack}.yaml, so without a DNS record; apps may "
                f"show 'invalid handle'. `./pds members {stack} --adopt` writes them into it, and the next `pulumi up` "
                "makes the records."
            )

    handles.apply(say)


def tell(ready: Ready, resolves: Resolves, configuration: str) -> None:
    """Say at the end of `up` what is not as it should be, and what to do."""

    def say(found: list[str]) -> None:
        state, dns, born = found
        if state not in ("serving", "paused"):
            pulumi.warn(f"The PDS is {state}. {dns}. The next `pulumi up` looks again.")
        if configuration and born != configuration:
            pulumi.warn(
                f"The host was built from cloud-init {born or 'unknown'}, the program now has {configuration}. "
                "Nothing was rebuilt. To rebuild it, raise 'pds:host: {generation: …}'."
            )

    pulumi.Output.all(ready.state, resolves.state, ready.host_configuration).apply(say)
