"""The connections that urllib3 pools for us: guarded, interruptible from the look-up of the name on, and quiet.

Answers read strictly: what is ambiguous, cut or without end is none.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, BinaryIO, Final, cast
from urllib.parse import quote_from_bytes

import urllib3
import urllib3.connection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.sockets import CancellableSocket, CancellableTcpSocket, Resolver, connect
from registry_core.domain.origin import Origin

__all__ = ["POOLS", "StrictHTTPResponse", "Trace", "request_target", "silence_urllib3", "traced"]


_INTERIM: Final = 16

_VERSION: Final = b"HTTP/"

# A length, and extensions that nobody looks at; more of them than this are no chunk.
_CHUNK_HEAD: Final = 4096

_CHUNK_SIZE: Final = re.compile(rb"(?P<size>[0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")


class _HeadLines:
    """The lines of a head; an error if they end before it does.

    The base takes the end of the connection for the end of the head: a success without half of its headers, and
    without a body, would be made of an answer that was cut (R-050).
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._is_first = True

    def readline(self, limit: int) -> bytes:
        line = self._file.readline(limit)
        # What begins otherwise is no HTTP, and nothing at all is no answer: the base says so.
        is_strange = self._is_first and (not line or not _VERSION.startswith(line[: len(_VERSION)]))
        if not is_strange and not line.endswith(b"\n") and len(line) < limit:
            raise http.client.IncompleteRead(line)
        self._is_first = False
        return line

    def close(self) -> None:
        self._file.close()


class StrictHTTPResponse(http.client.HTTPResponse):
    """A response that is read strictly: past all interim ones, not only 100, whole, and not a byte further.

    The base takes more for HTTP than is good: chunks of negative length, which it reads to the end of the connection
    at once, trailers without end, and codings that it does not undo.
    """

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._sock = sock

    def begin(self) -> None:
        """Read the head."""
        file = self.fp
        self.fp = cast("io.BufferedReader", _HeadLines(file))
        try:
            super().begin()
        finally:
            # The base gives up its file when it gives up.
            if self.fp is not None:
                self.fp = file
        codings = ",".join(self.headers.get_all("transfer-encoding", [])).strip().lower()
        if codings not in ("", "identity") and not (self.chunked and codings == "chunked"):
            raise http.client.HTTPException("a transfer coding that was not asked for")
        # Whoever is in between may have taken the other one for the length.
        self.will_close = self.will_close or (self.chunked and "content-length" in self.headers)

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # not in the stubs
            if not 100 <= status < 200:
                return version, status, reason
            if status == 101:
                raise http.client.HTTPException("a switch of protocols that was not asked for")
            http.client.parse_headers(self.fp)  # bounded in lines and in length
        raise http.client.HTTPException("too many interim responses")

    def _read_next_chunk_size(self) -> int:
        line = self.fp.readline(_CHUNK_HEAD + 1)
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise ValueError("not the head of a chunk")
        return int(match["size"], 16)

    def _read_and_discard_trailer(self) -> None:
        http.client.parse_headers(self.fp)  # bounded in lines and in length

    def _close_conn(self) -> None:
        # What comes after the end would be taken for the answer to the next request.
        if (
            isinstance(self._sock, CancellableSocket)
            and isinstance(self.fp, io.BufferedReader)
            and self._sock.has_unread_data(self.fp)
        ):
            self._sock.interrupt()
        super()._close_conn()  # type: ignore[misc]  # not in the stubs


_TARGET: Final = re.compile(r"[/?].*", re.DOTALL)

_UNWRITABLE: Final = re.compile(r"[^!-~]")


class Trace:
    """What a connection needs to know of the exchange that it serves, and tells of it.

    Args:
        settings: How to connect.
        resolver: Looks names up.
        url: Where it goes, as it is to stand in the request.

    Attributes:
        begun: Whether a byte of the request may have been sent.
        reused: Whether the connection had served another exchange before.
    """

    def __init__(self, settings: HttpSettings, resolver: Resolver, url: str) -> None:
        self.settings = settings
        self.resolver = resolver
        self.url = url
        self.begun = False
        self.reused = False


_trace: ContextVar[Trace | None] = ContextVar("registry_adapters.http.transport.connection", default=None)

_returning: ContextVar[bool] = ContextVar("registry_adapters.http.transport.connection.returning", default=False)


