"""The transport over sockets: one exchange at a time, on pooled connections.

Retries, redirects and credentials are decided by the session. Content codings are not undone.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import ssl
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import Final, NoReturn, Protocol, runtime_checkable

import urllib3.exceptions

from registry_adapters.http.messages import NO_BODY, Body, Headers, Response
from registry_adapters.http.retry import NotConnected, StaleConnection
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.body import BodyChunks
from registry_adapters.http.transport.connection import (
    Connection,
    ConnectionPool,
    StrictHTTPResponse,
    request_target,
)
from registry_adapters.http.transport.proxies import Proxy, proxy_for
from registry_adapters.http.transport.sockets import Resolver
from registry_adapters.http.transport.tls import SSLContexts, tls_reason
from registry_core.cancellation import checkpoint, remaining
from registry_core.content.streams import BaseReader
from registry_core.domain.origin import Origin, redact_url
from registry_core.errors import Cancelled, DeadlineExceeded, ProtocolError, RegistryError, TLSError, Unavailable

__all__ = ["Transport", "Urllib3Transport", "exception_chain", "os_reason"]

_BODYLESS: Final = frozenset({"GET", "HEAD", "DELETE"})
_MAX_POOLS: Final = 16
# A socket may time out a little before the deadline by the clock, in seconds.
_ROUNDING: Final = 0.02
# The first bytes of a TLS alert, which is how a TLS server responds to plain http.
_ALERT: Final = "\x15\x03"
# http.client reports the response of a proxy to CONNECT as an OSError with this message.
_TUNNEL_REFUSED: Final = re.compile(r"Tunnel connection failed: (?P<status>[0-9]{3})")
_CONNECTION_ERRORS: Final = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)

_PoolKey = tuple[Origin | None, Proxy | None, ssl.SSLContext | None]


def exception_chain(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an exception and the exceptions that it wraps, outermost first, each once."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        parts = [*current.args, current.__cause__]
        if not isinstance(current, Cancelled | DeadlineExceeded):
            waiting += [part for part in parts if isinstance(part, BaseException)]


def os_reason(causes: Collection[BaseException]) -> str:
    """The reason for a failed or lost connection, in the words of the operating system: ``connection refused``."""
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            text = cause.strerror
            return text if text[:2].isupper() else text[:1].lower() + text[1:]
    for cause in causes:
        if isinstance(cause, http.client.RemoteDisconnected):
            return "closed by the server without a response"
    return "closed by the server"


@runtime_checkable
class Transport(Protocol):
    """Sends single requests."""

    @abstractmethod
    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        """Send one request and return its response, with any status.

        Args:
            method: HTTP method.
            url: Absolute URL.
            headers: All headers but those of the connection: ``Host``, ``Content-Length``, ``User-Agent``.
            body: Body; opened anew by each call.

        Raises:
            Unavailable: No connection, or no response.
            TLSError: No trustworthy connection.
            ProtocolError: The response is not HTTP.
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
            SourceFailed: The body could not be read.
        """

    @abstractmethod
    def close(self) -> None:
        """Close all idle connections; later exchanges open new ones. Idempotent."""


class Urllib3Transport:
    """Exchanges over pooled connections; safe for many threads.

    After a fork, the child process opens new connections and does not use those of its parent.

    Args:
        settings: Settings of connections.
        registry: Origin of the registry, the only one that gets the client certificate of the settings.

    Raises:
        ConfigError: The settings name files that cannot be used, or no authority to trust.
    """

    def __init__(self, settings: HttpSettings, registry: Origin | None = None) -> None:
        self._settings = settings
        self._contexts = SSLContexts(settings, registry)
        # By process: two processes cannot share a connection.
        self._processes: dict[int, _ProcessState] = {}

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        """Send one request and return its response, with any status.

        Raises:
            Unavailable: No connection, or no response.
            TLSError: No trustworthy connection.
            ProtocolError: The response is not HTTP.
            ConfigError: The files for this origin cannot be used, or the environment's proxy.
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
            SourceFailed: The body could not be read.
        """
        checkpoint()
        pool = self._pool(url)
        # a proxy that compresses would change the bytes that the digest is for.
        fields = {
            **headers,
            **pool.proxy_headers,
            "Accept-Encoding": "identity",
            "User-Agent": self._settings.user_agent,
        }
        if body is not None or method not in _BODYLESS:
            fields["Content-Length"] = str(body.length if body else 0)
        chunks = BodyChunks(body) if body is not None and body.length else ()
        connection = pool.take()
        try:
            response = connection.exchange(method, request_target(url, is_whole=pool.forwards), fields, chunks)
        except BaseException as error:
            # Made before the connection is closed, which resets it.
            errors = _ExchangeErrors(method, url, self._settings, connection)
            connection.close()
            errors.raise_for(error)
        received = Headers(response.headers.raw_items())
        if not response.has_body:
            response.end()
            if response.is_reusable:
                pool.give_back(connection)
            else:
                connection.close()
            return Response(status=response.status, headers=received, url=url, reader=NO_BODY)
        reader = _BodyReader(response, connection, pool, _ExchangeErrors(method, url, self._settings))
        return Response(status=response.status, headers=received, url=url, reader=reader)

    def close(self) -> None:
        """Close this process's idle connections; later exchanges open new ones. Idempotent."""
        pools = self._process().pools
        while pools:
            with contextlib.suppress(KeyError):
                pools.popitem()[1].close()

    def _process(self) -> _ProcessState:
        return self._processes.setdefault(os.getpid(), _ProcessState())

    def _pool(self, url: str) -> ConnectionPool:
        process = self._processes.get(os.getpid()) or self._process()
        origin = Origin.of_url(url)
        proxy = proxy_for(origin, self._settings.proxy)
        context = self._contexts.of(origin) if origin.scheme == "https" else None
        # A proxy that forwards plain http serves all origins over the same connections.
        key: _PoolKey = (origin if proxy is None or context is not None else None, proxy, context)
        return process.pools.get(key) or self._new_pool(process, key, origin)

    def _new_pool(self, process: _ProcessState, key: _PoolKey, origin: Origin) -> ConnectionPool:
        _, proxy, context = key
        is_secure = proxy is not None and proxy.url.startswith("https:")
        new = ConnectionPool(
            origin,
            proxy,
            context=context,
            proxy_context=self._contexts.of(Origin.of_url(proxy.url)) if proxy is not None and is_secure else None,
            settings=self._settings,
            resolver=process.resolver,
        )
        # A hostile registry may redirect to any number of hosts.
        while len(process.pools) >= _MAX_POOLS:
            # Another thread may change the dictionary meanwhile.
            with contextlib.suppress(KeyError, ValueError, RuntimeError):
                oldest = min(process.pools, key=lambda each: process.pools[each].last_used)
                process.pools.pop(oldest).close()
        return process.pools.setdefault(key, new)


