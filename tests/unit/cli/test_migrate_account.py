"""Rules of a migration: rotation keys, handles, exports, waits.

`tests/contract/test_migrate_account.py` moves accounts.
"""

import base64
import errno
import json
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from cli import app
from cli.lib.stack import Stack, StackError
from cli.migrate.accounts import old_server, source_url
from cli.migrate.car import Exported
from cli.migrate.copying import each, fetched_export, memory_for, refuse_size
from cli.migrate.directory import Identity, cid_of_operation
from cli.migrate.identity import identity_change
from cli.migrate.state import MigrationError, progress_file
from cli.migrate.target import MigrationRequest, Target, choose_handle
from cli.migrate.xrpc import AccountClient, CallRefusedError, NoAnswerError, RateLimitError, TooLargeError
from components.clients import pds_admin
from components.clients.errors import ServiceError
from offline.stackfile import StackFileError
from tests.support.certificates import Authority, server_context
from tests.support.programs import settings_of
from tests.support.serving import LOOPBACK, served

DID = "did:plc:zs5i5kcyh3bsifkz55qhe62w"
OLD_SERVER = {"rotationKeys": ["did:key:old-recovery", "did:key:old"]}
NEW_SERVER = {
    "rotationKeys": ["did:key:new"],
    "alsoKnownAs": ["at://ann.noted.at"],
    "verificationMethods": {"atproto": "did:key:signing"},
    "services": {"atproto_pds": {"type": "AtprotoPersonalDataServer", "endpoint": "https://noted.at"}},
}


def _identity(*keys: str, **more: Any) -> Identity:
    data = {
        "rotationKeys": list(keys),
        "alsoKnownAs": ["at://ann.bsky.test", "https://ann.example"],
        "verificationMethods": {"atproto": "did:key:before", "atproto_label": "did:key:labels"},
        "services": {
            "atproto_pds": {"type": "AtprotoPersonalDataServer", "endpoint": "https://bsky.test"},
            "atproto_labeler": {"type": "AtprotoLabeler", "endpoint": "https://labels.example"},
        },
    }
    return Identity(data={**data, **more}, cid="bafy")


def test_the_member_s_keys_stay_first_and_in_order_and_only_the_old_server_s_are_removed() -> None:
    identity = _identity("did:key:hers", "did:key:old-recovery", "did:key:second", "did:key:old")
    change = identity_change(identity, OLD_SERVER, NEW_SERVER)
    assert change.content["rotationKeys"] == ["did:key:hers", "did:key:second", "did:key:new"]
    assert (change.kept, change.removed) == (
        ("did:key:hers", "did:key:second"),
        ("did:key:old-recovery", "did:key:old"),
    )


def test_services_methods_and_aliases_of_others_stay() -> None:
    content = identity_change(_identity("did:key:old"), OLD_SERVER, NEW_SERVER).content
    assert content["services"]["atproto_labeler"]["endpoint"] == "https://labels.example"
    assert content["services"]["atproto_pds"]["endpoint"] == "https://noted.at"
    assert content["verificationMethods"] == {"atproto": "did:key:signing", "atproto_label": "did:key:labels"}
    assert content["alsoKnownAs"] == ["at://ann.noted.at", "https://ann.example"]


def test_more_rotation_keys_than_the_directory_accepts_are_refused_and_none_is_dropped() -> None:
    keys = [f"did:key:{number}" for number in range(5)]
    with pytest.raises(MigrationError, match="would have 6 rotation keys, and the directory accepts 5"):
        identity_change(_identity(*keys, "did:key:old"), OLD_SERVER, NEW_SERVER)


