"""What must not change in the dynamic providers: their pickles, operations, versions, inputs and secret outputs.

`test_nomad_providers.py` runs those that query Nomad.
"""

import ast
import base64
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from pulumi.dynamic import ResourceProvider

from components import dynamic
from components.dynamic.accounts import (
    NOT_QUERIED,
    AccountProvider,
    AccountRemovalsProvider,
    HandleProvider,
    InvitesProvider,
    PdsProvider,
    UnlistedAccountsProvider,
)
from components.dynamic.cluster import ClusterAccountProvider
from components.dynamic.dns import DnsReadyProvider, SoleRecordsProvider
from components.dynamic.identity import StackIdentityProvider
from components.dynamic.nomad import (
    BootstrapProvider,
    ClubNamespaceProvider,
    HostInUseProvider,
    NomadJobRunProvider,
    NomadRequirementsProvider,
    PlacedHostsProvider,
)
from components.dynamic.server import ServerReadyProvider
from components.settings.ingress_state import IngressState
from offline.mock_engine import Evaluation, Recorded
from tests.support.mail import ALL_PARTS, RESEND
from tests.support.programs import CLUBS, EXISTING, cluster, run

FROZEN = {
    "pds-host-nomad-bootstrap": "gASVLwAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMEUJvb3RzdHJhcFByb3ZpZGVylJOUKYGULg==",
    "pds-dns-ready": "gASVLgAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMEERuc1JlYWR5UHJvdmlkZXKUk5QpgZQu",
    "pds-server-ready": "gASVMQAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SME1NlcnZlclJlYWR5UHJvdmlkZXKUk5QpgZQu",
    "pds-people-member-kexpfan.noted.at-account": (
        "gASVLQAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMD0FjY291bnRQcm92aWRlcpSTlCmBlC4="
    ),
    "pds-people-member-kexpfan.noted.at-handle": (
        "gASVLAAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMDkhhbmRsZVByb3ZpZGVylJOUKYGULg=="
    ),
    "pds-people-removals": ("gASVNQAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMF0FjY291bnRSZW1vdmFsc1Byb3ZpZGVylJOUKYGULg=="),
    "pds-people-invites": ("gASVLQAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMD0ludml0ZXNQcm92aWRlcpSTlCmBlC4="),
    "pds-people-unlisted-accounts": (
        "gASVNgAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMGFVubGlzdGVkQWNjb3VudHNQcm92aWRlcpSTlCmBlC4="
    ),
    "pds-host-requirements": "gASVNwAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMGU5vbWFkUmVxdWlyZW1lbnRzUHJvdmlkZXKUk5QpgZQu",
    "pds-host-clubs-chess-namespace": (
        "gASVMwAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMFUNsdWJOYW1lc3BhY2VQcm92aWRlcpSTlCmBlC4="
    ),
    "pds-people-email-confirmation-run": (
        "gASVMQAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SME05vbWFkSm9iUnVuUHJvdmlkZXKUk5QpgZQu"
    ),
    "pds-identity": "gASVMwAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMFVN0YWNrSWRlbnRpdHlQcm92aWRlcpSTlCmBlC4=",
    "pds-host-in-use": "gASVLwAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMEUhvc3RJblVzZVByb3ZpZGVylJOUKYGULg==",
    "pds-cluster-placed": "gASVMQAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SME1BsYWNlZEhvc3RzUHJvdmlkZXKUk5QpgZQu",
    "pds-cluster-account": "gASVNAAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SMFkNsdXN0ZXJBY2NvdW50UHJvdmlkZXKUk5QpgZQu",
    "pds-dns-sole-records": "gASVMQAAAAAAAACMEmNvbXBvbmVudHMuZHluYW1pY5SME1NvbGVSZWNvcmRzUHJvdmlkZXKUk5QpgZQu",
}
"""The providers in the state of live stacks. Never edit a line: if one fails, make its provider load again."""
PROVIDERS = (
    BootstrapProvider,
    DnsReadyProvider,
    ServerReadyProvider,
    AccountProvider,
    HandleProvider,
    AccountRemovalsProvider,
    InvitesProvider,
    UnlistedAccountsProvider,
    NomadRequirementsProvider,
    ClubNamespaceProvider,
    NomadJobRunProvider,
    StackIdentityProvider,
    HostInUseProvider,
    PlacedHostsProvider,
    ClusterAccountProvider,
    SoleRecordsProvider,
)


# Frozen properties.


@pytest.fixture(scope="module")
def one(club: Evaluation) -> Callable[[str], Recorded]:
    """A dynamic resource by name, from a stack that has it."""
    stacks = (club, run(**CLUBS), run(**EXISTING), run(mail={**RESEND, "dns": ALL_PARTS}), cluster())

    def found(name: str) -> Recorded:
        return next(item for stack in stacks for item in stack.resources if item.name == name)

    return found


