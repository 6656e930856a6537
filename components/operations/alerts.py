"""Alerts for operators: DigitalOcean's uptime check and monitoring, and a job for what these do not cover.

DigitalOcean sends to `alerts.email` and `alerts.slack`. It accepts only e-mail addresses of verified members of the
account and answers others with "invalid email". A job on the host (`render/jobs/alerts.py`) reports volume and accounts
to `alerts.ping_url`. `ServerReady` checks the server's health, and Nomad restarts it.
"""

from dataclasses import dataclass

import pulumi
import pulumi_digitalocean as digitalocean
import pulumi_nomad as nomad

from components.nomad_target import JOB_TIMEOUTS, NomadTarget
from components.render.jobs.alerts import PING_PATH, alerts_job
from components.settings.sections import AlertsOptions
from components.settings.sections.settings import Settings

_REGIONS = ("eu_west", "us_east")

# Kind, threshold, comparison, duration. Milliseconds for `latency`, days for `ssl_expiry` (digitalocean/openapi,
# uptime/create_alert.yml). Down means down in every region: a fault of one region is not a reason for an alarm. The API
# has no threshold for it, but its console writes 'less than 1'. Without one the provider would send '' and 0.
_UPTIME = {
    "down": ("down_global", 1, "less_than", "2m"),
    "slow": ("latency", 5000, "greater_than", "5m"),
    # Certificates of 90 and of 45 days are renewed when a third of the time is left. With a week left, renewal failed.
    "certificate": ("ssl_expiry", 7, "less_than", "1h"),
}

# Type, percent, duration. The disk is the droplet's own, with Docker's images and the logs.
_MONITORS = {
    "cpu": ("v1/insights/droplet/cpu", 90, "30m"),
    "memory": ("v1/insights/droplet/memory_utilization_percent", 90, "10m"),
    "disk": ("v1/insights/droplet/disk_utilization_percent", 80, "10m"),
}


@dataclass(frozen=True, kw_only=True)
class AlertsArgs:
    """Arguments of `Alerts`. `ready` waits until the PDS serves."""

    settings: Settings
    stack: str
    tag: pulumi.Output[str] | None
    target: NomadTarget
    ready: pulumi.Resource
    metrics_password: pulumi.Output[str] | None = None
    """Opens the metrics store, in which the job evaluates the alert rules; None if the host has none."""


class Alerts(pulumi.ComponentResource):
    """Alerts about a PDS. Created last, because a PDS that is still being created is not down."""

    def __init__(self, name: str, args: AlertsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:Alerts", name, None, opts)
        child = pulumi.ResourceOptions(parent=self, depends_on=[args.ready])
        alerts = args.settings.alerts
        assert alerts
        if alerts.email or alerts.slack:
            _uptime(name, args, alerts, child)
            if args.tag is not None:  # the host's own stack monitors the droplet
                _monitors(name, args, alerts, args.tag, child)
        if alerts.ping_url:
            items = {"PING_URL": pulumi.Output.secret(alerts.ping_url.get_secret_value())}
            if args.metrics_password is not None:
                items["METRICS_PASSWORD"] = args.metrics_password
            ping = nomad.Variable(
                f"{name}-ping",
                namespace=args.target.namespace,
                path=PING_PATH,
                items=items,
                opts=args.target.options(self),
            )
            nomad.Job(
                f"{name}-job",
                jobspec=alerts_job(args.settings, args.stack),
                purge_on_destroy=True,
                opts=args.target.options(self, depends_on=[ping, args.ready], custom_timeouts=JOB_TIMEOUTS),
            )
        self.register_outputs({})


def _uptime(name: str, args: AlertsArgs, alerts: AlertsOptions, child: pulumi.ResourceOptions) -> None:
    check = digitalocean.UptimeCheck(
        f"{name}-uptime",
        name=f"pds-{args.stack}",
        type="https",
        target=f"https://{args.settings.hostname}/xrpc/_health",
        regions=list(_REGIONS),
        enabled=not args.settings.pds.paused,
        opts=child,
    )
    slack = alerts.slack
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
                    emails=list(alerts.email) or None,
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


def _monitors(
    name: str, args: AlertsArgs, alerts: AlertsOptions, tag: pulumi.Output[str], child: pulumi.ResourceOptions
) -> None:
    slack = alerts.slack
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
                emails=list(alerts.email) or None,
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
