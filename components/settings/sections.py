"""The sections of a stack file, from the `*_options.py` modules and `placement.py`.

Each option is declared once: name, type, bounds, default and documentation.

A section checks each option on its own; `validation.py` compares options with each other. Sections hold what the stack
file requests, not what is derived from it. A section also states the memory and the processor share of its Nomad jobs.
"""

from components.settings.host_options import DnsOptions, HostOptions, NomadOptions, OperatorsOptions, VolumeOptions
from components.settings.ingress_options import CADDY_ASK_PORT, INGRESS_IMAGES, IngressOptions
from components.settings.mail_options import (
    DmarcOptions,
    MailDnsOptions,
    MailOptions,
    ReturnPathOptions,
)
from components.settings.operations_options import (
    ALERTS_MIB,
    OLDER_BACKUPS_MIB,
    AlertsOptions,
    BackupOptions,
    SlackOptions,
)
from components.settings.pds_options import PdsOptions, S3Options, SecretsOptions
from components.settings.people_options import CONFIRM_EMAIL_MIB, InvitesOptions, MemberOptions
from components.settings.placement import ClubOptions, OnOptions

__all__ = [
    "ALERTS_MIB",
    "CADDY_ASK_PORT",
    "CONFIRM_EMAIL_MIB",
    "INGRESS_IMAGES",
    "OLDER_BACKUPS_MIB",
    "AlertsOptions",
    "BackupOptions",
    "ClubOptions",
    "DmarcOptions",
    "DnsOptions",
    "HostOptions",
    "IngressOptions",
    "InvitesOptions",
    "MailDnsOptions",
    "MailOptions",
    "MemberOptions",
    "NomadOptions",
    "OnOptions",
    "OperatorsOptions",
    "PdsOptions",
    "ReturnPathOptions",
    "S3Options",
    "SecretsOptions",
    "SlackOptions",
    "VolumeOptions",
]
