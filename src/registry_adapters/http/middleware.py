"""Middleware around each HTTP exchange: for metrics, tracing and additional headers.

A middleware is a callable. It receives a request and a function that sends it, and returns the response::

    def traced(request: OutgoingRequest, send: Send) -> Response:
        return send(request.with_headers({"X-Trace": "1"}))

It is called for each exchange: every attempt, every redirect and every token request. It must call ``send`` once,
return the response that ``send`` returned, and change nothing but headers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeAlias

import msgspec

from registry_adapters.http.messages import Response
from registry_core.domain.origin import redact_url
from registry_core.errors import ConfigError

__all__ = ["Middleware", "OutgoingRequest", "RequestHeaders", "Send", "apply_middleware"]

_SECRET: Final = frozenset({"authorization", "cookie", "proxy-authorization"})
# A middleware may add a secret under any name: only headers that the library sets itself are shown.
_SHOWN: Final = frozenset({"accept", "content-type", "content-range", "range", "if-range"})
_RESERVED: Final = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer"),
        *("expect", "accept-encoding", "user-agent"),
    }
)
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class RequestHeaders(Mapping[str, str]):
    """The headers of a request, by names in any case; values that may be secrets are masked in ``repr``.

    Args:
        fields: Names and values; of names that differ in case only, the last counts.
    """

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = {name.lower(): (name, value) for name, value in fields.items()}

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()][1]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._fields.values())

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        """All headers; values are masked, except those of headers that hold no secrets."""
        return repr({name: value if key in _SHOWN else "***" for key, (name, value) in self._fields.items()})

    def __reduce__(self) -> NoReturn:
        raise TypeError("the headers of a request may hold secrets and are not pickled")


class OutgoingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as a middleware sees it.

    Args:
        method: HTTP method.
        url: Absolute URL; its query may hold a signature.
        headers: All headers but those of the connection.
        length: Size of the body in bytes; 0 without a body.
        to_registry: Whether it goes to the registry itself, not to a CDN or a token server.
    """

    method: str
    url: str
    headers: RequestHeaders
    length: int = 0
    to_registry: bool = True

    def with_headers(self, headers: Mapping[str, str]) -> OutgoingRequest:
        """Return the request with headers added or replaced.

        Raises:
            ConfigError: A name or value is malformed, or the header is reserved.
        """
        for name, value in headers.items():
            _check_header(name, value)
        names = {name.lower() for name in headers}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in names}
        return msgspec.structs.replace(self, headers=RequestHeaders(kept | dict(headers)))

    def __repr__(self) -> str:
        """The request without its secrets."""
        return f"OutgoingRequest({self.method} {redact_url(self.url)}, headers={self.headers!r}, length={self.length})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The same for rich, field by field."""
        return [("method", self.method), ("url", redact_url(self.url)), ("headers", self.headers)]


Send: TypeAlias = Callable[[OutgoingRequest], Response]
Middleware: TypeAlias = Callable[[OutgoingRequest, Send], Response]


def apply_middleware(middleware: Sequence[Middleware], request: OutgoingRequest, send: Send) -> Response:
    """Send a request through all middleware; the first is outermost.

    An exception from a middleware is passed on unchanged; a response that was received before is closed.

    Args:
        middleware: Middleware to call.
        request: Request to send.
        send: Function that sends the request with its final headers.

    Raises:
        ConfigError: A middleware sent twice, returned another response, or changed more than headers.
    """
    called = False
    responses: list[Response] = []

    def innermost(outgoing: OutgoingRequest) -> Response:
        nonlocal called
        if called:
            raise ConfigError("middleware: send was called twice for one request; retries are made by the client")
        called = True
        responses.append(send(_checked_request(request, outgoing)))
        return responses[0]

    chain: Send = innermost
    for layer in reversed(middleware):
        chain = _wrap(layer, chain)
    try:
        response = chain(request)
        if not responses or response is not responses[0]:
            raise ConfigError("middleware: it returned another response than the one that send returned")
    except BaseException:
        for received in responses:
            received.close()
        raise
    return response


def _wrap(layer: Middleware, inner: Send) -> Send:
    return lambda request: layer(request, inner)


def _checked_request(original: OutgoingRequest, changed: OutgoingRequest) -> OutgoingRequest:
    """Return the request to send: headers with secrets that a middleware added go to the registry only (R-030)."""
    if (
        not isinstance(changed, OutgoingRequest)
        or not isinstance(changed.headers, RequestHeaders)
        or msgspec.structs.replace(changed, headers=original.headers) != original
    ):
        raise ConfigError("middleware: it changed more than the headers of a request")
    for name, value in changed.headers.items():
        if original.headers.get(name) != value:
            _check_header(name, value)
    if original.to_registry:
        return changed
    headers = {name: value for name, value in changed.headers.items() if name.lower() not in _SECRET}
    secrets = {name: value for name, value in original.headers.items() if name.lower() in _SECRET}
    return msgspec.structs.replace(changed, headers=RequestHeaders(headers | secrets))


def _check_header(name: str, value: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"middleware: not a header name: {name!r:.80}")
    if name.lower() in _RESERVED:
        raise ConfigError(f"middleware: the header {name} is set by the connection or by a setting")
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise ConfigError(f"middleware: the value of the header {name} has characters that a header cannot hold")
