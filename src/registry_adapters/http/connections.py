"""The connections that urllib3 pools for us: guarded, interruptible from the look-up of the name on, and quiet."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote_from_bytes

import urllib3
import urllib3.connection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from registry_adapters.http.resolver import Resolver
from registry_adapters.http.responses import FinalResponse
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.sockets import Guard, GuardedSocket, connect
from registry_core.domain.origin import Origin

__all__ = ["POOLS", "Trace", "keep_quiet", "traced", "written"]

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


_trace: ContextVar[Trace | None] = ContextVar("registry_adapters.http.connections", default=None)
_returning: ContextVar[bool] = ContextVar("registry_adapters.http.connections.returning", default=False)


@contextlib.contextmanager
def traced(trace: Trace) -> Iterator[None]:
    """Have the connections used inside tell a trace how far they get."""
    token = _trace.set(trace)
    try:
        yield
    finally:
        _trace.reset(token)


def written(url: str, *, is_whole: bool = False) -> str:
    """A URL as it stands in a request: byte for byte as it came, but for what no request line can hold (R-071).

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


def keep_quiet() -> None:
    """Have urllib3 log nothing about our exchanges."""
    for name in ("urllib3.connectionpool", "urllib3.connection"):
        logging.getLogger(name).addFilter(_QUIET)


class _Connection(urllib3.connection.HTTPConnection):
    """A connection over a guarded socket, which tells the exchange's trace how far it got."""

    response_class = FinalResponse
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

    def _connected(self, trace: Trace) -> GuardedSocket:
        # What is left for the connection counts from here: the look-up of the name is part of it.
        started = time.monotonic()
        timeout = trace.settings.connect_timeout
        addresses = trace.resolver.addresses(self._dns_host.strip("[]"), self.port, timeout)
        left = max(0.0, timeout - (time.monotonic() - started))
        sock = connect(addresses, left, self.socket_options or ())
        # Until the connection stands: a proxy's answer is part of it, and so is the handshake.
        sock.silence = sock.gettimeout() or timeout
        return sock

    def connect(self) -> None:
        self.exchanges = 0
        super().connect()
        trace = _trace.get()
        # Within the TLS of a proxy, the socket is one layer further down.
        sock = getattr(self.sock, "socket", self.sock)
        if trace is not None and isinstance(sock, Guard):
            sock.silence = trace.settings.read_timeout
        if trace is not None and not trace.settings.tls_verify:
            # The caller said so; a warning at each connection would not change it.
            self.is_verified = True

    def putrequest(self, method: str, url: str, *args: Any, **options: Any) -> None:
        trace = _trace.get()
        if trace is not None:
            # urllib3 writes it its own way, and a signature would not fit any more.
            url = written(trace.url, is_whole=not url.startswith("/"))
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
    ConnectionCls = _Connection

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
