"""The right to have one request under way, from before connecting until its answer has been read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from registry_core.content.source import ByteReader, ByteSource, Reader

__all__ = ["Keeper", "Slot"]


class Keeper(Protocol):
    """Who gave slots out, and counts them."""

    def resume(self, slot: Slot) -> None:
        """Count a slot again: this thread uses it."""

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

    def holding(self, reader: ByteReader) -> ByteReader:
        """The same body, which holds the slot until it has been read to its end or closed."""
        self._keeper.rest(self)
        return _Held(self._keeper, self, reader)

    def feeding(self, source: ByteSource) -> ByteSource:
        """The same content to be sent; while it is waited for, the slot counts as if it were a body nobody reads.

        It may come from where somebody waits for this very slot.
        """
        return _Food(self._keeper, self, source)

    def release(self) -> None:
        """Give it back. Idempotent."""
        self._keeper.release(self)


class _Food:
    """What is sent by the right of a slot."""

    def __init__(self, keeper: Keeper, slot: Slot, source: ByteSource) -> None:
        self._keeper = keeper
        self._slot = slot
        self._source = source

    def open(self, start: int = 0) -> ByteReader:
        with self.awaited():
            return _FoodReader(self, self._source.open(start))

    @contextmanager
    def awaited(self) -> Iterator[None]:
        self._keeper.rest(self._slot)
        try:
            yield
        finally:
            self._keeper.resume(self._slot)


class _FoodReader(Reader):
    def __init__(self, food: _Food, reader: ByteReader) -> None:
        self._food = food
        self._reader = reader

    def read(self, size: int = -1, /) -> bytes:
        with self._food.awaited():
            return self._reader.read(size)

    def close(self) -> None:
        self._reader.close()


class _Held(Reader):
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

    def close(self) -> None:
        try:
            self._reader.close()
        finally:
            self._slot.release()

    def __del__(self) -> None:
        self._keeper.abandon(self._slot)
