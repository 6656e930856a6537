"""What operators want beside a serving PDS: backups, metrics, alerts and the job that moves blobs, as requested."""

from dataclasses import dataclass

import pulumi
import pulumi_nomad as nomad

from components.connection import HostConnection
from components.operations.alerts import Alerts, AlertsArgs
from components.operations.backup import Backup, BackupArgs
from components.operations.blobs import BlobBucket, BlobJob, BlobJobArgs
from components.operations.metrics import Metrics, MetricsArgs
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class OperationsArgs:
    """Arguments of `create_operations`. `ready` waits until the PDS serves."""

    settings: Settings
    stack: str
    host: HostConnection
    blobs: BlobBucket | None
    server: nomad.Job
    ready: pulumi.Resource


@dataclass(frozen=True, kw_only=True)
class OperationParts:
    """The parts that have outputs; None for one that the stack file does not ask for."""

    backup: Backup | None = None
    metrics: Metrics | None = None


def create_operations(name: str, args: OperationsArgs, opts: pulumi.ResourceOptions) -> OperationParts:
    """The requested parts. Alerts come last: their job evaluates the rules in the store."""
    settings, stack, target = args.settings, args.stack, args.host.target
    backup = metrics = None
    if settings.backup:
        backup_args = BackupArgs(settings=settings, stack=stack, target=target, server=args.server)
        backup = Backup(f"{name}-backup", backup_args, opts)
    if args.blobs:
        blobs_args = BlobJobArgs(
            settings=settings, stack=stack, target=target, server=args.server, bucket=args.blobs, backup=backup
        )
        BlobJob(f"{name}-blobs-move", blobs_args, opts)
    if settings.metrics_store:
        metrics_args = MetricsArgs(settings=settings, stack=stack, target=target, server=args.server)
        metrics = Metrics(f"{name}-metrics", metrics_args, opts)
    if settings.alerts:
        alerts_args = AlertsArgs(
            settings=settings,
            stack=stack,
            tag=args.host.tag,
            target=target,
            ready=args.ready,
            metrics_password=metrics.password if metrics else None,
        )
        Alerts(f"{name}-alerts", alerts_args, opts)
    return OperationParts(backup=backup, metrics=metrics)
