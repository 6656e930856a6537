"""No file uses a name that was retired before 0.1.0. Each such name had a private meaning, or two.

The project uses the words of Pulumi, Nomad, DigitalOcean and the AT Protocol. A pattern is as narrow as the sense in
which the name was retired: `room` for a club's namespace, not for free space.
"""

import re
import subprocess
from functools import cache

import pytest

from offline.mock_engine import ROOT

RETIRED = {
    r"\b(Ground|GroundArgs|pds-ground)\b": "HostNetwork and DataVolume",
    r"\bPlace\b(?! of)": "HostConnection",
    r"\bClubRoom|\bclub'?s? rooms?\b|\brooms? of (a|the) clubs?\b": "ClubNamespace",
    r"\b(Resolves|Unlisted|Removals|Dispatched)(Provider)?\b(?=[(`:])": "the resource's name in components/dynamic",
    r"\b(PdsJob|PdsJobArgs|WatchArgs)\b|pds-watch\b": "PdsServer, Alerts",
    r"\b(ProbeError|LateError|NotYetError)\b|\bprobes\b": "ServiceError, DeadlineError, PendingError; clients",
    r"\b(tell_of|tell_of_strangers|_in_words|_settled|_OnThePds|_Fact)\b": "a verb that says what it does",
    r"\btelling\b|\bentropy\b|\bworkload\.py": "notices, secret_values, server",
    r"\bpds-candidate\b|\bcandidate_job\b": "upgrade trial",
    r"\b(the|a) guard\b(?! that also)|\bguard\.cjs\b|PDS_GUARD": "volume check",
    r"\.stamps\b|\bstamp\.cjs\b|\brun stamp": "run status",
    r"\bmark file\b|\bthe mark of (a|any|its) PDS\b": "identity file",
    r"\b(departures|documents|directory|watch|confirm)\.cjs\b": "account_events, did_documents, fake_plc, …",
    r"\b(pds-dir|drain|open|older)\.sh\b": "host-volume-plugin, stop-before-shutdown, restic_open, fetch_older",
    r"\./pds (club|clubs|let-in|move-in|gate|place|rescue|token|verify)(?![\w-])": "new, list, allow-ip, …",
    r"\./pds [a-z-]+ club(?![\w-])|--(stack|on|to|from) club(?![\w-])|\bstack (init|select|rm) club\b": "stack main",
    r"\b(nobody|somebody|whoever|anybody)\b": "a concrete subject",
    r"\b(LetIn\w*|AccountError)\b": "FirewallError, DigitalOceanError",
    r"\breplacing\.json\b": "replace_triggers.json",
    r"\bjobs? that watch(es)?\b": "the alerts job",
    r"\bisland\b|\brequire_residents\b|\bResidentError\b": "single, ClubHostError",
    r"\bdesk\b|\bshel(f|ves)\b|\bBREATH\b": "exchange, shard, PAUSE_MS",
    r"^\W*Owns ": "a verb that says what the file does",
    r"\blines? 0\.[45]\b": "packages 0.4: a newer image tag begins with 0.4, too",
    r"['`](pds:)?(pds|volume|backup|blobs|metrics): \{+\w+: ": "'pds.escrow', as in `pulumi config set --path`",
    r"\b(GATES|THROUGH_THE_INGRESS|BY_THEMSELVES|THROUGH_NOMAD)\b": "PREREQUISITES, INGRESS_CHECKS, …",
}
"""A pattern, and the name that replaces it."""

ALLOWED = {
    "tests/architecture/test_retired_names.py": "this list",
}
"""Files that may have them, with the reason."""


@cache
def _files() -> dict[str, str]:
    """The text of each file, by its name."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    ).stdout
    kinds = (".py", ".md", ".cjs", ".sh", ".yaml", ".json", ".toml", "Makefile", "pds")
    names = [
        name for name in listed.splitlines() if name.endswith(kinds) and name not in ALLOWED and "lock" not in name
    ]
    return {name: (ROOT / name).read_text() for name in names}


@pytest.mark.parametrize("pattern", RETIRED, ids=lambda pattern: RETIRED[pattern][:40])
def test_no_file_uses_a_retired_name(pattern: str) -> None:
    names = re.compile(pattern, re.MULTILINE)
    wider = re.compile(pattern.replace(r"\b", ""), re.MULTILINE)
    lines = [
        f"{file}:{number}: {line.strip()[:100]}"
        for file, text in _files().items()
        if wider.search(text) and names.search(text)  # many times as fast as line by line, and with `\b` first
        for number, line in enumerate(text.splitlines(), 1)
        if names.search(line)
    ]
    assert lines == [], f"instead: {RETIRED[pattern]}"
