"""One exchange at a time, as it concerns everybody: let through when it may go, through the middleware, and told of.

Secrets that a registry was shown and repeats: they go no further.

The warnings that a registry sends along.
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

from registry_adapters.http.error_mapping import CONTENT_LIMIT, escaped
from registry_adapters.http.messages import Body, Headers, Response
from registry_adapters.http.middleware import Middleware, OutgoingRequest, RequestHeaders, apply_middleware
from registry_adapters.http.rate_limit import OriginLimiter, Permit, RateLimiter
from registry_adapters.http.retry import REFUSED, RetryPolicy, StaleConnection, retry_after
from registry_adapters.http.transport.urllib3_transport import Transport
from registry_core.domain.origin import Origin, redact_url
from registry_core.errors import ProtocolError, TransportError
from registry_core.ports.observer import Event, Observer, RequestCompleted, Throttled, WarningReceived

__all__ = ["RequestSender", "RequestState", "SecretMasker", "WarningFilter", "read_error_body"]


# Anything shorter may stand in a text by chance.
_TELLING: Final = 8

_MASK: Final = "***"


class SecretMasker:
    """What must not be believed to be a registry's own words.

    Args:
        authorization: The ``Authorization`` that was sent; empty for none.
    """

    def __init__(self, authorization: str) -> None:
        scheme, _, value = authorization.partition(" ")
        self._value = value if len(value) >= _TELLING else ""
        self._password = ""
        if scheme.lower() == "basic":
            with suppress(binascii.Error, UnicodeDecodeError):
                password = base64.b64decode(value, validate=True).decode().partition(":")[2]
                self._password = password if len(password) >= _TELLING else ""

    def mask_body(self, content: bytes) -> bytes:
        """A text for people without what was sent, and without the password in it."""
        for secret in (self._value, self._password):
            if secret:
                content = content.replace(secret.encode(), _MASK.encode())
        return content

    def mask_headers(self, headers: Headers) -> Headers:
        """Headers without what was sent.

        A password may be a word that a URL needs: it stays, but for a warning, which is a text for people.
        """
        if not self._value:
            return headers
        return Headers([(name, self._hushed(name, value)) for name, value in headers])

    def _hushed(self, name: str, value: str) -> str:
        value = value.replace(self._value, _MASK)
        return value.replace(self._password, _MASK) if self._password and name == "warning" else value


_WARNING = re.compile(r'299 [^ ]{1,255} "((?:[^"\\]|\\.)*)"')

_PAIR = re.compile(r"\\(.)")

_LENGTH: Final = 500

_COUNT: Final = 256


class WarningFilter:
    """The warnings seen so far, so that each is told once; safe for many threads."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def new_warnings(self, headers: Headers) -> list[str]:
        """The warnings of an answer that have not been told yet: escaped, cut, and not without end.

        Those of other codes than 299 are not meant for users (distribution-spec, "Warnings").
        """
        told: list[str] = []
        for value in headers.all("warning"):
            match = _WARNING.match(value[: 8 * _LENGTH].strip())
            text = "" if match is None else escaped(_PAIR.sub(r"\1", match[1]), _LENGTH)
            with self._lock:
                if text and text not in self._seen and len(self._seen) < _COUNT:
                    self._seen.add(text)
                    told.append(text)
        return told


_log = logging.getLogger("registry_adapters.http")

# Each kept connection may have died meanwhile; more than a few in a row are not silently replaced.
_STALE: Final = 3


class RequestState:
    """One request on its way: what has to be known from one exchange to the next.

    Args:
        method: The HTTP method.
        url: Where it goes first.
        body: What it carries.
        repeatable: Whether it does no harm to send it again after it may have been carried out.

    Attributes:
        gate: Where its last exchange went through.
        doubtful: Whether it may have been carried out although no answer said so.
        waits: Whether it waits for itself before it is repeated, and not for all others at the gate.
    """

    def __init__(self, method: str, url: str, body: Body | None, *, repeatable: bool) -> None:
        self.method = method
        self.url = url
        self.body = body
        self.repeatable = repeatable
        self.gate: OriginLimiter | None = None
        self.doubtful = False
        self.waits = True

    @property
    def empty(self) -> bool:
        """Whether it has no body."""
        return self.body is None or not self.body.length


