"""Options of accounts: members and invite codes."""

from collections.abc import Sequence
from typing import Self

from components.settings.fields.job_demand import SMALL_MHZ, JobDemand
from components.settings.fields.option import Section, option
from components.settings.fields.types import DidKey, Email, Handle

CONFIRM_EMAIL_MIB = 128
"""Memory limit of the job that marks addresses as confirmed, in MiB. It briefly runs beside the others."""


class MemberOptions(Section):
    """The account of one member. It belongs to the member: the program creates it once, and writes handle or e-mail
    address only if they change here."""

    handle: Handle = option(
        doc="Handle: under a service handle domain, or a domain of the member's own.", example="ann.my-club.org"
    )
    email: Email = option(doc="E-mail address. Two members cannot share one.", example="ann@my-club.org")
    was: Handle | None = option(
        None, doc="Previous handle, to change it to `handle`. Remove it after the `up`.", example="an.my-club.org"
    )
    recovery_key: DidKey | None = option(
        None, doc="The member's public key, first among the rotation keys. Used only when the account is created."
    )
    email_verified: bool = option(False, doc="Treat the address as confirmed, if no mail can be sent to confirm it.")
    reserved: bool = option(False, doc="Allow a handle that the server reserves, such as 'info'.")

    @classmethod
    def total_demand(cls, entries: Sequence[Self]) -> JobDemand:
        """One job confirms the addresses of all members."""
        if any(member.email_verified for member in entries):
            return JobDemand(memory_mib=CONFIRM_EMAIL_MIB, mhz=SMALL_MHZ)
        return JobDemand()


class InvitesOptions(Section):
    """Invite codes for people who are not in the stack file."""

    count: int = option(ge=1, le=100, example=5, doc="Number of codes. Raising it adds codes; lowering revokes none.")
    uses: int = option(1, ge=1, le=100, doc="Number of accounts that each additional code can create.")
