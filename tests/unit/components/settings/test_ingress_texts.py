"""Texts for Caddy and IO: the faults that the program can find before anything is changed."""

import pytest

from components.render.ingress.caddy import caddyfile
from components.settings.checks.caddyfile import CaddyfileError, sites
from components.settings.checks.raw_hcl import HclError, blocks
from offline.mock_engine import ROOT
from tests.support.hcl_texts import HCL_ACCEPTED, HCL_REFUSED
from tests.unit.components.settings.test_settings import fault, faults, settings

CADDY = {"kind": "caddy"}
WWW = "www.noted.at {\n\trespond hi\n}\n"
FILES = ROOT / "tests" / "golden" / "caddy" / "Caddyfile"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("www.noted.at {\n\trespond hi\n", "the block of line 1 is never closed"),
        ("www.noted.at {\n\thandle / {\n\t}\n", "the block of line 1 is never closed"),
        (f"{WWW}}}\n", "the brace in line 4 closes nothing"),
        ("{\n\temail a@b.org\n}\n", "The program writes the global options"),
        (f"{WWW}\n{{\n\tdebug\n}}\n", "the block in line 5 has no address"),
        ("www.noted.at\nrespond hi\n", "no block in braces"),
        ("www.noted.at{\n}\n", "no space before the brace"),
        ("www.noted.at { respond hi }\n", "something follows the brace"),
        ('www.noted.at {\n\trespond "hi\n}\n', "the quotation mark in line 2 is never closed"),
        ("www.noted.at {\n\trespond `hi\n}\n", "the quotation mark in line 2 is never closed"),
        ("www.noted.at {\n\trespond <<END\n\thi\n}\n", "never ended by END"),
    ],
)
def test_refuses_sites_that_would_break_the_whole_file_and_names_the_line(text: str, problem: str) -> None:
    assert problem in fault("ingress.extra_caddyfile", ingress=CADDY | {"extra_caddyfile": text}).problem


@pytest.mark.parametrize(
    "text",
    [
        WWW,
        "www.noted.at,\nblog.noted.at {\n\trespond `}` 404\n}\n",
        "www.noted.at {\n\trespond <<END\n\t\t}}} {\n\t\tEND\n}\n",
        '(shared) {\n\theader X-A "{"\n}\n\nwww.noted.at {\n\timport shared # }\n}\n',
        "http://www.noted.at:80 {\n\trespond {http.request.host} \\\n\t\t200\n}\n",
        "# nothing\n",
    ],
)
def test_accepts_whole_sites_of_other_names(text: str) -> None:
    assert settings(ingress=CADDY | {"extra_caddyfile": text})


@pytest.mark.parametrize(
    ("address", "problem", "remedy"),
    [
        ("noted.at", "writes this site itself", "ingress.site_caddyfile"),
        ("https://NOTED.at", "writes this site itself", "ingress.site_caddyfile"),
        ("http://noted.at:80", "writes this site itself", "ingress.site_caddyfile"),
        ("*.noted.at", "proves the owner of a handle", "Remove it"),
        ("ann.noted.at", "proves the owner of a handle", "Remove it"),
        (":443", "has no domain", "Write the domain"),
        ("http://", "has no domain", "Write the domain"),
        ("{$DOMAIN}", "has no domain", "Write the domain"),
        ("http://www.noted.at:2020", "the port of Caddy's own queries", "without a port"),
        ("www.noted.at:3101", "does not open port 3101", "without a port"),
        ("www.noted.at:port", "not the address of a site", "www.my-club.org"),
        ("www.noted.at, www.noted.at", "two blocks have this address", "Merge them"),
    ],
)
def test_refuses_an_address_that_the_program_or_a_member_uses(address: str, problem: str, remedy: str) -> None:
    members = [{"handle": "ann.noted.at", "email": "ann@noted.at"}]
    text = f"{address} {{\n\trespond hi\n}}\n"
    found = fault("ingress.extra_caddyfile", members=members, ingress=CADDY | {"extra_caddyfile": text})
    assert problem in found.problem
    assert remedy in found.remedy


