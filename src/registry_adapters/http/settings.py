"""``HttpSettings``: the validated settings of the HTTP backend."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from registry_core.domain.url_policy import TrustedHost
from registry_core.errors import ConfigError

__all__ = ["HttpSettings"]


def _user_agent() -> str:
    try:
        return f"ociport/{version('ociport')}"
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "ociport"


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the HTTP backend; times in seconds, sizes in bytes.

    Args:
        plain_http: Use http instead of https for the registry.
        tls_verify: Verify certificates and host names. Without it, a connection is no safer than plain http.
        ca_file: PEM file of additional CA certificates to trust.
        trust_system: Trust the CAs of the operating system; if false, only those of ``ca_file`` and ``certs_dir``.
        certs_dir: Directory with one directory for each ``host[:port]``, as in Docker and podman: ``*.crt`` files are
            additional CAs for that host, ``*.cert`` with ``*.key`` is the client certificate.
        tls_minimum: Oldest TLS version to accept: ``1.2`` or ``1.3``.
        client_cert: Client certificate: a PEM file with certificate and key, or one path for each.
        connect_timeout: Maximum time to connect, including the TLS handshake.
        read_timeout: Maximum time without data in either direction; use ``fail_after`` to bound a whole transfer.
        chunk_size: Maximum number of bytes per upload request; ``None`` uploads a blob in one request.
        max_connections: Maximum number of connections per origin in use at a time, and kept open for reuse. A thread
            that uses one may open a second; a response body that is not being read does not count.
        requests_per_second: Maximum number of requests per second to one origin; ``None`` for no limit.
        path_prefix: Path before ``/v2``, for a registry that shares its host: ``/registry``.
        proxy: Proxy URL, ``""`` for no proxy, or ``None`` to use the environment.
        user_agent: Value of the ``User-Agent`` header.
        trusted_hosts: Hosts besides the registry's own that token realms, redirects, uploads and next-page links may
            lead to: ``host`` for every port, ``host:port``, or an origin such as ``http://host:port``. Token servers
            among them get the registry's credentials; the others get none. No entry permits http where the registry
            has https.
        retries: Maximum number of retries of a request.
        backoff: Maximum pause before the first retry; the maximum doubles with each further retry.

    Raises:
        ConfigError: A value is invalid.
    """

    plain_http: bool = False
    tls_verify: bool = True
    ca_file: str | None = None
    trust_system: bool = True
    certs_dir: str | None = None
    tls_minimum: str = "1.2"
    client_cert: str | tuple[str, str] | None = None
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    chunk_size: int | None = None
    max_connections: int = 8
    requests_per_second: float | None = None
    path_prefix: str = ""
    proxy: str | None = None
    user_agent: str = msgspec.field(default_factory=_user_agent)
    trusted_hosts: Collection[str] = ()
    retries: int = 3
    backoff: float = 0.5

    def __post_init__(self) -> None:
        """Check types and ranges; convert path objects to text."""
        for name in ("ca_file", "certs_dir", "client_cert"):
            msgspec.structs.force_setattr(self, name, _path_text(getattr(self, name)))
        msgspec.structs.force_setattr(self, "trusted_hosts", _trusted_hosts(self.trusted_hosts))
        for name in ("plain_http", "tls_verify", "trust_system"):
            _require(isinstance(getattr(self, name), bool), name, "must be True or False")
        for name in ("connect_timeout", "read_timeout", "backoff"):
            value = getattr(self, name)
            _require(_is_number(value) and 0 < value < 1e6, name, "must be a positive number of seconds")
        _require(_is_count(self.max_connections, 1), "max_connections", "must be a whole number of at least 1")
        _require(_is_count(self.retries, 0), "retries", "must be a whole number of at least 0")
        _require(
            self.chunk_size is None or _is_count(self.chunk_size, 1),
            "chunk_size",
            "must be a positive number of bytes, or None",
        )
        _require(self.ca_file is None or _is_path(self.ca_file), "ca_file", "must be a path, or None")
        _require(self.certs_dir is None or _is_path(self.certs_dir), "certs_dir", "must be a path, or None")
        _require(self.tls_minimum in ("1.2", "1.3"), "tls_minimum", "must be '1.2' or '1.3'")
        rate = self.requests_per_second
        _require(
            rate is None or (_is_number(rate) and 0 < rate < 1e6), "requests_per_second", "must be positive, or None"
        )
        _require(_is_prefix(self.path_prefix), "path_prefix", "must be empty, or a path such as '/registry'")
        _require(_is_certificate(self.client_cert), "client_cert", "must be a path, a pair of paths, or None")
        _require(
            isinstance(self.user_agent, str) and self.user_agent.isascii() and self.user_agent.isprintable(),
            "user_agent",
            "must be printable ASCII",
        )
        _require(_is_proxy(self.proxy), "proxy", "must be an http or https URL with a host, an empty string, or None")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        if self.proxy and "@" in self.proxy:
            raise TypeError("settings with a proxy password cannot be pickled: create them in each process")
        return super().__reduce__()

    def __repr__(self) -> str:
        """Show all fields, with the credentials of the proxy masked."""
        return f"HttpSettings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return the fields that ``repr`` shows."""
        fields: list[tuple[str, Any]] = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name == "proxy" and value and "@" in value:
                scheme, _, rest = value.partition("://")
                value = f"{scheme}://***@{rest.rpartition('@')[2]}"
            fields.append((name, value))
        return fields


def _require(valid: object, name: str, requirement: str) -> None:
    if not valid:
        raise ConfigError(f"{name} {requirement}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _path_text(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(_path_text(part) for part in value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _is_path(value: object) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _trusted_hosts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise ConfigError("trusted_hosts must be a list of hosts, such as ['auth.example.com']")
    for host in value:
        TrustedHost.parse(host)
    return tuple(value) if isinstance(value, list | tuple) else tuple(sorted(value))


def _is_prefix(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*", value) is not None


def _is_certificate(value: object) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and all(_is_path(part) for part in value)
    return value is None or _is_path(value)


def _is_proxy(value: object) -> bool:
    if value is None or value == "":
        return True
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
