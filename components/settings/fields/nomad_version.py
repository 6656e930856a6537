"""The oldest supported version of Nomad. Without imports, because the dynamic providers read it too."""

OLDEST_NOMAD = (2, 0, 4)
"""Nomad's Docker driver has known vulnerabilities before this version. It does not change with the default version."""

OLDEST_NOMAD_TEXT = ".".join(map(str, OLDEST_NOMAD))


def version_numbers(version: str) -> tuple[int, ...]:
    """The numbers of a release ("2.0.6", "2.0.6+ent", "2.1.0-beta.1"), for comparisons."""
    release = version.partition("-")[0].partition("+")[0]
    return tuple(int(part) for part in release.split(".") if part.isdigit())
