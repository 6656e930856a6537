"""The host of a PDS: a droplet of its own, another stack's host, or an existing Nomad."""

from dataclasses import dataclass

import pulumi

from components.connection import HostConnection
from components.dynamic.resources import StackIdentity
from components.host.existing import ExistingNomad, ExistingNomadArgs
from components.host.own import OwnHost, OwnHostArgs
from components.host.shared import SharedHost, SharedHostArgs
from components.render.host.cloud_init import volume_name
from components.settings.checks.pds_env import blob_location
from components.settings.sections.settings import Settings
from components.settings.stack_identity import place


@dataclass(frozen=True, kw_only=True)
class HostArgs:
    """Arguments of `connect_host`; `project` is the project's full name in the engine, ORGANIZATION/NAME."""

    settings: Settings
    stack: str
    project: str
    identity: pulumi.Resource
    """Refuses changes of values that are permanent for a stack, before anything else is examined."""


def connect_host(name: str, args: HostArgs, opts: pulumi.ResourceOptions) -> HostConnection:
    """Create or find the host of this PDS, and return the connection to it."""
    settings, on = args.settings, args.settings.on
    if on is None:
        return OwnHost(name, OwnHostArgs(settings=settings, stack=args.stack, identity=args.identity), opts).connection
    if on.stack:
        shared = SharedHostArgs(
            settings=settings, stack=args.stack, reference=f"{args.project}/{on.stack}", identity=args.identity
        )
        return SharedHost(name, shared, opts).connection
    return ExistingNomad(name, ExistingNomadArgs(settings=settings, on=on, identity=args.identity), opts).connection


def stack_identity(name: str, settings: Settings, stack: str, opts: pulumi.ResourceOptions) -> StackIdentity:
    """The values that must not change in a stack's life. Everything that could lose data waits for it."""
    on = settings.on
    return StackIdentity(
        name,
        {
            "stack": stack,
            "hostname": settings.hostname,
            "on": (on.stack or "") if on else "",
            "place": place(settings),
            "region": "" if on else settings.host.region,
            "volume": "" if on else volume_name(settings, stack),
            "volume_gib": 0 if on else settings.volume.size_gib,
            "adopt": settings.volume.adopt or "",
            "blobs": blob_location(settings),
        },
        opts,
    )
