"""One exchange at a time, by urllib3.

No retries, no redirects, no decoding and no credentials happen here: those are decisions of the session.

What is behind an error of the network: causes that several layers have wrapped, and words for them.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, NoReturn, Protocol, runtime_checkable

import urllib3
import urllib3.exceptions

from registry_adapters.http.messages import Body, Headers, Response
from registry_adapters.http.retry import NotConnected, StaleConnection
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.body import BodyChunks
from registry_adapters.http.transport.connection import POOLS, Trace, silence_urllib3, traced
from registry_adapters.http.transport.proxies import Proxy, proxy_for
from registry_adapters.http.transport.sockets import Resolver
from registry_adapters.http.transport.tls import SSLContexts, tls_reason
from registry_core.cancellation import checkpoint, remaining
from registry_core.content.streams import CHUNK_SIZE, BaseReader
from registry_core.domain.origin import Origin, redact_url
from registry_core.errors import Cancelled, DeadlineExceeded, ProtocolError, RegistryError, TLSError, Unavailable

__all__ = ["Transport", "Urllib3Transport", "exception_chain", "os_reason"]


def exception_chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was made of, outermost first, each once."""
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
    """Why a connection broke, or never was."""
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    for cause in causes:
        if isinstance(cause, http.client.RemoteDisconnected):
            return "closed without an answer"
    return "closed"


_BODYLESS: Final = frozenset({"GET", "HEAD", "DELETE"})

# A socket may find that its time is up a little before the clock says so, in seconds.
_ROUNDING: Final = 0.02

# How a TLS server says that it does not understand: the first bytes of an alert.
_ALERT: Final = "\x15\x03"

_FOREIGN: Final = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)


@runtime_checkable
class Transport(Protocol):
    """Carries out exchanges."""

    @abstractmethod
    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        """Exactly one exchange, whatever its status.

        Args:
            method: The HTTP method.
            url: Absolute.
            headers: Complete but for what belongs to the connection: ``Host``, ``Content-Length``, ``User-Agent``.
            body: Opened anew by each call.

        Raises:
            Unavailable: No connection, or no answer.
            TLSError: No trustworthy connection.
            ProtocolError: What came is no HTTP.
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed.
            SourceFailed: The body could not be read.
        """

    @abstractmethod
    def close(self) -> None:
        """Close all idle connections; what is sent afterwards opens new ones. Idempotent."""


class Urllib3Transport:
    """Exchanges over pooled connections; safe for many threads.

    More connections than the pool keeps are opened where they are needed at once, and dropped afterwards: a thread that
    reads one body while it asks for another never waits for itself.

    A process that forks shares it with its children: each of them opens connections of its own, and leaves alone those
    of its parent.

    Args:
        settings: How to connect.
        home: The registry's origin: the only one that is shown the client certificate of the settings.

    Raises:
        ConfigError: The settings name files that cannot be used, or trust nobody.
    """

    def __init__(self, settings: HttpSettings, home: Origin | None = None) -> None:
        silence_urllib3()
        self._settings = settings
        self._contexts = SSLContexts(settings, home)
        # By process: a connection that two processes read from belongs to neither.
        self._rooms: dict[int, _ProcessState] = {}

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        """Exactly one exchange, whatever its status.

        Raises:
            Unavailable: No connection, or no answer.
            TLSError: No trustworthy connection.
            ProtocolError: What came is no HTTP.
            ConfigError: The files for this origin cannot be used, or the environment's proxy.
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed.
            SourceFailed: The body could not be read.
        """
        checkpoint()
        room = self._room()
        manager = self._manager(room, url)
        # a proxy that compresses would change the bytes that the digest is for.
        fields = {**headers, "Accept-Encoding": "identity", "User-Agent": self._settings.user_agent}
        if body is not None or method not in _BODYLESS:
            fields["Content-Length"] = str(body.length if body else 0)
        pieces = BodyChunks(body) if body is not None and body.length else None
        left = remaining()
        patience = self._settings.connect_timeout
        trace = Trace(self._settings, room.resolver, url)
        try:
            with traced(trace):
                response = manager.urlopen(
                    method,
                    url,
                    body=pieces,
                    headers=fields,
                    retries=False,
                    redirect=False,
                    assert_same_host=False,
                    preload_content=False,
                    decode_content=False,
                    timeout=urllib3.Timeout(
                        connect=patience if left is None else max(0.001, min(patience, left)),
                        read=self._settings.read_timeout,
                    ),
                )
        except (*_FOREIGN, RegistryError) as error:
            _translate(error, method, url, trace)
        fields_back = Headers(list(response.headers.items()))
        return Response(status=response.status, headers=fields_back, url=url, reader=_BodyReader(response, method, url))

    def close(self) -> None:
        """Close this process's idle connections; what is sent afterwards opens new ones. Idempotent."""
        managers = self._room().managers
        while managers:
            with contextlib.suppress(KeyError):
                _close(managers.popitem()[1])

    def _room(self) -> _ProcessState:
        return self._rooms.get(os.getpid()) or self._rooms.setdefault(os.getpid(), _ProcessState())

    def _manager(self, room: _ProcessState, url: str) -> urllib3.PoolManager:
        origin = Origin.of_url(url)
        proxy = proxy_for(url, self._settings.proxy)
        context = self._contexts.of(origin) if origin.scheme == "https" else None
        key = (proxy, context)
        return room.managers.get(key) or room.managers.setdefault(key, self._new_manager(proxy, context))

    def _new_manager(self, proxy: Proxy | None, context: ssl.SSLContext | None) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "num_pools": 16,
            "maxsize": self._settings.max_connections,
            "block": False,
            "blocksize": CHUNK_SIZE,
        }
        if context is not None:
            options["ssl_context"] = context
        manager: urllib3.PoolManager
        if proxy is None:
            manager = urllib3.PoolManager(**options)
        else:
            introduction = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else None
            is_secure = proxy.url.startswith("https:")
            manager = urllib3.ProxyManager(
                proxy.url,
                proxy_headers=introduction,
                proxy_ssl_context=self._contexts.of(Origin.of_url(proxy.url)) if is_secure else None,
                **options,
            )
        manager.pool_classes_by_scheme = dict(POOLS)
        return manager


