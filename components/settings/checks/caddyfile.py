"""The structure of the operator's Caddyfile texts, parsed by the rules of Caddy's own lexer and parser.

The texts of several stacks form one file on a host, so an unbalanced brace in one breaks all of them. This module
checks what it can without Caddy: tokens, braces, and the owners of site addresses. Caddy checks the directives on the
host, for each stack separately (`render/scripts/caddy.sh`). Source of the rules: caddyconfig/caddyfile/lexer.go and
parse.go of caddyserver/caddy 2.11.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from components.settings.fields.errors import Fault, shown
from components.settings.sections import CADDY_ASK_PORT
from components.settings.sections.settings import Settings

_MOST_BYTES = 50_000
"""Limit of both texts together: a Nomad variable holds 64 KiB and also contains the program's own part."""

_DIRECTIVE = re.compile(r"[a-z_]+")
_HEREDOC = re.compile(r"<<[A-Za-z0-9_-]+")

_FOR_ALL_REQUESTS = frozenset(
    {
        *("encode", "fs", "handle_errors", "header", "import", "log", "log_append", "log_name", "log_skip", "map"),
        *("request_header", "root", "skip_log", "tracing", "vars"),
    }
)
"""Directives that answer no request and keep none from the server. Every other directive needs a matcher."""

_OPEN_PORTS = (80, 443)
"""Ports of Caddy that the host's firewall opens. The others on the host belong to Nomad and to each club's server."""

_EVERYTHING = frozenset({"*", "/*", "/xrpc/*"})


class CaddyfileError(ValueError):
    """The text is not part of a Caddyfile. The message names the line and the reason."""


@dataclass(frozen=True)
class Token:
    """A word or a quoted text. `line` is the line on which it begins; `first` is set for the first token of a line."""

    text: str
    line: int
    first: bool
    quoted: bool

    @property
    def opens(self) -> bool:
        """Whether it is a brace that opens a block."""
        return self.text == "{" and not self.quoted

    @property
    def closes(self) -> bool:
        """Whether it is a brace that closes a block."""
        return self.text == "}" and not self.quoted


