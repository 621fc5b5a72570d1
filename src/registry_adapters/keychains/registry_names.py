"""Names of registries in keychains.

A registry is ``host[:port]``, and both must match exactly. A host without a port means the default port of http and
of https. Docker Hub has several hosts, and its key is the URL of its former index.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Final

from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.errors import InvalidName

__all__ = [
    "HUB_KEY",
    "aliases",
    "canonical",
    "config_key",
    "exact_aliases",
    "helper_keys",
    "matches",
    "namespaces",
    "parsed_key",
    "parsed_pattern",
]

_HUB: Final = "docker.io"
HUB_KEY: Final = "https://index.docker.io/v1/"

_HUB_HOSTS: Final = frozenset({_HUB, "index.docker.io", "registry-1.docker.io"})
_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_API_VERSIONS: Final = ("", "v1", "v2")


def canonical(registry: str) -> str:
    """Return the canonical name: lower case, with the port only if it is given; ``docker.io`` for Docker Hub.

    Raises:
        InvalidName: The registry is not ``host[:port]``.
    """
    origin = Origin.of(registry)
    if origin.host in _HUB_HOSTS and origin.port == 443:
        return _HUB
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return f"{host}:{origin.port}" if _split(registry)[1] else host


def aliases(registry: str) -> tuple[str, ...]:
    """Return the canonical names that a credential for a registry may have, the most exact one first.

    Raises:
        InvalidName: The registry is not ``host[:port]``.
    """
    name = canonical(registry)
    host, port = _split(name)
    if not port:
        return (name,) if name == _HUB else (name, f"{name}:443")
    return (name, host) if port in ("443", "80") else (name,)


def exact_aliases(registry: str) -> tuple[str, ...]:
    """Return the canonical names that mean only this registry; their credentials are replaced or erased with it.

    Raises:
        InvalidName: The registry is not ``host[:port]``.
    """
    name = canonical(registry)
    return (name,) if _split(name)[1] == "80" else aliases(name)


def helper_keys(registry: str) -> tuple[str, ...]:
    """Return the names of a registry for credential helpers, the usual one first.

    Raises:
        InvalidName: The registry is not ``host[:port]``; nothing else is passed to a helper.
    """
    name = canonical(registry)
    if name == _HUB:
        return (HUB_KEY, _HUB)
    return aliases(name) if _split(name)[1] else (name,)


def config_key(registry: str) -> str:
    """Return the key of a registry in a configuration file.

    Raises:
        InvalidName: The registry is not ``host[:port]``.
    """
    name = canonical(registry)
    return HUB_KEY if name == _HUB else name


def parsed_key(key: str) -> tuple[str, str] | None:
    """Split a key of a Docker configuration into registry and namespace; ``None`` if it names no registry.

    A scheme and the path of an API version are ignored. Any other path is a namespace: the credential is not used for
    other repositories.
    """
    host, path = _split_key(key)
    try:
        return canonical(host), path
    except InvalidName:
        return None


def parsed_pattern(key: str) -> tuple[str, str] | None:
    """Split a key whose host may have ``*`` into a pattern for ``matches`` and a namespace; see ``parsed_key``.

    ``None`` if no registry can match: ``*`` is allowed in the host, and not in the port or the namespace.
    """
    host, path = _split_key(key)
    try:
        canonical(host.replace("*", "x"))
    except InvalidName:
        return None
    return None if "*" in path else (host.lower(), path)


def matches(pattern: str, name: str) -> bool:
    """Return whether a canonical name matches a pattern, as the kubelet decides.

    Both have the same port or none, and the same number of parts between dots. ``*`` stands for any text in one part
    (kubernetes, ``pkg/credentialprovider/keyring.go``, ``URLsMatch``).
    """
    pattern_host, pattern_port = _split(pattern)
    host, port = _split(name)
    wanted, parts = pattern_host.split("."), host.split(".")
    return (
        port == pattern_port
        and len(wanted) == len(parts)
        and all(fnmatchcase(part, each) for part, each in zip(parts, wanted, strict=True))
    )


def _split_key(key: str) -> tuple[str, str]:
    """Split a key into host and namespace."""
    scheme = _SCHEME.match(key)
    host, _, path = (key[scheme.end() :] if scheme else key).partition("/")
    path = path.strip("/")
    return host, "" if path in _API_VERSIONS else path


def namespaces(repository: RepositoryName | None) -> tuple[str, ...]:
    """Return the namespaces of ``a/b/c``: ``a/b/c``, ``a/b``, ``a``, and the empty one for the whole registry."""
    parts = repository.split("/") if repository else []
    return tuple("/".join(parts[:count]) for count in range(len(parts), -1, -1))


def _split(name: str) -> tuple[str, str]:
    """Split a name into host and port; the colons of an IPv6 address are in brackets."""
    host, colon, port = name.rpartition(":")
    return (host, port) if colon and not port.endswith("]") else (name, "")
