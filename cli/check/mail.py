"""Checks of mail: the relay accepts a message, and SPF, DKIM and DMARC let receivers accept it.

The server mails accounts only: on an anonymous `requestPasswordReset` it sends a code to the account with that address
(server/requestPasswordReset.js in @atproto/pds), and answers 200 after the relay accepted the message. It hides the
relay's answer. `com.atproto.admin.sendEmail` uses the mail settings of the moderation service instead, and needs the
admin password. For any other address, and for the reason of a failure, `send_mail.cjs` runs in the server's container
with the server's own settings and library.

Without `--mail` the same script only connects and logs in: expired credentials would otherwise show only in the mails
that members do not get.

A DNS record that the stack file does not ask for is checked only with `--mail`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cli.check.subject import CheckVerdict, Subject, failed, passed, skipped
from cli.lib.nomad_exec import nomad_access, run_in_container, running_allocation
from components.clients import dns
from components.clients.errors import ServiceError
from components.settings.fields import spf as spf_record
from components.settings.fields.types import is_at_or_below
from components.settings.sections.mail import MailDnsOptions, MailOptions, dkim_fault, is_dkim_key
from components.settings.sections.mail_presets import BLOCKED_SMTP_PORTS

SEND_SCRIPT = Path(__file__).with_name("send_mail.cjs")
_BLOCKED_PORTS = ", ".join(map(str, sorted(BLOCKED_SMTP_PORTS)))
_MOST_LEVELS = 8
"""Names that are queried for a DMARC record: the sender's domain and those above it."""
_TRY_LATER = re.compile(r"4\d\d[ -]")
"""A relay's answer to a client that may repeat the command (RFC 5321, section 4.2.1)."""
_RESET = "/xrpc/com.atproto.server.requestPasswordReset"


@dataclass(frozen=True)
class RelayAnswer:
    """What the relay answered to a message from the server's container."""

    sent: bool
    """Whether the relay accepted the message, or the login alone if none was sent."""
    response: str
    """The relay's line, or the error before there was one."""
    code: str = ""
    """nodemailer's code of the error (nodemailer.com/smtp, errors)."""
    command: str = ""
    """The SMTP command that the relay refused."""


def message(subject: Subject) -> CheckVerdict:
    """Send a message through the server, or from its container, and report the relay's answer."""
    if "PDS_EMAIL_SMTP_URL" not in subject.environment:
        text = "no mail relay in the stack file: members get no password resets and no token to move away"
        return failed(f"{text}. Add 'mail', then `pulumi up`.") if subject.mail else skipped(text)
    if subject.mail is None:
        return _login(subject)
    answer = subject.site.request("POST", _RESET, json={"email": subject.mail})
    if answer.status_code == 200:
        return passed(
            f"{_relay(subject)} accepted a message of the server to {subject.mail} (a code to reset a password: ignore "
            "it). Did it arrive?"
        )
    if answer.status_code == 400:
        return _from_container(
            subject, f"no account here has the address {subject.mail}, and the server writes to accounts only"
        )
    if answer.status_code == 429:
        return _from_container(subject, "the server sends few such messages an hour to one client, and has sent them")
    return _from_container(
        subject, f"the server could not hand a message to the relay (it answers {answer.status_code})"
    )


def _login(subject: Subject) -> CheckVerdict:
    """Log in to the relay from the server's container, and send nothing."""
    more = "--mail ADDRESS sends a message to that address"
    try:
        answer = _answer_in_container(subject)
    except ServiceError as error:  # Nomad's: the line "Nomad" has the remedy
        return skipped(f"the relay was not asked: {error} {more}")
    if answer is None:
        return skipped(f"the relay was not asked, because the server's container cannot be reached; {more}")
    if not answer.sent:
        return failed(
            f"{_relay(subject)} does not accept the server's login: '{answer.response}'. {_remedy(subject, answer)}"
        )
    return passed(f"{_relay(subject)} accepts the server's login; {more}")


def _from_container(subject: Subject, reason: str) -> CheckVerdict:
    """Send the message from the server's container, which shows the relay's own answer."""
    answer = _answer_in_container(subject)
    if answer is None:
        return failed(
            f"{reason}, and its container cannot be reached through Nomad to ask the relay. Look at the server's log; "
            f"DigitalOcean blocks the ports {_BLOCKED_PORTS}."
        )
    if answer.sent:
        return passed(
            f"{reason}. {_relay(subject)} accepted a test message to {subject.mail} from the server's container: "
            f"'{answer.response}'. Did it arrive?"
        )
    return failed(f"{reason}. {_relay(subject)}: '{answer.response}'. {_remedy(subject, answer)}")