@dataclass(frozen=True)
class Site:
    """A block with addresses. A snippet has its name in parentheses as its address."""

    addresses: tuple[str, ...]
    line: int


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a text. Raises CaddyfileError."""
    at, line, first = 0, 1, True
    while at < len(text):
        character = text[at]
        if character == "\n":
            at, line, first = at + 1, line + 1, True
        elif character.isspace():
            at += 1
        elif text.startswith(("\\\n", "\\\r\n"), at):
            at, line = text.index("\n", at) + 1, line + 1  # an escaped line end
        elif character == "#":
            at = _end(text, "\n", at)
        else:
            length, word, quoted = _word(text, at, line)
            yield Token(word, line, first, quoted)
            line += text.count("\n", at, at + length)
            at, first = at + length, False


def _word(text: str, at: int, line: int) -> tuple[int, str, bool]:
    """The length of the token that begins at `at`, its text, and whether it is quoted."""
    if text[at] in '"`':
        pattern = r'"((?:\\.|[^"\\])*)"' if text[at] == '"' else r"`([^`]*)`"
        found = re.compile(pattern, re.DOTALL).match(text, at)
        if not found:
            raise CaddyfileError(f"the quotation mark in line {line} is never closed")
        return len(found[0]), found[1], True
    end = next((i for i in range(at, len(text)) if text[i].isspace()), len(text))
    word = text[at:end]
    if _HEREDOC.fullmatch(word) and text[end : end + 2].lstrip("\r").startswith("\n"):
        marker = word[2:]
        body = text.find("\n", end) + 1
        stop = text.find(marker, body)
        if stop < 0:
            raise CaddyfileError(f"the text {word} of line {line} is never ended by {marker}")
        return stop + len(marker) - at, text[body:stop], True
    return end - at, word, False


def _end(text: str, mark: str, at: int) -> int:
    found = text.find(mark, at)
    return len(text) if found < 0 else found


def sites(text: str) -> list[Site]:
    """The top-level blocks of a text. Raises CaddyfileError if it is incomplete or has a global block."""
    words = list(tokens(text))
    found: list[Site] = []
    at = 0
    while at < len(words):
        if words[at].text == "import" and not words[at].quoted:
            at += 1
            while at < len(words) and not words[at].first:
                at += 1
            continue
        at, site = _addresses(words, at)
        at = _block_end(words, at)
        found.append(site)
    return found


def _addresses(words: list[Token], at: int) -> tuple[int, Site]:
    """The index of the brace that opens the site at `at`, and the site."""
    start, names, comma = words[at], list[str](), False
    while at < len(words) and not words[at].opens:
        word = words[at]
        if word.closes:
            raise CaddyfileError(f"the brace in line {word.line} closes nothing")
        if word.text.endswith("{") and not word.quoted:
            raise CaddyfileError(f"in line {word.line} there is no space before the brace")
        if word.first and names and not comma:
            break
        comma = word.text.endswith(",")
        names += [name for name in [word.text.removesuffix(",")] if name]
        at += 1
    if at == len(words) or not words[at].opens:
        raise CaddyfileError(f"{shown(start.text)} in line {start.line} is followed by no block in braces")
    if not names:
        raise CaddyfileError(f"the block in line {start.line} has no address. The program writes the global options")
    return at, Site(tuple(names), start.line)


def _block_end(words: list[Token], at: int) -> int:
    """The index after the block that opens at `at`."""
    opened = [words[at].line]
    for index in range(at + 1, len(words)):
        word = words[index]
        if words[index - 1].opens and not word.first:
            raise CaddyfileError(f"in line {word.line} something follows the brace that opens a block")
        if word.opens:
            opened.append(word.line)
        elif word.closes:
            opened.pop()
            if not opened:
                return index + 1
    raise CaddyfileError(f"the block of line {opened[-1]} is never closed")


def directives(text: str) -> list[list[Token]]:
    """The directives of a text inside a site, each with its arguments. Raises CaddyfileError."""
    words = list(tokens(text))
    found: list[list[Token]] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word.closes:
            raise CaddyfileError(f"the brace in line {word.line} closes nothing")
        if word.opens:
            end = _block_end(words, at)
            if end < len(words) and not words[end].first:
                raise CaddyfileError(f"in line {words[end].line} something follows the brace that closes a block")
            at = end
        else:
            found += [[word]] if word.first else []
            found[-1] += [] if word.first else [word]
            at += 1
    return found


def caddyfile_faults(settings: Settings) -> Iterator[Fault]:
    """Faults in the texts that are added to the Caddyfile."""
    if settings.ingress.kind != "caddy":
        return  # this ingress takes no such texts; another check reports it
    extra, inside = settings.ingress.extra_caddyfile, settings.ingress.site_caddyfile
    if len(extra.encode()) + len(inside.encode()) > _MOST_BYTES:
        yield Fault(
            "ingress.extra_caddyfile",
            f"both texts together have more than {_MOST_BYTES:,} bytes, and a Nomad variable holds 64 KiB.",
            "Shorten them: files belong on a server of their own, behind `reverse_proxy`.",
        )
    try:
        found = sites(extra)
    except CaddyfileError as error:
        yield Fault("ingress.extra_caddyfile", f"{error}.", "Write whole sites: 'www.my-club.org {', lines, and '}'.")
    else:
        yield from _site_faults(settings, found)
    try:
        lines = directives(inside)
    except CaddyfileError as error:
        yield Fault("ingress.site_caddyfile", f"{error}.", "Write directives, as they stand inside a site.")
    else:
        for line in lines:
            yield from _directive_faults(line)


def _site_faults(settings: Settings, found: list[Site]) -> Iterator[Fault]:
    seen: set[str] = set()
    for site in found:
        for address in site.addresses:
            if re.fullmatch(r"&?\(.*\)", address):
                continue  # a snippet, or a named route
            problem, remedy = _address_problem(settings, address)
            if not problem and address.lower() in seen:
                problem, remedy = "two blocks have this address.", "Merge them."
            seen.add(address.lower())
            if problem:
                yield Fault("ingress.extra_caddyfile", f"line {site.line}, {shown(address)}: {problem}", remedy)


def _address_problem(settings: Settings, address: str) -> tuple[str, str]:
    """What is wrong with the address of a site, and what to do; both empty if nothing is wrong."""
    try:
        url = urlsplit(address if "://" in address else f"//{address}")
        host, port = (url.hostname or "").rstrip("."), url.port
    except ValueError:
        return "it is not the address of a site.", "Write a domain, for example 'www.my-club.org'."
    if "{" in address or not host or host == "*":
        return "it has no domain, so it would answer for other stacks.", "Write the domain of the site."
    if port == CADDY_ASK_PORT:
        return f"port {CADDY_ASK_PORT} is the port of Caddy's own queries.", "Write the address without a port."
    own_firewall = settings.on is None or settings.on.stack
    if port not in (None, *_OPEN_PORTS) and own_firewall:
        problem = f"the firewall does not open port {port}, and a server of this host may need it."
        return problem, "Write the address without a port."
    if host == settings.hostname:
        return "the program writes this site itself.", "Put the lines inside it into 'ingress.site_caddyfile'."
    handles = {f"*{domain}" for domain in settings.handle_domains} | {member.handle for member in settings.members}
    if host in handles:
        return "the program writes this site itself, which proves the owner of a handle.", "Remove it."
    if host.startswith("*.") and settings.hostname.partition(".")[2] == host[2:]:
        return "it covers the hostname, for which Caddy would then order no certificate.", "Write single domains."
    return "", ""


def _directive_faults(line: list[Token]) -> Iterator[Fault]:
    key, name = "ingress.site_caddyfile", line[0].text
    at = f"line {line[0].line}, {shown(name)}"
    matcher = line[1].text if len(line) > 1 else ""
    if name.startswith("@"):
        if name.startswith("@pds_"):
            yield Fault(key, f"{at}: the program uses names with '@pds_'.", "Give the matcher another name.")
    elif not _DIRECTIVE.fullmatch(name):
        yield Fault(key, f"{at}: this is not a directive.", "Write sites into 'ingress.extra_caddyfile'.")
    elif name in ("bind", "tls"):
        yield Fault(key, f"{at}: the program sets the address and the certificate of this site.", "Remove it.")
    elif name not in _FOR_ALL_REQUESTS and (not matcher.startswith(("/", "@")) or matcher in _EVERYTHING):
        yield Fault(
            key,
            f"{at}: without a path or a matcher it answers every request instead of the server.",
            f"Write its paths, for example '{name} /robots.txt …'.",
        )
