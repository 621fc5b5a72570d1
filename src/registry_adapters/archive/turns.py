"""One at a time, and whoever waits can be cancelled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from registry_core.scope import checkpoint, interruptible, remaining

__all__ = ["Turn"]


class Turn:
    """A lock that is waited for no longer than the ambient scope allows."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._taken = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have it for the length of the block.

        Raises:
            Cancelled: The ambient scope was cancelled before its turn came.
            DeadlineExceeded: Its deadline has passed.
        """
        with interruptible(self._wake), self._condition:
            while self._taken:
                self._condition.wait(remaining())
                checkpoint()
            self._taken = True
        try:
            yield
        finally:
            with self._condition:
                self._taken = False
                self._condition.notify_all()

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()
