"""The guide's pages, followed word by word as a new operator would: `pytest tests/e2e/scenarios/e2e_pages.py -x`, as
root.

Each command is typed as on the page (`reader.py`); `ELSEWHERE` lists the others, with their tests. One scenario, whose
tests build on each other. The operator confirms the engine's prompts, and writes the values of the
page and those that an e2e environment needs into the stack files.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pyrage
import pytest
import yaml

from tests.e2e.environment.directory import directory
from tests.e2e.environment.environment import HOSTNAME, PROGRAMS, ROOT, E2eEnvironment, e2e_env
from tests.e2e.environment.reader import Reader, clone, commit
from tests.e2e.environment.tools import missing
from tools.trial.xrpc import Client, RefusedError

README = "README.md"
FIRST_HOUR, ADMINS, HOSTS = "docs/guide/first-hour.md", "docs/guide/admins.md", "docs/guide/hosts.md"
CLUBS, CI = "docs/guide/clubs.md", "docs/guide/ci.md"
SECTIONS = {
    README: ("Quick start", "After `up`", "Members and clubs"),
    FIRST_HOUR: (),
    ADMINS: (),
    HOSTS: ("Growing", "Kernel updates"),
    CI: ("A pull request", "Preflight checks", "Policy pack", "Deploying", "Access to Nomad", "Drift"),
    CLUBS: ("Clubs: several PDSes on one host", "Removing a club", "Restoring a removed club"),
}
ELSEWHERE = {
    "export DIGITALOCEAN_TOKEN=…": "it is in the operator's environment",
    "export PULUMI_CONFIG_PASSPHRASE=…": "it is in the operator's environment",
    "export PULUMI_BACKEND_URL=file://~": "it is in the operator's environment, with another folder",
    "./pds orphans main": "e2e_faults.py, e2e_kill.py",
    "./pds repair main": "e2e_kill.py, e2e_up.py, e2e_clubs.py",
    "./pds migrate-account": "tests/contract/test_migrate_account.py",
    "./pds move chess --to other": "e2e_move.py",
    "./pds new": "with its arguments, in the README",
    "pulumi stack init": "`./pds new` does it",
    "pulumi new GIT-URL": "tests/unit/tools/test_template.py; it needs a Git host",
    "pulumi stack rm main": "it undoes `pulumi new`",
    "pulumi config set --path ingress.kind caddy --stack main": "e2e_ingress.py; this e2e environment has no ingress",
    "curl -4s https://ifconfig.co": "external services are not queried",
    "./pds ssh main -- ls /srv/nomad/.trash": "a droplet of this e2e environment is a folder, which the test reads",
    "systemctl restart nomad": "a droplet of this e2e environment is a folder; the test restarts its agent",
    "./pds ssh main -- cat /run/reboot-required": "a droplet of this e2e environment is a folder",
    "journalctl -u pds-updates": "a droplet of this e2e environment is a folder",
    "./pds ssh main -- systemctl reboot": "e2e_machine.py",
    "pulumi stack output records": "e2e_first_month.py; the zone of this e2e environment is at DigitalOcean",
    "./pds upgrade main --to TAG": "e2e_restore.py",
    "./pds preflight": "with its stack, above",
    "./pds check": "with its stack, above",
    "make preview": "with what it compares, under 'A pull request'",
    "pulumi up": "run where the page has it",
}
RUNNER = "203.0.113.99"
ESCROW_PASSPHRASE = "six words or more on paper"


@dataclass(frozen=True, kw_only=True)
class Operator:
    """An operator, their first stack, and the account of one of their members."""

    reader: Reader
    e2e_env: E2eEnvironment
    account: dict[str, str]

    @property
    def main(self) -> E2eEnvironment:
        """The operator's first stack, with the present passphrase."""
        return replace(self.e2e_env, name="main", env=self.reader.env)

    def chess(self) -> E2eEnvironment:
        """The operator's second stack."""
        return replace(self.main, name="chess")

    def client(self) -> Client:
        """A client of their server, as its host reaches it."""
        return Client(self.main.health_url(), HOSTNAME)

    def escrow(self, hostname: str) -> Path:
        """The newest escrow file of this PDS."""
        return max(self.reader.project.glob(f"escrow-{hostname}-*.age"), key=lambda file: file.stat().st_mtime)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    if lines := missing(*PROGRAMS):
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with ExitStack() as stack:
        made = stack.enter_context(e2e_env(tmp_path_factory.mktemp("bench"), cache))
        plc = stack.enter_context(directory(made.folder / "plc", cache, made.docker_host, made.authority))
        # Without it, servers of the current line query no directory at a private address, and `check` needs that.
        private = {"PDS_DISABLE_SSRF_PROTECTION": "true"}
        made.configure(pds={"plc_url": plc.url, "image": plc.pds_image, "extra_env": private})
        own = yaml.load((made.project / "Pulumi.bench.yaml").read_text(), yaml.CSafeLoader)["config"]
        made.pulumi("stack", "rm", "--yes")  # the operator creates a stack
        clone(made.project)
        secret = made.folder / "escrow-passphrase"
        secret.write_text(ESCROW_PASSPHRASE)
        env = {**made.env, "PDS_ESCROW_PASSPHRASE_FILE": str(secret)}
        account = {"config": json.dumps(own)}
        yield Operator(reader=Reader(made.project, env), e2e_env=made, account=account)


