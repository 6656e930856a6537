"""Imports a PDS of upstream's installer into a stack, by the same restore as any other; `./pds import`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cli.backups import dotenv
from cli.backups.restore import with_backup
from cli.lib.apply import change
from cli.lib.private_files import write_private
from cli.lib.stack import Stack, StackError
from components.render.nomad_scope import nomad_scope
from components.render.scripts import needed, script
from components.settings.checks.pds_env import (
    GENERATED_SECRETS,
    configured_secrets,
    owned_names,
    plain_environment,
    readable_names,
)
from components.settings.fields.errors import SECRET_NAME, from_validation
from components.settings.sections import SecretsOptions
from components.settings.sections.settings import Settings

PROGRAMS = needed("volume_check.cjs", "snapshot.cjs", "verify.cjs")
"""The programs in the script."""

_END = "END-OF-PROGRAM"
_TEMPLATE = Path(__file__).with_name("import-pds.sh")

_ELSEWHERE = {"PDS_HOSTNAME", "PDS_PORT", "PDS_DATA_DIRECTORY", "PDS_SERVICE_DID", "NODE_ENV"}
"""Names that are not compared: they are checked separately, or describe how the old container was run."""


def import_pds(stack: Stack, env: Path) -> int:
    """Move the PDS with this `pds.env` into `stack`; return the exit code. Raises StackError, StackFileError."""
    settings = with_backup(stack)
    values = read_env(env)
    _refuse(stack, settings, values)
    for key, name in GENERATED_SECRETS.items():
        stack.set_secret(f"pds:secrets.{key}", values[name])
    if settings.pds.new:
        change(stack, "pds:pds.new", "false")  # otherwise a start on the empty volume would be no fault
    change(stack, "pds:pds.paused", "true")
    path = stack.root / "build" / "import-pds.sh"
    path.parent.mkdir(exist_ok=True)
    write_private(path, script_text().encode())
    for line in setting_differences(settings, values):
        print(line)
    print(_next(stack.name, settings, path.relative_to(stack.root)))
    return 0


def read_env(env: Path) -> dict[str, str]:
    """Return the values of a `pds.env`, parsed as docker compose does. Raises StackError."""
    try:
        return dotenv.parse(env.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise StackError(f"{env} cannot be read: {error}") from None
    except dotenv.DotenvError as error:
        raise StackError(f"{env}: {error}. Nothing was changed.") from None


def script_text() -> str:
    """Return the complete script for the old machine."""
    programs = [f"cat >\"$work/{name}\" <<'{_END}'\n{script(name)}{_END}\n" for name in PROGRAMS]
    return _TEMPLATE.read_text().replace("@PROGRAMS@\n", "".join(programs))


def setting_differences(settings: Settings, values: Mapping[str, str]) -> Iterator[str]:
    """Return settings of the old server that the new one lacks, a line each with what to write; no secret is shown."""
    ours, owned = plain_environment(settings), owned_names(settings)
    secret = configured_secrets(settings)
    for name, value in sorted(values.items()):
        if name in _ELSEWHERE or name in GENERATED_SECRETS.values() or name not in readable_names():
            continue
        if name.startswith("PDS_BLOBSTORE_DISK"):
            continue
        if name == "PDS_EMAIL_SMTP_URL" or SECRET_NAME.search(name):
            if name not in secret:
                option = "mail" if name == "PDS_EMAIL_SMTP_URL" else "pds.extra_secret_env"
                yield f"note: {name} is set there and not here: see '{option}'"
        elif ours.get(name) != value:
            here = f"{ours[name]} here" if name in ours else "not set here"
            yield f"note: {name} is {value} there and {here}: see '{owned.get(name, 'pds.extra_env')}'"


def _refuse(stack: Stack, settings: Settings, values: Mapping[str, str]) -> None:
    if "PDS_PLC_ROTATION_KEY_KMS_KEY_ID" in values:
        raise StackError("Its rotation key is in a KMS, which exports no keys. This PDS cannot be imported.")
    lacking = [name for name in ("PDS_HOSTNAME", *GENERATED_SECRETS.values()) if not values.get(name)]
    if lacking:
        raise StackError(f"It is not a pds.env of a PDS: {', '.join(lacking)} is not in it. Nothing was changed.")
    try:
        SecretsOptions.model_validate({key: values[name] for key, name in GENERATED_SECRETS.items()})
    except ValidationError as error:
        faults = "; ".join(f"{fault.problem} {fault.remedy}" for fault in from_validation(error, SecretsOptions))
        raise StackError(f"Its secrets cannot be taken over: {faults} Nothing was changed.") from None
    if values["PDS_HOSTNAME"] != settings.hostname:
        raise StackError(
            f"That PDS is {values['PDS_HOSTNAME']}, and Pulumi.{stack.name}.yaml has {settings.hostname}. A hostname "
            f"is permanent. Write 'hostname: {values['PDS_HOSTNAME']}'. Nothing was changed."
        )
    bucket = values.get("PDS_BLOBSTORE_S3_BUCKET")
    if bucket and (settings.s3 is None or settings.s3.bucket != bucket):
        raise StackError(
            f"Its blobs are in the bucket {bucket}, and stay there: write 's3: {{bucket: {bucket}, …}}' with the keys "
            "that its pds.env has. Nothing was changed."
        )
    if not bucket and settings.s3:
        raise StackError(
            "Its blobs are on its disk, and 's3' puts them into a bucket. Remove 's3'. Nothing was changed."
        )
    key = GENERATED_SECRETS["plc_rotation_key"]
    outputs = _outputs(stack)
    own_key = ((outputs.get("escrow") or {}).get("secrets") or {}).get(key)
    if own_key and own_key != values[key] and outputs.get("state") != "paused":
        raise StackError(
            f"Stack {stack.name} runs a PDS with a rotation key of its own. Its members' identities depend on that "
            "key. Use another stack, or pause this one if it has no members. Nothing was changed."
        )


def _outputs(stack: Stack) -> Mapping[str, Any]:
    try:
        return stack.outputs()
    except StackError:
        return {}  # it was never made


def _next(name: str, settings: Settings, path: Path) -> str:
    here = nomad_scope(settings, name)
    place = "/srv/nomad/pds" if settings.on is None else f"/srv/nomad/clubs/{here.volume}"
    return f"""
Its secrets are in Pulumi.{name}.yaml, encrypted, and {name} is paused. Next, as in docs/guide/import.md:

  pulumi up --stack {name}
  ssh root@OLD sh -s < {path}
  ssh root@OLD tar -C /pds --owner=1000 --group=1000 -c .snapshot | ssh root@NEW tar -C {place} -x
  ./pds restore {name} --snapshot volume --sequence 1

OLD is the machine of today, NEW this stack's (`pulumi stack output ipv4 --stack {name}`{_host(settings)})."""


def _host(settings: Settings) -> str:
    return f", the host of {settings.on.stack}" if settings.on and settings.on.stack else ""
