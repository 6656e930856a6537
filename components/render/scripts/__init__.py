"""The programs that jobs run in a container, as files of the job. Each is a complete file beside this module.

They require each other by name in the task's own folder. Each file documents itself.
"""

import re
from functools import cache
from pathlib import Path

from components.render.jobspec import Template

FOLDER = "local"
"""Below the task's directory, which is the root of its container."""


_REQUIRES = re.compile(r'require\("\./([\w-]+\.cjs)"\)')


def scripts(*names: str) -> tuple[Template, ...]:
    """The files `names`, and those that they require, as templates of a task. A change of one restarts nothing."""
    return tuple(
        Template(destination=f"{FOLDER}/{name}", change_mode="noop", data=script(name)) for name in needed(*names)
    )


@cache
def needed(*names: str) -> tuple[str, ...]:
    """`names`, and everything that they require, transitively."""
    found = list(names)
    for name in found:  # it grows
        found += [other for other in dict.fromkeys(_REQUIRES.findall(script(name))) if other not in found]
    return tuple(found)


@cache
def script(name: str) -> str:
    """The text of one of them."""
    return Path(__file__).with_name(name).read_text()
