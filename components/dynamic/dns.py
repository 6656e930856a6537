"""The providers of `DnsReady` and `SoleRecords`."""

from pulumi.dynamic import CheckFailure, CheckResult

from components.clients import dns
from components.clients.errors import DeadlineError, PendingError, ServiceError
from components.clients.wait import until
from components.dynamic.base import PollingProvider, Props
from components.settings.fields import spf
from components.settings.ingress_state import IngressState


class DnsReadyProvider(PollingProvider, pickled_as="DnsReadyProvider"):
    """Queries the zone's own name servers for the hostname, for at most `wait` seconds.

    Output `ingress_state` is OPEN once they all answer with the reserved IP, and stays so. Until then it is CLOSED, and
    `state` gives the reason.
    """

    def _run(self, news: Props, olds: Props) -> Props:
        def answer() -> str | None:
            return dns.resolves(news["hostname"], news["ip"], news["zone"], list(news["nameservers"]), news["issuer"])

        try:
            until(answer, float(news["wait"]), "DNS", pause=5)
        except ServiceError as error:
            return {**news, "ingress_state": IngressState.CLOSED.value, "state": f"pending: {error}"}
        return {
            **news,
            "ingress_state": IngressState.OPEN.value,
            "state": f"{news['hostname']} resolves to {news['ip']}",
        }

    def _is_done(self, olds: Props) -> bool:
        return olds.get("ingress_state") == IngressState.OPEN


class SoleRecordsProvider(PollingProvider, pickled_as="SoleRecordsProvider"):
    """Refuses a second SPF, DKIM or DMARC record at a name, at the preview and again before the records are created.

    Receivers ignore all of them if there are two. At a name that an earlier `up` checked, the stack's own texts are
    accepted, and any other one, or a second, is refused: the creation of its record may have failed, and the operator
    may have made one by hand. If the name servers cannot be queried, a preview passes, and an `up` stops before the
    records, after `wait` seconds, unless it checked the names before: a new zone is not served at once.
    """

    def check(self, _olds: Props, news: Props) -> CheckResult:
        try:
            fault = self._fault(_olds, news)
        except PendingError:
            fault = None
        # With a property the engine would print its whole value before the sentence.
        return CheckResult(news, [CheckFailure("", fault)] if fault else [])

    def _run(self, news: Props, olds: Props) -> Props:
        fault: str | None = None

        def answer() -> None:
            nonlocal fault
            fault = self._fault(olds, news)

        try:
            until(answer, float(news["wait"]), "DNS", pause=5)
        except DeadlineError as error:
            raise ServiceError(
                f"The records of 'mail.dns' were not created, because nothing shows whether others exist. {error} "
                "Repeat `pulumi up`, or remove 'mail.dns'."
            ) from error
        if fault:
            raise ServiceError(fault)
        was = {record["name"]: _values(olds, record["name"]) for record in news["records"]}
        was = {name: values for name, values in was.items() if values}
        return {**news, **({"was": was} if was else {})}

    @staticmethod
    def _fault(olds: Props, news: Props) -> str | None:
        for record in news["records"]:
            name, begins = record["name"], record["begins"].lower()
            known = _values(olds, name)
            try:
                texts = dns.zone_texts(name, news["zone"], news["nameservers"])
            except PendingError:
                if known:
                    continue
                raise
            alike = [text for text in texts if _begins(text.lower(), begins)]
            if found := _not_own(alike, [*known, record["value"]]) if known else next(iter(alike), None):
                return _second_record(record, found, news["existing_spf"])
        return None


_KEPT = 5
"""Earlier values of a record that count as the stack's own: an `up` may have failed before it changed the record."""


def _values(olds: Props, name: str) -> list[str]:
    """The values that an earlier `up` checked for a name, the newest first."""
    newest = [record["value"] for record in olds.get("records") or [] if record["name"] == name]
    return [*newest, *(olds.get("was") or {}).get(name, [])][:_KEPT]


def _not_own(texts: list[str], values: list[str]) -> str | None:
    """A text beside the stack's own record. The own one may not exist yet, if its creation failed."""
    if any(value.endswith(".") for value in values):
        return None  # a CNAME: nothing can stand beside it, and the texts are those of its target
    own = {_bare(value) for value in values}
    return next((text for text in texts if _bare(text) not in own), texts[1] if len(texts) > 1 else None)


def _bare(text: str) -> str:
    """A text without what DNS hosts add or remove: quotes, and spaces between parts."""
    return "".join(text.replace('"', "").split())


def _begins(text: str, version: str) -> bool:
    """Whether a text has this version, not one that only begins like it."""
    return not version or (text.startswith(version) and text[len(version) : len(version) + 1] in ("", " ", ";"))


_PARTS = {"mail-spf": "spf", "mail-dmarc": "dmarc", "mail-return-path-spf": "return_path"}
"""Role of a record to its option in `mail.dns`; all others are DKIM records."""


def _second_record(record: Props, found: str, existing_spf: str) -> str:
    """Why `record` cannot be created beside the record `found`, and what to do instead."""
    name, key = record["name"], _PARTS.get(record["role"], "dkim")
    if record["role"] == "mail-spf":
        return _second_spf(name, found, record["value"], existing_spf)
    kind = {"dmarc": "DMARC", "dkim": "DKIM"}.get(key, "SPF")
    text = found if len(found) <= 60 else f"{found[:57]}…"
    return (
        f"{name} has the {kind} record '{text}' already, which is not of this stack, and with two of them receivers "
        f"apply neither. Delete it at the DNS host, or remove 'mail.dns.{key}'."
    )


def _second_spf(name: str, found: str, value: str, existing_spf: str) -> str:
    second = "a second one would make both invalid (RFC 7208, section 4.5)"
    if existing_spf and spf.same(found, existing_spf):
        return (
            f"{name} still has the SPF record of 'mail.dns.spf_existing', and {second}. Delete it at the DNS host, "
            f"then repeat `pulumi up`, which creates '{value}' in its place."
        )
    merged = spf.merged(found, [term for term in spf.terms(value) if not spf.is_end(term)])
    return (
        f"{name} has the SPF record '{found}' already, which is not of this stack, and {second}. Either change its "
        f"text to '{merged}' at the DNS host and remove 'mail.dns.spf', or write its present text as "
        "'mail.dns.spf_existing' and delete it: the stack then creates the merged record."
    )
