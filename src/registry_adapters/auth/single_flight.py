"""Locks by key, so that one thread fetches a token and the others use its result."""

from __future__ import annotations

import copy
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Final

from registry_core.cancellation import wait_until
from registry_core.domain.auth import NotPicklable
from registry_core.errors import RateLimited, RegistryError, ServerError, TLSError, Unavailable

__all__ = ["SingleFlight"]

_OUTAGES: Final = (Unavailable, RateLimited, ServerError, TLSError)
_MAX_OUTAGES: Final = 2


class SingleFlight(NotPicklable):
    """Locks by key, which pass some errors on to the threads that wait. Safe for many threads.

    After most errors the next thread makes its own attempt: the error may come from the deadline or the cancellation
    of the thread before it. But not every waiting thread may send a wrong password again, or a request to a server
    that is unavailable: the waiting threads then raise the same error.

    Args:
        shared: Errors that all waiting threads raise after the first failure. Outages are passed on after the
            second failure.
    """

    def __init__(self, *shared: type[RegistryError]) -> None:
        self._shared = shared
        self._changed = threading.Condition()
        self._flights: dict[Hashable, _Flight] = {}

    @contextmanager
    def lock(self, key: Hashable) -> Iterator[None]:
        """Hold the lock of a key. After waiting for it, look for the result of the thread before.

        Raises:
            RegistryError: The error of the thread before, if it is passed on.
            Cancelled: While waiting.
            DeadlineExceeded: While waiting.
        """
        with self._changed:
            flight = self._flights.setdefault(key, _Flight())
            flight.threads += 1
        try:
            self._acquire(flight)
            try:
                yield
            except RegistryError as error:
                self._record_failure(flight, error)
                raise
            finally:
                with self._changed:
                    flight.locked = False
                    self._changed.notify_all()
        finally:
            with self._changed:
                flight.threads -= 1
                if not flight.threads:
                    del self._flights[key]

    def _acquire(self, flight: _Flight) -> None:
        with self._changed:
            refusals, outages = flight.refusals, flight.outages

            def is_free() -> bool:
                if flight.failure and (flight.refusals > refusals or flight.outages >= outages + _MAX_OUTAGES):
                    raise copy.copy(flight.failure)
                return not flight.locked

            wait_until(self._changed, is_free)
            flight.locked = True

    def _record_failure(self, flight: _Flight, error: RegistryError) -> None:
        is_refusal, is_outage = isinstance(error, self._shared), isinstance(error, _OUTAGES)
        if not is_refusal and not is_outage:
            # Keep an earlier failure: a waiting thread may not have seen it yet.
            return
        with self._changed:
            flight.refusals += is_refusal
            flight.outages += is_outage
            flight.failure = copy.copy(error)


class _Flight:
    """State of one key while threads hold its lock or wait for it."""

    def __init__(self) -> None:
        self.threads = 0
        self.locked = False
        self.refusals = 0
        self.outages = 0
        self.failure: RegistryError | None = None