class _ProcessState:
    """What belongs to one process; entered without a lock, for a lock might be held by nobody after a fork."""

    def __init__(self) -> None:
        self.managers: dict[tuple[Proxy | None, ssl.SSLContext | None], urllib3.PoolManager] = {}
        self.resolver = Resolver()


class _BodyReader(BaseReader):
    """A response's body as a ``ByteReader``; raises rather than end early (R-050)."""

    def __init__(self, response: urllib3.BaseHTTPResponse, method: str, url: str) -> None:
        self._response = response
        self._method = method
        self._url = url
        self._closed = False

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return self._rest()
        if self._closed:
            raise ValueError("read of a closed reader")
        if size == 0:
            return b""
        checkpoint()
        try:
            return self._response.read(size, decode_content=False)
        except (*_FOREIGN, RegistryError) as error:
            _translate(error, self._method, self._url, None)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if getattr(self._response, "length_remaining", None) == 0:
            # Nothing is left on the wire: this read asks nobody, and hands the connection back.
            with contextlib.suppress(*_FOREIGN, RegistryError):
                self._response.read(1, decode_content=False)
        self._response.close()


def _close(manager: urllib3.PoolManager) -> None:
    # Left to itself, urllib3 closes a pool only once nobody refers to it any more, and the traceback of an error may.
    for key in manager.pools.keys():  # noqa: SIM118  # no mapping one could go through
        pool = manager.pools.get(key)
        if pool is not None:
            pool.close()
    manager.clear()


def _translate(error: Exception, method: str, url: str, trace: Trace | None) -> NoReturn:
    """Raise the error of our tree that a foreign one stands for, without quoting what might hold a secret.

    Args:
        error: What was caught.
        method: The HTTP method.
        url: The URL.
        trace: How far the request got; ``None`` if its answer was being read.
    """
    causes = list(exception_chain(error))
    for cause in causes:
        if isinstance(cause, RegistryError):
            raise cause from None
    checkpoint()
    left = remaining()
    if left is not None and left < _ROUNDING and any(isinstance(cause, TimeoutError) for cause in causes):
        raise DeadlineExceeded("the time allowed for the work has passed") from None
    target = redact_url(url)

    def told(kind: type[Unavailable] | type[TLSError] | type[ProtocolError], text: str) -> NoReturn:
        # A ValueError quotes what it found: a header, which may be a secret, or a URL.
        cause = None if isinstance(error, ValueError) else error
        raise kind(f"{method} {target}: {text}", method=method, url=target) from cause

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    failure: type[Unavailable] = Unavailable if trace is None or trace.begun else NotConnected
    if among(ssl.SSLError, urllib3.exceptions.SSLError, ssl.CertificateError) and not among(
        ssl.SSLEOFError, ssl.SSLZeroReturnError
    ):
        told(TLSError, f"no trustworthy connection: {tls_reason(causes)}")
    if among(ssl.SSLEOFError) and trace is not None and not trace.begun:
        told(NotConnected, "closed in the middle of the TLS handshake; does it speak TLS?")
    if among(urllib3.exceptions.NameResolutionError):
        told(NotConnected, "the host's name cannot be resolved")
    if among(urllib3.exceptions.ConnectTimeoutError):
        told(NotConnected, "no connection in time")
    if any(str(cause).startswith("Tunnel connection failed: 407") for cause in causes):
        told(ProtocolError, "the proxy wants credentials, or other ones")
    if among(urllib3.exceptions.ProxyError):
        told(failure, "the proxy does not answer")
    if among(urllib3.exceptions.NewConnectionError):
        told(NotConnected, f"no connection: {os_reason(causes)}")
    if among(urllib3.exceptions.ReadTimeoutError, TimeoutError):
        told(failure, "silence for too long")
    if among(http.client.IncompleteRead):
        told(failure, "the answer broke off")
    if among(http.client.BadStatusLine) and any(str(cause).startswith(_ALERT) for cause in causes):
        told(TLSError, "it speaks TLS, and was asked by plain http: ask by https, without plain_http")
    if among(http.client.HTTPException) and not among(http.client.RemoteDisconnected):
        told(ProtocolError, "what came is no HTTP answer")
    if among(OSError):
        if trace is not None and trace.reused and among(ConnectionError):
            told(StaleConnection, "the connection was closed")
        told(failure, f"the connection broke: {os_reason(causes)}")
    if among(urllib3.exceptions.ProtocolError) and trace is None:
        told(Unavailable, "the answer broke off")
    told(ProtocolError, f"what came makes no sense ({type(error).__name__})")
