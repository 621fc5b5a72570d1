"""One request on its way through a fault: what the fault may do to it, and to its answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http import HTTPStatus
from io import BytesIO
from itertools import chain
from typing import NoReturn, Protocol
from wsgiref.types import WSGIApplication, WSGIEnvironment

from registry_adapters.testing.matching import RequestMatcher
from registry_adapters.testing.request_log import Entry, RequestLog
from registry_adapters.wsgi.connection import connection
from registry_adapters.wsgi.messages import Body, HttpError

__all__ = ["ConnectionDropped", "Effect", "FaultContext", "Reply", "StallGate"]


class ConnectionDropped(Exception):
    """There is nobody left to answer to; it never leaves this package."""


class Reply:
    """An answer that can still be changed.

    Args:
        status: The HTTP status.
        headers: In their order.
        body: The proper one; closed with the answer, if it can be.
    """

    def __init__(self, status: int, headers: Iterable[tuple[str, str]], body: Iterable[bytes] = ()) -> None:
        self.status = status
        self.headers = list(headers)
        self.proper = body
        self.body = body
        self._source = body

    @property
    def is_success(self) -> bool:
        """Whether what was asked for comes."""
        return self.status < 300

    @property
    def line(self) -> str:
        """Status and reason."""
        try:
            return f"{self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            return f"{self.status} Odd"

    @property
    def length(self) -> int | None:
        """The claimed length of the body."""
        text = self.header("Content-Length")
        return int(text) if text.isascii() and text.isdigit() else None

    def header(self, name: str) -> str:
        """A header's value, or the empty string."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    def set(self, name: str, value: str) -> None:
        """Put a header in place of all of that name."""
        self.remove(name)
        self.headers.append((name, value))

    def remove(self, name: str) -> None:
        """Take all headers of a name away."""
        self.headers = [(key, value) for key, value in self.headers if key.lower() != name.lower()]

    def close(self) -> None:
        """Let go of the body, once."""
        for body in [self._source] if self.body is self._source else [self.body, self._source]:
            close = getattr(body, "close", None)
            if close is not None:
                close()


class StallGate:
    """Where stalled requests wait: for their time, for a release, or for the end."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._releases = 0
        self.is_closed = False

    @property
    def releases(self) -> int:
        """How often those who waited were let go on."""
        with self._changed:
            return self._releases

    def wait(self, releases: int, seconds: float | None) -> bool:
        """Wait for one more release.

        Args:
            releases: How many there were when the wait was made known: one that comes at once must not be missed.
            seconds: The longest time; ``None`` for no limit.

        Returns:
            Whether it was released, or the end has come; else the time has passed.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self.is_closed or self._releases != releases, seconds)

    def release(self) -> None:
        """Let go on whoever is waiting now."""
        with self._changed:
            self._releases += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any more. Idempotent."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()


class _Input(Protocol):
    def read(self, size: int, /) -> bytes: ...


