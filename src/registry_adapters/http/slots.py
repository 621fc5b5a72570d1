"""The right to have one request under way, from before connecting until its answer has been read."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Protocol, Self

from registry_core.content.source import ByteReader

__all__ = ["Keeper", "Slot"]


class Keeper(Protocol):
    """Who gave slots out, and counts them."""

    def resume(self, slot: Slot) -> None:
        """Count a slot again: its body is being read from, by this thread."""

    def rest(self, slot: Slot) -> None:
        """Count a slot for some time more."""

    def release(self, slot: Slot) -> None:
        """Take a slot back."""

    def abandon(self, slot: Slot) -> None:
        """Take a slot back; called by finalisers, so it waits for nobody."""


class Slot:
    """One request under way; its keeper alone changes what it says about itself.

    Args:
        keeper: Who gave it out.
        number: Counts the keeper's requests.
        now: The keeper's time.

    Attributes:
        thread: Who uses it.
        busy: Whether it counts however long it takes: there is no answer yet, or its body is just being read from.
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

    def holding(self, reader: ByteReader) -> ByteReader:
        """The same body, which holds the slot until it has been read to its end or closed."""
        self._keeper.rest(self)
        return _Held(self._keeper, self, reader)

    def release(self) -> None:
        """Give it back. Idempotent."""
        self._keeper.release(self)


class _Held:
    """A body that holds a slot."""

    def __init__(self, keeper: Keeper, slot: Slot, reader: ByteReader) -> None:
        self._keeper = keeper
        self._slot = slot
        self._reader = reader

    def read(self, size: int = -1, /) -> bytes:
        self._keeper.resume(self._slot)
        try:
            data = self._reader.read(size)
        finally:
            self._keeper.rest(self._slot)
        if size < 0 or (size and not data):
            self._slot.release()
        return data

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        self._keeper.resume(self._slot)
        try:
            count = self._reader.readinto(buffer)
        finally:
            self._keeper.rest(self._slot)
        if len(buffer) and not count:
            self._slot.release()
        return count

    def close(self) -> None:
        try:
            self._reader.close()
        finally:
            self._slot.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._keeper.abandon(self._slot)
