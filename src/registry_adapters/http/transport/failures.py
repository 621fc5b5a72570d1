"""Errors of the library for exchanges that failed without a response.

The phase that a connection has reached decides what an exception means: a reset is a refusal while connecting, a
question about TLS in the handshake, and a lost connection afterwards.
"""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Collection, Iterator
from typing import Final, NoReturn

import urllib3.exceptions

from registry_adapters.http.retry import NotConnected, StaleConnection
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.connection import Connection, Phase
from registry_adapters.http.transport.tls import tls_reason
from registry_core.cancellation import checkpoint, remaining
from registry_core.domain.origin import Origin, redact_url
from registry_core.errors import (
    Cancelled,
    DeadlineExceeded,
    ProtocolError,
    RegistryError,
    TLSError,
    TransportError,
    Unavailable,
)

__all__ = ["ExchangeErrors", "exception_chain", "os_reason"]

# A socket may time out a little before the deadline by the clock, in seconds.
_ROUNDING: Final = 0.02
# The first bytes of a TLS alert, which is how a TLS server responds to plain http.
_ALERT: Final = "\x15\x03"
# http.client reports the response of a proxy to CONNECT as an OSError with this message.
_TUNNEL_REFUSED: Final = re.compile(r"Tunnel connection failed: (?P<status>[0-9]{3})")
_EXCHANGE_ERRORS: Final = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)
# The connection ended without a TLS alert.
_CLOSED: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError)

_Failure = tuple[type[TransportError], str]


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


