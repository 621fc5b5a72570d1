"""How to talk HTTP: one frozen, validated value."""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

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
        plain_http: Speak http instead of https to the registry.
        tls_verify: Check certificates and host names. Off only for a registry you could as well trust over http.
        ca_file: A PEM file of further authorities to trust.
        trust_system: Trust the machine's authorities as well; without, only those of ``ca_file`` and ``certs_dir``.
        certs_dir: A directory with one directory for each ``host[:port]``, as Docker and podman keep them: ``*.crt``
            are further authorities for that host, ``*.cert`` with ``*.key`` is who we are there.
        tls_minimum: The oldest TLS version to speak: ``1.2`` or ``1.3``.
        client_cert: Who we are: a PEM file with certificate and key, or one path for each.
        connect_timeout: The longest wait for a connection, TLS handshake included.
        read_timeout: The longest silence, in either direction; a whole transfer is bounded by ``fail_after``.
        chunk_size: The most that one request uploads; ``None`` for a blob in one piece.
        max_connections: How many connections to one origin are used at a time, and kept for reuse. A thread that has
            one may open another; a body that nobody reads does not count.
        requests_per_second: The most requests to begin in a second, to one origin; ``None`` for no limit of our own.
        path_prefix: What stands before ``/v2`` where a registry does not have a host to itself: ``/registry``.
        proxy: ``None`` for what the environment says, ``""`` for no proxy, or the URL of one.
        user_agent: How we introduce ourselves.
        retries: How often a request is repeated, beyond the first try.
        backoff: The longest first pause before a repetition; each further one may take twice as long as the one before.

    Raises:
        ConfigError: A value that cannot work.
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
    retries: int = 3
    backoff: float = 0.5

    def __post_init__(self) -> None:
        """Check types and ranges; a path object becomes its text."""
        for name in ("ca_file", "certs_dir", "client_cert"):
            msgspec.structs.force_setattr(self, name, _path_text(getattr(self, name)))
        for name in ("plain_http", "tls_verify", "trust_system"):
            _demand(isinstance(getattr(self, name), bool), name, "must be True or False")
        for name in ("connect_timeout", "read_timeout", "backoff"):
            value = getattr(self, name)
            _demand(_is_number(value) and 0 < value < 1e6, name, "must be a positive number of seconds")
        _demand(_is_count(self.max_connections, 1), "max_connections", "must be a whole number from 1 on")
        _demand(_is_count(self.retries, 0), "retries", "must be a whole number from 0 on")
        _demand(
            self.chunk_size is None or _is_count(self.chunk_size, 1),
            "chunk_size",
            "must be a positive number of bytes, or None",
        )
        _demand(self.ca_file is None or _is_path(self.ca_file), "ca_file", "must be a path, or None")
        _demand(self.certs_dir is None or _is_path(self.certs_dir), "certs_dir", "must be a path, or None")
        _demand(self.tls_minimum in ("1.2", "1.3"), "tls_minimum", "must be '1.2' or '1.3'")
        rate = self.requests_per_second
        _demand(
            rate is None or (_is_number(rate) and 0 < rate < 1e6), "requests_per_second", "must be positive, or None"
        )
        _demand(_is_prefix(self.path_prefix), "path_prefix", "must be empty, or a path such as '/registry'")
        _demand(_is_certificate(self.client_cert), "client_cert", "must be a path, a pair of paths, or None")
        _demand(
            isinstance(self.user_agent, str) and self.user_agent.isascii() and self.user_agent.isprintable(),
            "user_agent",
            "must be printable ASCII",
        )
        _demand(_is_proxy(self.proxy), "proxy", "must be an http or https URL with a host, an empty string, or None")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        if self.proxy and "@" in self.proxy:
            raise TypeError("settings with a proxy's password are not pickled; let each process read its own")
        return super().__reduce__()

    def __repr__(self) -> str:
        """All fields, the proxy's credentials masked."""
        return f"HttpSettings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The same, field by field."""
        fields: list[tuple[str, Any]] = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name == "proxy" and value and "@" in value:
                scheme, _, rest = value.partition("://")
                value = f"{scheme}://***@{rest.rpartition('@')[2]}"
            fields.append((name, value))
        return fields


def _demand(fine: object, name: str, claim: str) -> None:
    if not fine:
        raise ConfigError(f"{name} {claim}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _path_text(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(_path_text(part) for part in value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _is_path(value: object) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


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