def _answer_in_container(subject: Subject) -> RelayAnswer | None:
    """Return the relay's answer to a message, or to a login if there is no address to send to; None if no server runs
    or Nomad is out of reach. Raises ServiceError."""
    host = subject.host
    if host is None or not host.outputs.get("nomad_address"):
        return None
    allocation = running_allocation(host.api)
    if allocation is None:
        return None
    command = ["node", "-e", SEND_SCRIPT.read_text(), *([subject.mail] if subject.mail else [])]
    return RelayAnswer(**run_in_container(nomad_access(host.outputs), allocation, command, "the answer of the relay"))


def _relay(subject: Subject) -> str:
    """Return host and port of the relay, without user and password."""
    url = urlsplit(subject.environment["PDS_EMAIL_SMTP_URL"])
    return f"{url.hostname}:{url.port}"


def _remedy(subject: Subject, answer: RelayAnswer) -> str:
    sender = subject.environment.get("PDS_EMAIL_FROM_ADDRESS", "")
    if _TRY_LATER.match(answer.response):
        return "It refuses for now: repeat the check later. If it stays so, read the relay's log."
    if answer.command.startswith("AUTH") or answer.code == "EAUTH":
        return "It refuses user or password: correct 'mail.user' and 'mail.password', then `pulumi up`."
    if answer.command.startswith("MAIL FROM"):
        return f"It refuses the sender {sender}: verify its domain at the relay, or correct 'mail.from'."
    if answer.command.startswith("RCPT TO"):
        return (
            f"It refuses the recipient {subject.mail}. Relays in a trial send to verified addresses only: end the "
            "trial, or verify the address."
        )
    if answer.command == "STARTTLS" or answer.code == "ETLS" or _looks_like_tls(answer.response):
        return "Port and TLS mode do not fit, or its certificate is not valid: correct 'mail.port' and 'mail.tls'."
    if answer.command == "CONN" or answer.code in ("EDNS", "ETIMEDOUT", "ECONNECTION", "ESOCKET"):
        return f"Correct 'mail.host' and 'mail.port'; DigitalOcean blocks the ports {_BLOCKED_PORTS}."
    return f"It refuses the message. The sender is {sender}: verify its domain at the relay, and read its log."


def _looks_like_tls(response: str) -> bool:
    return any(word in response.lower() for word in ("wrong version number", "certificate", "ssl routines", "starttls"))


def spf(subject: Subject) -> CheckVerdict:
    """Check that each domain that receivers check has one valid SPF record with the relay's terms."""
    mail, wanted = _mail(subject), _wanted(subject)
    if mail is None:
        return _without_relay(subject)
    targets: dict[str, tuple[str, ...]] = {}
    if wanted.return_path:
        targets[str(mail.return_path_domain)] = wanted.return_path.spf
    if wanted.spf:
        targets[mail.verified_domain] = wanted.spf
    if not targets and subject.mail is None:
        return skipped("'mail.dns' asks for no SPF record; --mail checks the sender's domain all the same")
    if not targets and not _spf_texts(subject, mail.verified_domain):
        return skipped(
            f"{mail.verified_domain} has no SPF record, and 'mail.dns' asks for none. Receivers then depend on DKIM"
        )
    targets = targets or {mail.verified_domain: ()}
    faults = [fault for domain, terms in targets.items() for fault in _spf_faults(subject, domain, terms)]
    if faults:
        return failed(" ".join(faults))
    counts = [f"{domain} ({_lookups(subject, domain, [])} of {spf_record.MOST_LOOKUPS} lookups)" for domain in targets]
    return passed(f"one valid record at {' and '.join(counts)}")


def dkim(subject: Subject) -> CheckVerdict:
    """Check that the key of each selector is published and whole."""
    mail, wanted = _mail(subject), _wanted(subject)
    if mail is None:
        return _without_relay(subject)
    if not wanted.dkim:
        return skipped("'mail.dns.dkim' names no selector, and without one the key cannot be found in DNS")
    faults = [
        fault
        for selector, value in wanted.dkim.items()
        if (fault := _dkim_fault(subject, f"{selector}._domainkey.{mail.verified_domain}", value))
    ]
    if faults:
        return failed(" ".join(faults))
    return passed(f"the keys of {', '.join(wanted.dkim)} are published at {mail.verified_domain}")