class ExchangeErrors:
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
        self._phase = Phase.EXCHANGE if connection is None else connection.phase
        self._is_first = connection is not None and connection.exchanges == 1
        self._is_reused = connection is not None and connection.is_reused
        proxy = None if connection is None else connection.proxy
        self._proxy = None if proxy is None else proxy.netloc
        # The peer to which the first bytes of the connection are plain http; ``None`` if they are TLS.
        scheme = Origin.of_url(url).scheme if proxy is None else proxy.scheme
        self._plain_peer = None if scheme == "https" else "server" if proxy is None else "proxy"

    def raise_for(self, error: BaseException) -> NoReturn:
        """Raise the library's error for an exception; others than those of connections are raised unchanged.

        Messages quote no text that may be a secret.
        """
        if not isinstance(error, (*_EXCHANGE_ERRORS, RegistryError)):
            raise error
        causes = list(exception_chain(error))
        for cause in causes:
            if isinstance(cause, RegistryError):
                raise cause from None
        checkpoint()
        left = remaining()
        if left is not None and left < _ROUNDING and any(isinstance(cause, TimeoutError) for cause in causes):
            raise DeadlineExceeded("the deadline has passed") from None
        kind, text = self._failure(_Causes(causes))
        # A ValueError quotes what it found: a header, which may be a secret, or a URL.
        shown = None if isinstance(error, ValueError) else error
        raise kind(f"{self._action()}: {text}", method=self._method, url=redact_url(self._url)) from shown

    def _action(self) -> str:
        """The action that failed, for the message: connecting, or the request."""
        if self._phase is Phase.EXCHANGE:
            return f"{self._method} {redact_url(self._url)}"
        via = "" if self._proxy is None else f" through the proxy {self._proxy}"
        return f"connect to {Origin.of_url(self._url).netloc}{via}"

    def _failure(self, causes: _Causes) -> _Failure:
        if not causes.have(OSError, http.client.HTTPException, urllib3.exceptions.HTTPError):
            return ProtocolError, f"the exchange failed ({type(causes.all[0]).__name__})"
        match self._phase:
            case Phase.LOOKUP:
                return self._failed_lookup(causes)
            case Phase.CONNECT:
                return self._failed_connection(causes)
            case Phase.PROXY_TLS | Phase.TLS:
                return self._failed_handshake(causes, is_proxy=self._phase is Phase.PROXY_TLS)
            case Phase.TUNNEL:
                return self._failed_tunnel(causes)
            case Phase.EXCHANGE:
                return self._failed_exchange(causes)

    def _failed_lookup(self, causes: _Causes) -> _Failure:
        if causes.have(TimeoutError):
            return NotConnected, f"host name not resolved within {self._settings.connect_timeout:g} s"
        return NotConnected, f"host name not resolved: {os_reason(causes.all)}"

    def _failed_connection(self, causes: _Causes) -> _Failure:
        if causes.have(TimeoutError):
            return NotConnected, f"no connection within {self._settings.connect_timeout:g} s"
        return NotConnected, os_reason(causes.all)

    def _failed_handshake(self, causes: _Causes, *, is_proxy: bool) -> _Failure:
        if causes.have_tls_error:
            return TLSError, tls_reason(causes.all, is_proxy=is_proxy)
        peer, handshake = ("proxy", "TLS handshake with the proxy") if is_proxy else ("server", "TLS handshake")
        hint = f"does the {peer} speak TLS?"
        if causes.have(TimeoutError):
            return NotConnected, f"the {handshake} was not finished within {self._settings.connect_timeout:g} s; {hint}"
        reason = "closed" if causes.have(*_CLOSED) else os_reason(causes.all)
        return NotConnected, f"{reason} during the {handshake}; {hint}"

    def _failed_tunnel(self, causes: _Causes) -> _Failure:
        refusal = next(filter(None, (_TUNNEL_REFUSED.match(str(cause)) for cause in causes.all)), None)
        if refusal is not None:
            if refusal["status"] == "407":
                return ProtocolError, "the proxy wants other credentials (407)"
            return NotConnected, f"the proxy answered {refusal['status']}"
        if causes.have_tls_error:
            return TLSError, tls_reason(causes.all, is_proxy=True)
        if causes.have(TimeoutError):
            return NotConnected, f"no answer of the proxy within {self._settings.connect_timeout:g} s"
        if causes.are_tls_alert:
            return TLSError, self._speaks_tls()
        if causes.have(OSError):
            return NotConnected, f"connection to the proxy lost: {os_reason(causes.all)}{self._question(causes)}"
        return ProtocolError, "the response of the proxy is not valid HTTP"

    def _failed_exchange(self, causes: _Causes) -> _Failure:
        if causes.have_tls_error:
            return TLSError, tls_reason(causes.all)
        if causes.have(TimeoutError):
            return Unavailable, f"no data for {self._settings.read_timeout:g} s"
        if causes.have(http.client.IncompleteRead):
            return Unavailable, "the connection was closed before the end of the response"
        if causes.are_tls_alert:
            return TLSError, self._speaks_tls()
        if causes.have(OSError):
            # A TLS connection that was closed without a TLS alert ends with an error of its own.
            if self._is_reused and causes.have(ConnectionError, *_CLOSED):
                return StaleConnection, "the idle connection was closed by the server"
            question = self._question(causes) if self._is_first else ""
            return Unavailable, f"connection lost: {os_reason(causes.all)}{question}"
        if self._is_reused and causes.have(http.client.BadStatusLine):
            # the rest of an earlier response came after the connection had been checked.
            return StaleConnection, "the connection had bytes left from an earlier response"
        return ProtocolError, "the response is not valid HTTP"

    def _speaks_tls(self) -> str:
        if self._proxy is not None:
            return "the proxy speaks TLS, but the request was plain http: write its URL with https://"
        return "the server speaks TLS, but the request was plain http: remove plain_http"

    def _question(self, causes: _Causes) -> str:
        """The question whether the peer expects TLS: some TLS servers answer plain http by closing only."""
        return f"; does the {self._plain_peer} expect TLS?" if self._plain_peer and causes.have(ConnectionError) else ""


class _Causes:
    """An exception and those that it wraps."""

    def __init__(self, causes: list[BaseException]) -> None:
        self.all = causes

    def have(self, *kinds: type[BaseException]) -> bool:
        """Return whether one of them is of one of these classes."""
        return any(isinstance(cause, kinds) for cause in self.all)

    @property
    def have_tls_error(self) -> bool:
        """Whether TLS itself failed. The end of the connection is no failure of TLS."""
        return self.have(ssl.SSLError, urllib3.exceptions.SSLError) and not self.have(*_CLOSED)

    @property
    def are_tls_alert(self) -> bool:
        """Whether the peer answered by a TLS alert instead of HTTP."""
        return self.have(http.client.BadStatusLine) and any(str(cause).startswith(_ALERT) for cause in self.all)