def test_quick_start_leads_to_a_serving_pds(operator: Operator) -> None:
    types = operator.reader.types
    new = "./pds new main --hostname pds.my-club.org --cidr 203.0.113.7/32 --ssh-key laptop"
    # The e2e environment's account has no zone yet.
    types(README, new, means=new.replace("pds.my-club.org", HOSTNAME) + " --create-zone")
    for key, value in json.loads(operator.account["config"]).items():
        operator.main.configure(**{key.removeprefix("pds:"): value})
    operator.main.configure(pds={"escrow": None, "memory_mib": 256})
    file = operator.reader.project / "Pulumi.main.yaml"
    file.write_text(file.read_text().replace("    escrow: null\n", ""))
    output = types(README, "pulumi up --stack main").output
    assert operator.main.health()[0] == 200
    assert "escrow" in output, "the output must name the missing escrow file"


def test_page_first_hour(operator: Operator) -> None:
    types, project = operator.reader.types, operator.reader.project
    types(FIRST_HOUR, "pulumi stack select main")
    checked = types(FIRST_HOUR, "./pds check main", check=False)
    assert (checked.code, "escrow" in checked.output) == (1, True), (
        "the Internet does not reach the e2e environment, and the check must name the missing escrow file"
    )
    types(FIRST_HOUR, "./pds escrow main")
    file = operator.escrow(HOSTNAME)
    types(FIRST_HOUR, "./pds escrow-check FILE", means=f"./pds escrow-check {file.name}")
    types(FIRST_HOUR, "pulumi config set --path pds.escrow made")
    types(README, "pulumi config set --path pds.escrow made --stack main")
    document = yaml.load((project / "Pulumi.main.yaml").read_text(), yaml.CSafeLoader)
    document["config"]["pds:pds"].pop("new")
    (project / "Pulumi.main.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    types(FIRST_HOUR, "pulumi up")
    file.rename(operator.e2e_env.folder / file.name)  # stored elsewhere
    commit(project, "My stack file")
    assert operator.main.health()[0] == 200


def test_page_section_each_month(operator: Operator) -> None:
    types = operator.reader.types
    types(FIRST_HOUR, "./pds list")
    empty = types(FIRST_HOUR, "pulumi refresh --preview-only").output
    assert re.search(r"Resources:\s+\d+ unchanged\s*\Z", empty), "there must be no drift"
    types(FIRST_HOUR, "make preview STACK=main DIFF=HEAD")


def test_changed_operator_address_is_applied(operator: Operator) -> None:
    types = operator.reader.types
    operator.main.configure(operators={"cidrs": ["203.0.113.8/32"]})
    types(ADMINS, "pulumi up --target '**::pds-host-network-firewall'")
    types(ADMINS, "pulumi up")
    allow_ip = f"./pds allow-ip main --address {RUNNER} -- pulumi up"
    types(ADMINS, "./pds allow-ip main -- pulumi up", means=allow_ip)
    operator.main.pulumi("preview", "--expect-no-changes")


def test_new_admin_password_keeps_sessions_and_new_jwt_secret_ends_them(operator: Operator) -> None:
    types, client = operator.reader.types, operator.client()
    own = {"handle": f"ann.{HOSTNAME}", "email": f"ann@{HOSTNAME}", "password": "hers alone"}
    old = operator.main.outputs()["admin_password"]

    def invite(password: str) -> str:
        name = "com.atproto.server.createInviteCode"
        return str(operator.client().procedure(name, {"useCount": 1}, admin_password=password)["code"])

    made = client.procedure("com.atproto.server.createAccount", {**own, "inviteCode": invite(old)})
    login = {"identifier": own["handle"], "password": own["password"]}

    def session() -> Any:
        app = operator.client()
        app.log_in(made["accessJwt"])
        return app.query("com.atproto.server.getSession", {})

    types(ADMINS, "pulumi config set --secret --path secrets.admin_password", says="a-quite-new-one\n")
    types(ADMINS, "pulumi up")
    assert session()["handle"] == own["handle"], "sessions must stay valid"
    invite("a-quite-new-one")
    with pytest.raises(RefusedError):
        invite(old)

    types(ADMINS, "pulumi config set --secret --path secrets.jwt_secret", says="0123456789abcdef" * 4 + "\n")
    types(ADMINS, "pulumi up")
    with pytest.raises(RefusedError):
        session()  # all sessions end
    assert operator.client().procedure("com.atproto.server.createSession", login)["handle"] == own["handle"]


def test_larger_disk_and_droplet_are_applied(operator: Operator) -> None:
    operator.main.configure(volume={"size_gib": 30})
    operator.reader.types(HOSTS, "pulumi up")
    for changed in ({"pds": {"paused": True}}, {"host": {"size": "s-4vcpu-8gb"}}, {"pds": {"paused": False}}):
        operator.main.configure(**changed)
        operator.reader.types(HOSTS, "pulumi up")
    assert operator.main.health()[0] == 200
    operator.reader.types(ADMINS, "pulumi preview")


def test_ci_commands_work_by_hand(operator: Operator) -> None:
    types, project = operator.reader.types, operator.reader.project
    commit(project, "What has changed since")
    types(CI, "make preview DIFF=main", means="make preview DIFF=main STACK=main")
    types(CI, "make preview STACK=main")
    operator.main.configure(host={"generation": 2})
    commit(project, "A new host")
    shown = types(CI, ".ci/preview HEAD^1", check=False)
    assert (shown.code, "== stack main" in shown.output) == (2, True), "a preflight check refuses"
    assert "host.generation: changed  REPLACES" in shown.output
    refused = types(CI, "./pds preflight main", check=False)
    assert (refused.code, "Droplet pds-host-droplet would be replaced" in refused.output) == (1, True)
    types(CI, "./pds preflight main --allow pds-host-droplet")
    operator.main.configure(host={"generation": 1})
    types(CI, "pulumi preview --json --show-sames --stack main | ./pds preflight main --preview -")
    types(CI, "./pds allow-ip main --label RUN", means=f"./pds allow-ip main --label RUN --address {RUNNER}")
    types(CI, "pulumi preview --stack main --diff")
    types(CI, "pulumi up --stack main --yes --skip-preview")
    types(CI, "./pds check main", check=False)
    types(CI, "./pds allow-ip main --label RUN --close")
    with_address = f"./pds allow-ip main --address {RUNNER}"
    for command in (
        "./pds allow-ip main -- pulumi up --stack main",
        "./pds allow-ip main -- pulumi preview --stack main --refresh --diff --expect-no-changes --exclude '**::pds-people-unlisted-accounts'",  # noqa: E501
        "./pds allow-ip main; …; ./pds allow-ip main --close",
    ):
        types(CI, command, means=command.replace("./pds allow-ip main", with_address, 1).replace("…; ", ""))
    types(CI, "./pds allow-ip main -- ./pds check main", means=f"{with_address} -- ./pds check main", check=False)


def test_policy_pack_passes_the_stack_and_refuses_open_registration(operator: Operator) -> None:
    types = operator.reader.types
    types(CI, "make policy")
    checked = "pulumi preview --policy-pack policy"
    assert "Policies:" in types(CI, checked, means=f"{checked} --stack main").output
    before = (operator.reader.project / "Pulumi.main.yaml").read_text()
    operator.main.configure(pds={"invite_required": False, "open_registration": True})
    refused = types(CI, checked, means=f"{checked} --stack main", check=False)
    assert (bool(refused.code), "invites" in refused.output) == (True, True)
    (operator.reader.project / "Pulumi.main.yaml").write_text(before)


def test_club_is_created_on_the_same_host(operator: Operator) -> None:
    types = operator.reader.types
    token = operator.reader.env["DIGITALOCEAN_TOKEN"]
    zone = {"name": "chess-club.org"}
    httpx.post(
        f"{operator.e2e_env.api.url}/v2/domains",
        json=zone,
        headers={"Authorization": f"Bearer {token}"},
        trust_env=False,
    ).raise_for_status()
    types(README, "./pds new chess --hostname pds.chess-club.org --on main")
    operator.chess().configure(pds=private(operator))
    types(README, "./pds up-all")
    assert operator.chess().outputs()["state"] == "serving"
    table = types(README, "./pds list").output
    assert [line.split()[2] for line in table.splitlines() if line.startswith(("chess ", "main "))] == ["serving"] * 2


def private(operator: Operator) -> dict[str, Any]:
    """Options that keep a club of the e2e environment away from public services."""
    own = json.loads(operator.account["config"])["pds:pds"]
    return {key: own[key] for key in ("image", "plc_url", "crawlers", "extra_env")}


def test_removed_club_is_restored_with_all_its_data(operator: Operator) -> None:
    types, project = operator.reader.types, operator.reader.project
    [machine] = operator.e2e_env.machines.machines()
    identity = (machine.volume / "clubs/pds-chess/.pds-identity.json").read_text()
    types(CLUBS, "./pds escrow chess")
    types(CLUBS, "pulumi state unprotect --all --stack chess")
    types(CLUBS, "pulumi destroy --stack chess")
    document = yaml.load((project / "Pulumi.main.yaml").read_text(), yaml.CSafeLoader)
    gets = document["config"].pop("pds:clubs")["chess"]
    (project / "Pulumi.main.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    types(CLUBS, "pulumi up --stack main")
    [kept] = (machine.volume / ".trash").iterdir()
    types(CLUBS, "pulumi stack rm chess")

    operator.main.configure(clubs={"chess": gets})
    types(CLUBS, "pulumi up --stack main")
    (machine.volume / "clubs/pds-chess").rmdir()
    kept.rename(machine.volume / "clubs/pds-chess")
    [number] = operator.e2e_env.api.dump()["droplets"]
    operator.e2e_env.machines.stop(int(number), graceful=True)
    operator.e2e_env.machines.start(int(number))
    own = json.loads(operator.account["config"])
    config = {
        "pds:hostname": "pds.chess-club.org",
        "pds:dns": {"zone": "chess-club.org", "nameservers": own["pds:dns"]["nameservers"]},
        "pds:on": "main",
        "pds:ingress": own["pds:ingress"],
        "pds:pds": {"port": gets["port"], **private(operator)},
    }
    (project / "Pulumi.chess.yaml").write_text(yaml.safe_dump({"config": config}, sort_keys=False))
    sealed = operator.escrow("pds.chess-club.org").read_bytes()
    secrets = json.loads(pyrage.passphrase.decrypt(sealed, ESCROW_PASSPHRASE))["secrets"]
    # `stack init` selects the stack, so the page's commands set the club's secrets.
    types(CLUBS, "pulumi stack init chess && pulumi up --stack chess", means="pulumi stack init chess")
    for option, name in (
        ("plc_rotation_key", "PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX"),
        ("jwt_secret", "PDS_JWT_SECRET"),
        ("admin_password", "PDS_ADMIN_PASSWORD"),
    ):
        means = f"pulumi config set --secret --path secrets.{option} --stack chess"
        types(
            CLUBS,
            "pulumi config set --secret --path secrets.plc_rotation_key --stack chess",
            means=means,
            says=f"{secrets[name]}\n",
        )
    types(CLUBS, "pulumi stack init chess && pulumi up --stack chess", means="pulumi up --stack chess")
    assert operator.chess().outputs()["state"] == "serving"
    assert (machine.volume / "clubs/pds-chess/.pds-identity.json").read_text() == identity


def test_changed_passphrase_locks_out_the_former_admin(operator: Operator) -> None:
    """The last test, since it changes the passphrase."""
    changed = "pulumi stack change-secrets-provider passphrase"
    for name in ("main", "chess"):
        operator.reader.types(ADMINS, changed, means=f"{changed} --stack {name}", says="another one\nanother one\n")
    old = operator.reader.env["PULUMI_CONFIG_PASSPHRASE"]
    operator.reader.env["PULUMI_CONFIG_PASSPHRASE"] = "another one"
    for stack in (operator.main, operator.chess()):
        stack.pulumi("preview", "--expect-no-changes")
        with_old = replace(stack, env={**stack.env, "PULUMI_CONFIG_PASSPHRASE": old})
        with pytest.raises(subprocess.CalledProcessError):
            with_old.outputs()


def test_no_command_of_the_pages_was_left_out(operator: Operator) -> None:
    assert operator.reader.left(SECTIONS, ELSEWHERE) == []
