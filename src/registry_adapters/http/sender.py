"""Single exchanges: rate limit, middleware, transport and events, in this order.

``SecretMasker`` hides credentials that a server repeats; ``WarningFilter`` reports each warning once.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from registry_adapters.http.messages import NO_BODY, SINGLE_USE, Body, Headers, Request, Response
from registry_adapters.http.middleware import Middleware, OutgoingRequest, RequestHeaders, apply_middleware
from registry_adapters.http.rate_limit import OriginLimiter, Permit, RateLimiter
from registry_adapters.http.retry import (
    REFUSED,
    Failure,
    RetryDecision,
    RetryPolicy,
    StaleConnection,
    decide,
    failure_reason,
    retry_after,
)
from registry_adapters.http.transport.urllib3_transport import Transport
from registry_core.domain.error_bodies import CONTENT_LIMIT, escaped
from registry_core.domain.origin import redact_url
from registry_core.domain.url_policy import AllowedUrl
from registry_core.errors import ProtocolError, TransportError
from registry_core.ports.observer import Event, Observer, RequestCompleted, Throttled, WarningReceived

__all__ = ["RequestSender", "RequestState", "SecretMasker", "WarningFilter", "read_error_body"]

_log = logging.getLogger("registry_adapters.http")

# Shorter values may occur in a text by chance.
_MIN_SECRET: Final = 8
_MASK: Final = "***"

_WARNING: Final = re.compile(r'299 [^ ]{1,255} "((?:[^"\\]|\\.)*)"')
_QUOTED_PAIR: Final = re.compile(r"\\(.)")
_MAX_WARNING: Final = 500
_MAX_WARNINGS: Final = 256

# A transport that ignores ``SINGLE_USE`` may use kept connections all the same; no more than these are replaced.
_MAX_STALE: Final = 3


class SecretMasker:
    """Masks the ``Authorization`` that was sent where a server repeats it.

    Args:
        authorization: ``Authorization`` of the request; empty for none.
    """

    def __init__(self, authorization: str) -> None:
        scheme, _, value = authorization.partition(" ")
        self._value = value if len(value) >= _MIN_SECRET else ""
        self._password = ""
        if scheme.lower() == "basic":
            with suppress(binascii.Error, UnicodeDecodeError):
                password = base64.b64decode(value, validate=True).decode().partition(":")[2]
                self._password = password if len(password) >= _MIN_SECRET else ""

    def mask_body(self, content: bytes) -> bytes:
        """A response body without the value that was sent, and without the password in it."""
        for secret in (self._value, self._password):
            if secret:
                content = content.replace(secret.encode(), _MASK.encode())
        return content

    def mask_headers(self, headers: Headers) -> Headers:
        """Response headers without the value that was sent.

        A password may be a word that a URL needs: it is masked only in warnings, which are texts for people.
        """
        if not self._value:
            return headers
        return Headers([(name, self._mask_header(name, value)) for name, value in headers])

    def _mask_header(self, name: str, value: str) -> str:
        value = value.replace(self._value, _MASK)
        return value.replace(self._password, _MASK) if self._password and name == "warning" else value


class WarningFilter:
    """The warnings seen so far, so that each is reported once; safe for many threads."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def new_warnings(self, headers: Headers) -> list[str]:
        """The warnings of a response that are new: escaped, cut, and limited in number.

        Codes other than 299 are not meant for users (distribution-spec, "Warnings").
        """
        new: list[str] = []
        for value in headers.all("warning"):
            match = _WARNING.match(value[: 8 * _MAX_WARNING].strip())
            text = "" if match is None else escaped(_QUOTED_PAIR.sub(r"\1", match[1]), _MAX_WARNING)
            with self._lock:
                if text and text not in self._seen and len(self._seen) < _MAX_WARNINGS:
                    self._seen.add(text)
                    new.append(text)
        return new


