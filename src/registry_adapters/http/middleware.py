"""What users put around each exchange: for metrics, tracing and headers of their own.

A middleware is a callable. It gets a request and what sends it, and returns the answer that came::

    def traced(request: Outgoing, send: Send) -> Answer:
        return send(request.with_headers({"X-Trace": "1"}))

Each exchange passes through it: every attempt, every hop of a redirect and every token request. What it may not do is
what the rest of the library relies on: send twice, answer by itself, or change anything but headers.
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
# What a middleware adds may be a secret of whatever name: only what we set ourselves is shown.
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
    """The headers of a request, by names in any case; what might be a secret is masked where it is printed.

    Args:
        fields: Names and values; a name counts once, in whatever case.
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
        """All of them, masked but for the values that are known to be harmless."""
        return repr({name: value if key in _SHOWN else "***" for key, (name, value) in self._fields.items()})

    def __reduce__(self) -> NoReturn:
        raise TypeError("the headers of a request may hold secrets and are not pickled")


class OutgoingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request on its way, as a middleware sees it.

    Args:
        method: The HTTP method.
        url: Absolute, with its query, which may hold a signature.
        headers: All but those of the connection.
        length: Of the body, in bytes; 0 where there is none.
        to_registry: Whether it goes to the registry itself, not to a CDN or a token server.
    """

    method: str
    url: str
    headers: RequestHeaders
    length: int = 0
    to_registry: bool = True

    def with_headers(self, headers: Mapping[str, str]) -> OutgoingRequest:
        """The same request with some headers added or replaced.

        Raises:
            ConfigError: One that cannot be set, or not to that value.
        """
        for name, value in headers.items():
            _check(name, value)
        names = {name.lower() for name in headers}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in names}
        return msgspec.structs.replace(self, headers=RequestHeaders(kept | dict(headers)))

    def __repr__(self) -> str:
        """Without what is secret in it."""
        return f"OutgoingRequest({self.method} {redact_url(self.url)}, headers={self.headers!r}, length={self.length})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """As little as ``repr``."""
        return [("method", self.method), ("url", redact_url(self.url)), ("headers", self.headers)]


Send: TypeAlias = Callable[[OutgoingRequest], Response]
Middleware: TypeAlias = Callable[[OutgoingRequest, Send], Response]


def apply_middleware(middleware: Sequence[Middleware], request: OutgoingRequest, send: Send) -> Response:
    """What comes back from an exchange that passes through all middleware; the first is outermost.

    What a middleware raises is passed on as it is; an answer that has come by then is closed.

    Args:
        middleware: Any number of them.
        request: What is to be sent.
        send: Sends it; gets it with the headers that it is to have in the end.

    Raises:
        ConfigError: A middleware broke the rules.
    """
    if not middleware:
        return send(request)
    called = False
    answers: list[Response] = []

    def innermost(outgoing: OutgoingRequest) -> Response:
        nonlocal called
        if called:
            raise ConfigError("a middleware sends a request once; repeating is the client's business")
        called = True
        answers.append(send(_settled(request, outgoing)))
        return answers[0]

    chain: Send = innermost
    for layer in reversed(middleware):
        chain = _wrapped(layer, chain)
    try:
        answer = chain(request)
        if not answers or answer is not answers[0]:
            raise ConfigError("a middleware has to return the answer that came")
    except BaseException:
        for came in answers:
            came.close()
        raise
    return answer


def _wrapped(layer: Middleware, inner: Send) -> Send:
    return lambda request: layer(request, inner)


def _settled(original: OutgoingRequest, wanted: OutgoingRequest) -> OutgoingRequest:
    """The request as it is sent: secrets of a middleware's own stay with the registry (R-030)."""
    if (
        not isinstance(wanted, OutgoingRequest)
        or not isinstance(wanted.headers, RequestHeaders)
        or msgspec.structs.replace(wanted, headers=original.headers) != original
    ):
        raise ConfigError("a middleware may change the headers of a request, and nothing else")
    for name, value in wanted.headers.items():
        if original.headers.get(name) != value:
            _check(name, value)
    if original.to_registry:
        return wanted
    headers = {name: value for name, value in wanted.headers.items() if name.lower() not in _SECRET}
    own = {name: value for name, value in original.headers.items() if name.lower() in _SECRET}
    return msgspec.structs.replace(wanted, headers=RequestHeaders(headers | own))


def _check(name: str, value: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"not the name of a header: {name!r:.80}")
    if name.lower() in _RESERVED:
        raise ConfigError(f"the header {name} belongs to the connection, or to a setting")
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise ConfigError(f"not a value for the header {name}")
