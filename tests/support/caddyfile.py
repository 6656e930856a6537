"""The complete Caddyfile of a host, assembled as by `caddy.sh` if Caddy accepts every stack's text."""

from components.render.ingress.caddy import JOB
from offline.hcl_reader import job_of, task_of


def whole_caddyfile(jobspec: str, *files: str) -> str:
    """The options of the rendered job, and the stacks' `files`."""
    templates = {item["destination"]: item["data"] for item in task_of(job_of(jobspec, JOB), JOB)["template"]}
    options: str = templates["local/options"]
    assert "nomadVarList" in templates["local/parts"], "the stacks' files come from Nomad variables"
    return options + "".join(f"{file}\n" for file in files)
