"""Which inputs replace a resource when they change, without asking a provider.

`replacing.json` is generated from the providers' schemas for the types this program uses, with the package versions it
holds for: `python -m tools.replacing` asks `pulumi package get-schema` (CLI and plugins on PATH). A test compares the
versions with the installed packages.
"""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from tools.engine import COMPUTED

TABLE = Path(__file__).with_name("replacing.json")
PACKAGES = ("digitalocean", "nomad")

# The schemas of random and tls do not say it (their providers decide in code): every input of a RandomPassword but none
# of its outputs replaces it (terraform-provider-random, resource_password.go, RequiresReplace on each attribute), and
# so do a key's or a certificate's (terraform-provider-tls, resource_*.go), except when a certificate may renew early.
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


@cache
def _table() -> dict[str, list[str]]:
    table: dict[str, list[str]] = json.loads(TABLE.read_text())["replaced_by"]
    return table


def replaced_by(kind: str) -> frozenset[str]:
    """Inputs of the type `kind` (a full token) whose change replaces the resource."""
    return frozenset(_BY_CODE.get(kind, "").split()) | frozenset(_table().get(kind, ()))


def main() -> int:
    """Write `replacing.json` from the schemas of the installed package versions."""
    if not shutil.which("pulumi"):
        print("The Pulumi CLI is not on PATH; see https://www.pulumi.com/docs/install/.", file=sys.stderr)
        return 1
    versions = {name: importlib.metadata.version(f"pulumi-{name}") for name in PACKAGES}
    replaced: dict[str, list[str]] = {}
    for name, version in versions.items():
        # A plugin on PATH is taken as it is; else the CLI fetches the version asked for.
        plugin = shutil.which(f"pulumi-resource-{name}") or f"{name}@{version}"
        answer = subprocess.run(
            ["pulumi", "package", "get-schema", plugin], check=True, capture_output=True, text=True, timeout=300
        )
        for kind, schema in json.loads(answer.stdout)["resources"].items():
            if kind in COMPUTED:
                inputs = schema.get("inputProperties", {})
                replaced[kind] = sorted(key for key, value in inputs.items() if value.get("willReplaceOnChanges"))
    TABLE.write_text(json.dumps({"packages": versions, "replaced_by": dict(sorted(replaced.items()))}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
