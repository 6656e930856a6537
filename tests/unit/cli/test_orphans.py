"""`./pds orphans` on a test account: resources that are only in the account or only in the state, and what to do."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli import app
from cli.drift import orphans
from cli.drift.orphan import Orphan
from cli.lib import stack as stacks
from cli.lib.digitalocean import DigitalOceanAccount, DigitalOceanError
from components.render.records import mail_records
from offline.stackfile import StackFileError
from tests.e2e.environment.api_client import FIREWALL, TOKEN
from tests.support.leftover_account import ZONE, Owner, owner
from tests.support.mail import ALL_PARTS, RESEND
from tests.support.programs import settings_of


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    with owner(tmp_path, monkeypatch) as operator:
        yield operator


def test_a_stack_whose_state_and_account_agree_has_no_orphans(alice: Owner) -> None:
    report = alice.look()
    assert (report.orphans, report.missing, report.empty) == ([], [], False), "another stack's resources are ignored"


def test_offers_to_adopt_a_volume_that_the_state_lost(alice: Owner) -> None:
    alice.remember("pds-host-data-volume")
    number = alice.made["pds-host-data-volume"][2]
    volume = alice.orphan("volume")
    assert volume.adopt == ("pulumi", "config", "set", "--stack", "dev", "--path", "pds:volume.adopt", number)
    assert volume.blocks, "the name is taken: `up` gets 409"
    assert "25 GiB" in volume.about
    assert "members' data" in volume.about, "the report says what a deletion would lose"
    assert volume.data
    shown = orphans.text("dev", alice.look())
    assert "permanently, with its content" in shown
    alice.configure(volume={"adopt": number})
    volume = alice.orphan("volume")
    assert (volume.adopt, volume.blocks, volume.taken) == ((), False, True), "the stack file adopts it already"


def test_shuts_an_unknown_droplet_down_before_deleting_it(alice: Owner) -> None:
    alice.remember("pds-host-droplet", "pds-host-address")
    droplet = alice.orphan("droplet")
    number = alice.made["pds-host-droplet"][2]
    assert droplet.id == number
    assert droplet.blocks, "the volume is on it: `up` gets 422"
    assert droplet.delete == (
        ("doctl", "compute", "droplet-action", "shutdown", number, "--wait"),
        ("doctl", "compute", "droplet", "delete", number),
    ), "its server may be writing to the volume"
    assert alice.made["pds-host-data-volume"][2] in droplet.about


def test_a_second_droplet_without_the_volume_does_not_block(alice: Owner) -> None:
    number = alice.client.droplet(name="pds-dev", tags=[])["id"]
    droplet = alice.orphan("droplet")
    assert (droplet.id, droplet.blocks) == (str(number), False), "found by its name if it has no tag"


def test_a_second_reserved_ip_may_belong_to_another_project(alice: Owner) -> None:
    ip = alice.new_ip()
    orphan = alice.orphan("reserved-ip")
    assert orphan.id == ip
    assert "may belong to another project" in orphan.about
    assert orphan.adopt == (), "the stack has an address, which members' records point to"
    assert f"host.reserved_ip_adopt' to {ip}" in orphan.about, "an `up` may have forgotten to adopt it"
    assert "needs a new host" in orphan.about
    assert orphan.delete == (("doctl", "compute", "reserved-ip", "delete", ip),)


def test_offers_to_adopt_a_reserved_ip_that_the_records_point_to(alice: Owner) -> None:
    alice.remember("pds-host-network-ip", "pds-host-droplet", "pds-host-address")
    alice.delete("pds-host-droplet")
    ip = alice.made["pds-host-network-ip"][2]
    orphan = alice.orphan("reserved-ip")
    assert f"a record of {ZONE} points to it" in orphan.about
    assert orphan.adopt[-2:] == ("pds:host.reserved_ip_adopt", ip)


def test_deletes_a_second_firewall_of_the_stack(alice: Owner) -> None:
    alice.delete("pds-host-network-firewall")
    made = alice.client.ask("POST", "/firewalls", {**FIREWALL, "name": "pds-dev"}, 202)["firewall"]["id"]
    alice.remember("pds-host-network-firewall")
    firewall = alice.orphan("firewall")
    assert firewall.delete == (("doctl", "compute", "firewall", "delete", made),)
    assert firewall.blocks


def test_reports_a_second_record_of_the_same_name(alice: Owner) -> None:
    number = alice.record("@", "192.0.2.9")
    alice.record("www", "192.0.2.9")
    record = alice.orphan("record")
    assert record.delete == (("doctl", "compute", "domain", "records", "delete", ZONE, number),)
    alice.configure(dns={"provider": "manual"})
    assert alice.look().orphans == [], "with manual DNS the records are the operator's"


def test_lists_mail_records_that_the_state_lost(alice: Owner) -> None:
    """The API accepts each record in the form in which the program creates it."""
    mail = {**RESEND, "dns": ALL_PARTS}
    alice.configure(mail=mail)
    for record in (records := mail_records(settings_of(mail=mail))):
        request = {"type": record.type, "name": record.name, "data": record.value, "ttl": 300}
        request |= {} if record.priority is None else {"priority": record.priority}
        alice.client.ask("POST", f"/domains/{ZONE}/records", request, 201)
    alice.client.ask("POST", f"/domains/{ZONE}/records", {"type": "TXT", "name": "@", "data": "v=spf1 -all"}, 201)
    listed = [item.about for item in alice.look().orphans if item.kind == "record"]
    assert len(listed) == len(records), "the SPF record of another service is not the stack's"
    refused = [about for about in listed if "refuses to create its own in addition" in about]
    assert len(refused) == len([record for record in records if record.sole is not None])


def test_offers_to_use_a_zone_that_the_state_lost(alice: Owner) -> None:
    assert [item.kind for item in alice.look().orphans] == [], "a zone that existed before is not the stack's"
    alice.configure(dns={"create_zone": True})
    zone = alice.orphan("zone")
    assert zone.adopt[-2:] == ("pds:dns.create_zone", "false")
    assert zone.data, "a deletion would remove every name in it"


def test_finds_vpc_project_and_tag_by_name(alice: Owner) -> None:
    alice.configure(host={"vpc_ip_range": "10.77.0.0/24", "project": "club"})
    vpc_body = {"name": "pds-dev", "region": "fra1", "ip_range": "10.77.0.0/24"}
    vpc = alice.client.ask("POST", "/vpcs", vpc_body, 201)["vpc"]["id"]
    project = alice.client.ask("POST", "/projects", {"name": "club", "purpose": "IoT"}, 201)["project"]["id"]
    alice.remember("pds-host-network-tag")
    deletions = {item.kind: item.delete[-1] for item in alice.look().orphans}
    assert deletions == {
        "vpc": ("doctl", "vpcs", "delete", vpc),
        "project": ("doctl", "projects", "delete", project),
        "tag": ("doctl", "compute", "tag", "delete", "pds-dev"),
    }


def test_after_destroy_lists_exactly_the_retained_resources(alice: Owner) -> None:
    alice.configure(dns={"create_zone": True})
    for name in ("pds-host-droplet", "pds-host-network-firewall"):
        alice.delete(name)
    for name in ("pds-dns-a", "pds-dns-wildcard"):
        alice.client.ask("DELETE", f"/domains/{ZONE}/records/{alice.made[name][2]}", status=204)
    alice.client.ask("DELETE", "/tags/pds-dev", status=204)
    alice.forget_all()
    volume, ip = (alice.made[name][2] for name in ("pds-host-data-volume", "pds-host-network-ip"))
    report = alice.look()
    assert {item.id: item.delete for item in report.orphans} == {
        volume: (("doctl", "compute", "volume", "delete", volume),),
        ip: (("doctl", "compute", "reserved-ip", "delete", ip),),
        ZONE: (("doctl", "compute", "domain", "delete", ZONE),),
    }
    assert all(item.adopt for item in report.orphans), "a new stack of that name can adopt each of them"


@pytest.mark.parametrize("name", ["pds-host-network-firewall", "pds-host-droplet"])
def test_reports_resources_of_the_state_that_the_account_lacks(alice: Owner, name: str) -> None:
    alice.delete(name)
    commands = {item.name: item.command for item in alice.look().missing}
    lost = {name, "pds-host-address"} if name == "pds-host-droplet" else {name}
    assert set(commands) == lost, "the assignment is lost with its droplet"
    assert commands[name][-4:] == ("--target", f"**::{name}", "--stack", "dev")
    shown = orphans.text("dev", alice.look())
    assert ("pulumi state delete --stack dev --yes --target-dependents" in shown) == (name == "pds-host-droplet")


def test_reads_every_page_of_a_list(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.lib.digitalocean._PER_PAGE", 2)
    for number in range(5):
        alice.client.ask("POST", "/firewalls", {**FIREWALL, "name": f"another-{number}"}, 202)
    alice.client.ask("DELETE", f"/firewalls/{alice.made['pds-host-network-firewall'][2]}", status=204)
    last = alice.client.ask("POST", "/firewalls", {**FIREWALL, "name": "pds-dev"}, 202)["firewall"]["id"]
    assert alice.orphan("firewall").id == last


def test_changes_nothing(alice: Owner) -> None:
    alice.new_ip()
    before, earlier_requests = alice.client.api.dump(), len(alice.client.api.requests())
    alice.look()
    assert alice.client.api.dump() == before
    assert {item["method"] for item in alice.client.api.requests()[earlier_requests:]} == {"GET"}
    assert alice.pulumi.ran == []


def test_reports_a_refused_token_and_an_api_that_does_not_answer(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(DigitalOceanError, match=r"refuses the token \(401\)"),
        DigitalOceanAccount("wrong", alice.client.api.url) as bad,
    ):
        orphans.find_orphans(alice.stack, bad)
    with pytest.raises(DigitalOceanError, match="DIGITALOCEAN_TOKEN"):
        DigitalOceanAccount(None)
    with (
        pytest.raises(DigitalOceanError, match="does not answer"),
        DigitalOceanAccount(TOKEN, "http://127.0.0.1:1") as silent,
    ):
        orphans.find_orphans(alice.stack, silent)
    monkeypatch.setattr("cli.lib.digitalocean._PATIENCE", 0.2)
    alice.client.api.fail("GET", "/v2/droplets", "hang")
    with pytest.raises(DigitalOceanError, match="ReadTimeout"):
        alice.look()
    alice.client.api.fail("GET", "/v2/droplets", "500", nth=1)
    with pytest.raises(DigitalOceanError, match="answered 500 to droplets"):
        alice.look()


def test_waits_for_the_rate_limit_as_long_as_the_api_says(alice: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    clock = SimpleNamespace(time=time.time, monotonic=lambda: sum(pauses), sleep=pauses.append)
    monkeypatch.setattr("cli.lib.digitalocean.time", clock)
    expected = alice.look()
    alice.client.api.fail("GET", "/v2/droplets", "429")
    assert alice.look() == expected
    assert pauses == [1], "the header Retry-After of the double"
    monkeypatch.setattr("cli.lib.digitalocean._RATE_PATIENCE", 2.0)
    for nth in range(1, 4):
        alice.client.api.fail("GET", "/v2/droplets", "429", nth=nth)
    with pytest.raises(DigitalOceanError, match="answered 429 to droplets"):
        alice.look()


def test_reads_a_stack_file_without_decrypting_its_values(alice: Owner) -> None:
    encrypted = {"secure": "v1:abc"}
    mail = {"host": "smtp.noted.at", "user": "pds", "password": encrypted, "from": "pds@noted.at"}
    alice.configure(secrets={"plc_rotation_key": encrypted, "nomad_management_token": encrypted}, mail=mail)
    assert alice.look().orphans == []


def test_lists_the_stack_files_if_the_stack_has_none(alice: Owner) -> None:
    (alice.pulumi.root / "Pulumi.dev.yaml").rename(alice.pulumi.root / "Pulumi.club.yaml")
    with pytest.raises(StackFileError, match=r"Pulumi\.club\.yaml"):
        alice.look()


def test_command_exits_with_1_if_it_finds_orphans_and_with_2_on_an_error(
    alice: Owner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cli.commands.orphans.Stack", lambda name: stacks.Stack(name, alice.pulumi.root))
    monkeypatch.setenv("DIGITALOCEAN_API_URL", alice.client.api.url)
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", TOKEN)
    assert app.main(["orphans", "dev"]) == 0
    assert "agree" in capsys.readouterr().out
    ip = alice.new_ip()
    assert app.main(["orphans", "dev"]) == 1
    assert f"doctl compute reserved-ip delete {ip}" in capsys.readouterr().out
    assert app.main(["orphans", "dev", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert Orphan(**{**report["orphans"][0], "delete": (), "adopt": ()}).id == ip, "the JSON has the same fields"
    monkeypatch.delenv("DIGITALOCEAN_TOKEN")
    monkeypatch.delenv("DIGITALOCEAN_ACCESS_TOKEN", raising=False)
    assert app.main(["orphans", "dev"]) == 2
    assert "DIGITALOCEAN_TOKEN" in capsys.readouterr().err
    alice.pulumi.config(digitalocean__token=TOKEN)
    assert app.main(["orphans", "dev"]) == 1, "the token may also be in the stack's configuration"


def test_prints_no_secret_of_the_state(alice: Owner) -> None:
    alice.pulumi.state(
        ("pds-host-data-volume", "digitalocean:index/volume:Volume", "gone", {"userData": {"ciphertext": "v1:abc"}})
    )
    report = alice.look()
    assert "ciphertext" not in report.json() + orphans.text("dev", report), "the report has no values of the state"
