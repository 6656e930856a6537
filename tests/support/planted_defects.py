"""Defects to plant in the program, each with the check that finds it, for `test_planted_defects.py`.

A defect is planted at the place at which a person would introduce it: in a component's registration, or in the
output of a render function.
"""

from collections.abc import Callable
from typing import Any

import pulumi
import pulumi_digitalocean as digitalocean
import pulumi_nomad as nomad
import pulumi_random as random
import pytest

import components.host.nomad
import components.pds
import components.secret_values
import components.server.ready
from components.nomad_target import NomadTarget
from components.render.host.cloud_init import MAX_BYTES, user_data
from components.render.host.nomad_agent import agent_config
from components.render.jobs.pds import VOLUME_CHECK_PATH, pds_job
from components.settings.sections.settings import Settings
from offline.mock_engine import COMPUTED
from tests.support.programs import BACKUP

Plant = Callable[[pytest.MonkeyPatch], None]


def wrap_call(patch: pytest.MonkeyPatch, owner: Any, name: str, change: Callable[..., None]) -> None:
    """Let `change(args, kwargs)` alter the call of `owner.name` before it happens."""
    original = getattr(owner, name)

    def called(*args: Any, **kwargs: Any) -> Any:
        change(args, kwargs)
        return original(*args, **kwargs)

    patch.setattr(owner, name, called)


