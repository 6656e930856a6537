"""Queries authoritative name servers for a hostname or a handle: never a cache, which would keep an early negative
answer.

Plain functions for the dynamic providers and the tools; the first query imports `dnspython`. They query the given name
servers (`IP` or `IP:PORT`), or those of the name's zone. That zone is found from the top level down, by the delegations
of its parents' servers, because neither the number of labels nor a cache determines where it begins.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from components.clients.errors import PendingError

_LONGEST_CHAIN = 8
"""CNAME records in a row; resolvers stop after about as many."""

_CAA_LIMIT = re.compile(r"accounturi\s*=[^;]*|validationmethods\s*=(?![^;]*(?:http|tls-alpn)-01)[^;]*", re.IGNORECASE)
"""Parameters that exclude the ingress: another ACME account, or only challenges that it does not answer (RFC 8657)."""

DIGITALOCEAN_SERVERS = ("ns1.digitalocean.com", "ns2.digitalocean.com", "ns3.digitalocean.com")

REGISTRAR = (
    "Enter the name servers of the service that holds it at the registrar of the domain (or as NS records in the zone "
    f"above); DigitalOcean's are {', '.join(DIGITALOCEAN_SERVERS[:-1])} and {DIGITALOCEAN_SERVERS[-1]}"
)


_LEFT_OVER_DS = (
    "{zone} has a DS record at its registrar, and its name servers do not sign it. Resolvers that validate answer "
    "nothing for any of its names (RFC 4035, section 5.5). Delete the DS record at the registrar"
)


def resolves(hostname: str, address: str, zone: str, nameservers: Sequence[str], issuer: str = "") -> str | None:
    """None if every queried name server answers `hostname` with `address` only, else the obstacle.

    Obstacles include what prevents a certificate: an IPv6 address, which a certificate authority tries first, and a CAA
    record that does not allow `issuer` (a CA's domain; empty if unknown), and a DS record of a zone that is not signed.
    `zone` must be delegated; it is empty if the hostname's records are made by hand, in any zone.
    """
    try:
        servers = list(nameservers)
        if not servers:
            zone, servers = (zone, _servers_of(zone)) if zone else zone_of(hostname)
        for server in servers:
            if fault := _wrong_address(server, hostname, address, nameservers):
                return fault
        if not nameservers and _cached(zone, "DS") and not _followed(servers[0], zone, "DNSKEY", ())[0]:
            return _LEFT_OVER_DS.format(zone=zone)
        return _wrong_issuer(servers[0], hostname, issuer, nameservers) if issuer else None
    except PendingError as error:
        return str(error)


def _wrong_address(server: str, hostname: str, address: str, nameservers: Sequence[str]) -> str | None:
    addresses, name = _followed(server, hostname, "A", nameservers)
    via = f" (a CNAME for {name})" if name != hostname else ""
    if sorted(addresses) != [address]:
        answer = ", ".join(sorted(addresses)) or "nothing"
        hint = f". Give {name} this address, or replace the CNAME by an A record" if via else ""
        return f"name server {server} answers {answer} for {hostname}{via}, not {address}{hint}"
    ipv6, _name = _followed(server, hostname, "AAAA", nameservers)
    if ipv6:
        return (
            f"name server {server} has AAAA {', '.join(sorted(ipv6))} for {name}, and the host has no IPv6. "
            "Certificate authorities and apps try IPv6 first. Delete that record"
        )
    return None


def _wrong_issuer(server: str, hostname: str, issuer: str, nameservers: Sequence[str]) -> str | None:
    """Checks the CAA records nearest to the name, including its parents' (RFC 8659)."""
    labels = hostname.split(".")
    for start in range(len(labels) - 1):
        name = ".".join(labels[start:])
        found, _name = _followed(server, name, "CAA", nameservers)
        if not found and not nameservers and start:
            found = _cached(name, "CAA")  # it may be in a zone above; a cached negative answer is harmless here
        if not found:
            continue
        issue = [text.split(" ", 2)[2].strip('"') for text in found if text.split(" ")[1].lower() == "issue"]
        # DigitalOcean's API writes the authority's name with a dot at its end.
        allowed = {value.partition(";")[0].strip().rstrip(".") for value in issue}
        ours = [value for value in issue if value.partition(";")[0].strip().rstrip(".") == issuer]
        limits = [limit[0] for value in ours if (limit := _CAA_LIMIT.search(value))]
        if ours and len(limits) == len(ours):
            return (
                f"the CAA record of {name} allows {issuer} only with '{limits[0].strip()}', which excludes the "
                f'ingress. Give it the value 0 issue "{issuer}"'
            )
        if issue and issuer not in allowed:
            names = ", ".join(sorted(allowed - {""}))
            only = f"only {names}" if names else "no authority"
            return (
                f"the CAA record of {name} allows {only}, and the ingress orders its certificate from {issuer}. "
                f'Delete it, or add one with the value 0 issue "{issuer}"'
            )
        return None
    return None


def names_did(handle: str, did: str, nameservers: Sequence[str]) -> str | None:
    """None if every queried name server has the TXT record by which `handle` names `did`, else what it has instead."""
    record = f"_atproto.{handle}"
    try:
        for server in nameservers or zone_of(handle)[1]:
            # Other TXT records may exist; several DIDs make a handle invalid (atproto.com/specs/handle).
            texts, _name = _followed(server, record, "TXT", nameservers)
            found = sorted(text for text in texts if text.startswith("did="))
            if found != [f"did={did}"]:
                return f"name server {server} answers {', '.join(found) or 'nothing'} for {record}, not did={did}"
    except PendingError as error:
        return str(error)
    return None


def values(name: str, kind: str, nameservers: Sequence[str]) -> list[str]:
    """The values for `name` from the first name server that answers, as text. Raises PendingError."""
    servers = list(nameservers) or zone_of(name)[1]
    return sorted(_followed(servers[0], name, kind, nameservers)[0])


def zone_texts(name: str, zone: str, nameservers: Sequence[str]) -> list[str]:
    """The TXT records of `name`, a name in `zone`, from the first server that answers. Raises PendingError.

    DigitalOcean's own servers are queried for a zone that is not delegated yet.
    """
    servers = list(nameservers)
    try:
        servers = servers or _servers_of(zone)
    except PendingError:
        servers = [address for host in DIGITALOCEAN_SERVERS for address in _addresses(host)]
    last_error: PendingError | None = None
    for server in servers:
        try:
            return sorted(_followed(server, name, "TXT", nameservers)[0])
        except PendingError as error:
            last_error = error
    raise last_error or PendingError(f"no name server answers for {zone}")


def endpoint(server: str) -> tuple[str, int]:
    """Address and port of a name server, `IP` or `IP:PORT`. An IPv6 address has more colons and no port."""
    host, _, port = server.partition(":") if server.count(":") == 1 else (server.strip("[]"), "", "")
    return host, int(port or 53)


def leads_to(name: str, address: str, nameservers: Sequence[str]) -> bool:
    """Whether `address` is one of the addresses of `name`; also if no name server can be queried."""
    try:
        return address in values(name, "A", nameservers)
    except PendingError:
        return True


def zone_of(name: str) -> tuple[str, list[str]]:
    """The zone of `name`, and the addresses of all of its name servers. Raises PendingError.

    Only the top level is looked up with a resolver, which therefore cannot cache a negative answer for a name below.
    """
    labels = name.split(".")
    zone, hosts = labels[-1], _hosts_of(labels[-1])
    for start in range(len(labels) - 2, -1, -1):
        below = _below(hosts, candidate := ".".join(labels[start:]))
        if below:
            zone, hosts = candidate, below
    if "." not in zone:
        raise PendingError(f"the zone of {name} is not delegated: there is none below '{zone}'. {REGISTRAR}")
    return zone, [address for host in hosts for address in _addresses(host)]


def _below(hosts: Sequence[str], name: str) -> list[str]:
    """The names of the servers that `name` is delegated to, by the first of `hosts` that answers."""
    last_error: PendingError | None = None
    for host in hosts:
        try:
            for address in _addresses(host)[:1]:
                return sorted(_delegated(address, name))
        except PendingError as error:
            last_error = error
    raise last_error or PendingError(f"no name server answers for the zone above {name}")


def _servers_of(zone: str) -> list[str]:
    return [address for host in _hosts_of(zone) for address in _addresses(host)]


def _hosts_of(zone: str) -> list[str]:
    import dns.exception
    import dns.resolver

    try:
        return sorted(str(item.target) for item in dns.resolver.resolve(zone, "NS", lifetime=10))
    except dns.exception.DNSException as error:
        if isinstance(error, dns.resolver.NoNameservers) and _cached(zone, "DS"):
            raise PendingError(_LEFT_OVER_DS.format(zone=zone)) from error  # this machine's resolver validates
        raise PendingError(f"the zone {zone} is not delegated: {str(error).rstrip('.')}. {REGISTRAR}") from error


def _addresses(host: str) -> list[str]:
    import dns.exception
    import dns.resolver

    try:
        return [item.to_text() for item in dns.resolver.resolve(host, "A", lifetime=10)]
    except dns.exception.DNSException as error:
        raise PendingError(f"name server {host} has no address: {error}") from error


def _cached(name: str, kind: str) -> list[str]:
    import dns.exception
    import dns.resolver

    try:
        return [item.to_text() for item in dns.resolver.resolve(name, kind, lifetime=10)]
    except dns.exception.DNSException:
        return []


def _followed(server: str, name: str, kind: str, nameservers: Sequence[str]) -> tuple[list[str], str]:
    """The values of `name` at `server`, and the name that has them. Follows CNAME records, also into other zones."""
    seen = [name]
    while True:
        found, end = _in_message(_query(server, seen[-1], kind), seen[-1], kind)
        if found or end == seen[-1]:
            if found or len(seen) == 1 or server not in nameservers:
                return found, end
            with suppress(PendingError):  # the named servers may not have the target
                if (owner := zone_of(end)[1][0]) not in nameservers:
                    server = owner
                    continue
            return found, end
        if end in seen or len(seen) > _LONGEST_CHAIN:
            raise PendingError(f"{name} is a CNAME that leads in a circle: {' -> '.join([*seen, end])}")
        seen.append(end)
        if not nameservers:
            server = zone_of(end)[1][0]


def _in_message(answer: Any, name: str, kind: str) -> tuple[list[str], str]:
    """The values at the end of the chain that begins with `name`, and that end."""
    import dns.rdatatype

    wanted, names = dns.rdatatype.from_text(kind), {name}
    while True:
        found = list(_items(answer.answer, name, wanted))
        aliases = list(_items(answer.answer, name, dns.rdatatype.CNAME))
        if found or not aliases:
            return found, name
        name = aliases[0].rstrip(".")
        if name in names:
            return [], name
        names.add(name)


def _items(section: Any, name: str, wanted: Any) -> Iterator[str]:
    import dns.name
    import dns.rdatatype

    owner = dns.name.from_text(name)
    for item in (item for rrset in section if rrset.name == owner for item in rrset if item.rdtype == wanted):
        yield b"".join(item.strings).decode(errors="replace") if wanted == dns.rdatatype.TXT else item.to_text()


def _delegated(server: str, name: str) -> list[str]:
    """The name servers of `name` by `server`: its own answer, or a referral."""
    import dns.rdatatype

    answer = _query(server, name, "NS")
    return list(_items([*answer.answer, *answer.authority], name, dns.rdatatype.NS))


def _query(server: str, name: str, kind: str) -> Any:
    """The answer of a name server (`IP` or `IP:PORT`)."""
    import dns.exception
    import dns.message
    import dns.query
    import dns.rcode
    import dns.rdatatype

    host, port = endpoint(server)
    try:
        question = dns.message.make_query(name, dns.rdatatype.from_text(kind))
        answer, _tcp = dns.query.udp_with_fallback(question, host, timeout=5, port=port)
    except (dns.exception.DNSException, OSError) as error:
        raise PendingError(f"name server {server} does not answer: {type(error).__name__}") from error
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise PendingError(f"name server {server} answers {dns.rcode.to_text(answer.rcode())} for {name}")
    return answer
