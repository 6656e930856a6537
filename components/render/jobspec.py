"""The parts of Nomad's job specification that this program uses, as types under Nomad's own names.

Facts: developer.hashicorp.com/nomad/docs/job-specification. The provider parses HCL strictly, but silently drops
unknown keys of a JSON job, so these types are written as HCL (`hcl.write`). `jobs/` and `ingress/` define
the content of jobs. Durations are Nomad's text ("60s"), memory is in MiB, CPU in MHz.
"""

from dataclasses import dataclass, field
from typing import Any

from components.render.hcl import Block, Raw, label


@dataclass(frozen=True, kw_only=True)
class Port(Block):
    """A port label: `static` on the host, `to` inside the container, bound to the addresses of `host_network`."""

    keyword = "port"
    name: str = label()
    static: int | None = None
    to: int | None = None
    host_network: str | None = None


@dataclass(frozen=True, kw_only=True)
class Network(Block):
    """The group's ports."""

    keyword = "network"
    ports: tuple[Port, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CheckRestart(Block):
    """Restarts the task after `limit` consecutive failed checks, not counting the first `grace`."""

    keyword = "check_restart"
    limit: int
    grace: str


@dataclass(frozen=True, kw_only=True)
class Check(Block):
    """A health check by the Nomad client; provider "nomad" knows `http` and `tcp`."""

    keyword = "check"
    type: str
    path: str | None = None
    interval: str
    timeout: str
    check_restart: CheckRestart | None = None


@dataclass(frozen=True, kw_only=True)
class Service(Block):
    """A service in Nomad's own catalogue."""

    keyword = "service"
    name: str
    provider: str = "nomad"
    port: str | None = None
    check: Check | None = None


@dataclass(frozen=True, kw_only=True)
class VolumeRequest(Block):
    """The group's claim on a host volume."""

    keyword = "volume"
    name: str = label()
    type: str = "host"
    read_only: bool = False
    source: str


@dataclass(frozen=True, kw_only=True)
class VolumeMount(Block):
    """The path of a claimed volume in a task."""

    keyword = "volume_mount"
    volume: str
    destination: str
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class TmpfsOptions(Block):
    """`size` is in bytes."""

    keyword = "tmpfs_options"
    size: int


@dataclass(frozen=True, kw_only=True)
class Mount(Block):
    """A tmpfs of the Docker driver."""

    keyword = "mount"
    type: str = "tmpfs"
    target: str
    tmpfs_options: TmpfsOptions


@dataclass(frozen=True, kw_only=True)
class DockerConfig(Block):
    """`config` of a task of the Docker driver."""

    keyword = "config"
    image: str
    entrypoint: tuple[str, ...] = ()
    command: str | None = None
    args: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    network_mode: str | None = None
    force_pull: bool | None = None
    readonly_rootfs: bool | None = None
    cap_drop: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    pids_limit: int | None = None
    mount: Mount | None = None
    hostname: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExecConfig(Block):
    """`config` of a task of the raw_exec driver."""

    keyword = "config"
    command: str
    args: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Identity(Block):
    """The task's workload identity; with `env`, as NOMAD_TOKEN."""

    keyword = "identity"
    env: bool


@dataclass(frozen=True, kw_only=True)
class ChangeScript(Block):
    """A command that runs inside the task when a template changed."""

    keyword = "change_script"
    command: str
    args: tuple[str, ...]
    timeout: str
    fail_on_error: bool


@dataclass(frozen=True, kw_only=True)
class Template(Block):
    """A file rendered on the host from Nomad's variables. With `env`, its lines become environment variables."""

    keyword = "template"
    destination: str
    env: bool | None = None
    change_mode: str
    splay: str | None = None
    perms: str | None = None
    left_delimiter: str | None = None
    right_delimiter: str | None = None
    data: str
    change_script: ChangeScript | None = None


@dataclass(frozen=True, kw_only=True)
class Resources(Block):
    """CPU share in MHz, memory limit in MiB."""

    keyword = "resources"
    cpu: int
    memory: int


@dataclass(frozen=True, kw_only=True)
class Logs(Block):
    """Nomad's log files of a task; `max_file_size` is in MB."""

    keyword = "logs"
    max_files: int
    max_file_size: int


@dataclass(frozen=True, kw_only=True)
class Lifecycle(Block):
    """When a task runs relative to the group's main task."""

    keyword = "lifecycle"
    hook: str
    sidecar: bool = False


@dataclass(frozen=True, kw_only=True)
class Reschedule(Block):
    """Replacement of a failed allocation: a new one after `delay`, for ever, or none with `attempts` 0."""

    keyword = "reschedule"
    attempts: int | None = None
    delay: str | None = "15s"
    delay_function: str | None = "constant"
    unlimited: bool = True


@dataclass(frozen=True, kw_only=True)
class Update(Block):
    """Replacement of the old version: with `max_parallel` 0 at once and without a Nomad deployment."""

    keyword = "update"
    max_parallel: int = 0


@dataclass(frozen=True, kw_only=True)
class Restart(Block):
    """Restarts on the same node."""

    keyword = "restart"
    attempts: int
    interval: str
    delay: str
    mode: str


@dataclass(frozen=True, kw_only=True)
class Periodic(Block):
    """Schedule of a batch job: cron expressions in UTC."""

    keyword = "periodic"
    crons: tuple[str, ...]
    prohibit_overlap: bool = True


@dataclass(frozen=True, kw_only=True)
class Task(Block):
    """One container, or one program of the raw_exec driver."""

    keyword = "task"
    name: str = label()
    driver: str = "docker"
    user: str | None = None
    kill_timeout: str | None = None
    lifecycle: Lifecycle | None = None
    restart: Restart | None = None
    config: DockerConfig | ExecConfig
    identity: Identity | None = None
    volume_mounts: tuple[VolumeMount, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    templates: tuple[Template, ...] = ()
    resources: Resources
    logs: Logs


@dataclass(frozen=True, kw_only=True)
class Group(Block):
    """Tasks that run together on one node."""

    keyword = "group"
    name: str = label()
    count: int | Raw = 1
    shutdown_delay: str | None = None
    network: Network | None = None
    service: Service | None = None
    volumes: tuple[VolumeRequest, ...] = ()
    restart: Restart
    reschedule: Reschedule | None = None
    update: Update | None = None
    tasks: tuple[Task, ...]


@dataclass(frozen=True, kw_only=True)
class Parameterized(Block):
    """A batch job that runs when it is dispatched."""

    keyword = "parameterized"
    payload: str = "forbidden"
    meta_required: tuple[str, ...] = ()
    meta_optional: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Job(Block):
    """A service job, or a batch job with `type` "batch"."""

    keyword = "job"
    name: str = label()
    namespace: str | None = None
    datacenters: tuple[str, ...]
    node_pool: str | None = None
    region: str | None = None
    type: str = "service"
    priority: int | None = None
    periodic: Periodic | None = None
    parameterized: Parameterized | None = None
    group: Group


@dataclass(frozen=True, kw_only=True)
class Variable(Block):
    """An HCL2 input variable of a job file."""

    keyword = "variable"
    name: str = label()
    type: Raw
    default: Any
    description: str
