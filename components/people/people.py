"""The accounts of a PDS: members, removals, invite codes, and accounts that the stack file does not name."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from components.connection import HostConnection
from components.dynamic.resources import AccountRemovals, Invites, UnlistedAccounts
from components.notices import warn_of_unlisted_accounts, warn_unless_done
from components.people.email_confirmation import EmailConfirmation, EmailConfirmationArgs
from components.people.members import Member, MemberArgs
from components.settings.sections.settings import Settings


@dataclass(frozen=True, kw_only=True)
class PeopleArgs:
    """Arguments of `People`."""

    settings: Settings
    stack: str
    host: HostConnection
    ingress_state: pulumi.Input[str]
    """An `IngressState`: whether the PDS can be queried over HTTPS."""
    admin_password: pulumi.Output[str]
    zone: pulumi.Output[str]
    """The zone's name, once the zone exists."""
    dns_wait: int
    """Seconds to wait for a record of ours."""
    ready: pulumi.Resource
    """The check that the PDS serves."""


class People(pulumi.ComponentResource):
    """Members, removals, invite codes and unlisted accounts."""

    members: dict[str, Member]
    """By handle."""
    invites: Invites | None
    email_confirmation: EmailConfirmation | None

    def __init__(self, name: str, args: PeopleArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("pds:index:People", name, None, opts)
        self._server: Mapping[str, pulumi.Input[str]] = {
            "url": f"https://{args.settings.hostname}",
            "ip": args.host.ipv4,
            "ingress_state": args.ingress_state,
            "admin_password": args.admin_password,
        }
        self.members = self._members(name, args)
        self.email_confirmation = self._email_confirmation(name, args)
        self.invites = self._invites(name, args)
        self._unlisted_accounts(name, args)
        self.register_outputs({})

    def _members(self, name: str, args: PeopleArgs) -> dict[str, Member]:
        """Removals come first: they may free a handle or an e-mail address."""
        settings = args.settings
        # It exists without entries, too: entries with which it is created count as applied.
        removals = AccountRemovals(
            f"{name}-removals",
            {**self._server, "takedown": list(settings.takedown), "delete": dict(settings.delete)},
            pulumi.ResourceOptions(parent=self, depends_on=[args.ready]),
        )
        warn_unless_done("Takedown and deletion", removals.state)
        after: list[pulumi.Resource] = [args.ready, removals]
        members: dict[str, Member] = {}
        for options in settings.members:
            # A changed handle is the same member: the account's state has the previous name.
            previous = [pulumi.Alias(name=f"{name}-member-{options.was}")] if options.was else []
            member = Member(
                f"{name}-member-{options.handle}",
                MemberArgs(
                    settings=settings,
                    member=options,
                    server=self._server,
                    ipv4=args.host.ipv4,
                    zone=args.zone,
                    after=after,
                    wait=args.dns_wait,
                ),
                pulumi.ResourceOptions(parent=self, aliases=previous),
            )
            warn_unless_done(f"The account of {options.handle}", member.account_state)
            warn_unless_done(f"The handle {options.handle}", member.handle_state)
            members[options.handle] = member
        return members

    def _email_confirmation(self, name: str, args: PeopleArgs) -> EmailConfirmation | None:
        confirmed = [options for options in args.settings.members if options.email_verified]
        if not confirmed:
            return None
        confirmation = EmailConfirmation(
            f"{name}-email-confirmation",
            EmailConfirmationArgs(
                settings=args.settings,
                stack=args.stack,
                target=args.host.target,
                dids={options.email: self.members[options.handle].did for options in confirmed},
                nomad=args.host.api,
            ),
            pulumi.ResourceOptions(parent=self),
        )
        warn_unless_done("E-mail addresses that count as confirmed", confirmation.state)
        return confirmation

    def _invites(self, name: str, args: PeopleArgs) -> Invites | None:
        options = args.settings.invites
        if not options:
            return None
        invites = Invites(
            f"{name}-invites",
            {**self._server, "count": options.count, "uses": options.uses},
            pulumi.ResourceOptions(parent=self, depends_on=[args.ready]),
        )
        warn_unless_done("Invite codes", invites.state)
        return invites

    def _unlisted_accounts(self, name: str, args: PeopleArgs) -> None:
        settings = args.settings
        open_to_others = settings.invites or not settings.pds.invite_required
        # Caddy serves every hosted handle's name. Behind another ingress a handle needs a DNS record like a member's.
        if not open_to_others or settings.ingress.kind == "caddy":
            return
        unlisted = UnlistedAccounts(
            f"{name}-unlisted-accounts",
            {
                **self._server,
                "dids": [member.did for member in self.members.values()],
                "known": [*(options.handle for options in settings.members), *settings.takedown, *settings.delete],
            },
            pulumi.ResourceOptions(parent=self, depends_on=[args.ready]),
        )
        warn_unless_done("Accounts that the stack file does not name", unlisted.state)
        warn_of_unlisted_accounts(args.stack, unlisted.unlisted)
