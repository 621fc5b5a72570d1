"""The values of one HTTP exchange, as stores ask for it and as the session answers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Self

import msgspec

from registry_core.content.streams import ByteReader, ByteSource, read_limited
from registry_core.domain.auth import Scope
from registry_core.errors import ProtocolError

__all__ = ["Body", "BufferedResponse", "Headers", "Request", "Response"]


class Body(msgspec.Struct, frozen=True):
    """A stretch of a re-openable source: what a request carries, as often as it has to be sent.

    Args:
        source: Where the bytes come from.
        start: The first byte.
        length: How many; always sent as ``Content-Length``.
    """

    source: ByteSource
    start: int
    length: int


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask a registry.

    Args:
        method: The HTTP method.
        target: A path of the registry beginning with ``/``, query included, or an absolute URL that it named.
        success: The statuses that mean success; any other is raised as an error of the tree.
        scopes: What it needs to be authorised for.
        headers: Without ``Authorization``, ``Host`` and ``Content-Length``, which the session sets.
        body: What to send, if anything.
        reference: What it is about, for errors.
        missing: What a 404 without a telling code is about: ``manifest``, ``blob``, ``repository``, ``upload``,
            ``catalog``, or ``registry``: then there is none at that address.
        repeatable: Whether sending it again after a lost answer does no harm.
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


class Headers:
    """The headers of an answer, by names in any case.

    Args:
        fields: Names and values as they came, in order.
    """

    def __init__(self, fields: Collection[tuple[str, str]]) -> None:
        self._fields = tuple((name.lower(), value) for name, value in fields)
        self._values: dict[str, list[str]] = {}
        for name, value in self._fields:
            self._values.setdefault(name, []).append(value)

    def all(self, name: str) -> list[str]:
        """Each value of a field, in order."""
        return list(self._values.get(name.lower(), ()))

    def get(self, name: str, default: str = "") -> str:
        """The value of a field that stands once; the default where it is absent or stands twice with two values.

        Raises:
            ProtocolError: It is a ``Location`` that stands twice with two values: whoever went on without one would
                go somewhere else.
        """
        values = set(self.all(name))
        if len(values) > 1 and name.lower() == "location":
            raise ProtocolError("an answer with two different Locations")
        return values.pop().strip() if len(values) == 1 else default

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._fields)


class BufferedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer.

    Args:
        headers: Its headers.
        url: The URL that answered, after redirects.
        content: Its body, raw.
    """

    headers: Headers
    url: str
    content: bytes


class Response:
    """The head of an answer, and its body to be read; whoever gets one closes it.

    Args:
        status: The HTTP status.
        headers: Its headers.
        url: The URL that answered, after redirects.
        reader: The body, raw: no content encoding is undone.
    """

    def __init__(self, *, status: int, headers: Headers, url: str, reader: ByteReader) -> None:
        self.status = status
        self.headers = headers
        self.url = url
        self.reader = reader

    def content(self, limit: int, *, what: str = "the answer") -> bytes:
        """The whole body, and close.

        Raises:
            TooLarge: It has more than ``limit`` bytes.
            Unavailable: It broke off.
        """
        with self.reader:
            return read_limited(self.reader, limit, what=what)

    def close(self) -> None:
        """Let go of the connection: back to the pool if the body was read whole, closed otherwise."""
        self.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