@pytest.mark.parametrize(
    ("present", "new_handle", "chosen"),
    [
        ("ann.bsky.test", "", "ann.noted.at"),
        ("ann.her-domain.org", "", "ann.her-domain.org"),
        ("ann.bsky.test", "annie.noted.at", "annie.noted.at"),
        ("ann.bsky.test", "@Ann.Her-Domain.org", "ann.her-domain.org"),
        ("ann.of.bsky.test", "", "ann-of.noted.at"),
    ],
)
def test_a_handle_of_the_old_server_stays_there_and_an_own_domain_moves(
    present: str, new_handle: str, chosen: str
) -> None:
    request = MigrationRequest(handle=present, source="https://bsky.test", new_handle=new_handle)
    assert choose_handle(request, present, (".bsky.test",), settings_of()) == chosen


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("http://bsky.test", "unencrypted"),
        ("https://noted.at", "is the PDS of stack club itself"),
        ("https://bsky.test/xrpc", "is not the URL of a server"),
    ],
)
def test_refuses_a_source_before_a_password_is_asked_for(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match=message):
        source_url(source, _target(tmp_path))
    assert source_url("bsky.test", _target(tmp_path)) == "https://bsky.test"


def _target(root: Path) -> Target:
    admin = pds_admin.Server("https://noted.at", "127.0.0.1", "secret")
    return Target(stack="club", settings=settings_of(), admin=admin, plc_url="http://localhost:1", root=root)


def test_the_directory_and_the_key_past_rate_limits_are_those_of_the_running_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Pulumi.club.yaml").write_text(
        "config:\n  pds:hostname: noted.at\n  pds:operators: {cidrs: [203.0.113.7/32], ssh_keys: [laptop]}\n"
    )
    env = "PDS_DID_PLC_URL='https://plc.example'\nPDS_RATE_LIMIT_BYPASS_KEY='5f5f'\n"
    outputs = {"url": "https://noted.at", "ipv4": "203.0.113.9", "admin_password": "secret", "pds_env": env}
    monkeypatch.setattr(Stack, "outputs", lambda _self: outputs)
    target = Target.of(Stack("club", tmp_path))
    assert (target.plc_url, target.bypass, target.public_url) == ("https://plc.example", "5f5f", "https://noted.at")
    assert (target.admin.url, target.admin.address) == ("https://noted.at", "203.0.113.9")
    del outputs["pds_env"]
    with pytest.raises(StackError, match="pulumi up"):
        Target.of(Stack("club", tmp_path))


def test_an_import_that_the_server_has_no_memory_for_is_refused() -> None:
    export = Exported(DID, "rev", "data", blocks=66_000, size=15_000_000)
    with pytest.raises(MigrationError, match=r"Set 'pds.memory_mib: \d+'"):
        refuse_size(export, settings_of(pds={"memory_mib": 512}))
    refuse_size(export, settings_of(pds={"memory_mib": memory_for(66_000)}, host={"size": "s-4vcpu-8gb"}))
    refuse_size(Exported(DID, "rev", "data", blocks=300, size=15_000_000), settings_of())
    with pytest.raises(MigrationError, match="allows 10,000"):
        refuse_size(Exported(DID, "rev", "data", blocks=300, size=10_001), settings_of(pds={"max_import_size": 10_000}))


def test_an_address_that_another_member_has_is_refused_before_the_account_is_created(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.club.yaml").write_text(
        "config:\n  pds:hostname: noted.at\n  pds:operators: {cidrs: [203.0.113.7/32], ssh_keys: [laptop]}\n"
        "  pds:members:\n    - handle: fan.noted.at\n      email: fan@club.org\n"
    )
    target = _target(tmp_path)
    assert target.member_edit("fan.noted.at", "fan@club.org") is None, "the file names them already"
    with pytest.raises(StackFileError, match=r"members\[1\]\.email"):
        target.member_edit("ann.noted.at", "FAN@club.org")


def test_the_cid_of_an_operation_is_the_directory_s() -> None:
    operation = {
        "sig": "7EmDY0JgYGfwfR0QKBOmO5uZ6GPWmRw8W2b8ZNeZIRVRgl3H508Nwlu1aEo76lQnkYRj0_JCRP7P3v6j6tl-0A",
        "prev": None,
        "type": "plc_operation",
    }
    changed = cid_of_operation({**operation, "prev": "bafy"})
    assert cid_of_operation(dict(reversed(operation.items()))) == cid_of_operation(operation) != changed


