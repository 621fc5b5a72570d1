"""How many requests may be under way to one place, and when the next one may begin; shared by all threads of a client.

A slot stands for a connection in use: it is taken before connecting, and given back when the answer's body has been
read to its end or closed. Three rules keep threads from waiting for each other for ever. A thread that has a slot gets
another without waiting: copying within one registry reads a body while it sends it. A body that nobody has read
from for a second does not count: a program may open many readers and do something else first. Nor does a request that
has waited for a second for the bytes that it is to send: they may come from where somebody waits for this slot.
Whoever waits, for whatever reason, holds nothing while doing so.

The right to have one request under way, from before connecting until its answer has been read.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol

from registry_core.cancellation import checkpoint, on_cancel, remaining
from registry_core.content.streams import BaseReader, ByteReader, ByteSource
from registry_core.domain.origin import Origin
from registry_core.errors import DeadlineExceeded, RateLimited, Unavailable

__all__ = ["Keeper", "OriginLimiter", "Permit", "RateLimiter", "Throttling"]


class Keeper(Protocol):
    """Who gave slots out, and counts them."""

    def mark_busy(self, slot: Permit) -> None:
        """Count a slot again: this thread uses it."""

    def mark_idle(self, slot: Permit) -> None:
        """Count a slot for some time more."""

    def release(self, slot: Permit) -> None:
        """Take a slot back."""

    def release_later(self, slot: Permit) -> None:
        """Take a slot back; called by finalisers, so it waits for nobody."""


class Permit:
    """One request under way; its keeper alone changes what it says about itself.

    Args:
        keeper: Who gave it out.
        number: Counts the keeper's requests.
        now: The keeper's time.

    Attributes:
        thread: Who uses it.
        busy: Whether it counts however long it takes: what is sent is on its way, or the answer is awaited or read.
        touched: When that was last so.
        released: Whether it was given back.
    """

    def __init__(self, keeper: Keeper, number: int, now: float) -> None:
        self._keeper = keeper
        self.number = number
        self.thread = threading.get_ident()
        self.busy = True
        self.touched = now
        self.released = False

    def held_by_body(self, reader: ByteReader) -> ByteReader:
        """The same body, which holds the slot until it has been read to its end or closed."""
        self._keeper.mark_idle(self)
        return _Held(self._keeper, self, reader)

    def paused_while_reading(self, source: ByteSource) -> ByteSource:
        """The same content to be sent; while it is waited for, the slot counts as if it were a body nobody reads.

        It may come from where somebody waits for this very slot.
        """
        return _Food(self._keeper, self, source)

    def release(self) -> None:
        """Give it back. Idempotent."""
        self._keeper.release(self)


class _Food:
    """What is sent by the right of a slot."""

    def __init__(self, keeper: Keeper, slot: Permit, source: ByteSource) -> None:
        self._keeper = keeper
        self._slot = slot
        self._source = source

    def open(self, start: int = 0) -> ByteReader:
        with self.awaited():
            return _FoodReader(self, self._source.open(start))

    @contextmanager
    def awaited(self) -> Iterator[None]:
        self._keeper.mark_idle(self._slot)
        try:
            yield
        finally:
            self._keeper.mark_busy(self._slot)


class _FoodReader(BaseReader):
    def __init__(self, food: _Food, reader: ByteReader) -> None:
        self._food = food
        self._reader = reader

    def read(self, size: int = -1, /) -> bytes:
        with self._food.awaited():
            return self._reader.read(size)

    def close(self) -> None:
        self._reader.close()


class _Held(BaseReader):
    """A body that holds a slot."""

    def __init__(self, keeper: Keeper, slot: Permit, reader: ByteReader) -> None:
        self._keeper = keeper
        self._slot = slot
        self._reader = reader

    def read(self, size: int = -1, /) -> bytes:
        self._keeper.mark_busy(self._slot)
        try:
            data = self._reader.read(size)
        finally:
            self._keeper.mark_idle(self._slot)
        if size < 0 or (size and not data):
            self._slot.release()
        return data

    def close(self) -> None:
        try:
            self._reader.close()
        finally:
            self._slot.release()

    def __del__(self) -> None:
        self._keeper.release_later(self._slot)


# What has moved no byte for so many seconds, and waits for nobody's answer, does not count.
_IDLE: Final = 1.0

# So many answers without a complaint, and one more may be under way.
_RECOVERY: Final = 10

_GATES: Final = 64


class Throttling(NamedTuple):
    """What a refusal led to.

    Attributes:
        pause: For how many seconds nothing is sent.
        limit: How many requests may be under way from now on.
    """

    pause: float
    limit: int


class OriginLimiter:
    """The way to one origin.

    Args:
        origin: Where it leads.
        maximum: How many requests may be under way at a time.
        rate: How many may begin in a second; ``None`` for any number.
        clock: Seconds that only go forward.
        sleep: Waits for so many seconds.
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
        self._tickets: list[threading.Event] = []
        # Appended to by finalisers, which may run anywhere: also where the lock is held.
        self._abandoned: deque[Permit] = deque()
        self._turn = self._until = clock()
        self._status = 429
        self._entered = self._refused = 0
        self._streak = self._praise = 0

    @property
    def limit(self) -> int:
        """How many requests may be under way at the moment."""
        return self._limit

    @property
    def under_way(self) -> int:
        """How many are."""
        with self._lock:
            self._sweep()
            return len(self._active)

    @property
    def waiting(self) -> int:
        """How many wait for a slot, or for their turn."""
        return len(self._tickets)

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it, and no pause has to be kept in mind."""
        return not self.under_way and not self._tickets and not self.left()

    def left(self) -> float:
        """How many seconds the pause that was asked for goes on."""
        return max(0.0, self._until - self._clock())

    def acquire(self) -> Permit:
        """A slot, as soon as there is one, the pause is over and it is our turn.

        Raises:
            RateLimited: The pause goes beyond the time that the caller allows; raised at once.
            Unavailable: The same, where the registry was out of order.
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed, or would before our turn.
        """
        ticket = threading.Event()
        obeyed: float | None = None
        try:
            while True:
                checkpoint()
                ticket.clear()
                with self._lock:
                    self._sweep()
                    now, until = self._clock(), self._until
                    pause = until - now if until != obeyed else 0.0
                    nested = self._has_slot(threading.get_ident())
                    place = self._place(ticket, nested=nested)
                    turn = self._turn + place * self._interval - now if self._interval else 0.0
                    if pause <= 0 and turn <= 0 and (nested or place < self._limit - len(self._active)):
                        return self._take(now)
                    idle = min((slot.touched + _IDLE - now for slot in self._active if not slot.busy), default=None)
                if pause > 0:
                    self._wait_out(pause)
                    # A pause is waited out once, whatever the clock says afterwards.
                    obeyed = until
                elif turn > 0:
                    self._wait_for_turn(turn)
                else:
                    _wait_for(ticket, idle)
        finally:
            with self._lock:
                if ticket in self._tickets:
                    self._tickets.remove(ticket)
                self._wake()

    def on_throttled(
        self, slot: Permit, status: int, asked: float | None, backoff: Callable[[int], float]
    ) -> Throttling | None:
        """Slow down, for an answer said so; ``None`` if that was known.

        Requests that were under way together are refused together: that counts once.

        Args:
            slot: Of the request that was refused.
            status: 429 or 503.
            asked: How many seconds the registry asked to wait; ``None`` where it did not say.
            backoff: How many to wait then, by the number of refusals in a row.
        """
        with self._lock:
            fresh = slot.number > self._refused
            if fresh:
                self._refused = self._entered
                self._streak += 1
                self._praise = 0
                self._limit = max(1, self._limit // 2)
            pause = asked if asked is not None else backoff(self._streak) if fresh else 0.0
            until = self._clock() + pause
            longer = until > self._until
            if longer:
                self._until, self._status = until, status
            return Throttling(pause, self._limit) if fresh or (longer and pause) else None

    def on_success(self) -> None:
        """Take note of an answer without a complaint: some of them, and one more request may be under way."""
        with self._lock:
            self._streak = 0
            if self._limit < self._maximum:
                self._praise += 1
                if self._praise >= _RECOVERY:
                    self._praise = 0
                    self._limit += 1
                    self._wake()

    def mark_busy(self, slot: Permit) -> None:
        """Count a slot again: this thread uses it."""
        with self._lock:
            if not slot.released:
                slot.busy = True
                slot.thread = threading.get_ident()
                self._active.add(slot)

    def mark_idle(self, slot: Permit) -> None:
        """Count a slot for a second more."""
        with self._lock:
            slot.busy = False
            slot.touched = self._clock()

    def release(self, slot: Permit) -> None:
        """Take a slot back."""
        with self._lock:
            slot.released = True
            self._active.discard(slot)
            self._wake()

    def release_later(self, slot: Permit) -> None:
        """Take a slot back as soon as somebody looks; waits for nobody."""
        if not slot.released:
            self._abandoned.append(slot)

    def _take(self, now: float) -> Permit:
        self._entered += 1
        self._turn = max(self._turn, now) + self._interval
        slot = Permit(self, self._entered, now)
        self._active.add(slot)
        return slot

    def _place(self, ticket: threading.Event, *, nested: bool) -> int:
        """How many are before us."""
        if nested:
            return 0
        if ticket not in self._tickets:
            self._tickets.append(ticket)
        return self._tickets.index(ticket)

    def _has_slot(self, thread: int) -> bool:
        return any(slot.thread == thread for slot in self._active)

    def _wait_out(self, pause: float) -> None:
        left = remaining()
        if left is not None and pause >= left:
            kind = RateLimited if self._status == 429 else Unavailable
            raise kind(
                f"{self._origin.netloc} asked for a pause, of which {pause:.1f} s are left",
                status=self._status,
                url=str(self._origin),
                retry_after=pause,
            )
        self._sleep(pause)

    def _wait_for_turn(self, turn: float) -> None:
        left = remaining()
        if left is not None and turn >= left:
            raise DeadlineExceeded("the budget of requests leaves none for the time allowed")
        self._sleep(turn)

    def _sweep(self) -> None:
        """Let those that nobody reads from, or that are gone, count no longer."""
        now = self._clock()
        while self._abandoned:
            self._active.discard(self._abandoned.popleft())
        for slot in [slot for slot in self._active if not slot.busy and now - slot.touched >= _IDLE]:
            self._active.discard(slot)

    def _wake(self) -> None:
        for ticket in self._tickets[: max(0, self._limit - len(self._active))]:
            ticket.set()


class RateLimiter:
    """The ways to all origins that a client talks to: the registry, its CDN, its token server.

    Args:
        maximum: How many requests may be under way to each at a time.
        rate: How many may begin in a second to each; ``None`` for any number.
        clock: Seconds that only go forward.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self, *, maximum: int, rate: float | None, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self._maximum = maximum
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        # By process: of what was under way at a fork, the child knows nothing.
        self._gates: dict[tuple[int, Origin], OriginLimiter] = {}

    def of(self, origin: Origin) -> OriginLimiter:
        """The way to an origin."""
        key = (os.getpid(), origin)
        gate = self._gates.get(key)
        if gate is None:
            if len(self._gates) >= _GATES:
                self._forget(key[0])
            new = OriginLimiter(origin, maximum=self._maximum, rate=self._rate, clock=self._clock, sleep=self._sleep)
            gate = self._gates.setdefault(key, new)
        return gate

    def _forget(self, process: int) -> None:
        """Give up those that nobody uses: a hostile registry may name hosts without end."""
        for key, gate in list(self._gates.items()):
            if key[0] != process or gate.is_idle:
                self._gates.pop(key, None)


def _wait_for(ticket: threading.Event, idle: float | None) -> None:
    """Wait until something has changed, or a body has not been read from for long enough."""
    waits = [seconds for seconds in (idle, remaining(), _IDLE) if seconds is not None]
    with on_cancel(ticket.set):
        ticket.wait(max(0.001, min(waits)))
