"""Cancellation and deadlines by scopes, as in trio and anyio.

A scope covers all work in its ``with`` block, lazy reads included, on the thread that entered it and on worker
threads that run in a copy of its context.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Self

from registry_core.errors import Cancelled, DeadlineExceeded, InvalidValue

__all__ = [
    "CancelScope",
    "CancellableLock",
    "backoff",
    "checkpoint",
    "fail_after",
    "has_scope",
    "on_cancel",
    "poll_until",
    "remaining",
    "sleep",
    "wait_until",
]

_current: ContextVar[CancelScope | None] = ContextVar("registry_core.cancellation", default=None)


class CancelScope:
    """A block of work that any thread can cancel and that may have a deadline.

    After ``cancel()`` the work inside raises ``Cancelled``; after the deadline it raises ``DeadlineExceeded``.
    A scope can be entered once. Scopes nest; the earliest deadline applies.

    Args:
        deadline: Time in seconds on the ``time.monotonic()`` clock; ``None`` for no deadline.
    """

    def __init__(self, *, deadline: float | None = None) -> None:
        self._deadline = deadline
        self._parent: CancelScope | None = None
        self._token: Token[CancelScope | None] | None = None
        self._cancelled = threading.Event()
        self._cause: BaseException | None = None
        self._lock = threading.Lock()
        self._wakers: dict[object, Callable[[], None]] = {}

    def __enter__(self) -> Self:
        """Make this the current scope.

        Raises:
            RuntimeError: The scope was entered before.
        """
        if self._token is not None:
            raise RuntimeError("a CancelScope can be entered only once: create a new one")
        self._parent = _current.get()
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the enclosing scope; errors pass through."""
        if self._token is not None:
            _current.reset(self._token)

    def cancel(self, *, cause: BaseException | None = None) -> None:
        """Cancel the work inside. May be called from any thread, repeatedly.

        Args:
            cause: Error that becomes the ``__cause__`` of each ``Cancelled``; only the first call sets it.
        """
        with self._lock:
            if not self._cancelled.is_set():
                self._cause = cause
            self._cancelled.set()
            wakers = list(self._wakers.values())
        for wake in wakers:
            wake()

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` was called on this scope or on an enclosing one."""
        return any(scope._cancelled.is_set() for scope in self._chain())

    @property
    def deadline(self) -> float | None:
        """The earliest deadline of this scope and its enclosing scopes, in ``time.monotonic()`` seconds."""
        return min((scope._deadline for scope in self._chain() if scope._deadline is not None), default=None)

    def _chain(self) -> Iterator[CancelScope]:
        scope: CancelScope | None = self
        while scope is not None:
            yield scope
            scope = scope._parent

    def _error(self) -> Cancelled:
        error = Cancelled("the work was cancelled")
        causes = [scope._cause for scope in self._chain() if scope._cancelled.is_set()]
        # A cancel without a cause, on any of the scopes, leaves the error without a cause.
        error.__cause__ = None if None in causes else next(iter(causes), None)
        return error

    def _attach(self, key: object, wake: Callable[[], None]) -> None:
        with self._lock:
            self._wakers[key] = wake

    def _detach(self, key: object) -> None:
        with self._lock:
            self._wakers.pop(key, None)


def fail_after(seconds: float) -> CancelScope:
    """Return a scope with a deadline: its work raises ``DeadlineExceeded`` after the given time.

    Args:
        seconds: Time from now, in seconds.

    Raises:
        InvalidValue: The time is NaN.
    """
    if math.isnan(seconds):
        raise InvalidValue("fail_after: the time is NaN; give a number of seconds")
    return CancelScope(deadline=time.monotonic() + seconds)


def checkpoint() -> None:
    """Raise if the current scope has been cancelled or its deadline has passed.

    Raises:
        Cancelled: The scope was cancelled.
        DeadlineExceeded: The deadline has passed.
    """
    current = _current.get()
    deadline = math.inf
    # A plain loop instead of the generator _chain: this runs for each chunk of every transfer.
    scope = current
    while scope is not None:
        if current is not None and scope._cancelled.is_set():
            raise current._error()
        if scope._deadline is not None and scope._deadline < deadline:
            deadline = scope._deadline
        scope = scope._parent
    if deadline < math.inf and time.monotonic() >= deadline:
        raise DeadlineExceeded("the deadline has passed")


def has_scope() -> bool:
    """Return whether a scope covers the calling code, so that it can be cancelled or run out of time."""
    return _current.get() is not None


def remaining() -> float | None:
    """Return the seconds until the current deadline, never negative; ``None`` without a deadline."""
    scope = _current.get()
    deadline = None if scope is None else scope.deadline
    # Locks and events raise OverflowError for a longer timeout.
    return None if deadline is None else min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)


@contextmanager
def on_cancel(wake: Callable[[], None]) -> Iterator[None]:
    """Call ``wake`` from the cancelling thread if the current scope is cancelled inside this block.

    For blocking calls that reach no checkpoint, such as a read on a socket. The code that was woken should call
    ``checkpoint``, which raises the right error.

    Args:
        wake: Ends the blocking call. It must return fast, must not raise, and may be called more than once.

    Raises:
        Cancelled: The scope was cancelled before the block.
        DeadlineExceeded: The deadline had passed before the block.
    """
    scope = _current.get()
    if scope is None:
        yield
        return
    key = object()
    chain = list(scope._chain())
    for link in chain:
        link._attach(key, wake)
    try:
        checkpoint()
        yield
    finally:
        for link in chain:
            link._detach(key)


def sleep(seconds: float) -> None:
    """Sleep, until the time is over or the current scope ends.

    Args:
        seconds: Time to sleep, in seconds.

    Raises:
        Cancelled: The scope was cancelled during the sleep.
        DeadlineExceeded: The deadline passed during the sleep.
    """
    woken = threading.Event()
    with on_cancel(woken.set):
        left = remaining()
        woken.wait(seconds if left is None else min(seconds, left))
    checkpoint()


def backoff(failures: int, jitter: float, *, base: float, cap: float) -> float:
    """Return the pause before the next attempt, in seconds: longer after each failure, and spread over its range.

    Args:
        failures: Number of failures in a row, from 1.
        jitter: Random number from 0 to 1.
        base: Longest pause after the first failure; it doubles after each further one.
        cap: Longest pause.
    """
    return jitter * min(cap, base * 2.0 ** min(failures - 1, 30))


def wait_until(condition: threading.Condition, predicate: Callable[[], bool]) -> None:
    """Wait on a condition until a predicate holds, but no longer than the current scope allows.

    Args:
        condition: Condition that the caller holds; notified whenever the predicate may have changed.
        predicate: Called with the condition held; an exception from it ends the wait.

    Raises:
        Cancelled: The current scope was cancelled before the predicate held.
        DeadlineExceeded: The deadline passed before the predicate held.
    """
    if predicate():
        return

    def wake() -> None:
        with condition:
            condition.notify_all()

    with on_cancel(wake):
        while not predicate():
            condition.wait(remaining())
            checkpoint()


def poll_until(attempt: Callable[[], bool], *, interval: float) -> None:
    """Repeat an attempt until it succeeds, for locks of the operating system, whose blocking calls cannot be cancelled.

    Args:
        attempt: Tries once without blocking; ``True`` means success.
        interval: Seconds between two attempts.

    Raises:
        Cancelled: The current scope was cancelled before an attempt succeeded.
        DeadlineExceeded: The deadline passed before an attempt succeeded.
    """
    checkpoint()
    while not attempt():
        sleep(interval)


class CancellableLock:
    """A lock between threads, as a context manager; waiting for it ends with the current scope.

    A free lock is taken even in a scope that has ended. It is not reentrant.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._locked = False

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            Cancelled: The current scope was cancelled before the lock was free.
            DeadlineExceeded: The deadline passed before the lock was free.
        """
        with self._condition:
            wait_until(self._condition, lambda: not self._locked)
            self._locked = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        with self._condition:
            self._locked = False
            self._condition.notify_all()
