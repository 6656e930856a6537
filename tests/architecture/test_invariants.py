"""The invariants of the design, checked on evaluations of the program. `test_layers.py` has those of its source."""

import hashlib
import re

import pytest

from components.dynamic.server import _SETTLE_DEADLINE
from components.render.host.cloud_init import Certificates, configuration_hash, user_data
from components.render.ingress.agent_io import ingress_file, io_job
from components.render.jobs.pds import pds_job
from components.settings.checks.pds_env import plain_environment
from offline.hcl_reader import job_of, task_of
from offline.mock_engine import Evaluation
from policy.checks import PROTECTED, RETAINED
from policy.secrets import forms, is_secret, known_secrets, open_texts
from tests.support.invariants import CHECKS, kind
from tests.support.programs import run, settings_of
from tools.preview import rendered


def _other_secret(name: str, digits: int) -> str:
    return hashlib.sha512(f"another {name}".encode()).hexdigest()[:digits]


@pytest.mark.parametrize("invariant", CHECKS)
def test_the_dev_stack_keeps_the_invariant(invariant: str, dev: Evaluation) -> None:
    assert CHECKS[invariant](dev) == []


@pytest.mark.parametrize("invariant", CHECKS)
def test_a_stack_with_members_keeps_the_invariant(invariant: str, club: Evaluation) -> None:
    assert CHECKS[invariant](club) == []


def test_the_first_preview_keeps_the_invariants_about_secrets_state_and_order(dev_preview: Evaluation) -> None:
    for invariant in ("secret types", "protected state", "order"):
        assert CHECKS[invariant](dev_preview) == [], f"the invariant '{invariant}' does not hold in a preview"


# Invariant 1: no Output enters a job spec; cloud-init takes only certificates.


def test_rendered_files_do_not_change_with_the_secrets(dev: Evaluation) -> None:
    other = run(secret=_other_secret)
    assert other.outputs["admin_password"] != dev.outputs["admin_password"], "the second evaluation has other secrets"
    assert rendered(other) == rendered(dev), "a generated secret reached a rendered file"


def test_rendered_files_are_the_same_at_every_evaluation(dev: Evaluation) -> None:
    assert rendered(run()) == rendered(dev), "otherwise each preview would show a change"


def test_render_functions_need_only_settings(dev: Evaluation) -> None:
    settings = settings_of()
    assert pds_job(settings, "dev") == dev.one("pds-server-job").inputs["jobspec"]
    assert io_job(settings, "dev") == dev.one("pds-ingress-job").inputs["jobspec"]
    assert ingress_file(settings, "dev") == dev.one("pds-ingress-file-variable").inputs["items"]["text"]
    pems = [dev.one(f"pds-host-certificates-{part}").outputs for part in ("ca", "server")]
    key = dev.one("pds-host-certificates-server-key").outputs["privateKeyPem"]["value"]
    certificates = Certificates(pems[0]["certPem"], pems[1]["certPem"], key)
    assert user_data(settings, "dev", certificates) == dev.one("pds-host-droplet").inputs["userData"]


def test_the_hash_of_cloud_init_does_not_depend_on_certificates() -> None:
    settings = settings_of()
    before = configuration_hash(settings, "dev")
    assert configuration_hash(settings_of(host={"swap_gib": 2}), "dev") != before, "a changed option changes the hash"
    texts = {user_data(settings, "dev", Certificates("ca", "cert", key)) for key in ("one key", "another key")}
    assert len(texts) == 2, "the key is in the document"
    assert all(before in text for text in texts), "the hash is the same, so a renewed certificate rebuilds no host"


def test_job_specs_are_registered_as_plain_known_text(dev: Evaluation, dev_preview: Evaluation) -> None:
    for evaluation in (dev, dev_preview):
        for job in evaluation.of("job:Job"):
            assert isinstance(job.raw["jobspec"], str), f"{job.name}: a preview must show the job's diff"


# Invariant 2: a secret reaches the server in one way only.


def test_the_search_for_secrets_covers_every_secret_and_text(dev: Evaluation) -> None:
    secrets = known_secrets(dev)
    assert len(secrets) == 4 + 1 + 3 + 1, "four generated, one of them also as a UUID, three keys, one token"
    assert all(len(value) >= 32 for value in secrets.values()), "a short secret could match by chance"
    assert len(list(open_texts(dev))) > 500, "inputs, options, outputs and messages are searched"


