"""The program with the real engine, providers, Nomad, Docker and PDS: `pytest tests/e2e/scenarios/e2e_up.py -x`, as
root.

One e2e_env, one scenario: each test continues from the end of the previous one, so their order is fixed.
Not collected by `make test`, which has no engine.
"""

import json
import os
import signal
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from components.settings.checks.pds_env import GENERATED_SECRETS, read_env_file
from offline.stackfile import evaluate_stack
from tests.e2e.environment import tools
from tests.e2e.environment.environment import HOSTNAME, PROGRAMS, ROOT, STACK, E2eEnvironment, complaint, e2e_env
from tests.e2e.environment.owner import orphans, put_away
from tests.e2e.environment.tools import E2eError, missing
from tests.e2e.environment.watching import command_lines, hits, polled, secrets_of, state_text, steps
from tests.support.certificates import Authority

_ENGINE_OUTPUT: list[str] = []
"""Everything that the engine has printed."""
_OLD: dict[str, str] = {}
"""The secrets of the destroyed stack, by option, as in its escrow file."""
_OLD_IDENTITY: list[str] = []


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[E2eEnvironment]:
    lines = missing(*PROGRAMS)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
    cache = Path(os.environ.get("PDS_E2E_CACHE", ROOT / "build/cache/e2e"))
    with e2e_env(tmp_path_factory.mktemp("bench"), cache) as environment:
        yield environment


def pulumi(running: E2eEnvironment, *arguments: str, fails: bool = False) -> Any:
    """Run the engine and assert that it succeeds, or fails if `fails` is set."""
    done = running.pulumi(*arguments, check=False)
    _ENGINE_OUTPUT.append(done.output)
    if bool(done.code) != fails:
        raise E2eError(f"`{done.command}` ended with {done.code}:\n{complaint(done.output)}")
    return done


def up(running: E2eEnvironment) -> Any:
    """`pulumi up`."""
    return pulumi(running, "up", "--yes", "--skip-preview")


def nothing_to_do(running: E2eEnvironment) -> None:
    """Assert that the next preview is empty, with and without a refresh."""
    pulumi(running, "preview", "--expect-no-changes")
    pulumi(running, "preview", "--refresh", "--expect-no-changes")


def serving(running: E2eEnvironment) -> bool:
    """Whether the server answers now."""
    try:
        status, _ = running.health()
    except httpx.HTTPError:
        return False
    return status == 200 and running.outputs()["state"] == "serving"


def test_first_up_serves(running: E2eEnvironment) -> None:
    """Preview without a Nomad, then `up`: the server answers and no change is left."""
    preview = pulumi(running, "preview")
    assert "to create" in preview.output
    assert running.api.dump()["droplets"] == {}
    up(running)
    assert serving(running)
    nothing_to_do(running)
    assert _as_admin(running, "POST", "com.atproto.server.createInviteCode", json={"useCount": 1}).status_code == 200
    refused = [item for item in running.api.requests() if item["status"] not in (200, 201, 202, 204)]
    assert refused == []
    assert running.world.failures + running.machines.deaths() == []


def test_engine_creates_the_resources_that_the_offline_preview_shows(running: E2eEnvironment) -> None:
    """`make preview` shows for this stack file what the engine creates: types, names, parents, protection."""
    state = json.loads(pulumi(running, "stack", "export").output)["deployment"]["resources"]
    made = {
        (item["type"], item["urn"].rpartition("::")[2], item["parent"].rpartition("::")[2], item.get("protect", False))
        for item in state
        if "parent" in item  # neither the stack nor a default provider has a parent
    }
    shown = {
        (item.type, item.name, item.parent.rpartition("::")[2], item.protected)
        for item in evaluate_stack(STACK, root=running.project).resources
    }
    assert made == shown


