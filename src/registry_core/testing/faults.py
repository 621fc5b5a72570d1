"""Sources that lie or break, to see what a backend does about it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from registry_core.cancellation import remaining
from registry_core.content.streams import BaseReader, ByteReader, ByteSource, BytesSource
from registry_core.errors import RegistryError

__all__ = ["HookedSource", "SourceBroken", "WatchedSource", "altered", "longer", "outlasting", "raising", "shorter"]


class SourceBroken(RegistryError):
    """What a broken source raises: an error that no backend knows."""


class HookedSource:
    """Content that is handed out in two reads, with something happening between them.

    Args:
        content: The bytes; at least two.
        hook: What happens after the first half; it may raise.
    """

    def __init__(self, content: bytes, hook: Callable[[], None]) -> None:
        self._content = content
        self._hook = hook

    def open(self, start: int = 0) -> ByteReader:
        """A reader from ``start`` on."""
        return _HookedReader(self._content, start, self._hook)


class WatchedSource:
    """A source that counts the readers that it has open.

    Args:
        source: The real one.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self.opened = 0
        self.still_open = 0

    def open(self, start: int = 0) -> ByteReader:
        """A reader from ``start`` on, which is counted until it is closed."""
        reader = self._source.open(start)
        with self._lock:
            self.opened += 1
            self.still_open += 1
        return _WatchedReader(reader, self._closed)

    def _closed(self) -> None:
        with self._lock:
            self.still_open -= 1


def shorter(content: bytes) -> ByteSource:
    """Content without its last byte."""
    return BytesSource(content[:-1])


def longer(content: bytes) -> ByteSource:
    """Content with a byte too many."""
    return BytesSource(content + b"!")


def altered(content: bytes) -> ByteSource:
    """Content with one bit flipped in its last byte."""
    return BytesSource(content[:-1] + bytes([content[-1] ^ 1]))


def raising(content: bytes, error: Exception) -> ByteSource:
    """Content that breaks halfway with an error."""

    def hook() -> None:
        raise error

    return HookedSource(content, hook)


def outlasting(content: bytes) -> ByteSource:
    """Content that stalls halfway until the ambient deadline has passed, then goes on as if nothing had happened."""

    def hook() -> None:
        stalled = threading.Event()
        while left := remaining():
            stalled.wait(left)

    return HookedSource(content, hook)


class _HookedReader(BaseReader):
    def __init__(self, content: bytes, start: int, hook: Callable[[], None]) -> None:
        self._content = content
        self._position = start
        self._middle = len(content) // 2
        self._hook = hook

    def read(self, size: int = -1, /) -> bytes:
        if self._position == self._middle:
            self._hook()
        end = self._middle if self._position < self._middle else len(self._content)
        if size >= 0:
            end = min(end, self._position + size)
        elif self._position < self._middle:
            self._hook()
            end = len(self._content)
        data = self._content[self._position : end]
        self._position += len(data)
        return data

    def close(self) -> None:
        """Nothing to let go of."""


class _WatchedReader(BaseReader):
    def __init__(self, reader: ByteReader, closed: Callable[[], None]) -> None:
        self._reader = reader
        self._on_close: Callable[[], None] | None = closed

    def read(self, size: int = -1, /) -> bytes:
        return self._reader.read(size)

    def close(self) -> None:
        self._reader.close()
        closed, self._on_close = self._on_close, None
        if closed is not None:
            closed()
