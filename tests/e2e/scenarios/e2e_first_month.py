"""The first month of a PDS, as the guide has it: `pytest tests/e2e/scenarios/e2e_first_month.py -x`, as root.

Blobs in a bucket, uploads without a record, logs, metrics, mail, and a member who brings an account, with the real
engine, Nomad, Docker, PDSes, restic and VictoriaMetrics. Each command is typed as on the page (`reader.py`);
`ELSEWHERE` lists the others, with their tests. One scenario, whose tests build on each other.

An S3 service stands in for Spaces (`buckets.py`), and servers of the tests for a mail relay, bsky.social, an OTLP
service and a dead man's switch (`month.py`). The droplet is a folder: it has no systemd, so no page of the host's
metrics, and ssh's way to the dashboard is a stand-in (`unix_tunnel.py`).
"""

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.contract.club import cid_of, founded
from tests.contract.migration import NEW_PASSWORD, PREFERENCES, member
from tests.contract.two_servers import PASSWORD
from tests.e2e.environment.environment import HOSTNAME, PROGRAMS, ROOT
from tests.e2e.environment.month import ANOTHER, BUCKET, COPIES, OTLP, Month, first_month
from tests.e2e.environment.other_servers import OLD_HOST
from tests.e2e.environment.reader import options
from tests.e2e.environment.tools import E2eError, missing
from tests.e2e.images.build import metrics_image
from tests.support.mail import KEY
from tests.support.s3 import ask, buckets_of
from tools.trial.xrpc import Client

BLOBS, MONITORING = "docs/guide/blobs.md", "docs/guide/monitoring.md"
MAIL, MIGRATE, MEMBERS = "docs/guide/mail.md", "docs/guide/migrate.md", "docs/guide/members.md"
SECTIONS: dict[str, tuple[str, ...]] = {
    BLOBS: (),
    MONITORING: (),
    MAIL: (),
    MIGRATE: (),
    MEMBERS: ("Members with an account elsewhere",),
}
ELSEWHERE = {
    "./pds check": "with its stack, below",
    "./pds dashboard": "with its stack",
    "./pds ssh": "with its stack",
    "./pds usage": "with its stack",
    "./pds repair": "e2e_kill.py, e2e_up.py",
    "./pds restore": "e2e_restore.py; tests/contract/test_blobs_backed_up.py, with blobs in a bucket",
    "./pds restore main --only DID": "e2e_restore.py",
    "pulumi config set --path 'alerts.email[0]' you@my-club.org --stack main": "e2e_alerts.py",
    "./pds logs main --task caddy --lines 20": "e2e_ingress.py; this e2e environment has IO's stand-in",
    "./pds traffic main": "e2e_ingress.py",
    "./pds traffic main --status 5xx --path /xrpc/com.atproto.repo": "e2e_ingress.py",
    "./pds traffic main --client 203.0.113.7 --no-follow --lines 10000": "e2e_ingress.py",
    "./pds traffic HOST --host CLUB-HOSTNAME": "tests/unit/cli/test_traffic.py",
    "./pds nomad main -- alloc stop ALLOC": "e2e_ingress.py",
    "./pds ssh main": "tests/unit/cli/test_ssh.py; a droplet of this e2e environment has no sshd",
    "./pds ssh main -- journalctl -u nomad -n 50": "tests/unit/cli/test_ssh.py",
    "./pds ssh main --allow-ip": "tests/unit/cli/test_ssh.py",
    "./pds ssh main -- rm -r /srv/nomad/metrics/data": "a droplet of this e2e environment is a folder",
    "./pds allow-ip": "e2e_pages.py",
}
CHECK_MAIL = "./pds check main --mail ann@her-domain.org"
ANN, ANN_MAIL = f"ann.{HOSTNAME}", "ann@her-domain.org"
_PATIENCE = 300.0
_MEMBERS = 2


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Month]:
    if lines := missing(*PROGRAMS, "go", "restic", "victoria-metrics", "busybox"):
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with first_month(tmp_path_factory.mktemp("bench"), cache) as made:
        yield made


