"""Properties of the HCL writer: every value is read back unchanged, and nothing in it is interpolated.

Read back by python-hcl2. It has one limit: it reads an escaped `${` or `%{` only if a `}` closes it and no other `$`,
`%` or backslash is right before it; HCL itself (hashicorp/hcl, scan_tokens.rl) accepts any. For such texts a reader of
HCL's own rules, written here, stands in; it also reads all others.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from components.render.hcl import _value, fits_heredoc, heredoc, quote, write
from components.render.ingress.agent_io import ingress_file
from components.render.jobs.pds import pds_job
from components.render.jobspec import Logs, Resources, Template, VolumeRequest
from components.settings.sections.settings import Settings
from offline.hcl_reader import job_of, parse, task_of
from tests.support.programs import run, settings_of

quick = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])

_NASTY = ("}", '"', "\\", "\n", "\r\n", "\t", "EOT", "\nEOT\n", "<<-EOT\n", "#", "//", "/*", "\b", "\f", "\0")
_OPENINGS = ("${", "%{", "$${", "%%{", "${a}", "%{ if a }", "$", "%")


def _texts(nasty: tuple[str, ...], without: str = "") -> st.SearchStrategy[str]:
    characters = st.characters(exclude_categories=["Cs"], exclude_characters=without)
    return st.lists(st.one_of(st.sampled_from(nasty), st.text(characters, max_size=6)), max_size=8).map("".join)


TEXTS = _texts(_NASTY + _OPENINGS)
PARSED_TEXTS = _texts((*_NASTY, "-${a}-", "-%{a}-"), without="$%")
"""Within the parser's limit."""
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}


def _unquoted(literal: str) -> str:
    """A quoted HCL string by HCL's own rules; raises if it would interpolate or is not a string."""
    assert literal[0] == literal[-1] == '"', "the whole text is quoted"
    inner, found, at = literal[1:-1], "", 0
    while at < len(inner):
        if inner.startswith(("$${", "%%{"), at):
            found, at = found + inner[at + 1 : at + 3], at + 3
            continue
        assert not inner.startswith(("${", "%{"), at), "an interpolation begins"
        assert inner[at] not in '"\n', "the string ends early"
        if inner[at] != "\\":
            found, at = found + inner[at], at + 1
        elif inner[at + 1] == "u":
            found, at = found + chr(int(inner[at + 2 : at + 6], 16)), at + 6
        else:
            found, at = found + ESCAPES[inner[at + 1]], at + 2
    return found


@quick
@given(TEXTS)
def test_any_quoted_text_is_unquoted_unchanged_by_the_rules_of_hcl(text: str) -> None:
    assert _unquoted(quote(text)) == text


@quick
@given(PARSED_TEXTS)
def test_any_attribute_is_parsed_back_unchanged(text: str) -> None:
    assert parse(f"a = {_value(text, '')}\n") == {"a": text}


@quick
@given(PARSED_TEXTS)
def test_any_text_that_fits_a_heredoc_is_parsed_back_unchanged(text: str) -> None:
    lines = f"{text}\n"
    assume(fits_heredoc(lines))
    assert parse(f"  a = {heredoc(lines, '  ')}\n") == {"a": lines}


@pytest.mark.parametrize(
    "text",
    [
        "no end of line",
        "a\nEOT\n",
        "a\n  EOT  \nb\n",
        "  all lines\n  indented\n",
        "a\n \nb\n",
        "two ends\n\n",
        "a\r\n",
        "\n",
        "",
    ],
)
def test_text_that_a_heredoc_would_change_is_quoted(text: str) -> None:
    assert not fits_heredoc(text) or text == "two ends\n\n", "HCL would return another text"
    assert parse(f"a = {_value(text, '    ')}\n") == {"a": text}


def test_script_is_written_as_a_readable_heredoc() -> None:
    assert _value("if x; then\n  y\n\nfi\n", "  ") == "<<-EOT\n  if x; then\n    y\n\n  fi\n  EOT"


@pytest.mark.parametrize("text", ["${a}", "%{ if a }", "$${a}", "$$${a}", "\\${a}", "%${a}", "${\n}\n"])
def test_interpolates_nothing(text: str) -> None:
    written = _value(text, "")
    bare = re.sub(r"\$\$\{|%%\{", "", written)
    assert not re.search(r"[$%]\{", bare), "Nomad would replace it, or refuse the job"


def test_uses_no_escapes_that_hcl_lacks() -> None:
    assert quote("\b\f") == '"\\u0008\\u000c"', r"HCL knows \n \r \t \" \\ and \u alone"
    assert quote("\\b") == '"\\\\b"', "a backslash before a letter is a backslash"


