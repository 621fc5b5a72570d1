"""The HTTP server: cheroot, with early responses that are not lost, raw connections, and an immediate stop."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import struct
import threading
import time
import weakref
from contextlib import suppress
from typing import Any, Final
from wsgiref.types import WSGIApplication

from cheroot.errors import FatalSSLAlert
from cheroot.server import HTTPConnection, HTTPRequest
from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Gateway_10, Server

from registry_adapters.wsgi.chunked_body import ChunkedBody
from registry_adapters.wsgi.connection import CONNECTION
from registry_adapters.wsgi.messages import INERT_HEADERS

__all__ = ["CherootServer"]

_log = logging.getLogger(__name__)

# A client may still be sending when it gets an early error response. Closing the connection at once would reset it,
# and the client would lose the response. So the rest of the request is read and discarded, within these limits.
_LINGER_LIMIT: Final = 256 << 20
_LINGER_SECONDS: Final = 2.0
_LINGER_CHUNK: Final = 256 << 10
_MAX_REQUEST_HEAD: Final = 64 << 10
# The type of the first TLS record (RFC 8446, section 5.1); a request begins with a letter.
_TLS_HANDSHAKE: Final = b"\x16"
# The sentence is that of Go's servers, which clients know.
_PLAIN_REQUEST: Final = (
    "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    + "".join(f"{name}: {value}\r\n" for name, value in INERT_HEADERS)
    + "\r\nClient sent an HTTP request to an HTTPS server.\n"
).encode()


class _Request(HTTPRequest):
    def respond(self) -> None:
        super().respond()
        if self.chunked_read and not self.close_connection:
            # cheroot leaves the end of a chunked body unread; a worker would then wait there for the next request.
            try:
                for _ in self.rfile.read_trailer_lines():
                    continue
            except ValueError:
                self.close_connection = True

    def simple_response(self, status: object, msg: str = "") -> None:
        """Send a response of the server itself, such as a 400 to a malformed request, and close the connection."""
        self.close_connection = True
        # The request may not be read to its end.
        self.conn.unread = True
        content = msg.encode("ISO-8859-1", "replace")
        fields = [
            ("Content-Length", str(len(content))),
            ("Content-Type", "text/plain"),
            ("Connection", "close"),
            *INERT_HEADERS,
        ]
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        with suppress(OSError):
            self.conn.wfile.write(f"{self.server.protocol} {status}\r\n{head}\r\n".encode("ISO-8859-1") + content)

    def send_headers(self) -> None:
        if (b"Connection", b"close") in self.outheaders:
            # Otherwise cheroot reads the rest of the body into memory first.
            self.close_connection = True
        # The application has set them, but WSGI middleware around it may answer in its place.
        present = {name.lower() for name, _ in self.outheaders}
        inert = [(name.encode(), value.encode()) for name, value in INERT_HEADERS]
        self.outheaders += [(name, value) for name, value in inert if name.lower() not in present]
        super().send_headers()
        if self.close_connection:
            self.conn.unread = self.chunked_read or getattr(self.rfile, "remaining", 0) > 0


class _Connection(HTTPConnection):
    RequestHandlerClass = _Request
    unread = False
    is_reset = False

    def __init__(self, server: Any, sock: Any, makefile: Any) -> None:
        super().__init__(server, sock, makefile)
        server.cut_on_stop(sock)
        self.number = next(server.numbers)

    def reset(self) -> None:
        if not self.is_reset:
            self.is_reset = True
            # With SO_LINGER on and a timeout of 0, closing the socket sends a RST.
            socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.socket.detach())

    def close(self) -> None:
        if self.is_reset:
            self.rfile.close()
            return
        if self.unread and self.server.ready:
            with suppress(OSError):
                self._linger()
        super().close()

    def _linger(self) -> None:
        # Bypasses a TLS wrapper: the bytes are discarded, so they need not be decrypted.
        sock = self.socket
        socket.socket.shutdown(sock, socket.SHUT_WR)
        left, end = _LINGER_LIMIT, time.monotonic() + _LINGER_SECONDS
        while left > 0 and (seconds := end - time.monotonic()) > 0:
            sock.settimeout(seconds)
            data = socket.socket.recv(sock, _LINGER_CHUNK)
            if not data:
                break
            left -= len(data)


class _RequestConnection:
    """The ``Connection`` of one request."""

    def __init__(self, request: Any) -> None:
        self._request = request

    @property
    def number(self) -> int:
        return int(self._request.conn.number)

    def send_head(self) -> None:
        self._request.ensure_headers_sent()

    def send(self, data: bytes) -> None:
        self._request.conn.wfile.write(data)

    def close_gracefully(self) -> None:
        self._request.sent_headers = True
        self._request.chunked_write = False
        self._request.close_connection = True

    def reset(self) -> None:
        self.close_gracefully()
        self._request.conn.reset()


class _Gateway(Gateway_10):
    def __init__(self, request: Any) -> None:
        if request.chunked_read:
            request.rfile = ChunkedBody(request.conn.rfile)
        super().__init__(request)
        self.env[CONNECTION] = _RequestConnection(request)


class _TLSAdapter(BuiltinSSLAdapter):
    """TLS by the standard library; a client that speaks plain http gets a response that says so."""

    def wrap(self, sock: socket.socket) -> Any:
        """Do the handshake.

        The base class closes the connection when a handshake fails, so that no response can be sent.
        """
        try:
            is_plain = sock.recv(1, socket.MSG_PEEK) not in (_TLS_HANDSHAKE, b"")
            if is_plain:
                with sock:
                    # With bytes left unread, the end of the connection would be a reset.
                    sock.recv(_MAX_REQUEST_HEAD)
                    sock.sendall(_PLAIN_REQUEST)
        except OSError as error:
            sock.close()
            raise FatalSSLAlert(str(error)) from error
        if is_plain:
            raise FatalSSLAlert("the client sent a plain HTTP request")
        return super().wrap(sock)  # type: ignore[no-untyped-call]  # cheroot has no types


class CherootServer(Server):
    """The HTTP server of one WSGI application.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port to listen on; 0 for any free port.
        tls: PEM files with the certificate chain and the private key.
        threads: Number of worker threads.

    Raises:
        OSError: The certificate or the key cannot be read.
    """

    ConnectionClass = _Connection
    # Interval in seconds of cheroot's loop over idle connections; stop() waits for the loop to end.
    expiration_interval = 0.05
    keep_alive_conn_limit = 1024

    def __init__(
        self,
        app: WSGIApplication,
        *,
        host: str,
        port: int,
        tls: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None,
        threads: int,
    ) -> None:
        super().__init__(
            (host, port),
            app,
            numthreads=threads,
            max=threads,
            server_name="ociport",
            request_queue_size=128,
            timeout=30,
            shutdown_timeout=0,
        )
        self.gateway = _Gateway
        self.numbers = itertools.count(1)
        self.max_request_header_size = _MAX_REQUEST_HEAD
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()
        if tls is not None:
            self.ssl_adapter = _TLSAdapter(os.fspath(tls[0]), os.fspath(tls[1]))

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self.bind_addr[1])

    @staticmethod
    def bind_socket(socket_: socket.socket, bind_addr: Any) -> socket.socket:
        """Bind the socket, or close it; cheroot leaves it open."""
        try:
            socket_.bind(bind_addr)
        except OSError:
            socket_.close()
            raise
        return socket_

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Log an error of a connection at DEBUG level."""
        _log.debug("%s", msg, exc_info=traceback)

    def put_conn(self, conn: Any) -> None:
        """Keep a connection for its next request; close it if the server is stopping."""
        try:
            super().put_conn(conn)
        except (OSError, ValueError, KeyError, RuntimeError):
            conn.close()

    def _serve_unservicable(self) -> None:
        """Do nothing: the queue of connections has no limit, so no connection is ever refused by a 503.

        The base class runs this in a thread that may live longer than ``stop``.
        """

    def cut_on_stop(self, sock: socket.socket) -> None:
        """Register a connection that ``stop`` shuts down."""
        with self._lock:
            self._sockets.add(sock)

    def stop(self) -> None:
        """Shut down all connections, so that no worker waits for a client, and stop."""
        if self.ready:
            self._end_accept_loop()
        with self._lock:
            # The accepting thread may still add connections.
            sockets = list(self._sockets)
        for sock in sockets:
            with suppress(OSError):
                # Bypasses a TLS wrapper, which must not be used while a worker reads from it.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        super().stop()

    def _end_accept_loop(self) -> None:
        """End the loop that accepts connections at once, not after ``expiration_interval``."""
        server: Any = self
        server._connections._stop_requested = True
        # A new connection wakes the loop, which then checks the flag.
        with suppress(OSError), socket.create_connection(self.bind_addr[:2], timeout=1):
            pass
