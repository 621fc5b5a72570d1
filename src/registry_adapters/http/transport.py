"""One exchange at a time, and the only place that knows urllib3.

No retries, no redirects, no decoding and no credentials happen here: those are decisions of the session.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import ssl
import threading
from abc import abstractmethod
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, NoReturn, Protocol, Self, runtime_checkable

import urllib3
import urllib3.connection
import urllib3.exceptions

from registry_adapters.http.causes import causes_of, os_reason
from registry_adapters.http.exchange import Answer, Body, Headers
from registry_adapters.http.pieces import Pieces
from registry_adapters.http.proxies import Proxy, proxy_for
from registry_adapters.http.retry import Stale, Unreached
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.sockets import Guard, GuardedSocket
from registry_adapters.http.tls import ssl_context, tls_reason
from registry_core.content.source import PIECE
from registry_core.domain.origin import Origin, redacted
from registry_core.errors import (
    DeadlineExceeded,
    ProtocolError,
    RegistryError,
    TLSError,
    Unavailable,
)
from registry_core.scope import checkpoint, remaining

__all__ = ["Transport", "Urllib3Transport"]

_BODYLESS: Final = frozenset({"GET", "HEAD", "DELETE"})
_INTERIM: Final = 16
# A socket may find that its time is up a little before the clock says so, in seconds.
_ROUNDING: Final = 0.02
_FOREIGN: Final = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)


@runtime_checkable
class Transport(Protocol):
    """Carries out exchanges."""

    @abstractmethod
    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Answer:
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
        """Close all idle connections. Idempotent."""


class Urllib3Transport:
    """Exchanges over pooled connections; safe for many threads.

    More connections than the pool keeps are opened where they are needed at once, and dropped afterwards: a thread that
    reads one body while it asks for another never waits for itself.

    Args:
        settings: How to connect.

    Raises:
        ConfigError: The settings name files that cannot be used.
    """

    def __init__(self, settings: HttpSettings) -> None:
        for name in ("urllib3.connectionpool", "urllib3.connection"):
            logging.getLogger(name).addFilter(_QUIET)
        self._settings = settings
        self._lock = threading.Lock()
        self._managers: dict[tuple[str, Proxy | None], urllib3.PoolManager] = {}
        self._context: ssl.SSLContext | None = None
        if not settings.plain_http or settings.ca_file or settings.client_cert:
            self._context = ssl_context(settings)

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Answer:
        """Exactly one exchange, whatever its status.

        Raises:
            Unavailable: No connection, or no answer.
            TLSError: No trustworthy connection.
            ProtocolError: What came is no HTTP.
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed.
            SourceFailed: The body could not be read.
        """
        checkpoint()
        manager = self._manager(url)
        fields = {**headers, "Accept-Encoding": "identity", "User-Agent": self._settings.user_agent}
        if body is not None or method not in _BODYLESS:
            fields["Content-Length"] = str(body.length if body else 0)
        pieces = Pieces(body) if body is not None and body.length else None
        left = remaining()
        patience = self._settings.connect_timeout
        trace = _Trace(self._settings)
        token = _trace.set(trace)
        try:
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
        finally:
            _trace.reset(token)
        fields_back = Headers(list(response.headers.items()))
        return Answer(status=response.status, headers=fields_back, url=url, reader=_BodyReader(response, method, url))

    def close(self) -> None:
        """Close all idle connections. Idempotent."""
        with self._lock:
            managers = list(self._managers.values())
            self._managers.clear()
        for manager in managers:
            manager.clear()

    def _manager(self, url: str) -> urllib3.PoolManager:
        scheme = Origin.of_url(url).scheme
        proxy = proxy_for(url, self._settings.proxy)
        with self._lock:
            manager = self._managers.get((scheme, proxy))
            if manager is None:
                manager = self._managers[scheme, proxy] = self._new_manager(scheme, proxy)
            return manager

    def _new_manager(self, scheme: str, proxy: Proxy | None) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "num_pools": 16,
            "maxsize": self._settings.max_connections,
            "block": False,
            "blocksize": PIECE,
        }
        if scheme == "https" or (proxy is not None and proxy.url.startswith("https:")):
            if self._context is None:
                self._context = ssl_context(self._settings)
            options["ssl_context"] = self._context
        manager: urllib3.PoolManager
        if proxy is None:
            manager = urllib3.PoolManager(**options)
        else:
            introduction = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else None
            manager = urllib3.ProxyManager(
                proxy.url, proxy_headers=introduction, proxy_ssl_context=self._context, **options
            )
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        return manager


class _BodyReader:
    """A response's body as a ``ByteReader``; raises rather than end early (R-050)."""

    def __init__(self, response: urllib3.BaseHTTPResponse, method: str, url: str) -> None:
        self._response = response
        self._method = method
        self._url = url
        self._closed = False

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(PIECE), b""))
        if self._closed:
            raise ValueError("read of a closed reader")
        if size == 0:
            return b""
        checkpoint()
        try:
            return self._response.read(size, decode_content=False)
        except (*_FOREIGN, RegistryError) as error:
            _translate(error, self._method, self._url, None)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        data = self.read(len(buffer))
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if getattr(self._response, "length_remaining", None) == 0:
            # Nothing is left on the wire: this read asks nobody, and hands the connection back.
            with contextlib.suppress(*_FOREIGN, RegistryError):
                self._response.read(1, decode_content=False)
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Trace:
    """How far one exchange has got, as its connection sees it."""

    def __init__(self, settings: HttpSettings) -> None:
        self.settings = settings
        self.begun = False
        self.reused = False