def test_finds_a_secret_in_every_encoding() -> None:
    secret = "06b051816ba5a269ae00373e61ed46eb"
    spellings = forms(secret)
    assert "BrBRgWulommuADc+Ye1G6w==" in spellings, "its bytes in base64, as a RandomBytes id would be"
    assert "BrBRgWulommuADc-Ye1G6w" in spellings, "the same for URLs, without padding"
    assert secret.upper() in spellings
    assert secret.encode().hex() in spellings
    assert "p%2Fss%20w%2Brd" in forms("p/ss w+rd"), "percent-encoded"


def test_secret_inputs_are_registered_as_secrets(dev: Evaluation) -> None:
    wrapped = {
        "pds-secrets-variable": ("items",),
        "pds-host-droplet": ("userData",),
        "pds-host-nomad-bootstrap": ("token", "key_pem"),
        "pds-host-nomad-admin": ("secretId", "keyPem"),
        "pds-host-nomad-provider": ("secretId", "keyPem"),
        "pds-server-ready": ("token", "key_pem", "secrets_digest"),
        "pds-host-certificates-server": ("caPrivateKeyPem",),
    }
    for name, keys in wrapped.items():
        for key in keys:
            assert is_secret(dev.one(name).raw[key]), f"{name}.{key} is in plain text in state, diffs and logs"


def test_the_secrets_digest_changes_with_one_secret(dev: Evaluation) -> None:
    def one_other(name: str, digits: int) -> str:
        return (_other_secret if name.endswith("-admin-password") else _same)(name, digits)

    def _same(name: str, digits: int) -> str:
        return str(dev.one(name).outputs["result"]["value"])

    changed = run(secret=one_other).one("pds-server-ready").inputs["secrets_digest"]
    assert changed != dev.one("pds-server-ready").inputs["secrets_digest"], "`up` would not wait for the restart"


def test_the_nomad_token_is_the_generated_secret_as_a_uuid(dev: Evaluation) -> None:
    token = dev.one("pds-host-nomad-bootstrap").inputs["token"]
    digits = dev.one("pds-host-nomad-management-token").outputs["result"]["value"]
    assert token.replace("-", "") == digits
    assert [len(part) for part in token.split("-")] == [8, 4, 4, 4, 12], "Nomad accepts no other form"


# Invariant 3: an option exists once.


def test_no_environment_name_has_two_values(dev: Evaluation) -> None:
    env = task_of(job_of(dev.jobspec("pds"), "pds"), "pds")["env"][0]
    assert "volume_check.cjs" in env.pop("NODE_OPTIONS"), "the volume check runs at every start of the server"
    assert env == plain_environment(settings_of()), "the job's environment comes only from the settings"
    secret = dev.one("pds-secrets-variable").inputs["items"]
    assert env.keys() & secret.keys() == set()
    lines = dev.outputs["pds_env"].splitlines()
    assert len({line.partition("=")[0] for line in lines}) == len(lines)


# Invariant 5: state is protected by resource type.


def test_only_resources_that_hold_state_are_protected(dev: Evaluation) -> None:
    extra = {kind(item) for item in dev.resources if item.protected} - PROTECTED - {"PrivateKey"}
    assert extra == set(), "a protected resource without state only blocks `destroy`"
    assert RETAINED <= PROTECTED


def test_nomad_s_grace_period_is_at_least_the_deadline_of_up(dev: Evaluation) -> None:
    """Nomad's grace period starts with the allocation, so it includes the image pull and the volume check."""
    [service] = job_of(dev.jobspec("pds"), "pds")["group"][0]["pds"]["service"]
    [check] = service["check"]
    [restart] = check["check_restart"]
    assert seconds(restart["grace"]) >= _SETTLE_DEADLINE


def test_a_server_has_two_minutes_to_become_healthy_after_a_crash(dev: Evaluation) -> None:
    """Nomad starts no new grace period after a crash; its check watcher counts from the crash."""
    group = job_of(dev.jobspec("pds"), "pds")["group"][0]["pds"]
    [check] = group["service"][0]["check"]
    limit = int(check["check_restart"][0]["limit"]) - 1
    assert limit * seconds(check["interval"]) - seconds(group["restart"][0]["delay"]) >= 120


def seconds(duration: str) -> int:
    """The seconds of a duration in Nomad's form, with the unit m or s."""
    match = re.fullmatch(r"([0-9]+)([ms])", duration)
    assert match
    return int(match[1]) * {"m": 60, "s": 1}[match[2]]
