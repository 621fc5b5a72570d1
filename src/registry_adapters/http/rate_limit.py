"""Limits on requests to one origin: how many at a time, and how many in a second; shared by all threads of a client.

A permit is held for each connection in use. It is acquired before connecting and released when the response body has
been read to its end or closed. Three rules prevent deadlocks:

* A thread that holds a permit gets another one at once: a copy within one registry reads a body while it sends it.
* A response body that has not been read from for a second does not count: a program may open many readers and do
  something else first.
* A request that has waited a second for the bytes to send does not count: they may come from a thread that waits for
  this permit.

A thread that waits for a permit holds no lock and no connection while it waits.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from registry_core.cancellation import checkpoint, on_cancel, remaining
from registry_core.content.streams import BaseReader, ByteReader, ByteSource
from registry_core.domain.origin import Origin
from registry_core.errors import DeadlineExceeded, RateLimited, Unavailable

__all__ = ["OriginLimiter", "Permit", "RateLimiter", "Throttling"]

# A permit that has moved no byte for so many seconds, and awaits no response, does not count.
_IDLE: Final = 1.0

# After so many successful responses in a row, one more request is allowed at a time.
_RECOVERY: Final = 10

_MAX_LIMITERS: Final = 64


class Permit:
    """The right to have one request in progress; its fields are changed by its limiter only.

    Args:
        limiter: Limiter that issued it.
        number: Sequence number among the permits of this limiter.
        now: Time of issue.

    Attributes:
        thread: Thread that used it last.
        busy: Whether it counts without a time limit: the request is being sent, or the response awaited or read.
        last_used: Time when it was busy last.
        released: Whether it has been released.
    """

    __slots__ = ("_limiter", "busy", "last_used", "number", "released", "thread")

    def __init__(self, limiter: OriginLimiter, number: int, now: float) -> None:
        self._limiter = limiter
        self.number = number
        self.thread = threading.get_ident()
        self.busy = True
        self.last_used = now
        self.released = False

    def held_by_body(self, reader: ByteReader) -> ByteReader:
        """Wrap a response body, so that it holds the permit until it has been read to its end or closed."""
        self._limiter.mark_idle(self)
        return _PermitReader(self._limiter, self, reader)

    def paused_while_reading(self, source: ByteSource) -> ByteSource:
        """Wrap a request body, so that the permit counts as idle while the source is opened or read.

        The bytes may come from a thread that waits for this very permit.
        """
        return _PausingSource(self._limiter, self, source)

    def release(self) -> None:
        """Return the permit to its limiter. Idempotent."""
        self._limiter.release(self)


class _PausingSource:
    """A request body that marks its permit idle while it produces bytes."""

    def __init__(self, limiter: OriginLimiter, permit: Permit, source: ByteSource) -> None:
        self._limiter = limiter
        self._permit = permit
        self._source = source

    def open(self, start: int = 0) -> ByteReader:
        with self.idle():
            return _PausingReader(self, self._source.open(start))

    @contextmanager
    def idle(self) -> Iterator[None]:
        self._limiter.mark_idle(self._permit)
        try:
            yield
        finally:
            self._limiter.mark_busy(self._permit)


class _PausingReader(BaseReader):
    def __init__(self, source: _PausingSource, reader: ByteReader) -> None:
        self._source = source
        self._reader = reader

    def read(self, size: int = -1, /) -> bytes:
        with self._source.idle():
            return self._reader.read(size)

    def close(self) -> None:
        self._reader.close()


class _PermitReader(BaseReader):
    """A response body that holds a permit."""

    def __init__(self, limiter: OriginLimiter, permit: Permit, reader: ByteReader) -> None:
        self._limiter = limiter
        self._permit = permit
        self._reader = reader

    def read(self, size: int = -1, /) -> bytes:
        self._limiter.mark_busy(self._permit)
        try:
            data = self._reader.read(size)
        finally:
            self._limiter.mark_idle(self._permit)
        if size < 0 or (size and not data):
            self._permit.release()
        return data

    def close(self) -> None:
        try:
            self._reader.close()
        finally:
            self._permit.release()

    def __del__(self) -> None:
        self._limiter.release_later(self._permit)


class Throttling(NamedTuple):
    """New limits after a refusal.

    Attributes:
        pause: Seconds during which no request is sent.
        limit: Number of requests allowed at a time from now on.
    """

    pause: float
    limit: int


class OriginLimiter:
    """Limits on the requests to one origin.

    Args:
        origin: Origin of the server.
        maximum: Largest number of requests at a time.
        rate: Largest number of requests to begin in a second; ``None`` for no limit.
        clock: Monotonic clock, in seconds.
        sleep: Function that waits for a number of seconds.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        maximum: int,
        rate: float | None,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._origin = origin
        self._maximum = self._limit = maximum
        self._interval = 1.0 / rate if rate else 0.0
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._active: set[Permit] = set()
        self._waiters: list[threading.Event] = []
        # Appended to by finalisers, which may run anywhere: also where the lock is held.
        self._dropped: deque[Permit] = deque()
        self._next_start = self._paused_until = clock()
        self._pause_status = 429
        self._issued = self._issued_before_refusal = 0
        self._refusals = self._successes = 0

    @property
    def limit(self) -> int:
        """Number of requests allowed at a time at the moment."""
        return self._limit

    @property
    def under_way(self) -> int:
        """Number of permits that count."""
        with self._lock:
            self._drop_idle(self._clock())
            return len(self._active)

    @property
    def waiting(self) -> int:
        """Number of threads that wait for a permit, or for the next start that the rate allows."""
        return len(self._waiters)

    @property
    def is_idle(self) -> bool:
        """Whether the limiter can be forgotten: no permit counts, no thread waits and no pause is in force."""
        return not self.under_way and not self._waiters and not self.left()

    def left(self) -> float:
        """Seconds left of the pause that the server asked for."""
        return max(0.0, self._paused_until - self._clock())

    def acquire(self) -> Permit:
        """Wait for a permit: until the pause is over, the rate allows a start and fewer than ``limit`` are in use.

        Raises:
            RateLimited: The pause is longer than the time left to the caller; raised at once.
            Unavailable: The same, after a 503.
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed, or would pass before the next start that the rate allows.
        """
        checkpoint()
        with self._lock:
            now = self._clock()
            self._drop_idle(now)
            if (
                not self._waiters
                and len(self._active) < self._limit
                and now >= self._paused_until
                and (not self._interval or now >= self._next_start)
            ):
                return self._issue(now)
        return self._wait_for_permit()

    def on_throttled(
        self, permit: Permit, status: int, retry_after: float | None, backoff: Callable[[int], float]
    ) -> Throttling | None:
        """Slow down after a refusal; returns ``None`` if that changes nothing.

        Requests that were in progress together are refused together: that counts once.

        Args:
            permit: Permit of the refused request.
            status: 429 or 503.
            retry_after: Seconds that the server asked to wait; ``None`` where it named none.
            backoff: Seconds to wait in that case, by the number of refusals in a row.
        """
        with self._lock:
            is_new = permit.number > self._issued_before_refusal
            if is_new:
                self._issued_before_refusal = self._issued
                self._refusals += 1
                self._successes = 0
                self._limit = max(1, self._limit // 2)
            pause = retry_after if retry_after is not None else backoff(self._refusals) if is_new else 0.0
            until = self._clock() + pause
            is_longer = until > self._paused_until
            if is_longer:
                self._paused_until, self._pause_status = until, status
            return Throttling(pause, self._limit) if is_new or (is_longer and pause) else None

    def on_success(self) -> None:
        """Count a response that was no refusal: after some of them, one more request is allowed at a time."""
        with self._lock:
            self._refusals = 0
            if self._limit < self._maximum:
                self._successes += 1
                if self._successes >= _RECOVERY:
                    self._successes = 0
                    self._limit += 1
                    self._wake()

    def mark_busy(self, permit: Permit) -> None:
        """Count a permit without a time limit; the calling thread uses it."""
        with self._lock:
            if not permit.released:
                permit.busy = True
                permit.thread = threading.get_ident()
                self._active.add(permit)

    def mark_idle(self, permit: Permit) -> None:
        """Count a permit for one more second."""
        with self._lock:
            permit.busy = False
            permit.last_used = self._clock()

    def release(self, permit: Permit) -> None:
        """Stop counting a permit. Idempotent."""
        with self._lock:
            permit.released = True
            self._active.discard(permit)
            if self._waiters:
                self._wake()

    def release_later(self, permit: Permit) -> None:
        """Stop counting a permit at the next look at this limiter; called by finalisers, so it takes no lock."""
        if not permit.released:
            self._dropped.append(permit)

    def _wait_for_permit(self) -> Permit:
        waiter = threading.Event()
        obeyed: float | None = None
        try:
            while True:
                checkpoint()
                waiter.clear()
                with self._lock:
                    now, until = self._clock(), self._paused_until
                    self._drop_idle(now)
                    pause = until - now if until != obeyed else 0.0
                    nested = self._has_permit(threading.get_ident())
                    position = self._position(waiter, nested=nested)
                    start = self._next_start + position * self._interval - now if self._interval else 0.0
                    if pause <= 0 and start <= 0 and (nested or position < self._limit - len(self._active)):
                        return self._issue(now)
                    idle = min((each.last_used + _IDLE - now for each in self._active if not each.busy), default=None)
                if pause > 0:
                    self._sleep_through_pause(pause)
                    # A pause is waited out once, even if the clock has not moved on as far.
                    obeyed = until
                elif start > 0:
                    self._sleep_until_start(start)
                else:
                    _wait_for(waiter, idle)
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                self._wake()

    def _issue(self, now: float) -> Permit:
        self._issued += 1
        if self._interval:
            self._next_start = max(self._next_start, now) + self._interval
        permit = Permit(self, self._issued, now)
        self._active.add(permit)
        return permit

    def _position(self, waiter: threading.Event, *, nested: bool) -> int:
        """Number of waiters before this one."""
        if nested:
            return 0
        if waiter not in self._waiters:
            self._waiters.append(waiter)
        return self._waiters.index(waiter)

    def _has_permit(self, thread: int) -> bool:
        return any(permit.thread == thread for permit in self._active)

    def _sleep_through_pause(self, pause: float) -> None:
        left = remaining()
        if left is not None and pause >= left:
            kind = RateLimited if self._pause_status == 429 else Unavailable
            raise kind(
                f"{self._origin.netloc} answered {self._pause_status} and asked for a pause that lasts {pause:.1f} s "
                f"more; only {left:.1f} s are left until the deadline",
                status=self._pause_status,
                url=str(self._origin),
                retry_after=pause,
            )
        self._sleep(pause)

    def _sleep_until_start(self, seconds: float) -> None:
        left = remaining()
        if left is not None and seconds >= left:
            raise DeadlineExceeded(
                f"requests_per_second allows the next request to {self._origin.netloc} in {seconds:.1f} s, "
                f"and the deadline is in {left:.1f} s"
            )
        self._sleep(seconds)

    def _drop_idle(self, now: float) -> None:
        """Stop counting permits of readers that were dropped, or that have been idle for too long."""
        while self._dropped:
            self._active.discard(self._dropped.popleft())
        if self._active:
            for permit in [each for each in self._active if not each.busy and now - each.last_used >= _IDLE]:
                self._active.discard(permit)

    def _wake(self) -> None:
        for waiter in self._waiters[: max(0, self._limit - len(self._active))]:
            waiter.set()


class RateLimiter:
    """The limiters of all origins that a client talks to: the registry, its CDN, its token server.

    Args:
        maximum: Largest number of requests at a time to each origin.
        rate: Largest number of requests to begin in a second to each; ``None`` for no limit.
        clock: Monotonic clock, in seconds.
        sleep: Function that waits for a number of seconds.
    """

    def __init__(
        self, *, maximum: int, rate: float | None, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self._maximum = maximum
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        # By process: a child process knows nothing about requests in progress at the fork.
        self._limiters: dict[tuple[int, Origin], OriginLimiter] = {}

    def of(self, origin: Origin) -> OriginLimiter:
        """The limiter of an origin."""
        key = (os.getpid(), origin)
        limiter = self._limiters.get(key)
        if limiter is None:
            if len(self._limiters) >= _MAX_LIMITERS:
                self._forget_idle(key[0])
            new = OriginLimiter(origin, maximum=self._maximum, rate=self._rate, clock=self._clock, sleep=self._sleep)
            limiter = self._limiters.setdefault(key, new)
        return limiter

    def _forget_idle(self, process: int) -> None:
        """Drop idle limiters: a hostile registry may redirect to any number of hosts."""
        for key, limiter in list(self._limiters.items()):
            if key[0] != process or limiter.is_idle:
                self._limiters.pop(key, None)


def _wait_for(waiter: threading.Event, idle: float | None) -> None:
    """Wait until the limiter has changed, or a permit has been idle for long enough."""
    waits = [seconds for seconds in (idle, remaining(), _IDLE) if seconds is not None]
    with on_cancel(waiter.set):
        waiter.wait(max(0.001, min(waits)))