class RequestState:
    """A request across its attempts, redirects and challenges.

    Args:
        request: Request to send.
        url: URL of its first exchange.
        allowed: Result of the URL policy for that URL.

    Attributes:
        authorization: ``Authorization`` for the registry; ``None`` for none.
        challenges_answered: Number of challenges answered so far.
        responder: Result of the URL policy for the URL that responded last.
        limiter: Limiter of the origin that was sent to last.
        is_refused: Whether the last response was a 401, which carries nothing out.
        may_be_done: Whether an earlier attempt may have been carried out although no response said so.
    """

    __slots__ = (
        "allowed",
        "authorization",
        "challenges_answered",
        "is_refused",
        "limiter",
        "may_be_done",
        "request",
        "responder",
        "url",
    )

    def __init__(self, request: Request, url: str, allowed: AllowedUrl) -> None:
        self.request = request
        self.url = url
        self.allowed = self.responder = allowed
        self.authorization: str | None = None
        self.challenges_answered = 0
        self.limiter: OriginLimiter | None = None
        self.is_refused = self.may_be_done = False

    @property
    def is_empty(self) -> bool:
        """Whether the request has no body."""
        return self.request.body is None or not self.request.body.length

    def may_repeat(self, failure: Failure) -> bool:
        """Return whether the request may be sent again after a failure, if the number of retries allows it."""
        request = self.request
        decision = decide(request.method, failure, repeatable=request.repeatable, empty=self.is_empty)
        return decision is RetryDecision.AGAIN


