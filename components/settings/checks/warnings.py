"""Warnings about accepted values that are probably harmful or mistaken, shown at each preview and `up`."""

from collections.abc import Callable, Iterator

from components.settings.checks.endpoints import SPACES_REGION, same_bucket
from components.settings.checks.handles import wildcards
from components.settings.checks.pds_env import TELEMETRY_SINCE, has_telemetry, unchecked_names
from components.settings.fields.types import is_at_or_below
from components.settings.sections import ClusterOptions
from components.settings.sections.mail_presets import BLOCKED_SMTP_PORTS, USUAL_TLS
from components.settings.sections.settings import Settings

SHORT_SECRET = 16
"""Shorter adopted secrets cause a warning. The server itself has no minimum."""

_PAIRS = (("app_view_url", "app_view_did"), ("report_service_url", "report_service_did"))
"""Options of `pds` that describe one service together: its address, and the audience of the server's tokens."""


def warnings(settings: Settings) -> Iterator[str]:
    """All warnings about a stack file, each with a remedy."""
    for check in (_cluster,) if settings.cluster else _CHECKS:
        yield from check(settings)


def _cluster(settings: Settings) -> Iterator[str]:
    cluster = settings.cluster
    assert cluster
    if cluster.servers.count == 1:
        yield (
            "pds:cluster.servers.count: with one Nomad server, no job is placed and no host is moved while it is down. "
            "After its loss, follow docs/guide/cluster.md. PDSes keep serving. Write 3 to survive the loss of one."
        )
    yield from _takeover(cluster)
    if cluster.snapshots is None:
        yield (
            "pds:cluster.snapshots: NO SNAPSHOTS. If all servers are lost, every secret in Nomad's variables is lost "
            "with them, and each host and club has to be set up in an empty Nomad. Add 'cluster.snapshots'."
        )
    elif not cluster.snapshots.ping_url:
        yield (
            "pds:cluster.snapshots.ping_url: without it there is no alert if the snapshots fail. Add the ping URL of a "
            "dead man's switch, for example a check of healthchecks.io."
        )
    if cluster.escrow == "pending":
        yield (
            "pds:cluster.escrow: NO ESCROW YET. Nomad's CA key and management token, and the snapshots' password, "
            "are only in this stack's state. Run `./pds escrow STACK`, store the file safely, then run "
            "`pulumi config set --path cluster.escrow made`."
        )


def _takeover(cluster: ClusterOptions) -> Iterator[str]:
    takeover = cluster.takeover
    if takeover is None:
        yield "pds:cluster.takeover: without it, a host that is down stays down until you run `./pds repair`."
        return
    if not takeover.notify_url:
        yield (
            "pds:cluster.takeover.notify_url: without it the takeover's questions are only in the log of its job. Add "
            "a webhook, for example Slack's."
        )
    if not takeover.ping_url:
        yield (
            "pds:cluster.takeover.ping_url: without it there is no alert if the takeover does not run, or cannot look "
            "at the hosts. Add the ping URL of a dead man's switch, for example a check of healthchecks.io."
        )


def _mail(settings: Settings) -> Iterator[str]:
    mail = settings.mail
    if mail is None:
        yield (
            "pds:mail: without a mail relay members receive no password resets and no token to move away. "
            "Add 'mail'; until then `./pds email-token` shows the tokens."
        )
        return
    if mail.port in BLOCKED_SMTP_PORTS:
        yield (
            f"pds:mail.port: DigitalOcean blocks {mail.port}; mail will not leave the droplet. "
            "Write the relay's other port: 2465 (implicit TLS), 2525 or 2587 (STARTTLS)."
        )
    if mail.port in USUAL_TLS and mail.tls != USUAL_TLS[mail.port]:
        usual = USUAL_TLS[mail.port]
        yield f"pds:mail.tls: relays speak {usual} TLS on {mail.port}. Write 'tls: {usual}' if yours does."


