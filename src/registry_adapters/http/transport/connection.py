"""Connections that are kept for reuse, one exchange at a time on each, over sockets that obey the current scope.

urllib3's connections do the TLS handshake, the verification of host names and the tunnels through proxies. Pools and
responses are those of this module: ambiguous, cut or endless responses are errors.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import re
import socket
import ssl
import sys
import time
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, BinaryIO, Final, cast
from urllib.parse import quote_from_bytes, urlsplit

import urllib3.connection
import urllib3.util

from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.proxies import Proxy
from registry_adapters.http.transport.sockets import CancellableSocket, CancellableTcpSocket, Resolver, connect
from registry_core.cancellation import remaining
from registry_core.content.streams import CHUNK_SIZE
from registry_core.domain.origin import Origin

__all__ = ["Connection", "ConnectionPool", "Phase", "StrictHTTPResponse", "request_target", "root_host"]

_MAX_INTERIM: Final = 16
_VERSION: Final = b"HTTP/"
# a chunk's size with its extensions; no server sends longer ones.
_MAX_CHUNK_HEAD: Final = 4096
_CHUNK_HEAD: Final = re.compile(rb"(?P<size>[0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")
# The statuses whose responses have no body (RFC 9110, section 6.4.1).
_BODYLESS: Final = frozenset({204, 304})
_TARGET: Final = re.compile(r"[/?].*", re.DOTALL)
_UNWRITABLE: Final = re.compile(r"[^!-~]")


class _HeadLines:
    """The lines of a response head; a head that ends in the middle is an error.

    ``http.client`` takes the end of the connection for the end of the head: a response that was cut would become a
    success without half of its headers, and without a body (R-050).
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._is_first = True

    def readline(self, limit: int) -> bytes:
        line = self._file.readline(limit)
        if line[-1:] != b"\n":
            # http.client itself reports a first line that is not HTTP, and an empty one.
            is_strange = self._is_first and (not line or not _VERSION.startswith(line[: len(_VERSION)]))
            if not is_strange and len(line) < limit:
                raise http.client.IncompleteRead(line)
        self._is_first = False
        return line

    def close(self) -> None:
        self._file.close()


class StrictHTTPResponse(http.client.HTTPResponse):
    """A response that is read strictly: interim responses are skipped, and no byte beyond its end is accepted.

    ``http.client`` accepts too much: chunks of negative length, which it reads to the end of the connection at once,
    chunks that are longer than their stated size, trailers without end, transfer codings that it does not undo, and
    bodies that end early.

    Attributes:
        has_body: Whether there is a body to read.
        is_reusable: Whether the connection can carry another exchange once the body has been read.
    """

    has_body = True
    is_reusable = True

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._sock = sock
        self._is_head = options.get("method") == "HEAD"

    def begin(self) -> None:
        """Read the head."""
        file = self.fp
        self.fp = cast("io.BufferedReader", _HeadLines(file))
        try:
            super().begin()
        finally:
            # The base sets it to None when it fails.
            if self.fp is not None:
                self.fp = file
        headers = self.headers
        if "transfer-encoding" in headers:
            codings = ",".join(headers.get_all("transfer-encoding", [])).strip().lower()
            if codings not in ("", "identity") and not (self.chunked and codings == "chunked"):
                raise http.client.HTTPException("unsupported transfer coding")
        if not self.chunked:
            self._set_length()
        elif "content-length" in headers:
            # A proxy may have read the body by its length, and taken the rest for another response.
            self.will_close = True
        self.has_body = not self._is_head and self.status not in _BODYLESS and (self.chunked or self.length != 0)
        self.is_reusable = not self.will_close

    def read_some(self, size: int) -> bytes:
        """Read up to ``size`` bytes; ``b""`` only at the end.

        Raises:
            http.client.IncompleteRead: The connection was closed before the end.
        """
        data = self.read(size)
        if not data and size and self.length and not self.chunked:
            raise http.client.IncompleteRead(b"", self.length)
        return data

    def end(self) -> None:
        """End a response that has no body."""
        self._close_conn()

    def _set_length(self) -> None:
        values = self.headers.get_all("content-length", ())
        if len(values) > 1 or (values and "," in values[0]):
            lengths = {part.strip() for value in values for part in value.split(",")}
            if len(lengths) > 1:
                raise http.client.HTTPException("two different lengths")
            text = lengths.pop()
            if self.length is None and text.isascii() and text.isdigit():
                self.length = int(text)

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_MAX_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # not in the stubs
            if not 100 <= status < 200:
                return version, status, reason
            if status == 101:
                raise http.client.HTTPException("unrequested switch of protocols")
            http.client.parse_headers(self.fp)  # bounded in lines and in length
        raise http.client.HTTPException("too many interim responses")

    def _safe_read(self, amt: int) -> bytes:
        data: bytes = super()._safe_read(amt)  # type: ignore[misc]  # not in the stubs
        # At the end of a chunk, http.client skips two bytes unread.
        if self.chunk_left == 0 and data != b"\r\n":
            raise http.client.IncompleteRead(b"")
        return data

    def _read_next_chunk_size(self) -> int:
        line = self.fp.readline(_MAX_CHUNK_HEAD + 1)
        match = _CHUNK_HEAD.fullmatch(line)
        if match is None:
            raise ValueError("not the head of a chunk")
        return int(match["size"], 16)

    def _read_and_discard_trailer(self) -> None:
        http.client.parse_headers(self.fp)  # bounded in lines and in length

    def _close_conn(self) -> None:
        # Bytes after the end would be taken for the response to the next request.
        if (
            self.is_reusable
            and isinstance(self._sock, CancellableSocket)
            and isinstance(self.fp, io.BufferedReader)
            and self._sock.has_unread_data(self.fp)
        ):
            self.is_reusable = False
        super()._close_conn()  # type: ignore[misc]  # not in the stubs


