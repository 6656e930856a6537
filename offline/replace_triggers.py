"""Inputs that replace a resource when they change, without querying a provider.

`replace_triggers.json` is generated from the schemas of this program's types, and names the versions of these
schemas: `python -m offline.replace_triggers` runs `pulumi package get-schema` (CLI and plugins on PATH). It lists every
input of a type. An input that a later package added is unknown, and counts as one that replaces: the safe reading,
until the table is generated again.
"""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from offline.mock_engine import COMPUTED

TABLE = Path(__file__).with_name("replace_triggers.json")
PACKAGES = ("digitalocean", "nomad")

# The schemas of random and tls do not declare it (their providers decide in code): every input of a RandomPassword but
# none of its outputs replaces it (terraform-provider-random, resource_password.go, RequiresReplace on each attribute),
# and so do a key's or a certificate's (terraform-provider-tls, resource_*.go), except when a certificate may renew
# early.
_BY_CODE = {
    "random:index/randomPassword:RandomPassword": (
        "keepers length lower minLower minNumeric minSpecial minUpper number numeric overrideSpecial special upper"
    ),
    "tls:index/privateKey:PrivateKey": "algorithm ecdsaCurve rsaBits",
    "tls:index/certRequest:CertRequest": "dnsNames ipAddresses privateKeyPem subject uris",
    "tls:index/selfSignedCert:SelfSignedCert": (
        "allowedUses dnsNames ipAddresses isCaCertificate privateKeyPem setAuthorityKeyId setSubjectKeyId subject uris "
        "validityPeriodHours"
    ),
    "tls:index/locallySignedCert:LocallySignedCert": (
        "allowedUses caCertPem caPrivateKeyPem certRequestPem isCaCertificate setSubjectKeyId validityPeriodHours"
    ),
}


Table = dict[str, dict[str, bool]]
"""Type, input, whether its change replaces the resource."""


@cache
def _table() -> Table:
    table: Table = json.loads(TABLE.read_text())["inputs"]
    return table


def known(kind: str) -> frozenset[str]:
    """Return inputs of the type `kind` (a full token) in the table; empty for an unlisted type."""
    return frozenset(_table().get(kind, ()))


def replaces(kind: str, key: str) -> bool:
    """Return whether a change of the input `key` replaces a resource of the type `kind` (a full token)."""
    listed = _table().get(kind)
    return key in _BY_CODE.get(kind, "").split() if listed is None else listed.get(key, True)


def main() -> int:
    """Write `replace_triggers.json` from the schemas of the plugins on PATH, else of the installed packages."""
    if not shutil.which("pulumi"):
        print("The Pulumi CLI is not on PATH; see https://www.pulumi.com/docs/install/.", file=sys.stderr)
        return 1
    versions = {name: importlib.metadata.version(f"pulumi-{name}") for name in PACKAGES}
    schemas = {}
    for name, version in versions.items():
        # A plugin on PATH is used as it is; otherwise the CLI fetches the requested version.
        plugin = shutil.which(f"pulumi-resource-{name}") or f"{name}@{version}"
        answer = subprocess.run(
            ["pulumi", "package", "get-schema", plugin], check=True, capture_output=True, text=True, timeout=300
        )
        schemas[name] = json.loads(answer.stdout)
    TABLE.write_text(table_of(schemas))
    return 0


def table_of(schemas: Mapping[str, dict[str, Any]]) -> str:
    """Return the text of the table, from the schema of each package."""
    inputs = {
        kind: {key: bool(value.get("willReplaceOnChanges")) for key, value in sorted(schema["inputProperties"].items())}
        for package in schemas.values()
        for kind, schema in sorted(package["resources"].items())
        if kind in COMPUTED
    }
    versions = {name: str(schema.get("version", "")) for name, schema in schemas.items()}
    return json.dumps({"schemas": versions, "inputs": inputs}, indent=1) + "\n"


if __name__ == "__main__":
    sys.exit(main())
