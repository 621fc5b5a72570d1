"""Origins (scheme, host and port), address zones, and URLs chosen by a registry.

Credentials belong to one origin. Every URL that a registry chooses (redirect, upload location, link, token realm) is
parsed here; ``url_policy`` decides whether it may be requested.
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

__all__ = ["Origin", "Zone", "parse_host", "redact_url", "resolve_url"]

_PORTS: Final = {"http": 80, "https": 443}
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
# Hosts of object stores and containers have underscores. A name may end in the dot of the DNS root.
_HOST: Final = re.compile(
    rf"(?P<host>{_LABEL}(?:\.{_LABEL})*(?P<root>\.)?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{{1,5}}))?"
)
# resolvers read ``127.1``, ``0x7f.1`` and ``2130706433`` as addresses, so they are not accepted as names.
_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f\\]")

_THIS_NETWORK: Final = ipaddress.ip_network("0.0.0.0/8")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.ip_network("::/96")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Zone(Enum):
    """The network from which an address is reachable; names count as public, except ``localhost``."""

    PUBLIC = "public"
    PRIVATE = "private"
    LINK_LOCAL = "link-local"
    LOOPBACK = "loopback"
    UNROUTABLE = "unspecified, multicast or reserved"


class Origin(msgspec.Struct, frozen=True):
    """Scheme, host and port of a URL.

    Args:
        scheme: ``http`` or ``https``.
        host: Host name in lower case and without a trailing dot, or an IP address; IPv6 without brackets.
        port: Port, also if it is the default of the scheme.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, host: str, *, scheme: str = "https") -> Self:
        """Parse ``host[:port]`` of a registry; its name has no underscore and no trailing dot.

        Raises:
            InvalidName: The text has other parts or is malformed.
        """
        if not isinstance(host, str) or scheme not in _PORTS:
            raise InvalidName(f"not a host[:port]: {host!r:.200}")
        name, port = parse_host(host)
        if "_" in name or host.partition(":")[0].endswith("."):
            raise InvalidName(f"a registry's name has no underscore and no trailing dot: {host!r:.200}")
        return cls(scheme, name, port or _PORTS[scheme])

    @classmethod
    def of_url(cls, url: str) -> Self:
        """Return the origin of an absolute http or https URL.

        Raises:
            ProtocolError: The URL has another scheme, user information, control characters or a malformed host.
        """
        try:
            parts = urlsplit(url)
            if _FORBIDDEN.search(url) or parts.scheme not in _PORTS:
                raise ProtocolError(f"malformed or unsupported URL: {redact_url(url)}")
            if "@" in parts.netloc:
                raise ProtocolError(f"the URL has user information, which is never sent: {redact_url(url)}")
            name, port = parse_host(parts.netloc)
            return cls(parts.scheme, name, port or _PORTS[parts.scheme])
        except (InvalidName, ValueError):
            raise ProtocolError(f"malformed or unsupported URL: {redact_url(url)}") from None

    @property
    def netloc(self) -> str:
        """``host[:port]``, without the default port of the scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine: ``localhost`` or a loopback address."""
        if self.host == "localhost":
            return True
        address = _address(self.host)
        return address is not None and address.is_loopback

    @property
    def zone(self) -> Zone:
        """The zone of the host. Names are not resolved."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return Zone.LOOPBACK
        address = _address(self.host)
        if address is None:
            return Zone.PUBLIC
        return _zone(_embedded_ipv4(address) or address)

    def __str__(self) -> str:
        """``scheme://host[:port]``."""
        return f"{self.scheme}://{self.netloc}"


def resolve_url(base: str, target: str) -> str:
    """Return the absolute URL of a reference in a response, without its fragment.

    Args:
        base: URL of the request.
        target: URL reference from the response.

    Raises:
        ProtocolError: The reference is empty, malformed, or not http or https.
    """
    if not target:
        raise ProtocolError("the response names an empty URL")
    if _FORBIDDEN.search(target):
        raise ProtocolError(f"malformed or unsupported URL: {redact_url(target)}")
    try:
        url = urljoin(base, target).partition("#")[0]
    except ValueError:
        raise ProtocolError(f"malformed or unsupported URL: {redact_url(target)}") from None
    Origin.of_url(url)
    return url


def redact_url(url: str) -> str:
    """Return a URL for messages: without user information, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<malformed URL>"
    host = parts.netloc.rpartition("@")[2]
    query = "?…" if parts.query else ""
    text = f"{parts.scheme}://{host}{parts.path}{query}" if host else f"{parts.path.rpartition('@')[2]}{query}"
    text = text[:500]
    return text if text.isprintable() else "".join(char if char.isprintable() else "�" for char in text)


# Requests repeat a few hosts; errors are not cached.
@lru_cache(maxsize=256)
def parse_host(host: str) -> tuple[str, int]:
    """Return host and port of ``host[:port]``: the host as in ``Origin.host``, and 0 if there is no port.

    Args:
        host: Host name, or an IP address (IPv6 in brackets), and the port.

    Raises:
        InvalidName: The text has other parts or is malformed.
    """
    if "@" in host:
        # The part before it may be a password.
        raise InvalidName(f"a host has no user information: '***@{host.rpartition('@')[2]:.200}'")
    match = _HOST.fullmatch(host)
    if match is None:
        raise InvalidName(f"not a host[:port]: {host!r:.200}")
    name, bracketed = match["host"].strip("[]").lower(), match["host"].startswith("[")
    port = int(match["port"]) if match["port"] else 0
    if (match["port"] and not 0 < port < 65536) or len(name) > 253 or bracketed is not (":" in name):
        raise InvalidName(f"not a host[:port]: {host!r:.200}")
    # an address has no trailing dot.
    name = name.removesuffix(".")
    if (bracketed or _NUMERIC.fullmatch(name)) and (match["root"] or _address(name) is None):
        raise InvalidName(f"not a host[:port]: {host!r:.200}")
    # One spelling for each IPv6 address: it is a key of credentials and of trusted hosts.
    return ipaddress.ip_address(name).compressed if bracketed else name, port


@lru_cache(maxsize=256)
def _address(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _embedded_ipv4(address: _Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address embedded in an IPv6 address: NAT64, 6to4 or IPv4-compatible."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.sixtofour is not None:
        return address.sixtofour
    # "::" and "::1" are not IPv4-compatible addresses.
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _zone(address: _Address) -> Zone:
    if address.is_loopback:
        return Zone.LOOPBACK
    if address.is_link_local:
        return Zone.LINK_LOCAL
    if isinstance(address, ipaddress.IPv4Address) and (address in _THIS_NETWORK or address.is_reserved):
        return Zone.UNROUTABLE
    if address.is_unspecified or address.is_multicast:
        return Zone.UNROUTABLE
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return Zone.PRIVATE
    return Zone.PUBLIC if address.is_global else Zone.PRIVATE
