"""Checks at the DigitalOcean account: does every resource of the state exist, and does the firewall cover the host?

For a cluster the same, with commands that touch no droplet: a refresh would record the volumes that one has just now.
"""

import shlex

from cli.check.subject import CheckVerdict, Subject, failed, passed, skipped
from cli.drift.firewall import firewall_gaps
from cli.drift.missing_resources import missing_resources, refresh
from cli.lib.digitalocean import DigitalOceanAccount
from cli.lib.stack import State


def _account_and_state(subject: Subject) -> tuple[DigitalOceanAccount, State] | str:
    """Return the account and the state, or why they are skipped."""
    if subject.settings and subject.settings.on:
        return "the host is not this stack's"
    if subject.account is None:
        return "there is no DigitalOcean token here: set DIGITALOCEAN_TOKEN"
    if subject.state is None or not subject.state.resources:
        return "no `up` of this stack has completed"
    return subject.account, subject.state


def firewall(subject: Subject) -> CheckVerdict:
    """Check that the firewall covers the droplet, with only the stack's rules."""
    available = _account_and_state(subject)
    if isinstance(available, str):
        return skipped(available)
    account, state = available
    gaps = firewall_gaps(subject.stack, state, account)
    if gaps:
        remedy = f" Run `./pds repair {subject.stack}`. `up` alone does not detect it."
        return failed(" ".join(gap.text for gap in gaps) + (remedy if any(gap.targets for gap in gaps) else ""))
    return passed("it covers the droplet, with the stack's rules")


def things(subject: Subject) -> CheckVerdict:
    """Check that every resource of the state exists in the account, with its alerts as they were applied, and that the
    address leads to the droplet."""
    available = _account_and_state(subject)
    if isinstance(available, str):
        if not (subject.account and subject.state and subject.settings and subject.settings.on):
            return skipped(available)
        available = subject.account, subject.state  # of a club only its records
    account, state = available
    missing = missing_resources(subject.stack, state, account)
    if missing:
        names = "; ".join(f"{item.kind} {item.id} ({item.name}) {item.fault}" for item in missing)
        return failed(f"{names}. Run `./pds repair {subject.stack}`. `up` alone does not detect it.")
    return _all_exist(state)


def _all_exist(state: State) -> CheckVerdict:
    # The API has no buckets; Spaces has keys of its own, which this machine need not have.
    unseen = "; its buckets were not looked at" if state.of("SpacesBucket") else ""
    return passed(f"every resource of the state exists, and every alert is as it was applied{unseen}")


_AT_RUN_TIME = "ReservedIpAssignment"
"""A takeover leads the servers' address to another server than the state has, and another check looks at it."""


def cluster_firewalls(stack: str, state: State, account: DigitalOceanAccount) -> CheckVerdict:
    """Check that the firewalls of servers and workers cover their droplets, with only the stack's rules."""
    gaps = firewall_gaps(stack, state, account)
    targets = list(dict.fromkeys(name for gap in gaps for name in gap.targets))
    if gaps:
        return failed(" ".join(gap.text for gap in gaps) + _refresh(stack, targets))
    return passed("they cover servers and workers, with the stack's rules")


def cluster_resources(stack: str, state: State, account: DigitalOceanAccount) -> CheckVerdict:
    """Check that every resource of the state exists in the account."""
    missing = [item for item in missing_resources(stack, state, account) if item.kind != _AT_RUN_TIME]
    if missing:
        names = "; ".join(f"{item.kind} {item.id} ({item.name}) {item.fault}" for item in missing)
        return failed(f"{names}.{_refresh(stack, [item.name for item in missing])}")
    return _all_exist(state)


def _refresh(stack: str, names: list[str]) -> str:
    if not names:
        return ""
    command = shlex.join(("pulumi", *refresh(names), "--stack", stack))
    return f" Run `{command}`, then `pulumi up --stack {stack}`. `up` alone does not detect it."