def test_refuses_a_wildcard_that_would_replace_the_hostname_certificate() -> None:
    text = "*.noted.at {\n\tabort\n}\n"
    named = {"hostname": "pds.noted.at", "dns": {"zone": "noted.at"}}
    found = fault("ingress.extra_caddyfile", **named, ingress=CADDY | {"extra_caddyfile": text})
    assert "order no certificate" in found.problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("}\n", "closes nothing"),
        ("respond / {\n", "never closed"),
        ("}\nevil.org {\n", "closes nothing"),
        ('respond "hi"\n', "answers every request instead of the server"),
        ("respond * hi\n", "answers every request instead of the server"),
        ("handle {\n\trespond hi\n}\n", "answers every request instead of the server"),
        ("handle /xrpc/* {\n\trespond hi\n}\n", "answers every request instead of the server"),
        ("basic_auth {\n\tann x\n}\n", "answers every request instead of the server"),
        ("rewrite * /x\n", "answers every request instead of the server"),
        ("tls internal\n", "the program sets"),
        ("noted.at {\n\trespond / hi\n}\n", "not a directive"),
        ("@pds_large path /x\n", "the program uses names"),
    ],
)
def test_refuses_site_lines_that_would_keep_requests_from_the_server(text: str, problem: str) -> None:
    assert problem in fault("ingress.site_caddyfile", ingress=CADDY | {"site_caddyfile": text}).problem


def test_site_lines_are_written_unchanged_before_the_lines_of_the_program() -> None:
    text = 'respond / "one\ntwo"\nheader X-Club chess'
    written = caddyfile(settings(ingress=CADDY | {"site_caddyfile": text}))
    assert written.startswith(f"noted.at {{\n{text}\n")
    assert text not in caddyfile(settings(ingress=CADDY | {"site_caddyfile": text}), plain=True)


def test_refuses_texts_too_long_for_a_nomad_variable() -> None:
    long = f"# {'x' * 60_000}\n"
    assert "64 KiB" in fault("ingress.extra_caddyfile", ingress=CADDY | {"extra_caddyfile": long}).problem


def test_both_caddy_texts_require_caddy() -> None:
    found = faults(ingress={"extra_caddyfile": WWW, "site_caddyfile": "respond / hi"})
    assert [one.key for one in found] == ["ingress.extra_caddyfile", "ingress.site_caddyfile"]


def test_reader_accepts_the_rendered_caddyfile() -> None:
    found = [site.addresses for site in sites(FILES.read_text())]
    assert found == [("noted.at",), ("*.noted.at",), ("http://*.noted.at:2020",)]
    with pytest.raises(CaddyfileError, match="has no address"):
        sites(f"{{\n\tdebug\n}}\n{FILES.read_text()}")


@pytest.mark.parametrize(("text", "problem"), HCL_REFUSED)
def test_refuses_hcl_that_would_break_the_shared_ingress_and_names_the_line(text: str, problem: str) -> None:
    assert problem in fault("ingress.extra_hcl", ingress={"extra_hcl": text}).problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('ingress "noted.at" {\n}\n', "line 1: the program writes this host itself"),
        ('\nhost "NOTED.at" {\n}\n', "line 2: the program writes this host itself"),
        ('host "a.org" {\n}\nhost "a.org" {\n}\n', "line 3: an earlier block has this host"),
    ],
)
def test_refuses_a_host_that_the_file_has_already(text: str, problem: str) -> None:
    assert problem in fault("ingress.extra_hcl", ingress={"extra_hcl": text}).problem


@pytest.mark.parametrize("text", ['license {\n  key = "hunter2"\n', "license {\n  key = hunter2 hunter2\n}\n"])
def test_refuses_an_incomplete_licence_without_repeating_it(text: str) -> None:
    found = fault("ingress.license_hcl", ingress={"license_hcl": text})
    assert "in line" in found.problem
    assert "hunter2" not in str(found)


@pytest.mark.parametrize("text", ["", *HCL_ACCEPTED])
def test_accepts_whole_hcl(text: str) -> None:
    assert settings(ingress={"extra_hcl": text})
    assert settings(ingress={"license_hcl": text or "a {\n}\n"})


def test_blocks_are_found_by_keyword_and_labels() -> None:
    (found,) = blocks('a = 1\nhost "a.org" "b" {\n  inner "c" {\n  }\n}\n')
    assert (found.keyword, found.labels, found.line) == ("host", ("a.org", "b"), 2)
    with pytest.raises(HclError):
        blocks("(")
