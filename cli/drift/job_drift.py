"""Compares a job in Nomad with the text that the stack registered: finds changes made outside the engine.

Nomad itself reports the differences: it parses the text and plans it, without registering anything. The provider
compares only texts, so `up` leaves an edited job as it is (terraform-provider-nomad, resource_job.go,
resourceJobCustomizeDiff).
"""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from cli.lib.stack import Resource
from components.clients.nomad import Json, NomadApi

_SHOWN = 3
_BREVITY = 60


def job_differences(api: NomadApi, item: Resource) -> list[str]:
    """Return Nomad's differences from the resource `item` of the state, a sentence each; empty if they agree.

    Raises ServiceError.
    """
    text = item.outputs.get("jobspec")
    if not text:
        return []
    values: Mapping[str, Any] = (item.outputs.get("hcl2") or {}).get("vars") or {}
    variables = "".join(f'{name} = "{value}"\n' for name, value in values.items())
    request = {"JobHCL": text, "Canonicalize": True, "Variables": variables}
    job = api.post("/v1/jobs/parse", request)
    diff = api.post(f"/v1/job/{quote(str(job['ID']), safe='')}/plan", {"Job": job, "Diff": True})["Diff"]
    if diff["Type"] == "None":
        return []
    if diff["Type"] == "Added":
        return ["it is not there"]
    fields = list(_fields(diff, ""))
    more = [f"and {len(fields) - _SHOWN} more"] if len(fields) > _SHOWN else []
    return [*fields[:_SHOWN], *more] or ["it differs"]


def changed_outside(api: NomadApi, item: Resource) -> bool:
    """Return whether Nomad's index of the job differs from the state's: the next change of the job would fail."""
    status, job = api.request("GET", f"/v1/job/{quote(item.id, safe='')}")
    return status != 200 or str(job["JobModifyIndex"]) != str(item.outputs.get("modifyIndex"))


def _fields(diff: Json, where: str) -> Iterator[str]:
    """Return each field that differs, from a JobDiff and everything in it (nomad/structs/diff.go)."""
    for field in diff.get("Fields") or []:
        if field["Type"] != "None":
            yield f"{where}{field['Name']} is {_brief(field['Old'])}, not {_brief(field['New'])}"
    for key in ("Objects", "TaskGroups", "Tasks"):
        for inner in diff.get(key) or []:
            if inner["Type"] != "None":
                yield from _fields(inner, f"{where}{inner['Name']}." if inner.get("Name") else where)


def _brief(value: str) -> str:
    if not value:
        return "nothing"
    return repr(value if len(value) <= _BREVITY else f"{value[:_BREVITY]}…")