def test_endpoint_requires_a_certificate_and_a_token(running: E2eEnvironment, tmp_path: Path) -> None:
    outputs = running.outputs()
    address, token = outputs["nomad_address"], outputs["nomad_token"]
    files = {name: tmp_path / name for name in ("ca", "cert", "key")}
    files["ca"].write_text(outputs["nomad_ca_pem"])
    files["cert"].write_text(outputs["nomad_client_cert_pem"])
    files["key"].write_text(outputs["nomad_client_key_pem"])
    trusting = ssl.create_default_context(cafile=str(files["ca"]))
    with httpx.Client(verify=trusting, trust_env=False) as stranger, pytest.raises(httpx.HTTPError):
        stranger.get(f"{address}/v1/status/leader")
    trusting.load_cert_chain(
        Authority("another authority").issue("operator", client=True).written(tmp_path, "stranger.pem")
    )
    with httpx.Client(verify=trusting, trust_env=False) as stranger, pytest.raises(httpx.HTTPError):
        stranger.get(f"{address}/v1/status/leader")
    knowing = ssl.create_default_context(cafile=str(files["ca"]))
    knowing.load_cert_chain(files["cert"], files["key"])
    with httpx.Client(verify=knowing, trust_env=False) as operator:
        variable = f"{address}/v1/var/nomad/jobs/pds"
        assert operator.get(f"{address}/v1/job/pds").status_code == 200  # every process on the host may read this
        assert operator.get(variable).status_code == 403
        assert operator.get(variable, headers={"X-Nomad-Token": token[::-1]}).status_code == 403
        assert operator.get(variable, headers={"X-Nomad-Token": token}).status_code == 200


def test_changed_option_changes_only_the_job(running: E2eEnvironment) -> None:
    running.configure(pds={"memory_mib": 600})
    preview = pulumi(running, "preview", "--diff")
    assert "memory = 600" in preview.output
    with polled(running.health) as outage:
        done = up(running)
        assert serving(running)
    assert steps(done) == {"pds-server-job": ["updated"], "pds-server-ready": ["updated"]}
    print(f"unavailable for {outage.seconds:.1f} s while an option changed, of {done.seconds:.0f} s")
    nothing_to_do(running)


def test_changed_secret_changes_only_the_variable(running: E2eEnvironment) -> None:
    """After `up` the server has the new value, although the job's text is the same."""
    for value in ("a-first-bypass-key", "another-bypass-key"):
        key = "pds:pds.extra_secret_env.PDS_RATE_LIMIT_BYPASS_KEY"
        pulumi(running, "config", "set", "--secret", "--path", key, value)
        with polled(running.health) as outage:
            done = up(running)
            assert serving(running)
        assert steps(done) == {"pds-secrets-variable": ["updated"], "pds-server-ready": ["updated"]}
        assert f"PDS_RATE_LIMIT_BYPASS_KEY={value}" in _container(running)["Config"]["Env"]
        print(f"unavailable for {outage.seconds:.1f} s while a secret changed, of {done.seconds:.0f} s")
    nothing_to_do(running)


def _container(running: E2eEnvironment) -> Any:
    """The server's container, from Docker."""
    ids = tools.run(["docker", "ps", "--quiet", "--filter", "name=pds-"], running.docker_host).split()
    [found] = json.loads(tools.run(["docker", "inspect", *ids], running.docker_host))
    return found