class _Clock:
    def __init__(self) -> None:
        self.now, self.slept = 1_900_000_000.0, [0.0]

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds
        self.slept.append(seconds)


def _client(monkeypatch: pytest.MonkeyPatch, answers: list[httpx.Response | Exception]) -> tuple[AccountClient, _Clock]:
    clock, said = _Clock(), list[str]()
    client = AccountClient("https://bsky.test", clock=clock, say=said.append)

    def handle(_request: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(client, "_http", httpx.Client(base_url=client.url, transport=httpx.MockTransport(handle)))
    return client, clock


DATE = "Wed, 01 Jul 2026 12:00:00 GMT"
MOMENT = 1_782_907_200


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"RateLimit-Reset": str(MOMENT + 60), "Date": DATE}, 61.0),
        ({"RateLimit-Reset": "45"}, 45.0),
        ({"Retry-After": "30", "RateLimit-Reset": str(MOMENT + 60), "Date": DATE}, 30.0),
        ({"Retry-After": "Wed, 01 Jul 2026 12:01:10 GMT", "Date": DATE}, 70.0),
        ({}, 10.0),
    ],
)
def test_waits_as_long_as_the_server_asks_by_its_own_clock(
    headers: dict[str, str], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, clock = _client(monkeypatch, [httpx.Response(429, headers=headers), httpx.Response(200, json={"a": 1})])
    assert client.query("com.atproto.sync.getBlob") == {"a": 1}
    assert max(clock.slept) == seconds


def test_waits_after_the_last_allowed_call_without_being_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    last = {"RateLimit-Remaining": "0", "RateLimit-Reset": "20"}
    client, clock = _client(monkeypatch, [httpx.Response(200, json={}, headers=last), httpx.Response(200, json={})])
    client.query("com.atproto.sync.getBlob")
    assert sum(clock.slept) == 0, "the first call needs no wait"
    client.query("com.atproto.sync.getBlob")
    assert sum(clock.slept) == 20


def test_refusals_without_an_end_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    client, clock = _client(monkeypatch, [httpx.Response(429, headers={"Retry-After": "0"}) for _ in range(2000)])
    with pytest.raises(RateLimitError):
        client.query("com.atproto.sync.getBlob")
    assert set(clock.slept) == {0.0, 1.0}, "and not without a pause"


def test_repeats_a_broken_call_and_says_whether_it_reached_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    client, clock = _client(
        monkeypatch, [httpx.ConnectError("refused"), httpx.Response(502), httpx.Response(200, json=[])]
    )
    assert client.query("com.atproto.sync.getBlob") == []
    assert clock.slept == [0.0, 1.0, 2.0]
    client, _ = _client(monkeypatch, [httpx.ConnectError("refused")] * 5)
    with pytest.raises(NoAnswerError, match="after 5 attempts") as error:
        client.query("com.atproto.sync.getBlob")
    assert not error.value.reached
    client, _ = _client(monkeypatch, [httpx.ReadError("reset")])
    with pytest.raises(NoAnswerError) as once:
        client.procedure("com.atproto.identity.submitPlcOperation", {}, attempts=1)
    assert once.value.reached, "it may have had its effect"


def test_a_download_ends_at_its_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    client, _ = _client(monkeypatch, [httpx.Response(200, content=bytes(2000))])
    with (tmp_path / "blob").open("w+b") as file, pytest.raises(TooLargeError):
        client.download("com.atproto.sync.getBlob", file, limit=1999)


def test_the_stack_s_pds_may_have_a_certificate_of_an_authority_that_the_system_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for all other commands, which use Python's own TLS context."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    authority = Authority()
    (tmp_path / "ca.pem").write_text(authority.pem)
    with served(Handler, tls=server_context(authority.issue("noted.test"), tmp_path)) as port:
        url = f"https://noted.test:{port}"
        with pytest.raises(NoAnswerError):
            AccountClient(url, address=LOOPBACK, clock=_Clock()).query("com.atproto.server.describeServer")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        client = AccountClient(url, address=LOOPBACK, clock=_Clock())
        assert client.query("com.atproto.server.describeServer") == {}


def test_a_refused_call_has_the_server_s_words(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"error": "InvalidToken", "message": "Token is invalid"}
    client, _ = _client(monkeypatch, [httpx.Response(400, json=body)])
    with pytest.raises(CallRefusedError, match=r"bsky\.test refuses com\.atproto\.x: Token is invalid") as refusal:
        client.query("com.atproto.x")
    assert refusal.value.error == "InvalidToken"


def _session_for(client: AccountClient, audience: str) -> dict[str, str]:
    claims = base64.urlsafe_b64encode(json.dumps({"aud": audience}).encode()).decode().rstrip("=")
    client.use({"accessJwt": f"head.{claims}.sign", "refreshJwt": "refresh"})
    return {"did": DID, "handle": "ann.bsky.test"}


@pytest.mark.parametrize(
    ("server", "audience", "sent"),
    [
        ("https://data.bsky.test", "did:web:data.bsky.test", True),
        ("https://elsewhere.test", "did:web:bsky.test", False),
        ("http://data.bsky.test", "did:web:data.bsky.test", False),
    ],
)
def test_the_session_is_sent_only_to_the_server_that_it_is_for(
    server: str, audience: str, sent: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An account may have left the server of the login long ago: the identity names any server."""
    client, _ = _client(monkeypatch, [])
    session = _session_for(client, audience)
    other, _ = _client(monkeypatch, [httpx.Response(200, json={"did": DID})])
    asked: list[str] = []

    def connect(url: str) -> AccountClient:
        asked.append(url)
        return other

    services = {"services": {"atproto_pds": {"type": "AtprotoPersonalDataServer", "endpoint": server}}}
    identity = _identity("did:key:old", **services)
    if sent:
        assert old_server(client, session, identity, _target(tmp_path), "", connect).client is other
    else:
        with pytest.raises(MigrationError, match=f"which does not belong to bsky.test. Write --from {server}"):
            old_server(client, session, identity, _target(tmp_path), "", connect)
    assert asked == [server] * sent


def test_the_first_error_of_several_transfers_ends_the_others() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 2:
            raise ServiceError("no")
        return number

    with pytest.raises(ServiceError, match="no"):
        list(each(range(100), work, workers=1))
    assert sorted(each(range(50), lambda number: number)) == list(range(50))


def test_an_export_that_the_operator_s_disk_has_no_room_for_is_a_sentence(tmp_path: Path) -> None:
    class Full:
        host, did = "bsky.test", DID

        def export(self, path: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with pytest.raises(MigrationError, match=r"export\.car cannot be written: No space left on device"):
        fetched_export(Full(), tmp_path / "export.car", lambda _line: None)  # type: ignore[arg-type]


def test_two_runs_for_one_account_exclude_each_other_and_a_torn_file_is_no_fault(tmp_path: Path) -> None:
    with progress_file(tmp_path, "club", DID) as file:
        file.update(handle="ann.noted.at", token_requested=time.time())
        with pytest.raises(MigrationError, match="Another"), progress_file(tmp_path, "club", DID):
            pass
    with progress_file(tmp_path, "club", DID) as file:
        assert file.progress.handle == "ann.noted.at"
        [path] = tmp_path.rglob("progress.json")
        assert path.stat().st_mode & 0o777 == 0o600
        path.write_text(json.dumps({"did": DID})[:-3])
    with progress_file(tmp_path, "club", DID) as file:
        assert file.progress.handle == ""


def test_no_password_or_token_is_an_argument() -> None:
    options = {option for item in app.group().commands["migrate-account"].params for option in item.opts}
    assert options == {"stack", "handle", "--from", "--new-handle", "--email"}
    result = CliRunner().invoke(app.group(), ["migrate-account", "dev", "ann.bsky.test"])
    assert "Missing option '--from'" in result.output
