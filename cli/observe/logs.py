"""The log of one task of a stack; `./pds logs`."""

import contextlib
import sys

from cli.errors import CommandError
from cli.lib.nomad_jobs import stack_nomad_api
from cli.lib.stack import Stack
from cli.observe import nomad_logs
from cli.observe.nomad_logs import STREAMS, LogLine
from cli.observe.terminal import printable
from components.render.ingress import agent_io, caddy
from components.settings.host_contract import ingress_namespace
from components.settings.sections.settings import Settings
from offline.stackfile import StackFileError, read_settings

_INGRESS_TASKS = (agent_io.JOB, caddy.JOB)


def show(stack: Stack, task: str, lines: int, *, keep_following: bool) -> None:
    """Print the last lines of the task's output, each stream in turn, or everything as it comes. Raises ServiceError,
    CommandError."""
    settings = read_settings(stack.name, stack.root)
    if task in _INGRESS_TASKS:
        require_own_ingress(stack, settings, f"`./pds logs HOST --task {task}`")
    api = stack_nomad_api(stack)
    run = nomad_logs.newest_run(api, task)
    note(str(run))
    if keep_following:
        for line in nomad_logs.follow(api, run, STREAMS, lines):
            show_line(line)
        return
    for stream in STREAMS:
        for text in nomad_logs.split_lines(nomad_logs.last_bytes(api, run, stream, lines), lines):
            show_line(LogLine(stream, text))


def require_own_ingress(stack: Stack, settings: Settings, instead: str) -> None:
    """Raise CommandError for a club: its host's stack runs the ingress, and the club's token does not reach it. And for
    a cluster, which has an ingress on each host."""
    if settings.cluster:
        hosts = ", ".join(settings.cluster.hosts)
        command = _of_cluster(stack.name, settings, "HOST")
        raise CommandError(f"{stack.name} has an ingress on each host ({hosts}). Use {command}.")
    if settings.on and settings.on.stack:
        command = instead.replace("HOST", settings.on.stack)
        with contextlib.suppress(StackFileError):  # then it may be a host of its own
            host = read_settings(settings.on.stack, stack.root)
            command = _of_cluster(settings.on.stack, host, settings.nomad.datacenter) if host.cluster else command
        raise CommandError(
            f"The ingress of {stack.name} runs on the host of stack {settings.on.stack}. The club's token does not "
            f"reach it. Use {command}."
        )


def _of_cluster(stack: str, settings: Settings, host: str) -> str:
    kind = settings.ingress.kind
    return f"`./pds nomad {stack} -- alloc logs -namespace {ingress_namespace(host)} -f -job {kind}`"


def show_line(line: LogLine) -> None:
    """Print one line at once."""
    if line.notice:
        note(line.text)
    else:
        print(printable(line.text), flush=True)


def note(text: str) -> None:
    """Print a sentence of this program, which does not belong to the output."""
    print(f"-- {printable(text)}", file=sys.stderr, flush=True)
