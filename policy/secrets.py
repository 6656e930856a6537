"""Checks that secrets take one way only.

These checks know every secret, from the offline evaluation, as stand-ins. The engine hides them.
"""

import base64
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

from pulumi.runtime import rpc

from offline.mock_engine import Evaluation
from policy.view import blinded, texts, written_files

_SECRET_OUTPUTS = {
    "RandomPassword": ("result",),
    "PrivateKey": ("privateKeyPem",),
    "AclToken": ("secretId",),
    "SpacesKey": ("secretKey",),
}
_WITH_BACKUPS = {"SpacesKey"}
_WITH_A_HOST = {"PrivateKey", "AclToken"}
"""Of a stack that creates its own host."""


def is_secret(value: Any) -> bool:
    """Whether the value is wrapped as a secret."""
    return isinstance(value, dict) and value.get(rpc._special_sig_key) == rpc._special_secret_sig


def known_secrets(evaluation: Evaluation, given: Iterable[str] = ()) -> dict[str, str]:
    """Map every secret of the evaluation to its source; `given` are those from the stack file."""
    secrets = {f"given {number}": value for number, value in enumerate(given, 1)}
    kinds = {item.type.rpartition(":")[2] for item in evaluation.of("")}
    for kind, outputs in _SECRET_OUTPUTS.items():
        if kind in _WITH_BACKUPS - kinds or (kind in _WITH_A_HOST - kinds and "Droplet" not in kinds):
            continue
        for item in evaluation.of(f":{kind}"):
            for output in outputs:
                value = item.outputs.get(output)
                if value is None:  # unknown in a preview
                    continue
                if not is_secret(value):
                    raise AssertionError(f"{item.name}.{output} came back without its secret mark")
                secrets[f"{item.name}.{output}"] = value["value"]
                if item.name.endswith("-management-token"):
                    digits = value["value"]
                    cuts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
                    secrets[f"{item.name} as a UUID"] = "-".join(cuts)
    return secrets


def forms(secret: str) -> set[str]:
    """Return the secret as it is and in encoded forms: base64, hex, percent-encoded, on one line, raw."""
    raw = [secret.encode()]
    if re.fullmatch(r"([0-9a-f]{2})+", secret):
        raw.append(bytes.fromhex(secret))
    spellings = {secret, secret.upper(), quote(secret, safe=""), quote_plus(secret), secret.replace("\n", "\\n")}
    spellings |= {raw[0].hex(), raw[0].hex().upper()}
    for data in raw:
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            spellings |= {encode(data).decode(), encode(data).decode().rstrip("=")}
    if secret.startswith("-----BEGIN"):
        spellings.add(secret.splitlines()[1])
    return {spelling for spelling in spellings if len(spelling) >= 8}


def open_texts(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """Yield place and text: all text of the evaluation that is readable without a secret."""
    for item in evaluation.of(""):
        yield f"the id of {item.name}", item.id
        yield f"the URN of {item.name}", item.urn
        yield f"the name of {item.name}", item.name
        yield from texts(blinded(item.raw), f"input {item.name}")
        yield from texts(blinded(item.options), f"option {item.name}")
    for urn, outputs in evaluation.registered.items():
        yield from texts(blinded(outputs), f"output of {urn.rpartition('::')[2]}")
    for severity, message in evaluation.messages:
        yield f"a message ({severity})", message


def find_secrets_in_the_open(evaluation: Evaluation, given: Iterable[str] = ()) -> list[str]:
    """No id, URN, name, option, plain input, plain output or message holds a secret in any form."""
    secrets = known_secrets(evaluation, given).items()
    spelled = [(spelling, label) for label, secret in secrets for spelling in forms(secret)]
    findings = [
        f"{where} holds {label}"
        for where, text in open_texts(evaluation)
        for spelling, label in spelled
        if spelling in text
    ]
    return list(dict.fromkeys(findings))  # a text may hold several forms of one secret


def find_secrets_in_texts(evaluation: Evaluation, given: Iterable[str] = ()) -> list[str]:
    """A job holds no secret even if it is wrapped; cloud-init holds the machine's own key and no other."""
    findings = []
    secrets = known_secrets(evaluation, given)
    # A cluster without ingress and takeover has no job.
    for job in (item for item in evaluation.of("") if item.type.endswith("job:Job")):
        if is_secret(job.raw["jobspec"]):
            findings.append(f"{job.name}: an Output entered the job's text")
        findings += [f"{job.name}: the job's text holds {label}" for label in _held(job.inputs["jobspec"], secrets)]
    for droplet in (item for item in evaluation.resources if item.type.endswith("droplet:Droplet")):
        own = "-worker-certificate-key" if "-droplets-worker-" in droplet.name else "-server-key"
        user_data = droplet.inputs["userData"]
        whole = user_data + "\n".join(content for _path, content in written_files(user_data))
        held = _held(whole, secrets)
        allowed = [label for label in secrets if label.endswith(f"{own}.privateKeyPem")]
        findings += [f"cloud-init holds {label}" for label in held if label not in allowed]
        findings += [f"cloud-init lacks {label}" for label in allowed if label not in held]
    return findings


def _held(text: str, secrets: dict[str, str]) -> list[str]:
    return [label for label, secret in secrets.items() if any(spelling in text for spelling in forms(secret))]