def test_up_makes_bucket_and_key_and_uploads_land_in_the_bucket(month: Month) -> None:
    types = month.reader.types
    section = options(BLOBS, "pds:blobs: ", {})["blobs"]
    month.e2e_env.configure(blobs={**section, "region": "ams3"})
    types(BLOBS, "pulumi up")
    month.e2e_env.configure(pds={"new": False})
    types(BLOBS, "pulumi up --stack main")
    keys = {key["name"]: key["grants"] for key in month.e2e_env.api.dump()["spaces_keys"].values()}
    assert keys["pds-main-blobs"] == [{"bucket": BUCKET, "permission": "readwrite"}]
    month.club = founded(month.e2e_env.health_url(), HOSTNAME, members=_MEMBERS, posts=1, mail=f"{HOSTNAME}.com")
    assert len(month.objects(BUCKET, "blocks/")) == _MEMBERS
    assert not month.on_disk()
    month.served()
    types(BLOBS, "pulumi up --stack main")  # the warnings name new accounts
    month.no_changes()


def test_backup_and_drill_cover_the_bucket(month: Month) -> None:
    month.reader.types(MONITORING, "./pds backup main")
    assert len(month.objects(COPIES, f"{HOSTNAME}-blobs/blocks/")) == _MEMBERS
    assert "0 faults" in month.reader.types(MONITORING, "./pds drill main").output


def test_blobs_move_to_the_disk_and_to_another_bucket(month: Month) -> None:
    types = month.reader.types
    assert "Moved." in types(BLOBS, "./pds blobs main --to disk").output
    assert len(month.on_disk()) == _MEMBERS
    month.served()
    [urn] = re.findall(r"urn:\S+::pds-blobs-bucket(?!\S)", month.e2e_env.pulumi("stack", "--show-urns").output)
    unprotect = "pulumi state unprotect --stack main 'URN of pds-blobs-bucket'"
    types(BLOBS, unprotect, means=unprotect.replace("URN of pds-blobs-bucket", urn))
    types(BLOBS, "pulumi config set --path blobs.bucket another-name --stack main")
    types(BLOBS, "pulumi up --stack main")
    types(BLOBS, "./pds blobs main --to bucket")
    assert {BUCKET, ANOTHER} <= buckets_of(month.service.url).keys(), "the old one stays"
    month.served()
    types(BLOBS, "./pds blobs main --forget-old")
    assert not month.on_disk()
    month.no_changes()


def test_a_blob_that_the_bucket_lost_comes_back_from_the_backups(month: Month) -> None:
    lost, *_ = month.objects(ANOTHER, "blocks/")
    ask("DELETE", f"{month.service.url}/{ANOTHER}/{quote(lost)}")  # as signed
    month.reader.types(BLOBS, "./pds blobs main --repair")
    assert lost in month.objects(ANOTHER, "blocks/")
    month.served()
    assert f"blobs are served from the bucket {ANOTHER}" in month.reader.types(BLOBS, "./pds blobs main").output
    assert month.checked(BLOBS, "./pds check main")["account"].startswith("ok"), "the keys of both buckets exist"


def test_usage_and_the_removal_of_unreferenced_blobs_run(month: Month) -> None:
    types = month.reader.types
    types(MONITORING, "pulumi config set --path pds.unreferenced_blob_days 30 --stack main")
    types(MONITORING, "pulumi up")
    assert month.club
    month.club = month.club.at(month.e2e_env.health_url())
    writer = month.club.members[0]
    cid = writer.client.upload_blob([b"never named"], 11)["ref"]["$link"]
    assert " accounts " in types(MONITORING, "./pds usage main").output
    assert cid in types(MONITORING, "./pds usage main --blobs").output
    types(MONITORING, "./pds nomad main -- job periodic force pds-unreferenced-blobs")
    status = month.data / ".run-status/unreferenced-blobs.json"
    until(lambda: status.exists() and "good" in json.loads(status.read_text()), "the run of the removal")
    assert "removed 0 " in types(MONITORING, "./pds logs main --task unreferenced-blobs").output
    assert len(month.objects(ANOTHER, "tmp/")) == 1, "it is younger than 30 days"
    listed = types(MONITORING, "./pds list").output
    assert re.search(r"^main .* serving ", listed, re.M)
    assert "1 uploads that no record names take " in listed, "as the run counted them"