class FaultContext:
    """One request.

    Args:
        app: What answers it properly.
        environ: Its WSGI environment, which may be changed.
        entry: Its place in the journal.
        journal: Told when an answer is held back.
        gate: Where it may be held back.
        occasions: Counts what befell whom.
    """

    def __init__(
        self,
        app: WSGIApplication,
        environ: WSGIEnvironment,
        entry: Entry,
        journal: RequestLog,
        gate: StallGate,
        occasions: RequestMatcher | None = None,
    ) -> None:
        self._app = app
        self._journal = journal
        self._gate = gate
        self._occasions = occasions
        self.environ = environ
        self.entry = entry
        self.connection = connection(environ)

    @property
    def method(self) -> str:
        """The request's."""
        return self.entry.method

    def proceed(self) -> Reply:
        """The proper answer."""
        return _ask(self._app, self.environ)

    def skip(self) -> None:
        """There is nothing here that could go wrong: the fault is kept for another request."""
        self.entry.fault = ""
        if self._occasions is not None:
            self._occasions.skip()

    def subrequest(self, method: str, path: str) -> Reply:
        """The proper answer to another request that the same client could make; without a body."""
        environ = dict(self.environ)
        environ.update(REQUEST_METHOD=method, PATH_INFO=path, QUERY_STRING="", CONTENT_LENGTH="0")
        environ["wsgi.input"] = BytesIO()
        environ["wsgi.input_terminated"] = False
        return _ask(self._app, environ)

    def answer(self, status: int, headers: Iterable[tuple[str, str]] = (), content: bytes = b"") -> Reply:
        """An answer of one's own; the request's body is read and dropped, or the connection closed behind it."""
        reply = Reply(status, headers, [content] if content and self.method != "HEAD" else [])
        if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            reply.headers.append(("Content-Length", str(len(content))))
        settled = False
        with suppress(HttpError):
            settled = Body(self.environ).drain()
        if not settled:
            reply.set("Connection", "close")
        return reply

    def watch_input(self, at: int, event: Callable[[], object]) -> None:
        """Have something happen when so many bytes of the request's body have been read."""
        self.environ["wsgi.input"] = _Watched(self.environ["wsgi.input"], at, event)

    def send_head(self) -> None:
        """Send the answer's head, before any of its body."""
        if self.connection is not None:
            self.connection.send_head()

    def send(self, data: bytes) -> None:
        """Send bytes past HTTP, where there is a connection."""
        if self.connection is not None:
            with suppress(OSError):
                self.connection.send(data)

    def close_gracefully(self, *, reset: bool = False) -> NoReturn:
        """End the connection.

        Args:
            reset: Break it off instead.
        """
        self.let_go(reset=reset)
        raise ConnectionDropped

    def let_go(self, *, reset: bool = False) -> None:
        """As ``close_gracefully``, and go on."""
        if self.connection is not None:
            if reset:
                self.connection.reset()
            else:
                self.connection.close_gracefully()

    @property
    def releases(self) -> int:
        """How often those who were held back were let go on."""
        return self._gate.releases

    def wait(self, seconds: float | None = None, *, since: int | None = None) -> bool:
        """Hold the answer back; if the registry ends meanwhile, there is none.

        Args:
            seconds: The longest time; ``None`` for no limit.
            since: The ``releases`` to look back to; those of this moment if ``None``.

        Returns:
            Whether it was released before its time.
        """
        releases = self.releases if since is None else since
        self._journal.note_waiting(self.entry, waiting=True)
        try:
            released = self._gate.wait(releases, seconds)
        finally:
            self._journal.note_waiting(self.entry, waiting=False)
        self.demand_open()
        return released

    def demand_open(self) -> None:
        """Go on only if the registry is not ending."""
        if self._gate.is_closed:
            self.close_gracefully()


Effect = Callable[[FaultContext], Reply]
"""What a fault does: it gives an answer, or raises ``ConnectionDropped``."""


class _Watched:
    """A request's body, with something happening on the way."""

    def __init__(self, stream: _Input, at: int, event: Callable[[], object]) -> None:
        self._stream = stream
        self._left = at
        self._event: Callable[[], object] | None = event

    def read(self, size: int, /) -> bytes:
        if self._event is not None:
            if self._left == 0:
                event, self._event = self._event, None
                event()
            else:
                size = min(size, self._left)
        data = self._stream.read(size)
        self._left = max(0, self._left - len(data))
        return data


def _ask(app: WSGIApplication, environ: WSGIEnvironment) -> Reply:
    head: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None, /) -> Callable[..., None]:
        head[:] = [(status, headers)]
        return _no_write

    body = app(environ, start_response)
    chunks: Iterator[bytes] = iter(body)
    first = [] if head else [next(chunks, b"")]
    status, headers = head[0]
    reply = Reply(int(status[:3]), headers, body)
    if first:
        reply.body = reply.proper = chain(first, chunks)
    return reply


def _no_write(data: bytes, /) -> None:
    raise NotImplementedError("the write callable of PEP 3333 is for legacy frameworks")
