"""One at a time: whoever wants what another thread is fetching already waits for it, and looks again."""

from __future__ import annotations

import copy
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from registry_core.cancellation import wait_until
from registry_core.errors import RateLimited, RegistryError, ServerError, TLSError, Unavailable

__all__ = ["SingleFlight"]

_OUTAGES: Final = (Unavailable, RateLimited, ServerError, TLSError)
_PATIENCE: Final = 2


class SingleFlight:
    """Turns by key. Any number of threads may use it at once.

    Where the one that has the turn fails, the next one tries for itself: it may have been given less time, or been
    cancelled. But a wrong password is tried once, and a server that is out of order by two, not by each thread in a
    long row: those that wait at that moment get the same error.

    Args:
        shared: The errors that everyone waiting gets at once.
    """

    def __init__(self, *shared: type[RegistryError]) -> None:
        self._shared = shared
        self._changed = threading.Condition()
        self._rows: dict[Hashable, _Row] = {}

    @contextmanager
    def lock(self, key: Hashable) -> Iterator[None]:
        """Be the only one with this key; whoever comes later waits here, and should look again afterwards.

        Raises:
            RegistryError: What those that were waited for failed with.
            Cancelled: While waiting.
            DeadlineExceeded: While waiting.
        """
        with self._changed:
            row = self._rows.setdefault(key, _Row())
            row.length += 1
        try:
            self._await(row)
            try:
                yield
            except RegistryError as error:
                self._note(row, error)
                raise
            finally:
                with self._changed:
                    row.busy = False
                    self._changed.notify_all()
        finally:
            with self._changed:
                row.length -= 1
                if not row.length:
                    del self._rows[key]

    def _await(self, row: _Row) -> None:
        with self._changed:
            refusals, outages = row.refusals, row.outages

            def is_free() -> bool:
                if row.failure and (row.refusals > refusals or row.outages >= outages + _PATIENCE):
                    raise copy.copy(row.failure)
                return not row.busy

            wait_until(self._changed, is_free)
            row.busy = True

    def _note(self, row: _Row, error: RegistryError) -> None:
        refused, is_outage = isinstance(error, self._shared), isinstance(error, _OUTAGES)
        if not refused and not is_outage:
            # It is this thread's own: one that still waits may be about to look for a refusal that came before.
            return
        with self._changed:
            row.refusals += refused
            row.outages += is_outage
            row.failure = copy.copy(error)

    def __reduce__(self) -> NoReturn:
        raise TypeError("Turns belong to the threads of one process and are not pickled")


class _Row:
    """Those that want the same: the one that has the turn, those that wait, and how their predecessors failed."""

    def __init__(self) -> None:
        self.length = 0
        self.busy = False
        self.refusals = 0
        self.outages = 0
        self.failure: RegistryError | None = None
