"""Which proxy stands between us and a URL."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment

import msgspec

from registry_core.domain.origin import Origin
from registry_core.errors import ConfigError

__all__ = ["Proxy", "is_bypassed", "proxy_for"]

_NOT_A_PROXY: Final = "a proxy must be an http or https URL with a host"
_HOST: Final = re.compile(r"[0-9A-Za-z._:-]+")


class Proxy(msgspec.Struct, frozen=True):
    """A proxy: its URL without user information, and how to introduce oneself to it."""

    url: str
    authorization: str = ""

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """From a URL as settings and environments have it; without a scheme it is http.

        Raises:
            ConfigError: It is no http or https URL with a host.
        """
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ConfigError(_NOT_A_PROXY) from None
        if not host or not _HOST.fullmatch(host) or parts.scheme not in ("http", "https"):
            raise ConfigError(_NOT_A_PROXY)
        authorization = ""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = f"Basic {base64.b64encode(pair.encode('utf-8', 'surrogateescape')).decode()}"
        netloc = f"[{host}]" if ":" in host else host
        return cls(f"{parts.scheme}://{netloc}" + (f":{port}" if port else ""), authorization)

    def __repr__(self) -> str:
        """Without the credentials."""
        return f"Proxy({self.url!r})"


def proxy_for(url: str, setting: str | None, *, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy for a URL, or ``None`` to go there directly.

    Args:
        url: Where to go.
        setting: The URL of a proxy for everything, ``""`` for none, ``None`` for what the environment says. This
            machine itself is never reached through an environment's proxy.
        environment: Proxies by scheme, and exceptions under ``no``; by default what ``http_proxy``, ``https_proxy``,
            ``all_proxy`` and ``no_proxy`` say, in either case.

    Raises:
        ConfigError: The proxy is not one that we can use.
        ProtocolError: The URL is not one to follow.
    """
    if setting is not None:
        return Proxy.parse(setting) if setting else None
    origin = Origin.of_url(url)
    if origin.is_loopback:
        return None
    known = getproxies_environment() if environment is None else environment
    text = known.get(origin.scheme) or known.get("all")
    if not text or is_bypassed(origin, known.get("no", "")):
        return None
    return Proxy.parse(text)


def is_bypassed(origin: Origin, exceptions: str) -> bool:
    """Whether a ``no_proxy`` list names an origin.

    Entries are ``*``, domains (with or without ``.`` or ``*.`` before them, subdomains included), addresses
    and networks such as ``10.0.0.0/8``; each but a network may end in ``:port``.
    """
    return any(_matches(origin, entry.strip().lower()) for entry in exceptions.split(","))


def _matches(origin: Origin, entry: str) -> bool:
    if not entry:
        return False
    if entry == "*":
        return True
    if "/" in entry:
        return _is_in(origin.host, entry)
    host, port = _split(entry)
    if port and port != str(origin.port):
        return False
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(origin.host)
    except ValueError:
        domain = host.removeprefix("*").removeprefix(".")
        return bool(domain) and (origin.host == domain or origin.host.endswith(f".{domain}"))


def _split(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        return host, rest.removeprefix(":")
    if entry.count(":") == 1:
        host, _, port = entry.partition(":")
        return host, port
    return entry, ""


def _is_in(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