def _mail_reports(settings: Settings) -> Iterator[str]:
    """Another domain has to agree to reports about this one (RFC 7489, section 7.1)."""
    mail = settings.mail
    if mail is None or mail.dns is None or mail.dns.dmarc is None:
        return
    sender = mail.sender_domain
    for domain in dict.fromkeys(address.rpartition("@")[2].lower() for address in mail.dns.dmarc.reports):
        if not is_at_or_below(domain, sender) and not is_at_or_below(sender, domain):
            yield (
                f"pds:mail.dns.dmarc.reports: receivers send no reports to {domain} unless it has the TXT record "
                f"{sender}._report._dmarc.{domain} with the text 'v=DMARC1'. `./pds check` looks for it."
            )


def _alerts(settings: Settings) -> Iterator[str]:
    alerts = settings.alerts
    if alerts and alerts.ping_url and not alerts.email and not alerts.slack:
        yield (
            "pds:alerts: without 'email' or 'slack' there is no alert if the PDS does not answer, its certificate "
            "expires, or the droplet's own disk is full: the job that pings 'ping_url' looks at none of these. Add "
            "'email' or 'slack'."
        )
    if settings.alerts and not settings.alerts.ping_url:
        yield (
            "pds:alerts.ping_url: without it there is no alert for a full volume, too many accounts, or backups that "
            "fail: DigitalOcean monitors none of them. Add the ping URL of a dead man's switch, for example a check of "
            "healthchecks.io."
        )
    if settings.backup and not settings.alerts:
        yield "pds:alerts: no alert reports a failed backup or drill. Add 'alerts', with a 'ping_url'."


def _paused(settings: Settings) -> Iterator[str]:
    if settings.pds.paused:
        unseen = ", and no alert reports that the PDS does not answer" if settings.alerts else ""
        yield (
            f"pds:pds.paused: the server is stopped{unseen}. Members can neither read nor post. If no restore or move "
            "is under way, remove 'paused' and run `pulumi up`."
        )


def _metrics(settings: Settings) -> Iterator[str]:
    if settings.metrics and settings.metrics.server and not has_telemetry(settings):
        first = ".".join(map(str, TELEMETRY_SINCE))
        yield (
            f"pds:metrics: package {settings.pds.package_version} has no metrics of its own, so the dashboard has none "
            f"of the server. {first} is the first that has them: `./pds upgrade`."
        )
    if settings.metrics_store and not (settings.alerts and settings.alerts.ping_url):
        yield (
            "pds:alerts.ping_url: without it no alert rule of 'metrics' sends a message, and only the dashboard shows "
            "what is wrong. Add the ping URL of a dead man's switch."
        )


def _s3(settings: Settings) -> Iterator[str]:
    # In tests/contract/test_blobs_in_a_bucket.py, 2 of 8 uploads of 1 MiB timed out, and one was reset. None of 48 KiB.
    section = "s3" if settings.s3 else "blobs"
    if (settings.s3 or settings.blobs) and settings.pds.line == "0.4":
        yield (
            f"pds:{section}: servers of packages 0.4 lose some uploads of more than 64 KiB to a bucket. They time "
            "out. Upgrade the server: `./pds upgrade`."
        )


def _backup(settings: Settings) -> Iterator[str]:
    if settings.backup is None:
        yield "pds:backup: NO BACKUP. Losing the volume loses every member's posts. Add 'backup'."
    elif settings.backup.volume:
        yield (
            f"pds:backup.volume: the disk {settings.backup.volume} is in or attached to the droplet, and can be lost "
            "with it. A bucket in another region survives."
        )
    elif settings.on is None and (same := same_region(settings, settings.host.region)):
        yield same
    if settings.backup and settings.s3:
        yield (
            "pds:backup: blobs are in the bucket of 's3', and no backup of this program copies them. Backups cover the "
            "bucket of 'blobs'."
        )
    if bucket := same_bucket(settings):
        yield (
            f"pds:backup.bucket: {bucket} is the bucket of 's3', too. Losing it would lose blobs and backups "
            "together. Write another bucket."
        )


