"""Checks at the DigitalOcean account: does every resource of the state exist, and does the firewall cover the host?"""

from tools.account import Account
from tools.check.subject import Subject, Verdict, good, skipped, todo
from tools.firewall import holes
from tools.missing import missing
from tools.stack import State


def _asked(subject: Subject) -> tuple[Account, State] | str:
    """Return the account and the state, or why they are skipped."""
    if subject.settings and subject.settings.on:
        return "the host is not this stack's"
    if subject.account is None:
        return "there is no DigitalOcean token here: set DIGITALOCEAN_TOKEN"
    if subject.state is None or not subject.state.resources:
        return "no `up` of this stack has come to its end"
    return subject.account, subject.state


def firewall(subject: Subject) -> Verdict:
    """Check that the firewall covers the droplet, with only the stack's rules."""
    asked = _asked(subject)
    if isinstance(asked, str):
        return skipped(asked)
    account, state = asked
    found = holes(subject.stack, state, account)
    if found:
        mends = f" `./pds rescue {subject.stack}` mends it; a plain `up` does not see it."
        return todo(" ".join(hole.text for hole in found) + (mends if any(hole.targets for hole in found) else ""))
    return good("it covers the droplet, with the stack's rules")


def things(subject: Subject) -> Verdict:
    """Check that every resource of the state exists in the account, and that the address leads to the droplet."""
    asked = _asked(subject)
    if isinstance(asked, str):
        if not (subject.account and subject.state and subject.settings and subject.settings.on):
            return skipped(asked)
        asked = subject.account, subject.state  # of a club only its records
    account, state = asked
    gone = missing(subject.stack, state, account)
    if gone:
        names = "; ".join(f"{item.kind} {item.id} ({item.name}) is not there" for item in gone)
        return todo(f"{names}. `./pds rescue {subject.stack}` makes it again; a plain `up` does not see it.")
    return good("everything that the state names is there")