class Phase(Enum):
    """The step that a connection has reached; the value names it."""

    LOOKUP = "name lookup"
    CONNECT = "connecting"
    PROXY_TLS = "TLS handshake with the proxy"
    TUNNEL = "tunnel through the proxy"
    TLS = "TLS handshake"
    EXCHANGE = "exchange"


class Connection(urllib3.connection.HTTPConnection):
    """A connection over a socket that obeys the current scope.

    Attributes:
        settings: Settings of the HTTP backend.
        resolver: Resolver of host names.
        tunnel: Arguments of ``set_tunnel`` where a proxy has to open a tunnel; ``None`` otherwise.
        phase: Step of the current request; bytes of it may have been sent in the phase ``EXCHANGE`` only.
        exchanges: Number of exchanges since the connection was opened.
    """

    response_class = StrictHTTPResponse
    settings: HttpSettings
    resolver: Resolver
    tunnel: Mapping[str, Any] | None = None
    phase = Phase.LOOKUP
    exchanges = 0

    @property
    def is_reused(self) -> bool:
        """Whether the connection had carried another exchange before the current one."""
        return self.exchanges > 1

    def exchange(
        self, method: str, target: str, headers: Mapping[str, str], chunks: Iterable[bytes]
    ) -> StrictHTTPResponse:
        """Send a request and read the head of its response.

        Args:
            method: HTTP method.
            target: Request target.
            headers: All headers; without ``Host``, the host of the connection is sent.
            chunks: Body, in chunks; its length is among the headers.
        """
        if self.sock is None:
            self._open()
        self.phase = Phase.EXCHANGE
        self.exchanges += 1
        is_complete = False
        try:
            self.putrequest(method, target, skip_host="Host" in headers, skip_accept_encoding=True)
            for name, value in headers.items():
                self.putheader(name, value)
            self.endheaders()
            for chunk in chunks:
                self.send(chunk)
            is_complete = True
        except OSError as error:
            # a server may respond and close before it has read the whole request.
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.EPROTOTYPE):
                raise
        response = cast("StrictHTTPResponse", http.client.HTTPConnection.getresponse(self))
        # The server would take the next request for the rest of this one.
        response.is_reusable = response.is_reusable and is_complete
        return response

    def _open(self) -> None:
        self.exchanges = 0
        self.phase = Phase.LOOKUP
        if self.tunnel is not None:
            self.set_tunnel(**self.tunnel)
        self.connect()
        # Inside the TLS connection of a proxy, the socket is one layer further down.
        sock = getattr(self.sock, "socket", self.sock)
        if isinstance(sock, CancellableSocket):
            sock.idle_timeout = self.settings.read_timeout

    def _new_conn(self) -> socket.socket:
        # The exceptions are those of the system: urllib3's own for them change their base classes between versions.
        sock = self._connected()
        sys.audit("http.client.connect", self, self.host, self.port)
        is_secure_proxy = self.proxy is not None and self.proxy.scheme == "https"
        self.phase = Phase.PROXY_TLS if is_secure_proxy else Phase.TLS
        return sock

    def _tunnel(self) -> None:
        self.phase = Phase.TUNNEL
        super()._tunnel()
        self.phase = Phase.TLS

    def _connected(self) -> CancellableTcpSocket:
        # The time for the connection starts here: the name lookup is part of it, and so is the TLS handshake.
        started, deadline = time.monotonic(), remaining()
        timeout = self.settings.connect_timeout if deadline is None else min(self.settings.connect_timeout, deadline)
        addresses = self.resolver.addresses(self._dns_host.strip("[]"), self.port, timeout)
        self.phase = Phase.CONNECT
        left = max(0.0, timeout - (time.monotonic() - started))
        sock = connect(addresses, left, self.socket_options or ())
        # Until the connection is open: a proxy's response is part of it, and so is the handshake.
        sock.idle_timeout = sock.gettimeout() or timeout
        return sock


