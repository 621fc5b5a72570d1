"""Origins: to whom a request goes, and whom a registry may send us to.

Credentials belong to one origin: scheme, host and port. Every URL that a registry chooses (a redirect, an upload
location, a link, a token realm) is taken apart here, and judged in ``errands``.
"""

from __future__ import annotations

import ipaddress
import re
from enum import Enum
from functools import lru_cache
from typing import Final, Self
from urllib.parse import urljoin, urlsplit

import msgspec

from registry_core.errors import InvalidName, ProtocolError

__all__ = ["Origin", "Zone", "redact_url", "resolve_url"]

_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(
    r"(?P<host>(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
    r"|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
# ``127.1``, ``0x7f.1`` and ``2130706433``: resolvers take them for addresses, so they are no names.
_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f\\]")

_NOWHERE: Final = ipaddress.ip_network("0.0.0.0/8")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.ip_network("::/96")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Zone(Enum):
    """From where an address can be reached; names are taken to be public, but for ``localhost``."""

    PUBLIC = "public"
    PRIVATE = "private"
    LINK_LOCAL = "link-local"
    LOOPBACK = "loopback"
    UNROUTABLE = "unspecified, multicast or reserved"


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
        """From ``host[:port]``, and nothing but that.

        Raises:
            InvalidName: There is anything else in it.
        """
        if not isinstance(host, str) or scheme not in _PORTS:
            raise InvalidName(f"not a registry host: {host!r:.200}")
        name, port = _parsed(host)
        return cls(scheme, name, port or _PORTS[scheme])

    @classmethod
    def of_url(cls, url: str) -> Self:
        """The origin of an absolute http or https URL.

        Raises:
            ProtocolError: Another scheme, user information, control characters, or no proper host.
        """
        try:
            parts = urlsplit(url)
            if _FORBIDDEN.search(url) or parts.scheme not in _PORTS or "@" in parts.netloc:
                raise ProtocolError(f"not a URL to follow: {redact_url(url)}")
            return cls.of(parts.netloc, scheme=parts.scheme)
        except (InvalidName, ValueError):
            raise ProtocolError(f"not a URL to follow: {redact_url(url)}") from None

    @property
    def netloc(self) -> str:
        """``host[:port]``, the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine, by name or address."""
        if self.host == "localhost":
            return True
        address = _address(self.host)
        return address is not None and address.is_loopback

    @property
    def zone(self) -> Zone:
        """From where it can be reached, as far as the text tells: names are not looked up."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return Zone.LOOPBACK
        address = _address(self.host)
        if address is None:
            return Zone.PUBLIC
        return _zone(_carried(address) or address)

    @property
    def is_internal(self) -> bool:
        """Whether it is an address literal, or ``localhost``, that no public registry should send anyone to.

        Names are not looked up: a public name that leads to a private address is not noticed.
        """
        return self.zone is not Zone.PUBLIC

    def __str__(self) -> str:
        """``scheme://host[:port]``."""
        return f"{self.scheme}://{self.netloc}"


def resolve_url(base: str, target: str) -> str:
    """A URL that a registry named, made absolute against the one it answered; the fragment goes.

    Raises:
        ProtocolError: It is empty, or not one to follow.
    """
    if not target:
        raise ProtocolError("the registry named no URL to go to")
    if _FORBIDDEN.search(target):
        raise ProtocolError(f"not a URL to follow: {redact_url(target)}")
    try:
        url = urljoin(base, target).partition("#")[0]
    except ValueError:
        raise ProtocolError(f"not a URL to follow: {redact_url(target)}") from None
    Origin.of_url(url)
    return url


def redact_url(url: str) -> str:
    """A URL fit for messages: without user information, query values and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<malformed URL>"
    host = parts.netloc.rpartition("@")[2]
    query = "?…" if parts.query else ""
    text = f"{parts.scheme}://{host}{parts.path}{query}" if host else f"{parts.path.rpartition('@')[2]}{query}"
    text = text[:500]
    return text if text.isprintable() else "".join(char if char.isprintable() else "�" for char in text)


# The same few hosts come again and again; only what is one is kept.
@lru_cache(maxsize=256)
def _parsed(host: str) -> tuple[str, int]:
    """Name and port of ``host[:port]``; 0 where there is none."""
    match = _HOST.fullmatch(host)
    if match is None:
        raise InvalidName(f"not a registry host: {host!r:.200}")
    name, bracketed = match["host"].strip("[]").lower(), match["host"].startswith("[")
    port = int(match["port"]) if match["port"] else 0
    if (match["port"] and not 0 < port < 65536) or len(name) > 253 or bracketed is not (":" in name):
        raise InvalidName(f"not a registry host: {host!r:.200}")
    if (bracketed or _NUMERIC.fullmatch(name)) and _address(name) is None:
        raise InvalidName(f"not a registry host: {host!r:.200}")
    return name, port


@lru_cache(maxsize=256)
def _address(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _carried(address: _Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that gateways make of one of IPv6: NAT64, 6to4 and the old compatible form."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.sixtofour is not None:
        return address.sixtofour
    # "::" and "::1" are of IPv6 itself.
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _zone(address: _Address) -> Zone:
    if address.is_loopback:
        return Zone.LOOPBACK
    if address.is_link_local:
        return Zone.LINK_LOCAL
    if isinstance(address, ipaddress.IPv4Address) and (address in _NOWHERE or address.is_reserved):
        return Zone.UNROUTABLE
    if address.is_unspecified or address.is_multicast:
        return Zone.UNROUTABLE
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return Zone.PRIVATE
    return Zone.PUBLIC if address.is_global else Zone.PRIVATE
