"""The transport over sockets: one exchange at a time, on pooled connections.

Retries, redirects and credentials are decided by the session. Content codings are not undone.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
from abc import abstractmethod
from collections.abc import Mapping
from typing import Final, Protocol, runtime_checkable

from registry_adapters.http.messages import NO_BODY, SINGLE_USE, Body, Headers, Response
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.body import BodyChunks
from registry_adapters.http.transport.connection import (
    Connection,
    ConnectionPool,
    StrictHTTPResponse,
    request_target,
    root_host,
)
from registry_adapters.http.transport.failures import ExchangeErrors
from registry_adapters.http.transport.proxies import Proxy, proxy_for
from registry_adapters.http.transport.sockets import Resolver
from registry_adapters.http.transport.tls import SSLContexts
from registry_core.cancellation import checkpoint
from registry_core.content.streams import BaseReader
from registry_core.domain.origin import Origin

__all__ = ["Transport", "Urllib3Transport"]

_BODYLESS: Final = frozenset({"GET", "HEAD", "DELETE"})
_MAX_POOLS: Final = 16

_PoolKey = tuple[Origin | None, Proxy | None, ssl.SSLContext | None]


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
        host = root_host(url)
        if host is not None:
            fields["Host"] = host
        if body is not None or method not in _BODYLESS:
            fields["Content-Length"] = str(body.length if body else 0)
        chunks = BodyChunks(body) if body is not None and body.length else ()
        is_single = headers.get("Connection") == SINGLE_USE["Connection"]
        connection = pool.new() if is_single else pool.take()
        try:
            response = connection.exchange(method, request_target(url, is_whole=pool.forwards), fields, chunks)
        except BaseException as error:
            # Made before the connection is closed, which resets it.
            errors = ExchangeErrors(method, url, self._settings, connection)
            connection.close()
            errors.raise_for(error)
        # Not every server closes the connection as it was asked to.
        response.is_reusable = response.is_reusable and not is_single
        received = Headers(response.headers.raw_items())
        if not response.has_body:
            response.end()
            if response.is_reusable:
                pool.give_back(connection)
            else:
                connection.close()
            return Response(status=response.status, headers=received, url=url, reader=NO_BODY)
        reader = _BodyReader(response, connection, pool, ExchangeErrors(method, url, self._settings))
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
        self, response: StrictHTTPResponse, connection: Connection, pool: ConnectionPool, errors: ExchangeErrors
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
