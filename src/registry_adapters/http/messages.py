"""Requests and responses as values: what stores ask a session for, and what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import Final, Self

import msgspec

from registry_core.content.streams import BaseReader, ByteReader, ByteSource, read_limited
from registry_core.domain.auth import Scope
from registry_core.errors import ProtocolError

__all__ = ["NO_BODY", "SINGLE_USE", "Body", "BufferedResponse", "Headers", "Request", "Response"]


# Headers of a request that is sent on a new connection, which is closed afterwards.
SINGLE_USE: Final[Mapping[str, str]] = MappingProxyType({"Connection": "close"})


class Body(msgspec.Struct, frozen=True):
    """A range of a re-openable source: the body of a request, opened anew for each attempt.

    Args:
        source: Source of the bytes.
        start: Offset of the first byte.
        length: Number of bytes; always sent as ``Content-Length``.
    """

    source: ByteSource
    start: int
    length: int


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a registry.

    Args:
        method: HTTP method.
        target: Path of the registry beginning with ``/``, query included, or an absolute URL that it named.
        success: Statuses that mean success; any other is raised as an error.
        scopes: Scopes that the request needs.
        headers: Headers without ``Authorization``, ``Host`` and ``Content-Length``, which the session sets.
        body: Body; ``None`` for none.
        reference: Reference for errors.
        missing: Kind of content that a 404 without a code is about: ``manifest``, ``blob``, ``repository``,
            ``upload``, ``catalog``, or ``registry`` where a 404 means that the host is no registry.
        repeatable: Whether the request can be sent again after its response was lost.
        is_retried: Whether the request is sent again, after a pause, if it fails for a possibly temporary reason.
    """

    method: str
    target: str
    success: tuple[int, ...]
    scopes: tuple[Scope, ...] = ()
    headers: dict[str, str] = {}
    body: Body | None = None
    reference: str = ""
    missing: str = "manifest"
    repeatable: bool = True
    is_retried: bool = True


class Headers:
    """The headers of a response, by names in any case.

    Args:
        fields: Names and values as received, in order.
    """

    __slots__ = ("_values",)

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        values: dict[str, list[str]] = {}
        for name, value in fields:
            values.setdefault(name.lower(), []).append(value)
        self._values = values

    def all(self, name: str) -> list[str]:
        """Each value of a field, in order."""
        return list(self._values.get(name.lower(), ()))

    def get(self, name: str, default: str = "") -> str:
        """The value of a field; the default where the field is absent or has two different values.

        Raises:
            ProtocolError: A ``Location`` has two different values: without one, the request would go elsewhere.
        """
        values = self._values.get(name.lower())
        if values is None:
            return default
        if len(values) > 1 and len(set(values)) > 1:
            if name.lower() == "location":
                raise ProtocolError("the response has two different Location headers")
            return default
        return values[0].strip()

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((name, value) for name, values in self._values.items() for value in values)


class BufferedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A response whose body has been read.

    Args:
        headers: Headers.
        url: URL that responded, after redirects.
        content: Body, raw.
    """

    headers: Headers
    url: str
    content: bytes


class _NoBody(BaseReader):
    """The body of a response that has none; holds no connection."""

    def read(self, size: int = -1, /) -> bytes:
        return b""

    def close(self) -> None:
        """Do nothing: no connection is held."""


NO_BODY: Final = _NoBody()


class Response:
    """A response whose body is still to be read; the caller closes it.

    Args:
        status: HTTP status.
        headers: Headers.
        url: URL that responded, after redirects.
        reader: Body, raw: no content coding is undone. ``NO_BODY`` where the connection has been released already.
    """

    __slots__ = ("headers", "reader", "status", "url")

    def __init__(self, *, status: int, headers: Headers, url: str, reader: ByteReader) -> None:
        self.status = status
        self.headers = headers
        self.url = url
        self.reader = reader

    def content(self, limit: int, *, what: str = "the response") -> bytes:
        """Read the whole body and close it.

        Args:
            limit: Largest size in bytes.
            what: Name of the body in errors.

        Raises:
            TooLarge: The body has more bytes than the limit.
            Unavailable: The body broke off.
        """
        with self.reader:
            return read_limited(self.reader, limit, what=what)

    def close(self) -> None:
        """Release the connection: for reuse if the body was read to its end, closed otherwise. Idempotent."""
        self.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reader.close()
