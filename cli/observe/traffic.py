"""The requests that a stack's ingress answers, as they come; `./pds traffic`."""

from cli.errors import CommandError
from cli.lib.nomad_jobs import stack_nomad_api
from cli.lib.stack import Stack
from cli.observe import access_log, nomad_logs
from cli.observe.access_log import EntryError, RequestFilter
from cli.observe.logs import note, require_own_ingress
from components.render.ingress import caddy
from components.settings.sections.settings import Settings
from offline.stackfile import read_settings

_SHOWN = 200
"""Characters of a line that is not an entry."""


def ingress_settings(stack: Stack) -> Settings:
    """Return the stack's settings. Raises CommandError if its ingress is not one whose traffic can be shown."""
    settings = read_settings(stack.name, stack.root)
    require_own_ingress(stack, settings, f"`./pds traffic HOST --host {settings.hostname}`")
    if settings.ingress.kind == "none":
        raise CommandError(f"Pulumi.{stack.name}.yaml: ingress.kind is 'none'. Look at the log of your own ingress.")
    if settings.ingress.kind == caddy.JOB and settings.ingress.access_log == "off":
        raise CommandError(
            f"Pulumi.{stack.name}.yaml: ingress.access_log is 'off', so Caddy logs no request. Write 'masked' or "
            "'full' and run `pulumi up`."
        )
    return settings


def show(stack: Stack, wanted: RequestFilter, lines: int, *, keep_following: bool) -> None:
    """Print the requests among the last `lines` of Caddy's access log, and further ones. Raises ServiceError."""
    api = stack_nomad_api(stack)
    run = nomad_logs.newest_run(api, caddy.JOB)
    note(str(run))
    if not keep_following:
        data = nomad_logs.last_bytes(api, run, caddy.ACCESS_LOG_STREAM, lines)
        for text in nomad_logs.split_lines(data, lines):
            _show(text, wanted)
        return
    for line in nomad_logs.follow(api, run, (caddy.ACCESS_LOG_STREAM,), lines):
        if line.notice:
            note(line.text)
        else:
            _show(line.text, wanted)


def _show(text: str, wanted: RequestFilter) -> None:
    try:
        request = access_log.parse_entry(text)
    except EntryError as error:
        note(f"No entry of the access log, {error}: {text[:_SHOWN]}")
        return
    if wanted.admits(request):
        print(request, flush=True)
