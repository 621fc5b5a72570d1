"""One request that a fault is applied to, and its response, which the fault may change."""

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
from registry_adapters.wsgi.messages import INERT_HEADERS, Body, HttpError

__all__ = ["ConnectionDropped", "Effect", "FaultContext", "Response", "StallGate"]


class ConnectionDropped(Exception):
    """A fault ended the connection, so there is no response; ``FaultyApp`` catches it."""


class Response:
    """A response that can still be changed.

    Args:
        status: HTTP status.
        headers: Headers in their order.
        body: Body as the application returned it; closed with the response.
    """

    def __init__(self, status: int, headers: Iterable[tuple[str, str]], body: Iterable[bytes] = ()) -> None:
        self.status = status
        self.headers = list(headers)
        self.original_body = body
        self.body = body
        self._to_close = body

    @property
    def is_success(self) -> bool:
        """Whether the status is below 300."""
        return self.status < 300

    @property
    def status_line(self) -> str:
        """Status and reason phrase."""
        try:
            return f"{self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            return f"{self.status} Unknown"

    @property
    def length(self) -> int | None:
        """The value of ``Content-Length``, if there is a valid one."""
        text = self.header("Content-Length")
        return int(text) if text.isascii() and text.isdigit() else None

    def header(self, name: str) -> str:
        """The value of a header, or an empty string."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    def set_header(self, name: str, value: str) -> None:
        """Replace all headers of a name by one."""
        self.remove_header(name)
        self.headers.append((name, value))

    def remove_header(self, name: str) -> None:
        """Remove all headers of a name."""
        self.headers = [(key, value) for key, value in self.headers if key.lower() != name.lower()]

    def close(self) -> None:
        """Close the application's body once, after the body that replaced it."""
        for body in [self._to_close] if self.body is self._to_close else [self.body, self._to_close]:
            close = getattr(body, "close", None)
            if close is not None:
                close()


class StallGate:
    """Holds stalled requests back until their time is over, they are released, or the registry closes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._releases = 0
        self.is_closed = False

    @property
    def releases(self) -> int:
        """Number of calls of ``release`` so far."""
        with self._changed:
            return self._releases

    def wait(self, releases: int, seconds: float | None) -> bool:
        """Wait for the next release.

        Args:
            releases: Value of ``releases`` before the stall was reported, so that no release since is missed.
            seconds: Time limit; ``None`` for none.

        Returns:
            Whether the gate was released or closed; ``False`` after the time is over.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self.is_closed or self._releases != releases, seconds)

    def release(self) -> None:
        """Release the requests that are waiting now."""
        with self._changed:
            self._releases += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Release all requests, also future ones. Idempotent."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()


class _Input(Protocol):
    def read(self, size: int, /) -> bytes: ...


