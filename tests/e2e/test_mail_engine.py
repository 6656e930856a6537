"""Records of the sender's domain with the real engine and provider: an existing SPF record is never doubled.

The name server answers with the records of the account; no host boots, and no mail is sent.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from policy import digest
from tests.e2e.digitalocean import World
from tests.e2e.environment.api_client import Machines
from tests.e2e.environment.environment import HOSTNAME, Run, Stack, settings, stack
from tests.e2e.environment.tools import missing
from tests.support.mail import LONG_KEY

PROGRAM = """\
import pulumi

from components.edge.dns import Dns, DnsArgs
from components.host.connect import stack_identity
from components.settings.from_pulumi import load

stack, none = pulumi.get_stack(), pulumi.ResourceOptions()
settings = load(pulumi.Config(), stack)
identity = stack_identity("pds-identity", settings, stack, none)
Dns("pds-dns", DnsArgs(settings=settings, ipv4=pulumi.Output.from_input("203.0.113.10"), identity=identity))
"""
FOREIGN = "v=spf1 include:_spf.my-mail.org -all"
MERGED = "v=spf1 include:_spf.my-mail.org include:mailgun.org -all"
DNS: dict[str, Any] = {
    "spf": ["include:mailgun.org"],
    "dkim": {"long": LONG_KEY, "alias": "alias.dkim.my-mail.org"},
    "dmarc": {"policy": "none"},
    "return_path": {"name": "send", "mx": "mx.my-mail.org", "spf": ["include:mailgun.org"]},
}
MAIL: dict[str, Any] = {"preset": "resend", "from": f"pds@{HOSTNAME}", "dns": DNS}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with its zone, before it has mail."""
    if lines := missing("pulumi", "pulumi-language-python"):
        pytest.skip("the engine is not here. " + "; ".join(lines))
    world = World(machines=Machines(), action_seconds=0.2)
    with stack(tmp_path_factory.mktemp("mail"), world, lambda names: settings("localhost/pds:0.4.219", names)) as found:
        (found.project / "__main__.py").write_text(PROGRAM)
        found.pulumi("up", "--yes")
        yield found


def _configure(made: Stack, **dns: Any) -> None:
    made.configure(mail={**MAIL, "dns": {**DNS, **dns}})
    made.pulumi("config", "set", "--secret", "--path", "pds:mail.password", "a test password")


def _said(run: Run) -> str:
    return " ".join(run.output.split())


def _records(made: Stack) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for item in made.api.dump()["records"][HOSTNAME].values():
        found.setdefault((item["type"], item["name"]), []).append(item["data"])
    return found


def test_an_existing_spf_record_is_refused_then_replaced_and_the_stack_s_own_changes(made: Stack) -> None:
    headers = {"Authorization": f"Bearer {made.env['DIGITALOCEAN_TOKEN']}"}
    with httpx.Client(base_url=f"{made.api.url}/v2/domains/{HOSTNAME}", headers=headers, trust_env=False) as client:
        body = {"type": "TXT", "name": "@", "data": FOREIGN, "ttl": 300}
        number = client.post("/records", json=body).raise_for_status().json()["domain_record"]["id"]
        before = _records(made)
        _configure(made)
        for arguments in (("preview",), ("up", "--yes"), ("up", "--yes", "--skip-preview")):
            refused = made.pulumi(*arguments, check=False)
            assert refused.code, refused.output
            assert f"change its text to '{MERGED}'" in _said(refused), refused.output
            assert LONG_KEY not in refused.output, "the sentence alone, without the values of the records"
        preview = made.pulumi("preview", "--json", "--show-sames", check=False).output
        [error] = digest.read_digest(preview, made.name).errors
        assert MERGED in error, "the gate finds it as the one reason of the failed preview"
        assert _records(made) == before, "nothing was touched"
        _configure(made, spf_existing=FOREIGN)
        assert f"which creates '{MERGED}' in its place" in _said(made.pulumi("preview", check=False))
        client.delete(f"/records/{number}").raise_for_status()
    made.pulumi("up", "--yes")
    created = _records(made)
    assert created["TXT", "@"] == [MERGED]
    assert created["TXT", "long._domainkey"] == [LONG_KEY]
    assert created["CNAME", "alias._domainkey"] == ["alias.dkim.my-mail.org"]
    assert created["MX", "send"] == ["mx.my-mail.org"]
    assert made.pulumi("preview", "--expect-no-changes").code == 0
    _configure(made, spf=["include:spf.mtasv.net"], spf_existing=None, dkim={"alias": LONG_KEY})
    made.pulumi("up", "--yes")
    changed = _records(made)
    assert changed["TXT", "@"] == ["v=spf1 include:spf.mtasv.net ~all"], "changed in place, and never two"
    assert changed["TXT", "alias._domainkey"] == [LONG_KEY], "a CNAME became a key"
    assert ("CNAME", "alias._domainkey") not in changed
    made.configure(mail=None)
    made.pulumi("up", "--yes")
    assert _records(made) == {key: values for key, values in before.items() if key != ("TXT", "@")}, "all are removed"