def dmarc(subject: Subject) -> CheckVerdict:
    """Check that the sender's domain has one valid DMARC record, and that SPF or DKIM is aligned with the sender."""
    mail, wanted = _mail(subject), _wanted(subject)
    if mail is None:
        return _without_relay(subject)
    if wanted.dmarc is None and subject.mail is None:
        return skipped("'mail.dns' asks for no DMARC record; --mail checks the sender's domain all the same")
    sender = mail.sender_domain
    domain, texts = _dmarc_texts(subject, sender)
    if not texts:
        return failed(
            f"neither {sender} nor a domain above it has a DMARC record, which large receivers require. Write "
            "'dmarc: {policy: none}' in 'mail.dns'."
        )
    if len(texts) > 1:
        return failed(f"_dmarc.{domain} has {len(texts)} DMARC records, and receivers apply none. Keep one.")
    tags = _tags(texts[0])
    if tags.get("p", "").lower() not in ("none", "quarantine", "reject"):
        return failed(f"_dmarc.{domain} has no policy 'p=' of none, quarantine or reject: '{texts[0]}'.")
    faults = [*_alignment_faults(mail, wanted, tags), *_report_faults(subject, domain, tags.get("rua", ""))]
    if faults:
        return failed(" ".join(faults))
    return passed(f"_dmarc.{domain} has the policy {tags['p'].lower()}, and {_aligned(mail, wanted, tags)}")


def _without_relay(subject: Subject) -> CheckVerdict:
    unread = f"Pulumi.{subject.stack}.yaml cannot be read here"
    return skipped("no mail relay in the stack file" if subject.settings else unread)


def _mail(subject: Subject) -> MailOptions | None:
    return subject.settings.mail if subject.settings else None


def _wanted(subject: Subject) -> MailDnsOptions:
    mail = _mail(subject)
    return (mail.dns if mail else None) or MailDnsOptions()


def _texts(subject: Subject, name: str) -> list[str]:
    """Return the TXT records of `name`. The stack's name servers are queried only for its zone. Raises PendingError."""
    zone = subject.settings.zone if subject.settings else subject.hostname
    return dns.values(name, "TXT", subject.nameservers if is_at_or_below(name, zone) else ())


def _spf_texts(subject: Subject, domain: str) -> list[str]:
    return [text for text in _texts(subject, domain) if spf_record.is_spf(text)]


def _spf_faults(subject: Subject, domain: str, terms: tuple[str, ...]) -> Iterator[str]:
    texts = _spf_texts(subject, domain)
    if not texts:
        yield f"{domain} has no SPF record. Write '{spf_record.merged(None, terms)}' as its TXT record."
        return
    if len(texts) > 1:
        together = [term for text in texts[1:] for term in spf_record.terms(text) if not spf_record.is_end(term)]
        yield (
            f"{domain} has {len(texts)} SPF records, and receivers apply none of them. Keep one: "
            f"'{spf_record.merged(texts[0], [*together, *terms])}'."
        )
        return
    if fault := spf_record.record_fault(texts[0]):
        yield f"the SPF record of {domain} is not valid: {fault}."
        return
    present = {term.lower() for term in spf_record.terms(texts[0])}
    if missing := [term for term in terms if term.lower() not in present]:
        yield (
            f"the SPF record of {domain} lacks {', '.join(missing)}. Change it to "
            f"'{spf_record.merged(texts[0], terms)}'."
        )
    missing_records: list[str] = []
    count = _lookups(subject, domain, missing_records)
    for name in missing_records:
        yield f"the SPF record of {domain} includes {name}, which has no SPF record: receivers treat it as invalid."
    if count > spf_record.MOST_LOOKUPS:
        yield (
            f"the SPF record of {domain} needs {count} DNS lookups, and receivers stop at {spf_record.MOST_LOOKUPS}. "
            "Remove terms of services that no longer send."
        )


