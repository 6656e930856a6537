"""The file that Caddy reads on a host: the rendered job's template, filled as Nomad fills it."""

import re

from tests.hcl_text import job_of, task_of

_LOOP = re.compile(
    r"\{\{ range nomadVarList \"caddy/files\" \}\}\{\{ with nomadVar .Path \}\}\{\{ .text \}\}\n\{\{ end \}\}\{\{ end \}\}"
)


def whole_caddyfile(jobspec: str, *files: str) -> str:
    """The template of the rendered job with the stacks' `files` in it."""
    (template,) = task_of(job_of(jobspec, "caddy"), "caddy")["template"]
    text, found = _LOOP.subn(lambda _: "".join(f"{file}\n" for file in files), template["data"])
    assert found == 1, "the template has one loop, over every stack's file"
    return text
