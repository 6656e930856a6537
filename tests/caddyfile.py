"""The file that Caddy reads on a host: the rendered job's template, filled as Nomad fills it."""

from components.render.caddy import JOB
from components.render.ingress_job import files_template
from tools.hcl_text import job_of, task_of

_LOOP = files_template(f"{JOB}/files").removesuffix("\n")


def whole_caddyfile(jobspec: str, *files: str) -> str:
    """The template of the rendered job with the stacks' `files` in it."""
    (template,) = task_of(job_of(jobspec, JOB), JOB)["template"]
    text: str = template["data"]
    assert text.count(_LOOP) == 1, "the template has one loop, over every stack's file"
    return text.replace(_LOOP, "".join(f"{file}\n" for file in files))