def same_region(settings: Settings, droplet: str | None) -> str | None:
    """A warning if the bucket is in the droplet's region. The regions of other S3 services cannot be compared."""
    backup = settings.backup
    if backup is None or backup.endpoint or backup.volume or (region := backup.region or SPACES_REGION) != droplet:
        return None
    return (
        f"pds:backup.region: {region} is the droplet's region too, and one failure can affect both. Write another "
        "Spaces region."
    )


def _club_quotas(settings: Settings) -> Iterator[str]:
    granted = sum(club.disk_gib for club in settings.clubs.values())
    if granted > settings.volume.size_gib:
        yield (
            f"pds:clubs: their 'disk_gib' are {granted} GiB together, and the volume has {settings.volume.size_gib}. "
            "It may be full before a club reaches its limit. Lower them, or raise 'volume.size_gib'."
        )


def _unchecked_names(settings: Settings) -> Iterator[str]:
    for name, option in unchecked_names(settings):
        yield f"pds:pds.{option}.{name}: a library of the server reads it; neither name nor value is checked."


def _incomplete_pairs(settings: Settings) -> Iterator[str]:
    configured = settings.pds.model_fields_set
    for option, partner in (*_PAIRS, *(reversed(pair) for pair in _PAIRS)):
        if option in configured and partner not in configured:
            yield (
                f"pds:pds.{partner}: it is still {getattr(settings.pds, partner)}, and '{option}' is another "
                "service's. Write both, or the server makes tokens for the one and sends them to the other."
            )


def _short_secrets(settings: Settings) -> Iterator[str]:
    for key, secret in (
        ("secrets.jwt_secret", settings.secrets.jwt_secret),
        ("secrets.admin_password", settings.secrets.admin_password),
        ("backup.password", settings.backup.password if settings.backup else None),
    ):
        if secret and len(secret.get_secret_value()) < SHORT_SECRET:
            yield (
                f"pds:{key}: it is shorter than {SHORT_SECRET} characters and can be guessed. The program uses it "
                "unchanged, because it is in use already."
            )


def _handles_without_address(settings: Settings) -> Iterator[str]:
    for domain, record in wildcards(settings).items():
        if record is None:
            yield (
                f"pds:service_handle_domains: {domain} is not in the zone {settings.zone}, so no record is created "
                f"there. Create 'A *{domain}' with this stack's address, or handles under it have no address."
            )
    if not settings.dns.wildcard and (settings.invites or not settings.pds.invite_required):
        yield (
            "pds:dns.wildcard: without it, a handle that is created with an invite has no address. Members of the "
            "stack file have records of their own."
        )


def _escrow(settings: Settings) -> Iterator[str]:
    if settings.pds.escrow == "pending":
        yield (
            "pds:pds.escrow: NO ESCROW YET. The rotation key exists only in this stack's state. Losing it "
            "loses every identity on this server. Run `./pds escrow STACK`, store the file safely, then run "
            "`pulumi config set --path pds.escrow made`."
        )


def _unpinned_image(settings: Settings) -> Iterator[str]:
    if settings.ingress_is_ours and settings.ingress.kind == "io":
        image = settings.ingress.container_image
        if "@sha256:" not in image:
            yield (
                f"pds:ingress.image: {image} is not pinned. `docker buildx imagetools inspect {image}` prints its "
                "digest."
            )


def _empty_volume(settings: Settings) -> Iterator[str]:
    if settings.pds.new:
        yield "pds:pds.new: an empty volume is accepted. Remove it after the first `up`. Removing it restarts nothing."


_CHECKS: tuple[Callable[[Settings], Iterator[str]], ...] = (
    _mail,
    _mail_reports,
    _alerts,
    _paused,
    _backup,
    _club_quotas,
    _metrics,
    _s3,
    _unchecked_names,
    _incomplete_pairs,
    _short_secrets,
    _handles_without_address,
    _escrow,
    _unpinned_image,
    _empty_volume,
)
