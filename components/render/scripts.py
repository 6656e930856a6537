"""The programs that jobs run in a container, as files of the job: they lie in `files/`, each a whole by itself.

They find each other by name in the task's own folder. What they do is said in each.
"""

from functools import cache
from pathlib import Path

from components.render.jobspec import Template

FOLDER = "local"
"""Below the task's directory, which a container sees at its root."""


def scripts(*names: str) -> tuple[Template, ...]:
    """The files `names` as templates of a task; a change of one restarts nothing."""
    return tuple(Template(destination=f"{FOLDER}/{name}", change_mode="noop", data=script(name)) for name in names)


@cache
def script(name: str) -> str:
    """The text of one of them."""
    return Path(__file__).with_name("files").joinpath(name).read_text()