class RequestSender:
    """Carries out single exchanges; safe for many threads.

    Whatever an observer or a middleware raises is passed on as it is, and leaves no connection behind.

    Args:
        home: The registry.
        transport: What carries them out.
        gates: When each may begin.
        policy: How long to wait where a registry refuses without saying for how long.
        middleware: What is put around each; the first is outermost.
        observer: Who is told.
        random: A number from 0 to 1.
        clock: Seconds that only go forward.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        home: Origin,
        transport: Transport,
        gates: RateLimiter,
        *,
        policy: RetryPolicy,
        middleware: Sequence[Middleware],
        observer: Observer | None,
        random: Callable[[], float],
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._home = home
        self._transport = transport
        self._gates = gates
        self._policy = policy
        self._middleware = tuple(middleware)
        self._observer = observer
        self._random = random
        self._clock = clock
        self._now = now
        self._notices = WarningFilter()

    def send(self, call: RequestState, method: str, url: str, headers: Mapping[str, str]) -> Response:
        """The answer of one exchange; a kept connection that turns out to be dead is replaced silently.

        Args:
            call: What it is a part of.
            method: The HTTP method.
            url: Absolute, and judged.
            headers: Complete but for what belongs to the connection.

        Raises:
            TransportError: No answer came, or no pause that was asked for can be waited out.
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed.
        """
        origin = Origin.of_url(url)
        gate = call.gate = self._gates.of(origin)
        body = call.body
        request = OutgoingRequest(
            method=method,
            url=url,
            headers=RequestHeaders(headers),
            length=0 if body is None else body.length,
            to_registry=origin == self._home,
        )
        for left in range(_STALE, -1, -1):
            slot = gate.acquire()
            try:
                answer = apply_middleware(self._middleware, request, partial(self._exchange, body=_fed(slot, body)))
            except StaleConnection:
                slot.release()
                call.doubtful = True
                if not call.repeatable or not left:
                    raise
                continue
            except BaseException:
                slot.release()
                raise
            answer.reader = slot.held_by_body(answer.reader)
            answer.headers = SecretMasker(headers.get("Authorization", "")).mask_headers(answer.headers)
            try:
                self._heed(gate, slot, origin, answer)
                self._warn(origin, answer)
            except BaseException:
                answer.close()
                raise
            return answer
        raise AssertionError("unreachable")

    def tell(self, event: Event) -> None:
        """Tell the observer, if there is one."""
        if self._observer is not None:
            self._observer.on(event)

    def close(self) -> None:
        """Close idle connections. Idempotent."""
        self._transport.close()

    def _exchange(self, request: OutgoingRequest, body: Body | None) -> Response:
        started = self._clock()
        try:
            answer = self._transport.send(request.method, request.url, dict(request.headers), body)
        except BaseException:
            self._report(request, 0, started)
            raise
        try:
            self._report(request, answer.status, started)
        except BaseException:
            answer.close()
            raise
        return answer

    def _report(self, request: OutgoingRequest, status: int, started: float) -> None:
        if self._observer is None and not _log.isEnabledFor(logging.DEBUG):
            return
        method, url, seconds = request.method, redact_url(request.url), self._clock() - started
        _log.debug("%s %s (%d bytes): %s after %.3f s", method, url, request.length, status or "no answer", seconds)
        self.tell(RequestCompleted(method=method, url=url, status=status, seconds=seconds))

    def _heed(self, gate: OriginLimiter, slot: Permit, origin: Origin, answer: Response) -> None:
        """Let all threads know what a registry asked for, or that it did not complain."""
        if answer.status not in REFUSED:
            if answer.status < 500:
                gate.on_success()
            return
        asked = retry_after(answer.headers.get("retry-after"), self._now())
        if asked is not None and asked > self._policy.max_retry_after:
            # Whoever asked is told at once. The others may have more patience: they ask for themselves.
            asked = 0.0
        brake = gate.on_throttled(
            slot, answer.status, asked, lambda failures: self._policy.backoff(failures, self._random())
        )
        if brake is not None:
            _log.debug("%s asks for less: %d at once, in %.3f s", origin.netloc, brake.limit, brake.pause)
            self.tell(Throttled(registry=origin.netloc, pause=brake.pause, limit=brake.limit))

    def _warn(self, origin: Origin, answer: Response) -> None:
        if origin == self._home:
            for text in self._notices.new_warnings(answer.headers):
                _log.debug("%s sent a warning of %d characters", origin.netloc, len(text))
                self.tell(WarningReceived(registry=origin.netloc, text=text))


def _fed(slot: Permit, body: Body | None) -> Body | None:
    return None if body is None else Body(slot.paused_while_reading(body.source), body.start, body.length)


def read_error_body(answer: Response, *, whole: bool = False) -> bytes:
    """What an answer that is no success says, up to a limit; closes it.

    Args:
        answer: What came.
        whole: Whether anything short of all of it is an error.

    Raises:
        ProtocolError: There is more than the limit, and the whole was wanted.
        Unavailable: It broke off, and the whole was wanted.
    """
    parts: list[bytes] = []
    left = CONTENT_LIMIT + 1
    with answer:
        try:
            while left and (data := answer.reader.read(left)):
                parts.append(data)
                left -= len(data)
        except TransportError:
            if whole:
                raise
    if whole and not left:
        raise ProtocolError(
            f"{redact_url(answer.url)} said more than {CONTENT_LIMIT} bytes", url=redact_url(answer.url)
        )
    return b"".join(parts)[:CONTENT_LIMIT]