class _ProcessState:
    """The state of one process. It has no lock: after a fork, a lock of a thread that was not copied stays locked."""

    def __init__(self) -> None:
        self.pools: dict[_PoolKey, ConnectionPool] = {}
        self.resolver = Resolver()


class _BodyReader(BaseReader):
    """The body of a response; raises an error if it ends early (R-050)."""

    def __init__(
        self, response: StrictHTTPResponse, connection: Connection, pool: ConnectionPool, errors: _ExchangeErrors
    ) -> None:
        self._response = response
        self._connection: Connection | None = connection
        self._pool = pool
        self._errors = errors
        self._closed = self._is_broken = False

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return self._rest()
        if self._closed:
            raise ValueError("read of a closed reader")
        if size == 0:
            return b""
        checkpoint()
        try:
            if self._is_broken:
                raise http.client.IncompleteRead(b"")
            data = self._response.read_some(size)
        except BaseException as error:
            # A closed response would report the end of the body.
            self._is_broken = True
            self._drop()
            self._errors.raise_for(error)
        if self._response.isclosed():
            self._release()
        return data

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._drop()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._drop()

    def _release(self) -> None:
        """Give the connection back after the last byte."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._response.is_reusable:
            self._pool.give_back(connection)
        else:
            connection.close()

    def _drop(self) -> None:
        """Close the connection, unless it was given back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._response.close()
            connection.close()