def test_logs_show_the_server_and_follow_a_task(month: Month) -> None:
    assert '"level":' in month.reader.types(MONITORING, "./pds logs main").output, "the server's lines"
    assert month.reader.types(MONITORING, "./pds logs main --task snapshot").output
    with month.reader.starts(MONITORING, "./pds logs main --task snapshot --follow") as process:
        assert process.stdout
        assert process.stdout.readline()


def test_metrics_are_stored_shown_sent_and_evaluated(month: Month) -> None:
    types = month.reader.types
    types(MONITORING, "pulumi config set --path metrics.store true --stack main")
    image = metrics_image(month.e2e_env.folder / "metrics", month.e2e_env.docker_host)
    month.e2e_env.configure(metrics={"image": image})
    endpoint = "pulumi config set --path metrics.otlp.endpoint https://otlp.example.net/v1/metrics --stack main"
    types(MONITORING, endpoint, means=endpoint.replace(OTLP, f"{OTLP}:{month.otlp[0]}"))
    header = "pulumi config set --secret --path metrics.otlp.headers.Authorization --stack main"
    types(MONITORING, header, says="Bearer of-the-stack\n")
    ping_url = f"https://{month.address}:{month.switch[0]}/of-the-stack\n"
    types(MONITORING, "pulumi config set --secret --path alerts.ping_url --stack main", says=ping_url)
    types(MONITORING, "pulumi up --stack main")
    dashboard = "./pds dashboard main"
    with (
        socket.create_server((str(month.e2e_env.outputs()["ipv4"]), 22)),
        month.reader.starts(MONITORING, dashboard, means=f"{dashboard} --port 0") as process,
    ):
        assert process.stdout
        url = next(line for line in process.stdout if "The dashboard: " in line).split()[2].partition("/vmui")[0]
        until(lambda: "pds" in up(url), "an answer of the server's metrics")
        assert httpx.get(f"{url}/vmui/custom-dashboards", trust_env=False).json()["dashboardsSettings"]
        print("targets that answer:", sorted(up(url)))
        requests = query(url, "sum(http_server_request_duration_count)")
        assert float(requests[0]["value"][1]) > 0
    types(MONITORING, "./pds logs main --task metrics")
    path, authorization, text = month.otlp[1].get(timeout=_PATIENCE)
    assert (path, authorization) == ("/v1/metrics", "Bearer of-the-stack")
    assert HOSTNAME in text
    month.e2e_env.pds("nomad", "--", "job", "periodic", "force", "pds-alerts")
    until(lambda: is_rule_s(month.switch[1].get(timeout=_PATIENCE)), "the alert of a rule")


def test_mail_reaches_the_relay_and_its_records_are_checked(month: Month) -> None:
    types, made = month.reader.types, month.e2e_env
    types(MAIL, "pulumi config set --path mail.preset resend --stack main")
    sender = "pulumi config set --path mail.from pds@my-club.org --stack main"
    types(MAIL, sender, means=sender.replace("my-club.org", HOSTNAME))
    types(MAIL, "pulumi config set --secret --path mail.password --stack main", says="re_123\n")
    # The record that the return path includes is in the zone too: no public name server is queried.
    examples = {"p=MIGfMA0GCSq…": KEY, "include:amazonses.com": f"include:_spf.{HOSTNAME}", "my-club.org": HOSTNAME}
    made.configure(**options(MAIL, "pds:mail:", examples))
    record = {"type": "TXT", "name": "_spf", "data": "v=spf1 ip4:203.0.113.0/24 -all", "ttl": 300}
    headers = {"Authorization": f"Bearer {made.env['DIGITALOCEAN_TOKEN']}"}
    zone = f"{made.api.url}/v2/domains/{HOSTNAME}/records"
    httpx.post(zone, json=record, headers=headers, trust_env=False).raise_for_status()
    types(MONITORING, "pulumi up --stack main")
    assert "resend._domainkey" in types(MAIL, "pulumi stack output records").output
    checked = month.checked(MAIL, CHECK_MAIL)
    for name in ("mail", "SPF", "DKIM", "DMARC"):
        assert checked[name].startswith("ok"), checked[name]
    assert "'250 2.0.0 Ok: queued as 1'" in checked["mail"], "no account has the address: from the container"
    [message] = month.relay.taken
    assert (message.sender, message.recipients) == (f"pds@{HOSTNAME}", (ANN_MAIL,))
    month.no_changes()