def _named(provider: str) -> bytes:
    """A pickle without its protocol, which is Python's default: 4, and 5 from 3.14 on. Each Python reads both."""
    content = base64.b64decode(provider)
    assert content[:1] == pickle.PROTO
    return content[2:]


@pytest.mark.parametrize("name", FROZEN)
def test_providers_of_live_stacks_still_load(name: str, one: Callable[[str], Recorded]) -> None:
    provider = pickle.loads(base64.b64decode(FROZEN[name]))  # noqa: S301 (the line above)
    assert isinstance(provider, ResourceProvider), "refresh and destroy of every live stack load this"
    assert _named(one(name).inputs["__provider"]) == _named(FROZEN[name]), "module and class names must never change"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_provider_defines_every_operation(provider: type[ResourceProvider]) -> None:
    for operation in ("create", "diff", "read", "update", "delete"):
        method = inspect.getmodule(getattr(provider, operation))
        assert method
        assert method.__name__.startswith("components.dynamic."), (
            f"the SDK's own {operation} drops outputs or never sees drift"
        )


def test_every_dynamic_resource_has_its_version_as_an_input(one: Callable[[str], Recorded]) -> None:
    for name in FROZEN:
        assert one(name).inputs["version"] == "1", (
            "raise it with a change of behaviour: changed code alone is not a diff"
        )


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("pds-host-nomad-bootstrap", {"ca_pem", "cert_pem", "key_pem", "token"}),
        ("pds-server-ready", {"ca_pem", "cert_pem", "key_pem", "token", "management_token", "secrets_digest"}),
        ("pds-identity", set()),
        ("pds-host-in-use", {"ca_pem", "cert_pem", "key_pem", "token"}),
        ("pds-dns-ready", set()),
        ("pds-dns-sole-records", set()),
        (
            "pds-people-member-kexpfan.noted.at-account",
            {"admin_password", "password", "initial_password", "email", "live_email", "applied_email"},
        ),
        ("pds-people-member-kexpfan.noted.at-handle", {"admin_password"}),
        ("pds-people-removals", {"admin_password"}),
        ("pds-people-invites", {"admin_password", "codes"}),
        ("pds-people-unlisted-accounts", {"admin_password"}),
        ("pds-host-requirements", {"ca_pem", "cert_pem", "key_pem", "token"}),
        ("pds-host-clubs-chess-namespace", {"ca_pem", "cert_pem", "key_pem", "token"}),
        ("pds-people-email-confirmation-run", {"ca_pem", "cert_pem", "key_pem", "token", "addresses"}),
    ],
)
def test_outputs_of_dynamic_resources_are_secret_as_listed(
    name: str, secret: set[str], one: Callable[[str], Recorded]
) -> None:
    assert set(one(name).options.get("additionalSecretOutputs", [])) == secret, (
        "the host process of dynamic providers returns inputs without their secret marks"
    )


def test_provider_gets_every_input_that_it_reads(one: Callable[[str], Recorded]) -> None:
    folder = Path(dynamic.__file__).parent
    tree = ast.Module([node for path in folder.glob("*.py") for node in ast.parse(path.read_text()).body], [])
    api = {"address", "ca_pem", "cert_pem", "key_pem", "token"}
    pds = {"url", "ip", "admin_password", "ingress_state"}
    classes = {item.name: item for item in tree.body if isinstance(item, ast.ClassDef)}
    for name, provider in zip(FROZEN, PROVIDERS, strict=True):
        node = classes[provider.__name__]
        read = {
            item.slice.value
            for base in provider.__mro__
            if base.__name__ in classes
            for item in ast.walk(classes[base.__name__])
            if isinstance(item, ast.Subscript) and isinstance(item.slice, ast.Constant)
            if ast.unparse(item.value) in ("news", "props", "_props")
        }
        assert read, f"{provider.__name__} reads something"
        read |= api if "nomad_api" in ast.unparse(node) else set()
        read |= pds if "PdsProvider" in ast.unparse(node) else set()
        missing = read - one(name).inputs.keys() - {"did"}
        assert missing == set(), f"{name} lacks inputs that its provider reads"


@pytest.mark.parametrize("state", NOT_QUERIED)
@pytest.mark.parametrize(
    "name", [name for name, provider in zip(FROZEN, PROVIDERS, strict=True) if issubclass(provider, PdsProvider)]
)
def test_work_on_a_pds_that_is_not_reachable_is_pending(
    name: str, state: IngressState, one: Callable[[str], Recorded]
) -> None:
    provider = pickle.loads(base64.b64decode(FROZEN[name]))  # noqa: S301 (the table above)
    created = provider.create({**one(name).inputs, "ingress_state": state})
    assert created.outs["state"] == f"pending: {NOT_QUERIED[state]}"