@quick
@given(
    st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), PARSED_TEXTS, max_size=4),
    PARSED_TEXTS,
    PARSED_TEXTS,
)
def test_blocks_with_any_values_are_parsed_back_unchanged(env: dict[str, str], data: str, name: str) -> None:
    template = Template(destination=name, change_mode="noop", data=data)
    parsed = parse(f"{write(template)}\n{write(VolumeRequest(name='v', source=name))}\n")
    assert parsed["template"] == [{"destination": name, "change_mode": "noop", "data": data}]
    assert parsed["volume"] == [{"v": {"type": "host", "read_only": False, "source": name}}]
    for key, value in env.items():
        assert parse(f"x {{\n  {key} = {_value(value, '  ')}\n}}\n") == {"x": [{key: value}]}


@quick
@given(st.integers(-(2**53), 2**53), st.integers(0, 100))
def test_numbers_stay_numbers(one: int, other: int) -> None:
    parsed = parse(f"{write(Resources(cpu=one, memory=other))}\n{write(Logs(max_files=other, max_file_size=1))}\n")
    assert parsed["resources"] == [{"cpu": one, "memory": other}]


def test_value_without_an_hcl_form_is_an_error() -> None:
    with pytest.raises(TypeError, match="no HCL for object"):
        _value(object(), "")


# Whole files, rendered from settings that try to break them.


def _job_text(extra: dict[str, str]) -> str:
    """The job for this environment, without the settings' own checks: the writer must be correct by itself."""
    base = settings_of()
    changed = base.model_copy(update={"pds": base.pds.model_copy(update={"extra_env": extra})})
    return pds_job(changed, "dev")


def _job_with(extra: dict[str, str]) -> dict[str, Any]:
    return job_of(_job_text(extra), "pds")


def _around_env(text: str) -> tuple[str, str, str]:
    """The job before, in and after the environment of its server."""
    start = text.index("\n      env {\n", text.index('task "pds"')) + 1
    end = text.index("\n      }\n", start) + len("\n      }\n")
    return text[:start], text[start:end], text[end:]


@pytest.fixture(scope="module")
def around_env() -> tuple[str, str, str]:
    """The parts of a job without extra environment."""
    return _around_env(_job_text({}))


@quick
@given(extra=st.dictionaries(st.from_regex(r"PDS_X[A-Z0-9_]{0,20}", fullmatch=True), PARSED_TEXTS, max_size=4))
def test_job_with_any_extra_environment_is_parsed_back_unchanged(
    extra: dict[str, str], around_env: tuple[str, str, str]
) -> None:
    """Outside the block the job is that without them, which other tests parse; the parser needs long for a job."""
    head, base, tail = around_env
    text = _job_text(extra)
    assert text.startswith(head)
    assert text.endswith(tail)
    block = parse(text[len(head) : len(text) - len(tail)])
    assert list(block) == ["env"], "no text became another block"
    (env,) = block["env"]
    assert env == parse(base)["env"][0] | extra


@pytest.mark.parametrize(
    "value",
    [
        'a "quoted" word',
        "two\nlines",
        "two\nlines\n",
        "C:\\temp\\new",
        "größe 🦋 Ω",
        'x\nEOT\n}\njob "evil" {\n',
        "a = 1 # no",
        "<<-EOT",
        "",
    ],
)
def test_hostile_values_stay_one_value(value: str) -> None:
    job = _job_with({"PDS_X": value})
    assert task_of(job, "pds")["env"][0]["PDS_X"] == value
    assert len(job["group"]) == 1, "no text became a block"


@pytest.mark.parametrize("hostname", ["a.at", "xn--grn-hoa.noted.at", f"{'a' * 63}.noted.at"])
def test_hostnames_of_extreme_length_are_parsed_back_unchanged(
    hostname: str, settings: Callable[..., Settings]
) -> None:
    changed = settings(hostname=hostname, dns={"zone": hostname})
    (env,) = task_of(job_of(pds_job(changed, "dev"), "pds"), "pds")["env"]
    assert env["PDS_HOSTNAME"] == hostname
    assert parse(ingress_file(changed, "dev"))["ingress"] == [{hostname: {"name": "pds", "backend": "nomad:pds"}}]


def test_secret_with_special_characters_is_only_in_the_variable() -> None:
    password = 'p"a\\s${s}%{w}\n{{o}}r`d'
    secrets = {"plc_rotation_key": "1" * 64, "jwt_secret": "given jwt/secret+0123", "admin_password": password}
    evaluation = run(secrets=secrets)
    assert evaluation.one("pds-secrets-variable").inputs["items"]["PDS_ADMIN_PASSWORD"] == password
    assert evaluation.jobspec("pds") == run().jobspec("pds"), "a secret must not change the job"