class FaultContext:
    """A request as effects see it: what they can do to it, to its response and to its connection.

    Args:
        app: Application that handles the request.
        environ: WSGI environment of the request; effects may change it.
        entry: Entry of the request in the log.
        request_log: Log that records stalls.
        gate: Gate that stalled requests wait at.
        matcher: Counter of the fault; ``None`` if no fault applies.
    """

    def __init__(
        self,
        app: WSGIApplication,
        environ: WSGIEnvironment,
        entry: Entry,
        request_log: RequestLog,
        gate: StallGate,
        matcher: RequestMatcher | None = None,
    ) -> None:
        self._app = app
        self._request_log = request_log
        self._gate = gate
        self._matcher = matcher
        self.environ = environ
        self.entry = entry
        self.connection = connection(environ)

    @property
    def method(self) -> str:
        """Method of the request."""
        return self.entry.method

    @property
    def is_reused(self) -> bool:
        """Whether the connection carried another request before this one."""
        return self._request_log.is_reused(self.entry)

    def forward(self) -> Response:
        """Have the application handle the request."""
        return _call(self._app, self.environ)

    def subrequest(self, method: str, path: str) -> Response:
        """Have the application handle another request of the same client, without a body."""
        environ = dict(self.environ)
        environ.update(REQUEST_METHOD=method, PATH_INFO=path, QUERY_STRING="", CONTENT_LENGTH="0")
        environ["wsgi.input"] = BytesIO()
        environ["wsgi.input_terminated"] = False
        return _call(self._app, environ)

    def respond(self, status: int, headers: Iterable[tuple[str, str]] = (), content: bytes = b"") -> Response:
        """Respond instead of the application. A long request body is not read; the connection is closed instead."""
        body = [content] if content and self.method != "HEAD" else []
        response = Response(status, [*headers, *INERT_HEADERS], body)
        if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            response.headers.append(("Content-Length", str(len(content))))
        drained = False
        with suppress(HttpError):
            drained = Body(self.environ).drain()
        if not drained:
            response.set_header("Connection", "close")
        return response

    def skip(self) -> None:
        """Do not count the fault for this request, which it cannot change."""
        self.entry.fault = ""
        if self._matcher is not None:
            self._matcher.skip()

    def on_input(self, at: int, action: Callable[[], object]) -> None:
        """Call a function once so many bytes of the request's body have been read."""
        self.environ["wsgi.input"] = _WatchedInput(self.environ["wsgi.input"], at, action)

    def send_head(self) -> None:
        """Send status and headers now, before any byte of the body."""
        if self.connection is not None:
            self.connection.send_head()

    def send(self, data: bytes) -> None:
        """Send raw bytes on the connection, if the server provides it."""
        if self.connection is not None:
            with suppress(OSError):
                self.connection.send(data)

    def end_connection(self, *, reset: bool = False) -> None:
        """Close or reset the connection, if the server provides it."""
        if self.connection is not None:
            if reset:
                self.connection.reset()
            else:
                self.connection.close_gracefully()

    def drop(self, *, reset: bool = False) -> NoReturn:
        """Close or reset the connection, and handle the request no further.

        Raises:
            ConnectionDropped: Always.
        """
        self.end_connection(reset=reset)
        raise ConnectionDropped

    def drop_if_closing(self) -> None:
        """Drop the connection if the registry is closing.

        Raises:
            ConnectionDropped: The registry is closing.
        """
        if self._gate.is_closed:
            self.drop()

    @property
    def releases(self) -> int:
        """Number of releases so far; see ``stall``."""
        return self._gate.releases

    def stall(self, seconds: float | None = None, *, since: int | None = None) -> bool:
        """Hold the request back until it is released.

        Args:
            seconds: Time limit; ``None`` for none.
            since: Value of ``releases`` that the next release is counted from; the present one if ``None``.

        Returns:
            Whether the request was released; ``False`` after the time is over.

        Raises:
            ConnectionDropped: The registry is closing.
        """
        releases = self.releases if since is None else since
        self._request_log.set_stalled(self.entry, stalled=True)
        try:
            released = self._gate.wait(releases, seconds)
        finally:
            self._request_log.set_stalled(self.entry, stalled=False)
        self.drop_if_closing()
        return released


Effect = Callable[[FaultContext], Response]
"""How a fault handles a request: return a response, or raise ``ConnectionDropped``."""


class _WatchedInput:
    """A request body that calls a function at one position."""

    def __init__(self, stream: _Input, at: int, action: Callable[[], object]) -> None:
        self._stream = stream
        self._left = at
        self._action: Callable[[], object] | None = action

    def read(self, size: int, /) -> bytes:
        if self._action is not None:
            if self._left == 0:
                action, self._action = self._action, None
                action()
            else:
                size = min(size, self._left)
        data = self._stream.read(size)
        self._left = max(0, self._left - len(data))
        return data


def _call(app: WSGIApplication, environ: WSGIEnvironment) -> Response:
    head: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None, /) -> Callable[..., None]:
        head[:] = [(status, headers)]
        return _no_write

    body = app(environ, start_response)
    chunks: Iterator[bytes] = iter(body)
    # An application may call start_response as late as with its first chunk.
    first = [] if head else [next(chunks, b"")]
    status, headers = head[0]
    response = Response(int(status[:3]), headers, body)
    if first:
        response.body = response.original_body = chain(first, chunks)
    return response


def _no_write(data: bytes, /) -> None:
    raise NotImplementedError("the write callable of PEP 3333 is for legacy frameworks")
