"""Sources with wrong content and sources that fail, to test how a backend reacts."""

from __future__ import annotations

import threading
from collections.abc import Callable

from registry_core.cancellation import remaining
from registry_core.content.streams import BaseReader, ByteReader, ByteSource, BytesSource
from registry_core.errors import RegistryError

__all__ = ["HookedSource", "SourceBroken", "WatchedSource", "altered", "longer", "raising", "shorter", "stalling"]


class SourceBroken(RegistryError):
    """The error of a failing source, which no backend raises itself."""


class HookedSource:
    """Content that is read in two halves, with a function called between them.

    Args:
        content: The content; at least two bytes.
        hook: Function to call after the first half; it may raise.
    """

    def __init__(self, content: bytes, hook: Callable[[], None]) -> None:
        self._content = content
        self._hook = hook

    def open(self, start: int = 0) -> ByteReader:
        """Open a reader at a position."""
        return _HookedReader(self._content, start, self._hook)


class WatchedSource:
    """A source that counts its open readers.

    Args:
        source: Source to read from.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self.opened = 0
        self.still_open = 0

    def open(self, start: int = 0) -> ByteReader:
        """Open a reader at a position, and count it until it is closed."""
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
    """Content with an additional byte."""
    return BytesSource(content + b"!")


def altered(content: bytes) -> ByteSource:
    """Content with one bit of the last byte flipped."""
    return BytesSource(content[:-1] + bytes([content[-1] ^ 1]))


def raising(content: bytes, error: Exception) -> ByteSource:
    """Content whose reader raises an error after the first half."""

    def hook() -> None:
        raise error

    return HookedSource(content, hook)


def stalling(content: bytes) -> ByteSource:
    """Content whose reader stalls after the first half until the current deadline has passed, and then continues."""

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
        """Do nothing."""


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