def _with_options(patch: pytest.MonkeyPatch, owner: Any, name: str, **options: Any) -> None:
    def change(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for key, value in options.items():
            setattr(kwargs["opts"], key, value)

    wrap_call(patch, owner, name, change)


def in_job(patch: pytest.MonkeyPatch, old: str, new: str) -> None:
    def altered(settings: Settings, stack: str) -> str:
        text = pds_job(settings, stack)
        assert old in text, "the job has no such text to replace"
        return text.replace(old, new)

    patch.setattr("components.server.server.pds_job", altered)


def _misspelt_nested_key(patch: pytest.MonkeyPatch) -> None:
    def inbound(settings: Settings) -> list[dict[str, Any]]:
        everyone = ["0.0.0.0/0"]
        rules = [
            {"protocol": "tcp", "portRange": port, "sourceAddreses": everyone, "sourceAddresses": everyone}
            for port in ("80", "443")
        ]
        rules += [
            {"protocol": "tcp", "portRange": port, "sourceAddresses": ["203.0.113.7/32"]}
            for port in ("22", "2200", "4650")
        ]
        return rules

    patch.setattr("components.host.network._inbound", inbound)


def _random_bytes(patch: pytest.MonkeyPatch) -> None:
    token = "random:index/randomBytes:RandomBytes"
    patch.setitem(COMPUTED, token, lambda name, inputs: {"hex": "ab" * 32, "base64": "q6ur"})

    def bytes_of(name: str, digits: int, parent: pulumi.Resource) -> pulumi.Output[str]:
        if name.endswith("-management-token"):  # this secret is used as a UUID
            return components.secret_values.random_hex(name, digits, parent)
        opts = pulumi.ResourceOptions(parent=parent, protect=True)
        return pulumi.Output.secret(random.RandomBytes(name, length=digits // 2, opts=opts).hex)

    # RandomPassword stays for the management token, so that the check sees both.
    patch.setattr("components.server.secrets.random_hex", bytes_of)


def unprotected_volume(patch: pytest.MonkeyPatch) -> None:
    _with_options(patch, digitalocean, "Volume", protect=None)


def _unretained_volume(patch: pytest.MonkeyPatch) -> None:
    _with_options(patch, digitalocean, "Volume", retain_on_delete=None)


def _unprotected_bucket(patch: pytest.MonkeyPatch) -> None:
    _with_options(patch, digitalocean, "SpacesBucket", protect=None)


def _unretained_bucket(patch: pytest.MonkeyPatch) -> None:
    _with_options(patch, digitalocean, "SpacesBucket", retain_on_delete=None)


def _bucket_without_versions(patch: pytest.MonkeyPatch) -> None:
    wrap_call(patch, digitalocean, "SpacesBucket", lambda args, kwargs: kwargs.pop("versioning"))


def _key_for_every_bucket(patch: pytest.MonkeyPatch) -> None:
    grant = digitalocean.SpacesKeyGrantArgs(bucket="", permission="fullaccess")
    wrap_call(patch, digitalocean, "SpacesKey", lambda args, kwargs: kwargs.update(grants=[grant]))


def _operator_keys_on_the_host(patch: pytest.MonkeyPatch) -> None:
    def change(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args[0].endswith("-backup-variable"):
            items = kwargs["items"]
            kwargs["items"] = items.apply(lambda values: values | {"AWS_ACCESS_KEY_ID": BACKUP["access_key_id"]})

    wrap_call(patch, nomad, "Variable", change)


def _retained_secret(patch: pytest.MonkeyPatch) -> None:
    _with_options(patch, random, "RandomPassword", retain_on_delete=True)


def _public_port(patch: pytest.MonkeyPatch) -> None:
    in_job(patch, '        host_network = "loopback"\n', "")


def _public_loopback_network(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "components.render.host.cloud_init.agent_config",
        lambda settings, configuration: agent_config(settings, configuration).replace("127.0.0.1/32", "0.0.0.0/0"),
    )


def _no_trigger(patch: pytest.MonkeyPatch) -> None:
    _with_options(patch, nomad, "Variable", replacement_trigger=None)


def _no_delete_before_replace(patch: pytest.MonkeyPatch) -> None:
    _with_options(patch, nomad, "Job", delete_before_replace=None)


def _not_deleted_with_the_droplet(patch: pytest.MonkeyPatch) -> None:
    _with_options(patch, nomad, "AclPolicy", deleted_with=None)


def default_provider(patch: pytest.MonkeyPatch) -> None:
    original = NomadTarget.options

    def without(self: NomadTarget, parent: pulumi.Resource, **more: Any) -> pulumi.ResourceOptions:
        options = original(self, parent, **more)
        options.provider = None
        return options

    patch.setattr(NomadTarget, "options", without)


def _no_wait_for_the_firewall(patch: pytest.MonkeyPatch) -> None:
    def change(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        args[2].depends_on = [item for item in args[2].depends_on if not isinstance(item, digitalocean.Firewall)]

    wrap_call(patch, components.host.nomad, "Bootstrap", change)


def _provider_before_bootstrap(patch: pytest.MonkeyPatch) -> None:
    def change(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kwargs["address"] = "https://203.0.113.10:4650"
        if args[0].endswith("-admin"):
            kwargs["secret_id"] = "00000000-0000-0000-0000-000000000000"

    wrap_call(patch, nomad, "Provider", change)


def _job_before_its_secrets(patch: pytest.MonkeyPatch) -> None:
    _with_options(patch, nomad, "Job", depends_on=[])


def _ssh_for_all(patch: pytest.MonkeyPatch) -> None:
    _open_port(patch, "22")


def _nomad_for_all(patch: pytest.MonkeyPatch) -> None:
    _open_port(patch, "4650")


def _open_port(patch: pytest.MonkeyPatch, port: str) -> None:
    def change(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for rule in kwargs["inbound_rules"]:
            if rule.port_range == port:
                rule.source_addresses = ["0.0.0.0/0", "::/0"]

    wrap_call(patch, digitalocean, "Firewall", change)


def _latest_image(patch: pytest.MonkeyPatch) -> None:
    in_job(patch, "bluesky-social/pds:0.4.5037", "bluesky-social/pds:latest")


def _untagged_image(patch: pytest.MonkeyPatch) -> None:
    in_job(patch, "bluesky-social/pds:0.4.5037", "bluesky-social/pds")


def _moving_minor_image(patch: pytest.MonkeyPatch) -> None:
    in_job(patch, "bluesky-social/pds:0.4.5037", "bluesky-social/pds:0.4")


def _invites_off(patch: pytest.MonkeyPatch) -> None:
    in_job(patch, 'PDS_INVITE_REQUIRED             = "true"', 'PDS_INVITE_REQUIRED             = "false"')


def _invites_left_out(patch: pytest.MonkeyPatch) -> None:
    in_job(patch, '        PDS_INVITE_REQUIRED             = "true"\n', "")


def _output_in_the_job(patch: pytest.MonkeyPatch) -> None:
    wrap_call(patch, nomad, "Job", lambda args, kwargs: kwargs.update(jobspec=pulumi.Output.secret(kwargs["jobspec"])))


def _client_key_in_cloud_init(patch: pytest.MonkeyPatch) -> None:
    key = "MADE-BY-THE-PROVIDER-pds-host-certificates-client-key"  # the body of its PEM text

    def with_client_key(settings: Settings, stack: str, certificates: Any) -> str:
        return user_data(settings, stack, certificates) + f"client: {key!r}\n"

    patch.setattr("components.host.droplet.user_data", with_client_key)


def _literal_password(patch: pytest.MonkeyPatch) -> None:
    in_job(patch, "        TZ  ", '        PDS_ADMIN_PASSWORD = "of my own"\n        TZ  ')


def _literal_url(patch: pytest.MonkeyPatch) -> None:
    in_job(patch, "        TZ  ", '        LOG_DESTINATION = "https://me:of-my-own@logs.test"\n        TZ  ')


def _token_in_a_tag(patch: pytest.MonkeyPatch) -> None:
    token = f"dop_v1_{'0123456789abcdef' * 4}"
    wrap_call(patch, digitalocean, "Droplet", lambda args, kwargs: kwargs.update(tags=[*kwargs["tags"], token]))


def _plain_trigger(patch: pytest.MonkeyPatch) -> None:
    def change(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        args[1]["secrets_digest"] = pulumi.Output.unsecret(args[1]["secrets_digest"])

    wrap_call(patch, components.server.ready, "ServerReady", change)


def _large_user_data(patch: pytest.MonkeyPatch) -> None:
    padding = "# " + "x" * 62 * 1024  # the document is just below the limit, with stand-ins for keys

    def padded(settings: Settings, stack: str, certificates: Any) -> str:
        text = user_data(settings, stack, certificates)
        return text + padding[: MAX_BYTES - len(text.encode()) - 1] + "\n"

    patch.setattr("components.host.droplet.user_data", padded)


def _another_tasks_variable(patch: pytest.MonkeyPatch) -> None:
    in_job(patch, f'nomadVar "{VOLUME_CHECK_PATH}"', f'nomadVar "{VOLUME_CHECK_PATH}/other"')


DEFECTS: dict[str, tuple[Plant, str, str]] = {
    "a wrong key in a nested input": (_misspelt_nested_key, "inputs", "sourceAddreses"),
    "a RandomBytes secret": (_random_bytes, "secret types", "RandomBytes"),
    "an unprotected volume": (unprotected_volume, "protected state", "pds-host-data-volume is not protected"),
    "a volume that destroy erases": (_unretained_volume, "protected state", "pds-host-data-volume is not retained"),
    "a secret that is retained on delete": (_retained_secret, "protected state", "is retained on delete"),
    "a public PDS port": (_public_port, "server port", "every address"),
    "a loopback network with public addresses": (_public_loopback_network, "user_data", "0.0.0.0/0"),
    "a Nomad resource without its trigger": (_no_trigger, "Nomad resources", "not triggered"),
    "a Nomad resource not deleted before it is replaced": (
        _no_delete_before_replace,
        "Nomad resources",
        "not deleted before",
    ),
    "a Nomad resource not deleted with its host": (
        _not_deleted_with_the_droplet,
        "Nomad resources",
        "with the droplet",
    ),
    "a provider that does not wait for the firewall": (_no_wait_for_the_firewall, "order", "pds-host-network-firewall"),
    "a provider that does not wait for the bootstrap": (
        _provider_before_bootstrap,
        "order",
        "pds-host-nomad-bootstrap",
    ),
    "a job before its secrets": (_job_before_its_secrets, "order", "pds-secrets-variable"),
    "SSH open to all": (_ssh_for_all, "operator ports", "port 22 is open"),
    "Nomad open to all": (_nomad_for_all, "operator ports", "port 4650 is open"),
    "the image tag latest": (_latest_image, "images", ":latest"),
    "an image without a tag": (_untagged_image, "images", "pds, which can change"),
    "a minor version's image tag": (_moving_minor_image, "images", ":0.4, which can change"),
    "invites off": (_invites_off, "registration", "false"),
    "invites left at the server's default": (_invites_left_out, "registration", "None"),
    "a password in the job": (_literal_password, "secret literals", "PDS_ADMIN_PASSWORD is a literal"),
    "a URL with a password in the job": (_literal_url, "secret literals", "a URL with a password"),
    "a token of the account in a tag": (_token_in_a_tag, "secret literals", "a DigitalOcean token"),
    "a secret input in plain text": (_plain_trigger, "secret literals", "secrets_digest is in plain text"),
    "a cloud-init without space for its keys": (_large_user_data, "user_data", "65,536"),
    "a variable of another task": (_another_tasks_variable, "readable variables", "pds may not read"),
    "an Output in a job": (_output_in_the_job, "secrets in texts", "an Output entered"),
    "a client key in cloud-init": (_client_key_in_cloud_init, "secrets in texts", "client-key"),
}

WITH_BACKUPS: dict[str, tuple[Plant, str, str]] = {
    "an unprotected bucket": (_unprotected_bucket, "protected state", "pds-backup-bucket is not protected"),
    "a bucket that destroy erases": (_unretained_bucket, "protected state", "bucket is not retained"),
    "a bucket without versions": (_bucket_without_versions, "backup bucket", "keeps no versions"),
    "a key for every bucket": (_key_for_every_bucket, "backup bucket", "fullaccess"),
    "the operator's own keys on the host": (_operator_keys_on_the_host, "backup bucket", "owner's own key"),
}
"""Defects of a program with backups."""
