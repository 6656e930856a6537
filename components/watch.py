"""Alerts for operators: DigitalOcean's uptime check and monitoring, and a job for what these do not cover.

DigitalOcean sends to `alerts.email` and `alerts.slack`. It accepts only e-mail addresses of verified members of the
account and answers others with "invalid email". A job on the host (`render/watch_job.py`) reports volume and accounts
to `alerts.ping_url`. Not here: the server's health, which `Ready` checks, and restarts, which Nomad does.
"""

from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean
import pulumi_nomad as nomad

from components.render.watch_job import PING_PATH
from components.settings.sections import Alerts
from components.settings.settings import Settings
from components.target import PATIENCE, NomadTarget

_REGIONS = ("eu_west", "us_east")

# Kind, threshold, comparison, duration. Milliseconds for `latency`, days for `ssl_expiry` (digitalocean/openapi,
# uptime/create_alert.yml). Down means down in every region: trouble of one region is no reason for an alarm. The API
# has no threshold for it, but its console writes 'less than 1'; without one the provider would send '' and 0.
_UPTIME = {
    "down": ("down_global", 1, "less_than", "2m"),
    "slow": ("latency", 5000, "greater_than", "5m"),
    # Certificates of 90 days, and of 45, are renewed when a third of that is left: a week means that renewal failed.
    "certificate": ("ssl_expiry", 7, "less_than", "1h"),
}

# Type, percent, duration. The disk is the droplet's own, with Docker's images and the logs.
_MONITORS = {
    "cpu": ("v1/insights/droplet/cpu", 90, "30m"),
    "memory": ("v1/insights/droplet/memory_utilization_percent", 90, "10m"),
    "disk": ("v1/insights/droplet/disk_utilization_percent", 80, "10m"),
}


@dataclass(frozen=True, kw_only=True)
class WatchArgs:
    """Arguments of `Watch`. `jobspec` is the job that pings; `ready` says that the PDS serves, or when it will."""

    settings: Settings
    alerts: Alerts
    stack: str
    jobspec: str
    tag: pulumi.Output[str] | None
    target: NomadTarget
    ready: pulumi.Resource


class Watch(pulumi.ComponentResource):
    """Alerts about a PDS. Created last: a PDS that is still being created is not down."""

    def __init__(self, name: str, args: WatchArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Watch", name, None, opts)
        child = pulumi.ResourceOptions(parent=self, depends_on=[args.ready])
        if args.alerts.email or args.alerts.slack:
            _uptime(name, args, child)
            if args.tag is not None:  # the host's own stack monitors the droplet
                _monitors(name, args, args.tag, child)
        if args.alerts.ping_url:
            ping = nomad.Variable(
                f"{name}-ping",
                namespace=args.target.namespace,
                path=PING_PATH,
                items={"PING_URL": pulumi.Output.secret(args.alerts.ping_url.get_secret_value())},
                opts=args.target.options(self),
            )
            nomad.Job(
                f"{name}-job",
                jobspec=args.jobspec,
                purge_on_destroy=True,
                opts=args.target.options(self, depends_on=[ping, args.ready], custom_timeouts=PATIENCE),
            )
        self.register_outputs({})


def _uptime(name: str, args: WatchArgs, child: pulumi.ResourceOptions) -> None:
    check = digitalocean.UptimeCheck(
        f"{name}-uptime",
        name=f"pds-{args.stack}",
        type="https",
        target=f"https://{args.settings.hostname}/xrpc/_health",
        regions=list(_REGIONS),
        enabled=not args.settings.pds.paused,
        opts=child,
    )
    slack = args.alerts.slack
    for role, (kind, threshold, comparison, period) in _UPTIME.items():
        digitalocean.UptimeAlert(
            f"{name}-{role}",
            name=f"pds-{args.stack} {role}",
            check_id=check.id,
            type=kind,
            threshold=threshold,
            comparison=comparison,
            period=period,
            notifications=[
                digitalocean.UptimeAlertNotificationArgs(
                    emails=list(args.alerts.email) or None,
                    slacks=[
                        digitalocean.UptimeAlertNotificationSlackArgs(
                            channel=slack.channel, url=pulumi.Output.secret(slack.url.get_secret_value())
                        )
                    ]
                    if slack
                    else None,
                )
            ],
            opts=child,
        )


def _monitors(name: str, args: WatchArgs, tag: pulumi.Output[str], child: pulumi.ResourceOptions) -> None:
    slack = args.alerts.slack
    for role, (kind, percent, window) in _MONITORS.items():
        digitalocean.MonitorAlert(
            f"{name}-{role}",
            description=f"pds-{args.stack} {role} above {percent} %",
            type=kind,
            compare="GreaterThan",
            value=percent,
            window=window,
            tags=[tag],  # not the droplet's ID: a rebuilt host is monitored without a change
            alerts=digitalocean.MonitorAlertAlertsArgs(
                emails=list(args.alerts.email) or None,
                slacks=[
                    digitalocean.MonitorAlertAlertsSlackArgs(
                        channel=slack.channel, url=pulumi.Output.secret(slack.url.get_secret_value())
                    )
                ]
                if slack
                else None,
            ),
            opts=child,
        )
