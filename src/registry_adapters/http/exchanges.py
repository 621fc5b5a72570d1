"""One exchange at a time, as it concerns everybody: let through when it may go, through the middleware, and told of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from registry_adapters.http.echoes import Echoes
from registry_adapters.http.exchange import Answer, Body
from registry_adapters.http.middleware import Fields, Middleware, Outgoing, through
from registry_adapters.http.notices import Notices
from registry_adapters.http.problems import CONTENT_LIMIT
from registry_adapters.http.retry import REFUSED, RetryPolicy, Stale, retry_after
from registry_adapters.http.slots import Slot
from registry_adapters.http.throttle import Gate, Gates
from registry_adapters.http.transport import Transport
from registry_core.domain.origin import Origin, redacted
from registry_core.errors import ProtocolError, TransportError
from registry_core.ports.observer import Event, Exchange, Observer, Throttled, Warned

__all__ = ["Call", "Exchanges", "excerpt"]

_log = logging.getLogger("registry_adapters.http")
# Each kept connection may have died meanwhile; more than a few in a row are not silently replaced.
_STALE: Final = 3


class Call:
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
        self.gate: Gate | None = None
        self.doubtful = False
        self.waits = True

    @property
    def empty(self) -> bool:
        """Whether it has no body."""
        return self.body is None or not self.body.length


class Exchanges:
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
        gates: Gates,
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
        self._notices = Notices()

    def send(self, call: Call, method: str, url: str, headers: Mapping[str, str]) -> Answer:
        """The answer of one exchange; a kept connection that turns out to be dead is replaced silently (R-053).

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
        request = Outgoing(
            method=method,
            url=url,
            headers=Fields(headers),
            length=0 if body is None else body.length,
            at_home=origin == self._home,
        )
        for left in range(_STALE, -1, -1):
            slot = gate.enter()
            try:
                answer = through(self._middleware, request, partial(self._exchange, body=_fed(slot, body)))
            except Stale:
                slot.release()
                call.doubtful = True
                if not call.repeatable or not left:
                    raise
                continue
            except BaseException:
                slot.release()
                raise
            answer.reader = slot.holding(answer.reader)
            answer.headers = Echoes(headers.get("Authorization", "")).hushed(answer.headers)
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

    def _exchange(self, request: Outgoing, body: Body | None) -> Answer:
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

    def _report(self, request: Outgoing, status: int, started: float) -> None:
        if self._observer is None and not _log.isEnabledFor(logging.DEBUG):
            return
        method, url, seconds = request.method, redacted(request.url), self._clock() - started
        _log.debug("%s %s (%d bytes): %s after %.3f s", method, url, request.length, status or "no answer", seconds)
        self.tell(Exchange(method=method, url=url, status=status, seconds=seconds))

    def _heed(self, gate: Gate, slot: Slot, origin: Origin, answer: Answer) -> None:
        """Let all threads know what a registry asked for, or that it did not complain."""
        if answer.status not in REFUSED:
            if answer.status < 500:
                gate.accept()
            return
        asked = retry_after(answer.headers.get("retry-after"), self._now())
        if asked is not None and asked > self._policy.patience:
            # Whoever asked is told at once. The others may have more patience: they ask for themselves.
            asked = 0.0
        brake = gate.refuse(slot, answer.status, asked, lambda failures: self._policy.backoff(failures, self._random()))
        if brake is not None:
            _log.debug("%s asks for less: %d at once, in %.3f s", origin.netloc, brake.limit, brake.pause)
            self.tell(Throttled(registry=origin.netloc, pause=brake.pause, limit=brake.limit))

    def _warn(self, origin: Origin, answer: Answer) -> None:
        if origin == self._home:
            for text in self._notices.fresh(answer.headers):
                _log.debug("%s sent a warning of %d characters", origin.netloc, len(text))
                self.tell(Warned(registry=origin.netloc, text=text))


def _fed(slot: Slot, body: Body | None) -> Body | None:
    return None if body is None else Body(slot.feeding(body.source), body.start, body.length)


def excerpt(answer: Answer, *, whole: bool = False) -> bytes:
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
        raise ProtocolError(f"{redacted(answer.url)} said more than {CONTENT_LIMIT} bytes", url=redacted(answer.url))
    return b"".join(parts)[:CONTENT_LIMIT]