_trace: ContextVar[_Trace | None] = ContextVar("registry_adapters.http.transport", default=None)
_returning: ContextVar[bool] = ContextVar("registry_adapters.http.transport.returning", default=False)


class _Quiet(logging.Filter):
    """Drops what urllib3 logs about our exchanges, and only ours: it has whole URLs, signatures included (R-043)."""

    def filter(self, record: logging.LogRecord) -> bool:
        return _trace.get() is None and not _returning.get()


_QUIET: Final = _Quiet()


class _FinalResponse(http.client.HTTPResponse):
    """A response that passes over all interim ones, not only 100 (R-059)."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # not in the stubs
            if not 100 < status < 200 or status == 101:
                return version, status, reason
            http.client.parse_headers(self.fp)  # bounded in lines and in length
        raise http.client.HTTPException("too many interim responses")


class _Connection(urllib3.connection.HTTPConnection):
    """A connection over a guarded socket, which tells the exchange's trace how far it got."""

    response_class = _FinalResponse
    exchanges = 0

    def _new_conn(self) -> GuardedSocket:
        trace = _trace.get()
        plain = super()._new_conn()
        timeout = plain.gettimeout()
        guarded = GuardedSocket(fileno=plain.detach())
        guarded.settimeout(timeout)
        if trace is not None:
            guarded.silence = trace.settings.read_timeout
        return guarded

    def connect(self) -> None:
        self.exchanges = 0
        super().connect()
        trace = _trace.get()
        if trace is not None and isinstance(self.sock, Guard):
            self.sock.silence = trace.settings.read_timeout
        if trace is not None and not trace.settings.tls_verify:
            # The caller said so; a warning at each connection would not change it.
            self.is_verified = True

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


def _translate(error: Exception, method: str, url: str, trace: _Trace | None) -> NoReturn:
    """Raise the error of our tree that a foreign one stands for, without quoting what might hold a secret.

    Args:
        error: What was caught.
        method: The HTTP method.
        url: The URL.
        trace: How far the request got; ``None`` if its answer was being read.
    """
    causes = list(causes_of(error))
    for cause in causes:
        if isinstance(cause, RegistryError):
            raise cause from None
    checkpoint()
    left = remaining()
    if left is not None and left < _ROUNDING and any(isinstance(cause, TimeoutError) for cause in causes):
        raise DeadlineExceeded("the time allowed for the work has passed") from None
    target = redacted(url)

    def told(kind: type[Unavailable] | type[TLSError] | type[ProtocolError], text: str) -> NoReturn:
        # A ValueError quotes what it found: a header, which may be a secret, or a URL.
        cause = None if isinstance(error, ValueError) else error
        raise kind(f"{method} {target}: {text}", method=method, url=target) from cause

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    failure: type[Unavailable] = Unavailable if trace is None or trace.begun else Unreached
    if among(ssl.SSLError, urllib3.exceptions.SSLError, ssl.CertificateError) and not among(
        ssl.SSLEOFError, ssl.SSLZeroReturnError
    ):
        told(TLSError, f"no trustworthy connection: {tls_reason(causes)}")
    if among(urllib3.exceptions.NameResolutionError):
        told(Unreached, "the host's name cannot be resolved")
    if among(urllib3.exceptions.ConnectTimeoutError):
        told(Unreached, "no connection in time")
    if among(urllib3.exceptions.ProxyError):
        told(failure, "the proxy does not answer")
    if among(urllib3.exceptions.NewConnectionError):
        told(Unreached, f"no connection: {os_reason(causes)}")
    if among(urllib3.exceptions.ReadTimeoutError, TimeoutError):
        told(failure, "silence for too long")
    if among(http.client.IncompleteRead):
        told(failure, "the answer broke off")
    if among(http.client.HTTPException) and not among(http.client.RemoteDisconnected):
        told(ProtocolError, "what came is no HTTP answer")
    if among(OSError):
        if trace is not None and trace.reused and among(ConnectionError):
            told(Stale, "the connection was closed")
        told(failure, f"the connection broke: {os_reason(causes)}")
    if among(urllib3.exceptions.ProtocolError) and trace is None:
        told(Unavailable, "the answer broke off")
    told(ProtocolError, f"what came makes no sense ({type(error).__name__})")
