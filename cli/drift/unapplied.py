"""What the stack file and the program ask for and no `up` has applied: an edited option, a new section, a new version.

Compares names, and the texts of Nomad's jobs, which are functions of the settings alone. The values of other resources
depend on the account, and only the engine compares them.
"""

from collections.abc import Mapping

from cli.lib.stack import State

Program = Mapping[str, str | None]
"""The names of the resources that the program registers, with the text of each Nomad job."""


def unapplied(program: Program, state: State) -> list[str]:
    """Return the names of resources that an `up` would create, of jobs that it would change, and of jobs that it would
    remove."""
    recorded = {item.name for item in state.resources}
    jobs = {item.name: item.outputs.get("jobspec") for item in state.of("Job")}
    missing = [name for name in program if name not in recorded]
    changed = [name for name, text in jobs.items() if isinstance(text, str) and program.get(name) not in (None, text)]
    surplus = [name for name in jobs if name not in program]
    return sorted({*missing, *changed, *surplus})
