"""HCL parsed by an independent parser (python-hcl2), as plain Python values.

The parser returns text as written, with quotes, escapes and heredoc marks. This module converts it to the value that
HCL means, so that tests compare values.
"""

import copy
import json
import re
from functools import lru_cache
from typing import Any

import hcl2
from hcl2 import SerializationOptions

_AS_WRITTEN = SerializationOptions(with_comments=False, explicit_blocks=False)


def parse(text: str) -> dict[str, Any]:
    """Return the file as nested maps; each block is in a list under its keyword, below its labels."""
    return copy.deepcopy(_parsed(text))


@lru_cache(maxsize=512)
def _parsed(text: str) -> dict[str, Any]:
    """The parser needs a sixth of a second for a job file, and many readers ask for the same one."""
    value = _meant(hcl2.loads(text, serialization_options=_AS_WRITTEN))
    assert isinstance(value, dict)
    return value


def _meant(value: Any) -> Any:
    if isinstance(value, dict):
        return {_meant(key): _meant(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_meant(item) for item in value]
    if not isinstance(value, str) or not value.startswith('"'):
        return value
    heredoc = re.fullmatch(r'"<<-(\w+)\n(.*\n) *\1"', value, re.DOTALL)
    if heredoc:
        lines = heredoc[2].split("\n")
        least = min(len(line) - len(line.lstrip(" ")) for line in lines if line)
        text = "\n".join(line[least:] for line in lines)
    else:
        text = json.loads(value, strict=False)
    return text.replace("$${", "${").replace("%%{", "%{")


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Map dotted path to value: `group.pds.task.pds.env.TZ`. A block without a label adds only its keyword; the second
    of several equal ones is `keyword.2`."""
    if isinstance(value, dict) and value:
        found: dict[str, Any] = {}
        for key, item in value.items():
            found |= flat(item, f"{path}.{key}" if path else str(key))
        return found
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        found = {}
        for number, item in enumerate(value, 1):
            inner = flat(item, path)
            again = inner.keys() & found.keys()
            found |= (
                {f"{path}.{number}{key.removeprefix(path)}": leaf for key, leaf in inner.items()} if again else inner
            )
        return found
    return {path: value}


def job_of(text: str, name: str) -> dict[str, Any]:
    """Return the one job of a job file, without its label."""
    jobs = parse(text)["job"]
    assert [list(job) for job in jobs] == [[name]], "a job file holds one job"
    job: dict[str, Any] = jobs[0][name]
    return job


def only_job(text: str) -> dict[str, Any]:
    """Return the one job of a job file, whatever its label."""
    ((job,),) = (found.values() for found in parse(text)["job"])
    assert isinstance(job, dict)
    return job


def task_of(job: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a task of the job's one group, by name."""
    (group,) = (body for item in job["group"] for body in item.values())
    found = [item[name] for item in group["task"] if name in item]
    assert len(found) == 1, f"the group has {len(found)} tasks named {name}"
    task: dict[str, Any] = found[0]
    return task