def test_container_has_only_the_rights_that_it_needs(running: E2eEnvironment) -> None:
    container = _container(running)
    host = container["HostConfig"]
    assert container["Config"]["User"] == "1000:1000"
    assert host["ReadonlyRootfs"]
    assert [name.upper() for name in host["CapDrop"]] == ["ALL"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert not host["Privileged"]
    assert host["PidsLimit"] == 512
    addresses = {binding["HostIp"] for bound in host["PortBindings"].values() for binding in bound}
    assert addresses == {"127.0.0.1"}


def test_changed_cloud_init_rebuilds_nothing_and_is_reported(running: E2eEnvironment) -> None:
    before = list(running.api.dump()["droplets"])
    running.configure(host={"swap_gib": 2})
    done = up(running)
    assert "Nothing was rebuilt" in done.output
    assert "pds-host-droplet" not in steps(done)
    assert list(running.api.dump()["droplets"]) == before


def test_raised_generation_rebuilds_the_host_and_keeps_permanent_resources(running: E2eEnvironment) -> None:
    before = running.api.dump()
    outputs = running.outputs()
    identity_and_codes = _data(running)
    running.configure(host={"generation": 2})
    with polled(running.health) as outage:
        done = up(running)
        assert serving(running)
    changed = steps(done)
    assert "created replacement" in changed["pds-host-droplet"]
    assert "Nothing was rebuilt" not in done.output
    after = running.api.dump()
    assert list(after["droplets"]) != list(before["droplets"])
    for kind in ("volumes", "reserved_ips", "firewalls", "domains"):
        assert list(after[kind]) == list(before[kind])
    kept = ("ipv4", "admin_password", "pds_env", "nomad_management_token", "nomad_ca_pem")
    assert [running.outputs()[name] for name in kept] == [outputs[name] for name in kept]
    assert _data(running) == identity_and_codes
    print(f"unavailable for {outage.seconds:.1f} s while the host was rebuilt, of {done.seconds:.0f} s")
    nothing_to_do(running)


def _as_admin(running: E2eEnvironment, method: str, name: str, **more: Any) -> httpx.Response:
    """A call that the server allows only its admin."""
    password = running.outputs()["admin_password"]
    url = f"{running.health_url()}/xrpc/{name}"
    return httpx.request(method, url, auth=("admin", password), trust_env=False, **more)


def _data(running: E2eEnvironment) -> tuple[str, str]:
    """What identifies this server's data: the identity file of the volume check, and the invite codes."""
    [machine] = running.machines.machines()
    answer = _as_admin(running, "GET", "com.atproto.admin.getInviteCodes")
    codes = sorted(item["code"] for item in answer.json()["codes"])
    assert codes
    return (machine.volume / "pds/.pds-identity.json").read_text(), str(codes)


def test_preview_without_nomad_shows_the_diff_of_the_job(running: E2eEnvironment) -> None:
    """The endpoint accepts connections and never responds, as if packets were dropped."""
    [machine] = running.machines.machines()
    assert machine.endpoint is not None
    pid = machine.endpoint.pid
    assert pid is not None
    running.configure(pds={"memory_mib": 640})
    os.kill(pid, signal.SIGSTOP)
    try:
        done = pulumi(running, "preview", "--diff")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "memory = 640" in done.output, "a preview that waited for Nomad would end at its deadline instead"
    print(f"a preview with a silent Nomad: {done.seconds:.0f} s")
    running.configure(pds={"memory_mib": 600})


def test_emptied_nomad_is_refilled(running: E2eEnvironment) -> None:
    """The volume is kept, the agent's state is wiped: after a refresh of the bootstrap, `up` restores everything."""
    identity_and_codes = _data(running)
    running.forget_nomad()
    done = running.pds("repair", "--yes")
    assert "--target '**::pds-host-nomad-bootstrap'" in done.output
    assert serving(running)
    assert "pds-host-droplet" not in steps(done)
    assert _data(running) == identity_and_codes
    nothing_to_do(running)


def test_deleted_droplet_is_created_again(running: E2eEnvironment) -> None:
    identity_and_codes = _data(running)
    [number] = running.api.dump()["droplets"]
    running.delete(f"/v2/droplets/{number}")
    running.pds("repair", "--yes")
    assert serving(running)
    assert _data(running) == identity_and_codes
    nothing_to_do(running)


def test_expiring_certificates_do_not_change_the_host(running: E2eEnvironment, tmp_path: Path) -> None:
    """All certificates in the state expire tomorrow: the client's is renewed, and cloud-init does not change."""
    file = tmp_path / "state.json"
    pulumi(running, "stack", "export", "--show-secrets", "--file", str(file))
    state = json.loads(file.read_text())
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    ending = [item for item in state["deployment"]["resources"] if "validityEndTime" in item.get("outputs", {})]
    assert len(ending) == 3
    for item in ending:
        item["outputs"]["validityEndTime"] = tomorrow
    file.write_text(json.dumps(state))
    pulumi(running, "stack", "import", "--file", str(file))
    file.unlink()
    before = len(running.api.requests())
    changed = steps(up(running))
    assert "pds-host-certificates-client" in changed
    assert {item["method"] for item in running.api.requests()[before:]} <= {"GET"}, "the account must not be changed"
    # Whatever talks to Nomad presents the new certificate. The host, the secrets and what Nomad has stay.
    kept = (
        *("pds-host-droplet", "pds-host-network", "pds-host-data", "pds-host-address", "pds-secrets"),
        *("pds-host-certificates-ca", "pds-host-certificates-server"),
    )
    assert [name for name in changed if name.startswith(kept) or name.endswith(("-job", "-variable", "-token"))] == []
    assert serving(running)
    nothing_to_do(running)


def test_secrets_are_only_where_they_are_needed(running: E2eEnvironment) -> None:
    secrets = secrets_of(running)
    assert {"admin_password", "server key", "nomad_management_token", "nomad_client_key_pem"} <= set(secrets)
    [machine] = running.machines.machines()
    requests = running.api.log_file.read_text()
    with httpx.Client(base_url=f"http://127.0.0.1:{machine.ports['http']}", trust_env=False) as nomad:
        nomad.headers["X-Nomad-Token"] = running.outputs()["nomad_management_token"]
        jobs = "".join(nomad.get(f"/v1/job/pds{part}").text for part in ("", "/versions", "/submission?version=0"))
    places = {
        "state": state_text(running),
        "engine": "\n".join(_ENGINE_OUTPUT),
        "jobs": jobs,
        "command lines": command_lines(),
        "agent log": (machine.root.parent / "nomad.log").read_text(),
        "stack file": (running.project / "Pulumi.bench.yaml").read_text(),
    }
    assert {name: found for name, text in places.items() if (found := hits(secrets, text))} == {}
    # The only secret that user_data must contain.
    assert {hit.partition(" (")[0] for hit in hits(secrets, requests)} == {"server key"}
    # The search finds planted secrets.
    planted = f"x{secrets['admin_password']}y"
    assert hits(secrets, planted)
    assert hits(secrets, planted.encode().hex())


def test_operator_changes_the_admin_password(running: E2eEnvironment) -> None:
    pulumi(running, "config", "set", "--secret", "--path", "pds:secrets.admin_password", "a-password-of-the-owner")
    up(running)
    assert running.outputs()["admin_password"] == "a-password-of-the-owner"
    assert _as_admin(running, "POST", "com.atproto.server.createInviteCode", json={"useCount": 1}).status_code == 200
    nothing_to_do(running)


def test_destroy_keeps_retained_resources(running: E2eEnvironment) -> None:
    """Nothing is destroyed while it is protected. Then an unreachable host is destroyed by the documented steps. Only
    retained resources are left, listed with the commands that remove them."""
    before = running.api.dump()
    environment = read_env_file(running.outputs()["pds_env"])
    _OLD.update({name: environment[variable] for name, variable in GENERATED_SECRETS.items()})
    _OLD["nomad_management_token"] = running.outputs()["nomad_management_token"]
    _OLD_IDENTITY.append(_data(running)[0])
    refused = pulumi(running, "destroy", "--yes", fails=True)
    assert "protect" in refused.output
    assert "pulumi state unprotect" in refused.output, "the output must name the next step"
    assert list(running.api.dump()["droplets"]) == list(before["droplets"])
    assert running.health()[0] == 200
    [machine] = running.machines.machines()
    assert machine.agent is not None
    assert machine.endpoint is not None
    machine.agent.stop(signal.SIGKILL)
    machine.endpoint.stop(signal.SIGKILL)
    pulumi(running, "state", "unprotect", "--all", "--yes")
    pulumi(running, "destroy", "--yes", "--skip-preview")
    after = running.api.dump()
    assert after["droplets"] == after["firewalls"] == {}
    assert "pds-bench" not in after["tags"]
    assert list(after["volumes"]) == list(before["volumes"])
    assert list(after["reserved_ips"]) == list(before["reserved_ips"])
    assert list(after["domains"]) == [HOSTNAME]
    [volume], [ip] = after["volumes"], after["reserved_ips"]
    assert {item["id"]: item["delete"] for item in orphans(running)["orphans"]} == {
        volume: [["doctl", "compute", "volume", "delete", volume]],
        ip: [["doctl", "compute", "reserved-ip", "delete", ip]],
        HOSTNAME: [["doctl", "compute", "domain", "delete", HOSTNAME]],
    }


def test_retained_resources_are_adopted(running: E2eEnvironment) -> None:
    """A new stack of the same name on the old volume, address and zone. Without the old secrets, lost with the state,
    the old Nomad refuses it and the volume check does not start another server on the data."""
    account = running.api.dump()
    [volume], [ip] = account["volumes"], account["reserved_ips"]
    running.configure(secrets=None)
    assert set(put_away(running, lambda item: True)) == {"volume", "reserved-ip", "zone"}
    refused = pulumi(running, "up", "--yes", "--skip-preview", fails=True)
    assert "was bootstrapped with a token that this stack does not have" in refused.output

    _give(running, "nomad_management_token")
    refused = pulumi(running, "up", "--yes", "--skip-preview", fails=True)
    print(f"`up` with a volume check that refuses failed after {refused.seconds:.0f} s")
    assert "REFUSED: this volume belongs to a PDS with" in refused.output, (
        "the operator must see the error of the volume check"
    )

    _give(running, *_OLD)
    up(running)
    assert serving(running)
    assert list(running.api.dump()["volumes"]) == [volume]
    assert running.outputs()["ipv4"] == ip
    assert _data(running)[0] == _OLD_IDENTITY[0]
    nothing_to_do(running)


def _give(running: E2eEnvironment, *names: str) -> None:
    """Write secrets from the escrow file into the stack file."""
    for name in names:
        pulumi(running, "config", "set", "--secret", "--path", f"pds:secrets.{name}", _OLD[name])
