"""The proxy for an origin, from the settings or the environment."""

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
    """A proxy: its URL without user information, and its ``Proxy-Authorization`` value."""

    url: str
    authorization: str = ""

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """Parse a proxy URL. Without a scheme it is an http URL.

        Raises:
            ConfigError: The text is not an http or https URL with a host.
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
        """Omit the credentials."""
        return f"Proxy({self.url!r})"


def proxy_for(origin: Origin, setting: str | None, *, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """Return the proxy for an origin, or ``None`` to connect directly.

    Args:
        origin: Origin of the request.
        setting: Proxy URL for all requests, ``""`` for no proxy, ``None`` to use the environment. A proxy from the
            environment is not used for loopback addresses.
        environment: Proxies by scheme, and exceptions under ``no``; by default from the variables ``http_proxy``,
            ``https_proxy``, ``all_proxy`` and ``no_proxy``, in lower or upper case.

    Raises:
        ConfigError: The proxy URL is malformed.
    """
    if setting is not None:
        return Proxy.parse(setting) if setting else None
    if origin.is_loopback:
        return None
    proxies = getproxies_environment() if environment is None else environment
    text = proxies.get(origin.scheme) or proxies.get("all")
    if not text or is_bypassed(origin, proxies.get("no", "")):
        return None
    return Proxy.parse(text)


def is_bypassed(origin: Origin, exceptions: str) -> bool:
    """Return whether a ``no_proxy`` list includes an origin.

    Entries are ``*``, domains (with or without a leading ``.`` or ``*.``; they include subdomains), addresses, and
    networks such as ``10.0.0.0/8``. All entries except networks may end in ``:port``.
    """
    return any(_matches(origin, entry.strip().lower()) for entry in exceptions.split(","))


def _matches(origin: Origin, entry: str) -> bool:
    if not entry:
        return False
    if entry == "*":
        return True
    if "/" in entry:
        return _is_in_network(origin.host, entry)
    host, port = _split_port(entry)
    if port and port != str(origin.port):
        return False
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(origin.host)
    except ValueError:
        domain = host.removeprefix("*").removeprefix(".")
        return bool(domain) and (origin.host == domain or origin.host.endswith(f".{domain}"))


def _split_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        return host, rest.removeprefix(":")
    if entry.count(":") == 1:
        host, _, port = entry.partition(":")
        return host, port
    return entry, ""


def _is_in_network(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