@contextlib.contextmanager
def traced(trace: Trace) -> Iterator[None]:
    """Have the connections used inside tell a trace how far they get."""
    token = _trace.set(trace)
    try:
        yield
    finally:
        _trace.reset(token)


def request_target(url: str, *, is_whole: bool = False) -> str:
    """A URL as it stands in a request: byte for byte as it came, but for what no request line can hold.

    Args:
        url: Absolute; of what a header said, each character is a byte.
        is_whole: Whether the origin stands before path and query, as a proxy wants it.
    """
    found = _TARGET.search(url.partition("#")[0], url.index("://") + 3)
    target = "" if found is None else _UNWRITABLE.sub(_escaped, found[0])
    target = target if target.startswith("/") else f"/{target}"
    return f"{Origin.of_url(url)}{target}" if is_whole else target


def _escaped(found: re.Match[str]) -> str:
    text = found[0]
    return quote_from_bytes(text.encode("latin-1" if text < "\u0100" else "utf-8"), safe="")


class _Quiet(logging.Filter):
    """Drops what urllib3 logs about our exchanges, and only ours: it has whole URLs, signatures included (R-043)."""

    def filter(self, record: logging.LogRecord) -> bool:
        return _trace.get() is None and not _returning.get()


_QUIET: Final = _Quiet()


def silence_urllib3() -> None:
    """Have urllib3 log nothing about our exchanges."""
    for name in ("urllib3.connectionpool", "urllib3.connection"):
        logging.getLogger(name).addFilter(_QUIET)


class _Connection(urllib3.connection.HTTPConnection):
    """A connection over a guarded socket, which tells the exchange's trace how far it got."""

    response_class = StrictHTTPResponse
    exchanges = 0

    def _new_conn(self) -> socket.socket:
        trace = _trace.get()
        if trace is None:
            return super()._new_conn()
        try:
            sock = self._connected(trace)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "no connection in time") from error
        except OSError as error:
            raise NewConnectionError(self, "no connection") from error
        sys.audit("http.client.connect", self, self.host, self.port)
        return sock

    def _connected(self, trace: Trace) -> CancellableTcpSocket:
        # What is left for the connection counts from here: the look-up of the name is part of it.
        started = time.monotonic()
        timeout = trace.settings.connect_timeout
        addresses = trace.resolver.addresses(self._dns_host.strip("[]"), self.port, timeout)
        left = max(0.0, timeout - (time.monotonic() - started))
        sock = connect(addresses, left, self.socket_options or ())
        # Until the connection stands: a proxy's answer is part of it, and so is the handshake.
        sock.idle_timeout = sock.gettimeout() or timeout
        return sock

    def connect(self) -> None:
        self.exchanges = 0
        super().connect()
        trace = _trace.get()
        # Within the TLS of a proxy, the socket is one layer further down.
        sock = getattr(self.sock, "socket", self.sock)
        if trace is not None and isinstance(sock, CancellableSocket):
            sock.idle_timeout = trace.settings.read_timeout
        if trace is not None and not trace.settings.tls_verify:
            # The caller said so; a warning at each connection would not change it.
            self.is_verified = True

    def putrequest(self, method: str, url: str, *args: Any, **options: Any) -> None:
        trace = _trace.get()
        if trace is not None:
            # urllib3 writes it its own way, and a signature would not fit any more.
            url = request_target(trace.url, is_whole=not url.startswith("/"))
        super().putrequest(method, url, *args, **options)

    def request(self, *args: Any, **options: Any) -> None:
        trace = _trace.get()
        if trace is not None:
            trace.begun = True
            trace.reused = self.exchanges > 0
        try:
            super().request(*args, **options)
        finally:
            # Afterwards, for the first request may be what connects.
            self.exchanges += 1


class _TLSConnection(_Connection, urllib3.connection.HTTPSConnection):
    """The same over TLS."""


class _Pool(urllib3.HTTPConnectionPool):
    # Any: urllib3's protocol for it declares attributes mutable that urllib3's own connection declares final.
    ConnectionCls: Any = _Connection

    def _put_conn(self, conn: Any) -> None:
        # Connections beyond those that are kept are meant to be dropped: nobody needs a warning about it.
        token = _returning.set(True)
        try:
            super()._put_conn(conn)
        finally:
            _returning.reset(token)


class _TLSPool(_Pool, urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


POOLS: Final[Mapping[str, type[urllib3.HTTPConnectionPool]]] = MappingProxyType({"http": _Pool, "https": _TLSPool})