class _ExchangeErrors:
    """Turns exceptions of an exchange into errors of the library.

    Args:
        method: HTTP method.
        url: URL.
        settings: Settings of connections.
        connection: Connection that was to carry the request; ``None`` while the body of its response is read.
    """

    def __init__(self, method: str, url: str, settings: HttpSettings, connection: Connection | None = None) -> None:
        self._method = method
        self._url = url
        self._settings = settings
        self._has_begun = connection is None or connection.has_begun
        self._is_reused = connection is not None and connection.is_reused
        self._proxy = connection.proxy.netloc if connection is not None and connection.proxy is not None else None

    def raise_for(self, error: BaseException) -> NoReturn:
        """Raise the library's error for an exception; others than those of connections are raised unchanged.

        Messages quote no text that may be a secret.
        """
        if not isinstance(error, (*_CONNECTION_ERRORS, RegistryError)):
            raise error
        causes = list(exception_chain(error))
        for cause in causes:
            if isinstance(cause, RegistryError):
                raise cause from None
        checkpoint()
        left = remaining()
        if left is not None and left < _ROUNDING and any(isinstance(cause, TimeoutError) for cause in causes):
            raise DeadlineExceeded("the deadline has passed") from None
        kind, text = self._kind_and_text(causes)
        # A ValueError quotes what it found: a header, which may be a secret, or a URL.
        shown = None if isinstance(error, ValueError) else error
        raise kind(f"{self._action()}: {text}", method=self._method, url=redact_url(self._url)) from shown

    def _action(self) -> str:
        """The action that failed, for the message: connecting, or the request."""
        if self._has_begun:
            return f"{self._method} {redact_url(self._url)}"
        via = "" if self._proxy is None else f" through the proxy {self._proxy}"
        return f"connect to {Origin.of_url(self._url).netloc}{via}"

    def _kind_and_text(
        self, causes: list[BaseException]
    ) -> tuple[type[Unavailable] | type[TLSError] | type[ProtocolError], str]:
        def among(*kinds: type[BaseException]) -> bool:
            return any(isinstance(cause, kinds) for cause in causes)

        lost: type[Unavailable] = Unavailable if self._has_begun else NotConnected
        if among(ssl.SSLError, urllib3.exceptions.SSLError, ssl.CertificateError) and not among(
            ssl.SSLEOFError, ssl.SSLZeroReturnError
        ):
            return TLSError, tls_reason(causes)
        if not self._has_begun:
            if among(ssl.SSLEOFError):
                return NotConnected, "closed during the TLS handshake; does the server speak TLS?"
            if among(urllib3.exceptions.NameResolutionError):
                return NotConnected, f"host name not resolved: {os_reason(causes)}"
            refusal = next(filter(None, (_TUNNEL_REFUSED.match(str(cause)) for cause in causes)), None)
            if refusal is not None:
                if refusal["status"] == "407":
                    return ProtocolError, "the proxy wants other credentials (407)"
                return NotConnected, f"the proxy answered {refusal['status']}"
            # NewConnectionError is a ConnectTimeoutError, although most are refused connections.
            if among(urllib3.exceptions.NewConnectionError):
                return NotConnected, os_reason(causes)
            if among(urllib3.exceptions.ConnectTimeoutError, TimeoutError):
                is_handshake = any("handshake" in str(cause) for cause in causes)
                what = "the TLS handshake was not finished" if is_handshake else "no connection"
                return NotConnected, f"{what} within {self._settings.connect_timeout:g} s"
        if among(TimeoutError):
            return lost, f"no data for {self._settings.read_timeout:g} s"
        if among(http.client.IncompleteRead):
            return lost, "the connection was closed before the end of the response"
        if among(http.client.BadStatusLine) and not among(http.client.RemoteDisconnected):
            if any(str(cause).startswith(_ALERT) for cause in causes):
                return TLSError, "the server speaks TLS, but the request was plain http: remove plain_http"
            if self._is_reused:
                # the rest of an earlier response came after the connection had been checked.
                return StaleConnection, "the connection had bytes left from an earlier response"
        if among(http.client.HTTPException) and not among(http.client.RemoteDisconnected):
            return ProtocolError, "the response is not valid HTTP"
        if among(OSError):
            if self._is_reused and among(ConnectionError):
                return StaleConnection, "the idle connection was closed by the server"
            return lost, f"connection lost: {os_reason(causes)}"
        return ProtocolError, f"the exchange failed ({type(causes[0]).__name__})"