class RequestSender:
    """Carries out single exchanges; safe for many threads.

    An exception from an observer or a middleware is passed on unchanged, and leaves no connection open.

    Args:
        transport: Transport that carries out the exchanges.
        rate_limiter: Limits on when each may begin.
        policy: Pauses where a server refuses and names none.
        middleware: Middleware around each exchange; the first is outermost.
        observer: Observer of the exchanges.
        random: Source of random numbers from 0 to 1.
        clock: Monotonic clock, in seconds.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        transport: Transport,
        rate_limiter: RateLimiter,
        *,
        policy: RetryPolicy,
        middleware: Sequence[Middleware],
        observer: Observer | None,
        random: Callable[[], float],
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._transport = transport
        self._rate_limiter = rate_limiter
        self._policy = policy
        self._middleware = tuple(middleware)
        self._observer = observer
        self._random = random
        self._clock = clock
        self._now = now
        self._warnings = WarningFilter()

    def send(self, state: RequestState, url: str, allowed: AllowedUrl, headers: Mapping[str, str]) -> Response:
        """Send one request; an idle connection that the server has closed is replaced silently by a new one.

        Args:
            state: Request that the exchange is part of.
            url: Absolute URL.
            allowed: Result of the URL policy for the URL.
            headers: All headers but those of the connection.

        Raises:
            TransportError: No response came, or the pause that the server asked for is too long.
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
        """
        request = state.request
        limiter = state.limiter = self._rate_limiter.of(allowed.origin)
        stale = 0
        while True:
            permit = limiter.acquire()
            try:
                response = self._exchange(request, url, allowed, headers, permit)
                break
            except StaleConnection:
                permit.release()
                state.may_be_done = True
                stale += 1
                if stale > _MAX_STALE or not state.may_repeat(Failure.STALE):
                    raise
                # The other idle connections may have been closed as well.
                headers = {**headers, **SINGLE_USE}
            except BaseException:
                permit.release()
                raise
        if response.reader is NO_BODY:
            permit.release()
        else:
            response.reader = permit.held_by_body(response.reader)
        try:
            if "Authorization" in headers:
                response.headers = SecretMasker(headers["Authorization"]).mask_headers(response.headers)
            if response.status in REFUSED:
                self._throttle(limiter, permit, allowed, response)
            elif response.status < 500:
                limiter.on_success()
            if "warning" in response.headers and _is_registry(allowed):
                self._report_warnings(allowed, response)
        except BaseException:
            response.close()
            raise
        return response

    def tell(self, event: Event) -> None:
        """Pass an event to the observer, if there is one."""
        if self._observer is not None:
            self._observer.on(event)

    def close(self) -> None:
        """Close idle connections. Idempotent."""
        self._transport.close()

    def _exchange(
        self, request: Request, url: str, allowed: AllowedUrl, headers: Mapping[str, str], permit: Permit
    ) -> Response:
        body = request.body
        if body is not None:
            body = Body(permit.paused_while_reading(body.source), body.start, body.length)
        if not self._middleware:
            if self._observer is None and not _log.isEnabledFor(logging.DEBUG):
                return self._transport.send(request.method, url, headers, body)
            return self._report_exchange(request.method, url, headers, body)
        outgoing = OutgoingRequest(
            method=request.method,
            url=url,
            headers=RequestHeaders(headers),
            length=0 if body is None else body.length,
            to_registry=_is_registry(allowed),
        )
        return apply_middleware(self._middleware, outgoing, partial(self._send_outgoing, body=body))

    def _send_outgoing(self, outgoing: OutgoingRequest, body: Body | None) -> Response:
        return self._report_exchange(outgoing.method, outgoing.url, dict(outgoing.headers), body)

    def _report_exchange(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        """Carry out an exchange, and report it to the log and the observer."""
        started = self._clock()
        try:
            response = self._transport.send(method, url, headers, body)
        except BaseException as error:
            self._report(method, url, body, 0, started, failure_reason(error))
            raise
        try:
            self._report(method, url, body, response.status, started)
        except BaseException:
            response.close()
            raise
        return response

    def _report(self, method: str, url: str, body: Body | None, status: int, started: float, reason: str = "") -> None:
        url, seconds, length = redact_url(url), self._clock() - started, 0 if body is None else body.length
        outcome = status or f"no response ({reason})"
        _log.debug("%s %s (%d bytes): %s after %.3f s", method, url, length, outcome, seconds)
        self.tell(RequestCompleted(method=method, url=url, status=status, seconds=seconds))

    def _throttle(self, limiter: OriginLimiter, permit: Permit, allowed: AllowedUrl, response: Response) -> None:
        """Slow all threads down, as a refusal asks."""
        delay = retry_after(response.headers.get("retry-after"), self._now())
        if delay is not None and delay > self._policy.max_retry_after:
            # The caller gets the error at once. Other threads learn it from responses to their own requests.
            delay = 0.0
        throttling = limiter.on_throttled(
            permit, response.status, delay, lambda failures: self._policy.backoff(failures, self._random())
        )
        if throttling is not None:
            registry = allowed.origin.netloc
            _log.debug("%s throttles: %d at a time, in %.3f s", registry, throttling.limit, throttling.pause)
            self.tell(Throttled(registry=registry, pause=throttling.pause, limit=throttling.limit))

    def _report_warnings(self, allowed: AllowedUrl, response: Response) -> None:
        registry = allowed.origin.netloc
        for text in self._warnings.new_warnings(response.headers):
            _log.debug("%s sent a warning of %d characters", registry, len(text))
            self.tell(WarningReceived(registry=registry, text=text))


def _is_registry(allowed: AllowedUrl) -> bool:
    """Return whether a URL leads to the registry itself: to the origin that the credentials belong to."""
    return allowed.credentials == allowed.origin


def read_error_body(response: Response, *, whole: bool = False) -> bytes:
    """Read the body of an unsuccessful response, up to a limit, and close it.

    Args:
        response: Response to read.
        whole: Whether a body that is cut, or longer than the limit, is an error.

    Raises:
        ProtocolError: The body is longer than the limit, and ``whole`` is set.
        Unavailable: The body broke off, and ``whole`` is set.
    """
    parts: list[bytes] = []
    left = CONTENT_LIMIT + 1
    with response:
        try:
            while left and (data := response.reader.read(left)):
                parts.append(data)
                left -= len(data)
        except TransportError:
            if whole:
                raise
    if whole and not left:
        url = redact_url(response.url)
        raise ProtocolError(f"{url}: the response has more than {CONTENT_LIMIT} bytes", url=url)
    return b"".join(parts)[:CONTENT_LIMIT]