class _TLSConnection(Connection, urllib3.connection.HTTPSConnection):
    """A connection over TLS."""


class ConnectionPool:
    """Idle connections to one origin, kept for reuse; safe for many threads.

    The number of connections in use is not limited here, so that a thread can send a request while it reads the body
    of another response. At most ``max_connections`` idle connections are kept.

    Args:
        origin: Origin to connect to.
        proxy: Proxy in between; ``None`` for a direct connection.
        context: TLS context for the origin; ``None`` for plain http.
        proxy_context: TLS context for the proxy; ``None`` for a proxy without TLS.
        settings: Settings of the HTTP backend.
        resolver: Resolver of host names.

    Attributes:
        forwards: Whether the proxy forwards requests, whose targets then include the origin.
        proxy_headers: Headers for a proxy that forwards requests.
        last_used: Time of the latest request for a connection, by ``time.monotonic``.
    """

    def __init__(
        self,
        origin: Origin,
        proxy: Proxy | None,
        *,
        context: ssl.SSLContext | None,
        proxy_context: ssl.SSLContext | None,
        settings: HttpSettings,
        resolver: Resolver,
    ) -> None:
        self._settings = settings
        self._resolver = resolver
        self._idle: deque[Connection] = deque()
        self._is_closed = False
        self.last_used = time.monotonic()
        self._class: type[Connection] = Connection
        self._options: dict[str, Any] = {"host": origin.host, "port": origin.port, "blocksize": CHUNK_SIZE}
        self._tunnel: dict[str, Any] | None = None
        self.proxy_headers: dict[str, str] = {}
        self.forwards = proxy is not None and context is None
        if context is not None:
            self._class = _TLSConnection
            self._options["ssl_context"] = context
        if proxy is not None:
            self._use_proxy(proxy, proxy_context, origin)
        weakref.finalize(self, _close_all, self._idle)

    def take(self) -> Connection:
        """Return an idle connection that the server has not closed, or a new one, which its first request opens."""
        self.last_used = time.monotonic()
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            # a connection with something to read was closed by the server, or has surplus bytes.
            if connection.is_connected:
                return connection
            connection.close()
        return self.new()

    def new(self) -> Connection:
        """Return a new connection, which its first request opens."""
        self.last_used = time.monotonic()
        connection = self._class(**self._options)
        connection.settings = self._settings
        connection.resolver = self._resolver
        connection.tunnel = self._tunnel
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for reuse; its response has been read to the end."""
        if len(self._idle) < self._settings.max_connections:
            self._idle.append(connection)
            if self._is_closed:
                _close_all(self._idle)
        else:
            connection.close()

    def close(self) -> None:
        """Close all idle connections now, and those that are in use when they are given back."""
        self._is_closed = True
        _close_all(self._idle)

    def _use_proxy(self, proxy: Proxy, context: ssl.SSLContext | None, origin: Origin) -> None:
        parts = urlsplit(proxy.url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
        self._options |= {
            "host": host,
            "port": port,
            "proxy": urllib3.util.Url(scheme=parts.scheme, host=host, port=port),
            "proxy_config": urllib3.connection.ProxyConfig(context, False, None, None),
        }
        if not self.forwards:
            name = f"[{origin.host}]" if ":" in origin.host else origin.host
            self._tunnel = {"host": name, "port": origin.port, "headers": headers, "scheme": parts.scheme}
            return
        self.proxy_headers = headers
        if context is not None:
            self._class = _TLSConnection
            self._options["ssl_context"] = context


def _close_all(idle: deque[Connection]) -> None:
    while idle:
        with contextlib.suppress(IndexError):
            idle.pop().close()


def root_host(url: str) -> str | None:
    """The value of ``Host`` for a URL whose host name ends in the dot of the DNS root; ``None`` for other URLs.

    A signed URL may be signed with the dot. Connections and certificates are for the name without it.
    """
    name = urlsplit(url).netloc.partition(":")[0]
    netloc = Origin.of_url(url).netloc
    host, colon, port = netloc.partition(":")
    return f"{host}.{colon}{port}" if name.endswith(".") else None


def request_target(url: str, *, is_whole: bool = False) -> str:
    """The request target of a URL: byte for byte as received, except for characters that no request line can hold.

    Args:
        url: Absolute URL; of a URL from a header, each character is a byte.
        is_whole: Whether the target includes the origin, as requests to a proxy do.
    """
    found = _TARGET.search(url.partition("#")[0], url.index("://") + 3)
    target = "" if found is None else _UNWRITABLE.sub(_escaped, found[0])
    target = target if target.startswith("/") else f"/{target}"
    if not is_whole:
        return target
    origin = Origin.of_url(url)
    return f"{origin.scheme}://{root_host(url) or origin.netloc}{target}"


def _escaped(found: re.Match[str]) -> str:
    text = found[0]
    return quote_from_bytes(text.encode("latin-1" if text < "\u0100" else "utf-8"), safe="")
