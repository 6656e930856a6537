"""The sections of a stack file, one module each.

Each option is declared once: name, type, bounds, default and documentation.

A section checks each option on its own; `validation.py` compares options with each other. Sections hold what the stack
file requests, not what is derived from it. A section also states the memory and the processor share of its Nomad jobs.
"""

from components.settings.sections.blobs import BLOBS_MIB, BlobsOptions
from components.settings.sections.cluster import ClusterHostOptions, ClusterOptions, SnapshotsOptions, TakeoverOptions
from components.settings.sections.host import (
    NOMAD_PORT,
    DnsOptions,
    HostOptions,
    NomadOptions,
    OperatorsOptions,
    VolumeOptions,
)
from components.settings.sections.ingress import CADDY_ASK_PORT, INGRESS_IMAGES, IngressOptions
from components.settings.sections.mail import (
    DmarcOptions,
    MailDnsOptions,
    MailOptions,
    ReturnPathOptions,
)
from components.settings.sections.metrics import (
    HOST_PORT,
    SERVER_PORT,
    STORE_GIB,
    STORE_PORT,
    MetricsOptions,
    OtlpOptions,
)
from components.settings.sections.operations import (
    ALERTS_MIB,
    OLDER_BACKUPS_MIB,
    AlertsOptions,
    BackupOptions,
    SlackOptions,
)
from components.settings.sections.pds import UNREFERENCED_BLOBS_MIB, PdsOptions, S3Options, SecretsOptions
from components.settings.sections.people import CONFIRM_EMAIL_MIB, InvitesOptions, MemberOptions
from components.settings.sections.placement import ClubOptions, OnOptions

__all__ = [
    "ALERTS_MIB",
    "BLOBS_MIB",
    "CADDY_ASK_PORT",
    "CONFIRM_EMAIL_MIB",
    "HOST_PORT",
    "INGRESS_IMAGES",
    "NOMAD_PORT",
    "OLDER_BACKUPS_MIB",
    "SERVER_PORT",
    "STORE_GIB",
    "STORE_PORT",
    "UNREFERENCED_BLOBS_MIB",
    "AlertsOptions",
    "BackupOptions",
    "BlobsOptions",
    "ClubOptions",
    "ClusterHostOptions",
    "ClusterOptions",
    "DmarcOptions",
    "DnsOptions",
    "HostOptions",
    "IngressOptions",
    "InvitesOptions",
    "MailDnsOptions",
    "MailOptions",
    "MemberOptions",
    "MetricsOptions",
    "NomadOptions",
    "OnOptions",
    "OperatorsOptions",
    "OtlpOptions",
    "PdsOptions",
    "ReturnPathOptions",
    "S3Options",
    "SecretsOptions",
    "SlackOptions",
    "SnapshotsOptions",
    "TakeoverOptions",
    "VolumeOptions",
]