def test_a_member_brings_an_account_from_another_server(month: Month) -> None:
    types, made, side = month.reader.types, month.e2e_env, month.old.side
    did = member(side, "ann", email=ANN_MAIL)
    records = side.records(did)
    for command in ("pulumi up", "./pds backup main"):
        types(MIGRATE, command)
    types(MIGRATE, "./pds check main", check=False)

    def token() -> str:
        found = re.search(r"\b[A-Z2-7]{5}-[A-Z2-7]{5}\b", month.relay.taken[-1].text)
        assert found, "the old server's mail has the token"
        return found[0]

    try:
        output = month.reader.converses(
            MIGRATE,
            "./pds migrate-account main ann.bsky.social --from https://bsky.social",
            [
                (f"Password of ann.bsky.social at {OLD_HOST}", lambda: PASSWORD),
                (f"New password of {ANN} on {HOSTNAME}", lambda: NEW_PASSWORD),
                ("Repeat the password", lambda: NEW_PASSWORD),
                (f"Move the identity to {HOSTNAME} now?", lambda: "y"),
                ("Token from that mail (empty: send another mail)", token),
            ],
            HTTPS_PROXY=month.old.proxy,
        )
    except E2eError:
        print(made.pds("logs", "--lines", "60").output, flush=True)  # a refusal of the server's has its reason there
        raise
    assert PASSWORD not in output
    assert NEW_PASSWORD not in output
    types(MIGRATE, "pulumi up --stack main")
    client = Client(made.health_url(), HOSTNAME)
    with client.http:
        body = {"identifier": ANN, "password": NEW_PASSWORD}
        client.log_in(client.procedure("com.atproto.server.createSession", body)["accessJwt"])
        assert {uri: cid_of(client, uri) for uri in records} == records
        assert client.query("com.atproto.repo.listMissingBlobs", {})["blobs"] == []
        assert client.query("app.bsky.actor.getPreferences", {})["preferences"] == PREFERENCES
        for cid in client.query("com.atproto.sync.listBlobs", {"did": did})["cids"]:
            assert b"".join(client.stream_blob(did, cid))
    assert side.status(did) == (False, "deactivated")
    assert f"'endpoint': 'https://{HOSTNAME}'" in str(month.plc.data(did)["services"])
    assert made.outputs()["members"][ANN]["did"] == did
    month.no_changes()
    month.relay.taken.clear()
    assert month.checked(MAIL, CHECK_MAIL)["mail"].startswith("ok")
    [message] = month.relay.taken
    assert message.recipients == (ANN_MAIL,), "a code by the server itself, now that an account has the address"


def test_check_names_the_targets_that_do_not_answer(month: Month) -> None:

    def silent() -> bool:
        # A folder has no page of the host. On a busy machine the store's container may not answer in time.
        line = month.checked(MONITORING, "./pds check main")["metrics"]
        return re.search(r"no answer from (nomad, )?host:", line) is not None

    until(silent, "the line of the targets that do not answer")
    month.reader.types(MONITORING, "pulumi up --refresh")
    month.no_changes()


def test_no_command_of_the_pages_was_left_out(month: Month) -> None:
    assert month.reader.left(SECTIONS, ELSEWHERE) == []


def is_rule_s(post: tuple[str, str, str]) -> bool:
    """Whether a POST to the dead man's switch has the alert of a rule: a folder has no page of the host.

    The job also runs every 15 minutes by itself, maybe before the store had anything to tell.
    """
    path, _, text = post
    return path == "/of-the-stack/fail" and "no metrics of host" in text


def up(url: str) -> set[str]:
    """The targets that answer the store."""
    return {item["metric"]["job"] for item in query(url, "up == 1")}


def query(url: str, expression: str) -> list[dict[str, Any]]:
    """The result of a query."""
    data = {"query": expression, "nocache": "1"}
    answer = httpx.post(f"{url}/api/v1/query", data=data, trust_env=False, timeout=60)
    return list(answer.json()["data"]["result"]) if answer.status_code == 200 else []


def until(done: Any, what: str) -> None:
    """Wait until `done` returns true."""
    end = time.monotonic() + _PATIENCE
    while not done():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(1)
