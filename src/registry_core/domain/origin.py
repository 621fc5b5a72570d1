"""Origins: to whom a request goes, and whom a registry may send us to (R-030 to R-037, R-041, R-042, R-046).

Credentials belong to one origin: scheme, host and port. Every URL that a registry chooses (a redirect, an upload
location, a link, a token realm) is resolved and judged here, and nowhere else.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, Self
from urllib.parse import urljoin, urlsplit

import msgspec

from registry_core.errors import InvalidName, ProtocolError

__all__ = ["Origin", "check_followable", "redacted", "resolve"]

_PORTS: Final = {"http": 80, "https": 443}
_HOST = re.compile(
    r"(?P<host>(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
    r"|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
# ``127.1``, ``0x7f.1`` and ``2130706433``: resolvers take them for addresses, so they are no names.
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")


class Origin(msgspec.Struct, frozen=True):
    """Where requests go: a scheme, a host and a port.

    Args:
        scheme: ``http`` or ``https``.
        host: In lower case; an IPv6 address without brackets.
        port: Always spelled out.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, host: str, *, scheme: str = "https") -> Self:
        """From ``host[:port]``, and nothing but that (R-011).

        Raises:
            InvalidName: There is anything else in it.
        """
        match = _HOST.fullmatch(host) if isinstance(host, str) else None
        if match is None or scheme not in _PORTS:
            raise InvalidName(f"not a registry host: {host!r:.200}")
        port = int(match["port"]) if match["port"] else _PORTS[scheme]
        name = match["host"].strip("[]").lower()
        bracketed = match["host"].startswith("[")
        if not 0 < port < 65536 or len(name) > 253 or bracketed is not (":" in name):
            raise InvalidName(f"not a registry host: {host!r:.200}")
        if (bracketed or _NUMERIC.fullmatch(name)) and _address(name) is None:
            raise InvalidName(f"not a registry host: {host!r:.200}")
        return cls(scheme, name, port)

    @classmethod
    def of_url(cls, url: str) -> Self:
        """The origin of an absolute http or https URL.

        Raises:
            ProtocolError: Another scheme, user information, control characters, or no proper host (R-042).
        """
        try:
            parts = urlsplit(url)
            if _FORBIDDEN.search(url) or parts.scheme not in _PORTS or "@" in parts.netloc:
                raise ProtocolError(f"not a URL to follow: {redacted(url)}")
            return cls.of(parts.netloc, scheme=parts.scheme)
        except (InvalidName, ValueError):
            raise ProtocolError(f"not a URL to follow: {redacted(url)}") from None

    @property
    def netloc(self) -> str:
        """``host[:port]``, the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine, by name or address (R-041)."""
        if self.host == "localhost":
            return True
        address = _address(self.host)
        return address is not None and address.is_loopback

    @property
    def is_internal(self) -> bool:
        """Whether it is an address literal, or ``localhost``, that no public registry should send anyone to (R-046).

        Names are not looked up: a public name that leads to a private address is not noticed.
        """
        if self.is_loopback:
            return True
        address = _address(self.host)
        return address is not None and not address.is_global

    def __str__(self) -> str:
        """``scheme://host[:port]``."""
        return f"{self.scheme}://{self.netloc}"


def resolve(base: str, target: str) -> str:
    """A URL that a registry named, made absolute against the one it answered; the fragment goes (R-071).

    Raises:
        ProtocolError: It is empty, or not one to follow (R-042).
    """
    if not target:
        raise ProtocolError("the registry named no URL to go to")
    if _FORBIDDEN.search(target):
        raise ProtocolError(f"not a URL to follow: {redacted(target)}")
    try:
        url = urljoin(base, target).partition("#")[0]
    except ValueError:
        raise ProtocolError(f"not a URL to follow: {redacted(target)}") from None
    Origin.of_url(url)
    return url


def check_followable(home: Origin, url: str) -> Origin:
    """Whether a URL chosen by the registry at ``home`` may be visited at all; says nothing about credentials.

    Args:
        home: The registry's own origin.
        url: Absolute, as ``resolve`` returns it.

    Returns:
        The URL's origin: credentials go there only if it equals ``home``.

    Raises:
        ProtocolError: From https down to http (R-041), or from a public registry to an internal address (R-046).
    """
    target = Origin.of_url(url)
    if home.scheme == "https" and target.scheme == "http":
        raise ProtocolError(f"refused to go from https to http: {redacted(url)}")
    if target.is_internal and not home.is_internal and target != home:
        raise ProtocolError(f"refused to go from a public registry to an internal address: {redacted(url)}")
    return target


def redacted(url: str) -> str:
    """A URL fit for messages: without user information, query values and fragment (R-043)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<malformed URL>"
    host = parts.netloc.rpartition("@")[2]
    query = "?…" if parts.query else ""
    text = f"{parts.scheme}://{host}{parts.path}{query}" if host else f"{parts.path.rpartition('@')[2]}{query}"
    return "".join(char if char.isprintable() else "�" for char in text[:500])


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
