"""What registries are called in keychains.

A registry is ``host[:port]``. Both have to match exactly; a host without a port means the default port of http and of
https. Docker Hub has several hosts, and is kept under a URL that only history explains.
"""

from __future__ import annotations

import re
from typing import Final

from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.errors import InvalidName

__all__ = [
    "HUB",
    "HUB_KEY",
    "aliases",
    "canonical",
    "config_key",
    "exact_aliases",
    "helper_keys",
    "namespaces",
    "parsed_key",
]

HUB: Final = "docker.io"
HUB_KEY: Final = "https://index.docker.io/v1/"

_HUB_HOSTS: Final = frozenset({HUB, "index.docker.io", "registry-1.docker.io"})
_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_VERSIONS: Final = ("", "v1", "v2")


def canonical(registry: str) -> str:
    """One spelling for a registry: in lower case, the port where it was written, Docker Hub by its name.

    Raises:
        InvalidName: It is anything but ``host[:port]``.
    """
    origin = Origin.of(registry)
    if origin.host in _HUB_HOSTS and origin.port == 443:
        return HUB
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return f"{host}:{origin.port}" if _parts(registry)[1] else host


def aliases(registry: str) -> tuple[str, ...]:
    """The canonical names under which a registry may be kept, the most exact one first.

    Raises:
        InvalidName: It is anything but ``host[:port]``.
    """
    name = canonical(registry)
    host, port = _parts(name)
    if not port:
        return (name,) if name == HUB else (name, f"{name}:443")
    return (name, host) if port in ("443", "80") else (name,)


def exact_aliases(registry: str) -> tuple[str, ...]:
    """The canonical names that are this registry and no other: what is replaced or erased under its name.

    Raises:
        InvalidName: It is anything but ``host[:port]``.
    """
    name = canonical(registry)
    return (name,) if _parts(name)[1] == "80" else aliases(name)


def helper_keys(registry: str) -> tuple[str, ...]:
    """What a credential helper knows a registry by, the usual name first.

    Raises:
        InvalidName: It is anything but ``host[:port]``; so nothing else ever reaches a helper.
    """
    name = canonical(registry)
    if name == HUB:
        return (HUB_KEY, HUB)
    return aliases(name) if _parts(name)[1] else (name,)


def config_key(registry: str) -> str:
    """The key under which a registry is written to a file.

    Raises:
        InvalidName: It is anything but ``host[:port]``.
    """
    name = canonical(registry)
    return HUB_KEY if name == HUB else name


def parsed_key(key: str) -> tuple[str, str] | None:
    """Registry and namespace of a key in a Docker configuration, or ``None`` where the key names no registry.

    A scheme, and the path of an API's version, count for nothing; any other path is a namespace, so that a credential
    for one is never given to its neighbours.
    """
    scheme = _SCHEME.match(key)
    host, _, path = (key[scheme.end() :] if scheme else key).partition("/")
    path = path.strip("/")
    try:
        return canonical(host), "" if path in _VERSIONS else path
    except InvalidName:
        return None


def namespaces(repository: RepositoryName | None) -> tuple[str, ...]:
    """``a/b/c``, ``a/b``, ``a`` and the empty one, which is the registry as a whole."""
    parts = repository.split("/") if repository else []
    return tuple("/".join(parts[:count]) for count in range(len(parts), -1, -1))


def _parts(name: str) -> tuple[str, str]:
    """Host and port; the colons of an IPv6 address stand in brackets."""
    host, colon, port = name.rpartition(":")
    return (host, port) if colon and not port.endswith("]") else (name, "")
