"""Options of `mail`: presets, the sender's domain, and the refusal of records that receivers would not accept."""

from typing import Any

import pytest

from components.settings.checks.warnings import warnings
from components.settings.sections import MailOptions
from components.settings.sections.mail_presets import BLOCKED_SMTP_PORTS, PRESETS, USUAL_TLS
from tests.support.mail import ALL_PARTS, KEY, LONG_KEY, RESEND, RETURN_PATH, SPF
from tests.unit.components.settings.test_settings import MAIL, fault, faults, settings


def _mail(**changes: Any) -> MailOptions:
    mail = settings(mail={**RESEND, "user": "u", **changes}).mail
    assert mail
    return mail


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_a_port_that_digitalocean_does_not_block_and_the_tls_mode_of_it(name: str) -> None:
    preset = PRESETS[name]
    mail = _mail(preset=name, **({"region": preset.example_region} if preset.regions else {}))
    assert mail.port not in BLOCKED_SMTP_PORTS
    assert USUAL_TLS[mail.port] == mail.tls
    assert [
        text
        for text in warnings(settings(mail={**RESEND, "preset": name, "user": "u", "region": mail.region}))
        if "pds:mail" in text
    ] == []
    assert all(source.startswith("https://") for source in preset.sources)


def test_a_misspelt_preset_is_the_only_fault_and_the_meant_one_is_named() -> None:
    [found] = faults(mail={"preset": "resned", "from": "pds@noted.at", "password": "p"})
    assert (found.key, found.remedy.partition(".")[0]) == ("mail.preset", "Write 'resend'")


def test_the_presets_are_the_choices_of_the_option() -> None:
    assert (
        "not one of the choices"
        in {one.key: one for one in faults(mail={**RESEND, "preset": "gmail"})}["mail.preset"].problem
    )
    for name in PRESETS:
        assert f"'{name}'" in {one.key: one for one in faults(mail={**RESEND, "preset": "x"})}["mail.preset"].remedy


def test_a_preset_fills_what_the_stack_file_leaves_out() -> None:
    mail = settings(mail=RESEND).mail
    assert mail
    assert (mail.host, mail.port, mail.tls, mail.user) == ("smtp.resend.com", 2465, "implicit", "resend")
    own = _mail(host="smtp.other.org", port=2587, tls="starttls", user="me")
    assert (own.host, own.port, own.tls, own.user) == ("smtp.other.org", 2587, "starttls", "me")


@pytest.mark.parametrize(
    ("preset", "region", "host"),
    [
        ("ses", "eu-north-1", "email-smtp.eu-north-1.amazonaws.com"),
        ("mailgun", None, "smtp.mailgun.org"),
        ("mailgun", "eu", "smtp.eu.mailgun.org"),
        ("smtp2go", "au", "mail-au.smtp2go.com"),
        ("smtp2go", None, "mail.smtp2go.com"),
    ],
)
def test_a_region_chooses_the_host(preset: str, region: str | None, host: str) -> None:
    assert _mail(preset=preset, region=region).host == host


@pytest.mark.parametrize(
    ("mail", "problem", "remedy"),
    [
        ({"preset": "ses"}, "a host name for each region", "'region: eu-west-1'"),
        ({"preset": "ses", "region": "eu"}, "'eu' is not a region of Amazon SES", "'region: eu-west-1'"),
        ({"preset": "smtp2go", "region": "mars"}, "not a region of SMTP2GO", "'region: eu'"),
        (
            {"preset": "mailgun", "region": "eu", "host": "smtp.relay.test"},
            "'mail.host' is smtp.relay.test, and the region eu of Mailgun has another host name",
            "Remove one of the two",
        ),
        ({"preset": "resend", "region": "eu"}, "the preset 'resend' has no regions", "Remove it"),
        ({"preset": None, "host": "smtp.relay.test", "region": "eu"}, "a relay without a preset", "Remove it"),
    ],
)
def test_a_wrong_or_missing_region_is_refused(mail: dict[str, Any], problem: str, remedy: str) -> None:
    found = fault("mail.region", mail={**RESEND, "user": "u", **mail})
    assert problem in found.problem
    assert remedy in found.remedy


def test_a_preset_without_a_fixed_user_requires_one() -> None:
    assert "required" in fault("mail.user", mail={**RESEND, "preset": "brevo"}).problem


def test_every_part_is_optional_and_off_by_default() -> None:
    assert settings(mail=MAIL).mail.dns is None  # type: ignore[union-attr]
    for key, value in ALL_PARTS.items():
        dns = _mail(dns={key: value}).dns
        assert dns
        assert dns.model_fields_set == {key}
    assert _mail(dns={"dkim": {"a": LONG_KEY, "b": "k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="}}).dns


