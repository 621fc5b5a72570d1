"""What is special about the HTTP server: it closes where it must, drains in pieces, and stops at once."""

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

from cheroot.server import HTTPConnection, HTTPRequest
from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Gateway_10, Server

from registry_adapters.wsgi.connection import CONNECTION

__all__ = ["CherootServer"]

_log = logging.getLogger(__name__)

# A client that is refused early is still sending. If the connection were closed at once, it would be reset, and the
# answer lost with it; so the rest is read and dropped, up to a size and for a time.
_LINGER_LIMIT: Final = 256 << 20
_LINGER_SECONDS: Final = 2.0
_LINGER_PIECE: Final = 256 << 10


class _Request(HTTPRequest):
    def respond(self) -> None:
        super().respond()
        if self.chunked_read and not self.close_connection:
            # The end of a chunked body is left in the stream, where it would keep a thread waiting for a request.
            try:
                for _ in self.rfile.read_trailer_lines():
                    continue
            except ValueError:
                self.close_connection = True

    def send_headers(self) -> None:
        if (b"Connection", b"close") in self.outheaders:
            # Else the server would read the rest of the body into memory first.
            self.close_connection = True
        super().send_headers()
        if self.close_connection:
            self.conn.unread = self.chunked_read or getattr(self.rfile, "remaining", 0) > 0


class _Connection(HTTPConnection):
    RequestHandlerClass = _Request
    unread = False
    broken = False

    def __init__(self, server: Any, sock: Any, makefile: Any) -> None:
        super().__init__(server, sock, makefile)
        server.watch(sock)
        self.number = next(server.numbers)

    def reset(self) -> None:
        if not self.broken:
            self.broken = True
            # Not to linger, not even for what is still to be sent, is what makes it a reset.
            socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.socket.detach())

    def close(self) -> None:
        if self.broken:
            self.rfile.close()
            return
        if self.unread and self.server.ready:
            with suppress(OSError):
                self._linger()
        super().close()

    def _linger(self) -> None:
        # Past a TLS wrapper: what comes is dropped, not understood.
        sock = self.socket
        socket.socket.shutdown(sock, socket.SHUT_WR)
        left, end = _LINGER_LIMIT, time.monotonic() + _LINGER_SECONDS
        while left > 0 and (seconds := end - time.monotonic()) > 0:
            sock.settimeout(seconds)
            data = socket.socket.recv(sock, _LINGER_PIECE)
            if not data:
                break
            left -= len(data)


class _Exchange:
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
        super().__init__(request)
        self.env[CONNECTION] = _Exchange(request)


class CherootServer(Server):
    """The server of one application.

    Args:
        app: What answers.
        host: The address to listen on.
        port: 0 takes a free one.
        tls: Certificate chain and private key.
        threads: How many requests are answered at once.

    Raises:
        OSError: Certificate or key cannot be read.
    """

    ConnectionClass = _Connection
    # How long stopping waits for the loop that watches idle connections.
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
        self.max_request_header_size = 64 << 10
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()
        if tls is not None:
            self.ssl_adapter = BuiltinSSLAdapter(os.fspath(tls[0]), os.fspath(tls[1]))

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.bind_addr[1])

    @staticmethod
    def bind_socket(socket_: socket.socket, bind_addr: Any) -> socket.socket:
        """Take the address, or close the socket."""
        try:
            socket_.bind(bind_addr)
        except OSError:
            socket_.close()
            raise
        return socket_

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Log what went wrong on a connection."""
        _log.debug("%s", msg, exc_info=traceback)

    def put_conn(self, conn: Any) -> None:
        """Keep a connection for its next request; when the server is stopping, close it."""
        try:
            super().put_conn(conn)
        except (OSError, ValueError, KeyError, RuntimeError):
            conn.close()

    def watch(self, sock: socket.socket) -> None:
        """Have a connection cut when the server stops."""
        with self._lock:
            self._sockets.add(sock)

    def stop(self) -> None:
        """Cut all connections, so that no thread waits for a peer, and stop."""
        if self.ready:
            self._end_wait()
        with self._lock:
            # The thread that accepts connections goes on adding to them meanwhile.
            sockets = list(self._sockets)
        for sock in sockets:
            with suppress(OSError):
                # Past a TLS wrapper, whose state belongs to the thread that is reading from it.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        super().stop()

    def _end_wait(self) -> None:
        """Have the loop that accepts connections end now, not after ``expiration_interval``."""
        server: Any = self
        server._connections._stop_requested = True
        # A new connection ends the wait of the loop, which then looks at the flag.
        with suppress(OSError), socket.create_connection(self.bind_addr[:2], timeout=1):
            pass
