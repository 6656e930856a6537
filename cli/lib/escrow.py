"""The escrow file: everything needed to rebuild a PDS elsewhere, encrypted with a passphrase.

The rotation key exists only in the stack's state. Losing both loses every identity on the server. The format is age's
(age-encryption.org), so that `age -d FILE` opens it without this program. The content never reaches a command line, an
unencrypted file or a log.
"""

import datetime
import getpass
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyrage

from cli.errors import FailedError
from cli.lib.private_files import write_private
from cli.lib.stack import Stack, StackError
from components.settings.checks.pds_env import GENERATED_SECRETS
from components.settings.fields.types import SECP256K1_ORDER
from offline import ROOT

REQUIRED = ("hostname", "stack", "package_version", "environment", "secrets", "ipv4", "stack_file", "written")
OF_A_HOST = ("volume_id", "nomad_management_token", "nomad_ca_pem", "nomad_ca_key_pem")
"""Also required if the host is this stack's own; else `on` names its stack."""
OF_A_CLUSTER = ("stack", "hosts", "nomad_management_token", "nomad_ca_pem", "nomad_ca_key_pem", "stack_file", "written")
"""Required of a cluster, which has no PDS and so no keys of members."""
PASSPHRASE_FILE = "PDS_ESCROW_PASSPHRASE_FILE"  # noqa: S105 (the name of a variable)
_SHORTEST = 12


class EscrowError(FailedError):
    """Why there is no valid escrow file, and what to do."""


def write(stack: str, folder: Path) -> Path:
    """Read the stack's `escrow` output and write it encrypted; return the file's path. Raises EscrowError."""
    content = _from_state(stack)
    content["stack_file"] = _stack_file(stack)
    content["written"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    check_escrow(content)
    path = _free(folder, f"escrow-{content.get('hostname') or stack}-{content['written'][:10]}")
    write_private(path, pyrage.passphrase.encrypt(json.dumps(content, indent=1).encode(), _passphrase(new=True)))
    return path


def _free(folder: Path, stem: str) -> Path:
    """Return a path that does not exist: an older escrow may be the only one with a known passphrase."""
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(path for name in names if not (path := folder / f"{name}.age").exists())


def read(path: Path) -> dict[str, Any]:
    """Open an escrow file and check it; return its content. Raises EscrowError."""
    try:
        sealed = path.read_bytes()
    except OSError as error:
        raise EscrowError(f"{path}: {error.strerror}.") from None
    try:
        content = json.loads(pyrage.passphrase.decrypt(sealed, _passphrase(new=False)))
    except pyrage.DecryptError as error:
        raise EscrowError(f"{path} does not open: {error}. Is it the right passphrase?") from None
    except ValueError:
        raise EscrowError(f"{path} opens, but holds no escrow.") from None
    check_escrow(content)
    return dict(content)


def check_escrow(content: Mapping[str, Any]) -> None:
    """Check that `content` suffices to rebuild the PDS, or the cluster. Raises EscrowError naming what is missing or
    wrong."""
    if content.get("hosts"):
        if missing := [key for key in OF_A_CLUSTER if not content.get(key)]:
            raise EscrowError(f"The output `escrow` lacks {', '.join(missing)}. Complete `pulumi up`, then try again.")
        return
    required = REQUIRED if content.get("on") else (*REQUIRED, *OF_A_HOST)
    missing = [key for key in required if not content.get(key)]
    missing += [name for name in GENERATED_SECRETS.values() if not content.get("secrets", {}).get(name)]
    if missing:
        raise EscrowError(f"The output `escrow` lacks {', '.join(missing)}. Complete `pulumi up`, then try again.")
    key = content["secrets"][GENERATED_SECRETS["plc_rotation_key"]]
    if len(key) != 64 or not 0 < int(key, 16) < SECP256K1_ORDER:
        raise EscrowError("The rotation key in the escrow is not a secp256k1 key.")


def describe_host(content: Mapping[str, Any]) -> str:
    """Return what an escrow's content has of its host, as text."""
    if on := content.get("on"):
        return f"and not its host, which is that of\n           {on}; address {content['ipv4']}"
    return f"the Nomad CA and\n           management token; address {content['ipv4']}, volume {content['volume_id']}"


def _from_state(stack: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = Stack(stack).output("escrow")
    except StackError as error:
        if "does not have output" not in str(error):  # the engine's words (pulumi/pulumi, cmd/pulumi/stack/output.go)
            raise
        raise EscrowError(
            f"The state of stack {stack} has no keys to write. Run `pulumi up --stack {stack}` first."
        ) from None
    return content


def _stack_file(stack: str) -> str:
    path = ROOT / f"Pulumi.{stack}.yaml"
    if not path.exists():
        raise EscrowError(f"{path.name} is not here; run this in the folder of the stack file.")
    return path.read_text()


def _passphrase(new: bool) -> str:
    """Return the passphrase from the file in PDS_ESCROW_PASSPHRASE_FILE, else prompt for it; never an argument."""
    if named := os.environ.get(PASSPHRASE_FILE):
        try:
            typed = Path(named).read_text().rstrip("\n")
        except OSError as error:
            raise EscrowError(f"{PASSPHRASE_FILE}: {named}: {error.strerror}.") from None
    else:
        typed = getpass.getpass("Passphrase for the escrow file: ")
        if new and getpass.getpass("Repeat the passphrase: ") != typed:
            raise EscrowError("The two passphrases differ; nothing was written.")
    if new and len(typed) < _SHORTEST:
        raise EscrowError(f"The passphrase is too short: {_SHORTEST} characters at least, better six words.")
    return typed