@pytest.mark.parametrize(
    ("key", "dns", "problem"),
    [
        ('dkim["resend._domainkey"]', {"dkim": {"resend._domainkey": KEY}}, "not a DKIM selector"),
        ("dkim.Resend", {"dkim": {"Resend": KEY}}, "not a DKIM selector"),
        ('dkim["a_b c"]', {"dkim": {"a_b c": KEY}}, "not a DKIM selector"),
        ("dkim.a", {"dkim": {"a": "amazonses"}}, "neither a public key nor a host name"),
        ("dkim.a", {"dkim": {"a": "TOKEN.dkim.amazonses.com"}}, "has the placeholder 'TOKEN'"),
        ("dkim.a", {"dkim": {"a": "v=DKIM1; k=rsa"}}, "'p=' is missing"),
        ("dkim.a", {"dkim": {"a": "p="}}, "revoked"),
        ("dkim.a", {"dkim": {"a": KEY[:-3]}}, "not Base64"),
        ("dkim.a", {"dkim": {"a": KEY[:-40]}}, "incomplete"),
        ("dkim.a", {"dkim": {"a": f'"{KEY}"'}}, "quotation marks"),
        ("dkim.a", {"dkim": {"a": f"k=dsa; {KEY}"}}, "neither 'rsa' nor 'ed25519'"),
        ("dkim.a", {"dkim": {"a": f"k=ed25519; {KEY}"}}, "not an Ed25519 key"),
        ("dkim.a", {"dkim": {"a": f"{KEY}; v=DKIM1"}}, "as its first tag"),
        ("spf[0]", {"spf": ["v=spf1 include:a.b ~all"]}, "more than one term"),
        ("spf[0]", {"spf": ["-all"]}, "more than one term"),
        ("spf[1]", {"spf": [SPF, "include"]}, "not a term"),
        ("spf_existing", {"spf": [SPF], "spf_existing": "include:a.b"}, "does not begin with 'v=spf1 '"),
        ("spf_existing", {"spf": [SPF], "spf_existing": "v=spf1 -all mx"}, "receivers ignore 'mx'"),
        ("spf_existing", {"spf": [SPF], "spf_existing": "v=spf1 mx +all"}, "lets every server send"),
        ("spf_existing", {"spf_existing": "v=spf1 mx -all"}, "no terms to merge"),
        ("spf", {"spf": [f"include:{n}.my-mail.org" for n in range(11)]}, "11 terms that need a DNS query"),
        (
            "spf",
            {"spf": [SPF], "spf_existing": f"v=spf1 {' '.join(f'a:{n}.my-mail.org' for n in range(10))} -all"},
            "11 terms",
        ),
        ("dmarc.policy", {"dmarc": {"policy": "rejects"}}, "not one of the choices"),
        ("dmarc.policy", {"dmarc": {"reports": ["a@noted.at"]}}, "required"),
        ("dmarc.reports[0]", {"dmarc": {"policy": "none", "reports": ["mailto:a"]}}, "not an e-mail address"),
        ("return_path", {"return_path": {"name": "send"}}, "no target"),
        ("return_path", {"return_path": {**RETURN_PATH, "cname": "pm.mtasv.net"}}, "both 'cname' and 'mx'"),
        ("return_path.spf", {"return_path": {"name": "b", "cname": "pm.mtasv.net", "spf": [SPF]}}, "no other record"),
        ("return_path.spf", {"return_path": {"name": "b", "mx": "a.b"}}, "would have no SPF record"),
        ("return_path.name", {"return_path": {"name": "send.x", "cname": "pm.mtasv.net"}}, "form"),
        ("return_path.cname", {"return_path": {"name": "b", "cname": "https://pm"}}, "not a host name"),
        ("verification[0]", {"verification": ["v=spf1 mx -all"]}, "option of its own"),
        ("verification[0]", {"verification": ['"brevo-code"']}, "not the text of a TXT record"),
        ("domain", {"domain": "other.org", "spf": [SPF]}, "not aligned with the sender's domain 'noted.at'"),
    ],
)
def test_a_record_that_receivers_would_not_accept_is_refused(key: str, dns: dict[str, Any], problem: str) -> None:
    found = {one.key: one for one in faults(mail={**RESEND, "dns": dns})}[f"mail.dns.{key}"]
    assert problem in found.problem
    assert found.remedy


def test_an_empty_section_is_refused() -> None:
    assert "no record" in fault("mail.dns", mail={**RESEND, "dns": {"domain": "noted.at"}}).problem


def test_a_sender_outside_of_the_zone_is_refused_unless_records_are_made_by_hand() -> None:
    mail = {**RESEND, "from": "pds@my-club.org", "dns": {"spf": [SPF]}}
    found = fault("mail.from", mail=mail)
    assert "'my-club.org' is not in the zone 'noted.at'" in found.problem
    assert "'pds@noted.at'" in found.remedy
    assert settings(mail=mail, dns={"provider": "manual"}).mail
    assert settings(mail={**RESEND, "from": "pds@my-club.org"}).mail, "without records any sender will do"


def test_a_verified_subdomain_in_the_zone_suffices_unless_dmarc_is_asked_for() -> None:
    inside = {"hostname": "pds.noted.at", "dns": {"zone": "pds.noted.at"}}
    dns: dict[str, Any] = {"domain": "pds.noted.at", "spf": [SPF]}
    assert settings(mail={**RESEND, "dns": dns}, **inside).mail
    found = fault("mail.from", mail={**RESEND, "dns": {**dns, "dmarc": {"policy": "none"}}}, **inside)
    assert "'noted.at' is not in the zone 'pds.noted.at'" in found.problem


def test_a_return_path_may_not_be_a_name_with_an_address() -> None:
    cname = {"return_path": {"name": "ann", "cname": "pm.mtasv.net"}}
    members = [{"handle": "ann.noted.at", "email": "ann@her-domain.org"}]
    assert (
        "has an address record"
        in fault("mail.dns.return_path.name", mail={**RESEND, "dns": cname}, members=members).problem
    )
    assert settings(mail={**RESEND, "dns": cname}).mail


def test_reports_to_another_domain_are_warned_of() -> None:
    dns = {"dmarc": {"policy": "none", "reports": ["a@noted.at", "b@reports.my-mail.org"]}}
    [found] = [text for text in warnings(settings(mail={**RESEND, "dns": dns})) if "pds:mail" in text]
    assert "noted.at._report._dmarc.reports.my-mail.org" in found