def _lookups(subject: Subject, domain: str, missing: list[str], above: tuple[str, ...] = ()) -> int:
    """Return the lookups of a domain's record and those it includes; names without one record are added to `missing`.
    A circle counts as more than allowed."""
    if domain in above:
        return spf_record.MOST_LOOKUPS + 1
    texts = _spf_texts(subject, domain)
    if len(texts) != 1:
        missing.append(domain)
        return 0
    count = spf_record.lookups(texts[0])
    for target in spf_record.targets(texts[0]):
        if count <= spf_record.MOST_LOOKUPS:
            count += _lookups(subject, target, missing, (*above, domain))
    return count


def _dkim_fault(subject: Subject, name: str, value: str) -> str | None:
    texts = _texts(subject, name)
    if not texts:
        kind = "TXT record" if is_dkim_key(value) else f"CNAME record for {value}, or that host has no key yet"
        return f"{name} has no {kind}."
    if len(texts) > 1:
        return f"{name} has {len(texts)} TXT records, and receivers may use any of them. Keep the relay's."
    if fault := dkim_fault(texts[0]):
        return f"{name}: {fault}. Copy the relay's record again."
    if is_dkim_key(value) and _tags(texts[0]).get("p") != _tags(value).get("p"):
        return f"{name} has another key than 'mail.dns.dkim'. Receivers refuse the relay's signature."
    return None


def _dmarc_texts(subject: Subject, sender: str) -> tuple[str, list[str]]:
    """Return the DMARC records that apply to the sender, and the domain that has them: its own or the nearest above."""
    labels = sender.split(".")
    for start in range(min(len(labels) - 1, _MOST_LEVELS)):
        domain = ".".join(labels[start:])
        texts = [text for text in _texts(subject, f"_dmarc.{domain}") if text.lower().startswith("v=dmarc1")]
        if texts:
            return domain, texts
    return sender, []


def _tags(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(";") if "=" in part]
    return {name.strip().lower(): "".join(value.split()) for name, _, value in pairs}


def _is_aligned(domain: str, sender: str, mode: str) -> bool:
    """Whether `domain` is aligned with the sender's (RFC 7489, section 3.1). Relaxed alignment accepts each domain of
    the same organization; here it has to be above or below the sender's."""
    related = is_at_or_below(domain, sender) or is_at_or_below(sender, domain)
    return domain == sender or (mode.lower() != "s" and related)


def _aligned_kinds(mail: MailOptions, wanted: MailDnsOptions, tags: dict[str, str]) -> dict[str, bool]:
    kinds: dict[str, bool] = {}
    if wanted.dkim:
        kinds["DKIM"] = _is_aligned(mail.verified_domain, mail.sender_domain, tags.get("adkim", "r"))
    if wanted.return_path or wanted.spf:
        domain = mail.return_path_domain or mail.verified_domain
        kinds["SPF"] = _is_aligned(domain, mail.sender_domain, tags.get("aspf", "r"))
    return kinds


def _aligned(mail: MailOptions, wanted: MailDnsOptions, tags: dict[str, str]) -> str:
    aligned = [kind for kind, is_aligned in _aligned_kinds(mail, wanted, tags).items() if is_aligned]
    if not aligned:
        return "'mail.dns' declares neither DKIM nor SPF, so their alignment is not known"
    verb = "are" if len(aligned) > 1 else "is"
    return f"{' and '.join(aligned)} {verb} aligned with the sender"


def _alignment_faults(mail: MailOptions, wanted: MailDnsOptions, tags: dict[str, str]) -> Iterator[str]:
    kinds = _aligned_kinds(mail, wanted, tags)
    if kinds and not any(kinds.values()):
        yield (
            f"neither DKIM nor SPF is aligned with the sender's domain {mail.sender_domain}, so the policy applies to "
            "every message. Remove 'adkim=s' and 'aspf=s', or verify the sender's own domain at the relay."
        )


def _report_faults(subject: Subject, domain: str, addresses: str) -> Iterator[str]:
    """Each domain that gets reports about another one has to agree in DNS (RFC 7489, section 7.1)."""
    for address in filter(None, addresses.split(",")):
        receiver = address.partition("!")[0].rpartition("@")[2].lower()
        if not address.lower().startswith("mailto:") or not receiver:
            yield f"_dmarc.{domain} sends reports to '{address}', which is not 'mailto:' and an address."
        elif not _is_aligned(receiver, domain, "r"):
            name = f"{domain}._report._dmarc.{receiver}"
            if not any(text.lower().startswith("v=dmarc1") for text in _texts(subject, name)):
                yield f"reports to {receiver} are not sent: {name} needs the TXT record 'v=DMARC1'."
