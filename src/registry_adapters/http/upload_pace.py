"""How an upload is cut into requests, and whether it is getting anywhere: decisions without I/O (R-072 to R-074)."""

from __future__ import annotations

from typing import Final

__all__ = ["Pace"]

# Of a blob that did not arrive whole. Large enough for registries that want parts of 5 MiB, small enough for
# proxies that take 10 MiB.
_CHUNK: Final = 8 << 20
# Some storages take only multiples of this.
_FLOOR: Final = 256 << 10
# A registry that takes less than this part of what it is sent, again and again, is going nowhere.
_LEAST_PART: Final = 16
_STALLS: Final = 4
# Forward and back again is no progress, either.
_SETBACKS: Final = 16


class Pace:
    """The length of the next request, and the count of what went wrong so far.

    Args:
        size: Of the blob.
        chunk_size: How long chunks are to be; ``None`` for all in one, as long as that works.

    Attributes:
        alone: Whether each chunk gets a connection of its own.
        failures: How many requests failed since the last progress.
    """

    def __init__(self, size: int, chunk_size: int | None) -> None:
        self._size = size
        self._length = chunk_size
        self._least = 0
        self._chunks_refused = False
        self._stalls = self._setbacks = 0
        self.alone = False
        self.failures = 0

    def begin(self, least: int) -> None:
        """Start from the first byte.

        Args:
            least: The shortest chunk that the registry takes.
        """
        self._least = least
        self._stalls = self._setbacks = 0

    @property
    def whole(self) -> bool:
        """Whether all goes in one request."""
        return self._length is None

    def end(self, offset: int) -> int:
        """Where the request that begins at an offset ends."""
        return self._size if self._length is None else min(offset + max(self._length, self._least), self._size)

    def refuse_chunks(self) -> None:
        """Take all in one from now on: the registry knows no chunks."""
        self._length, self._chunks_refused = None, True

    def split(self) -> bool:
        """Take chunks from now on, where all in one broke off; whether that can help."""
        if self._size <= _CHUNK or self._chunks_refused:
            return False
        self._length = _CHUNK
        return True

    def shrink(self, tried: int) -> bool:
        """Take a quarter at a time from now on; whether that is possible.

        Args:
            tried: How long the request was that was too long.
        """
        length = max(_FLOOR, min(_CHUNK, tried // 4) // _FLOOR * _FLOOR)
        if self._chunks_refused or max(length, self._least) >= tried:
            return False
        self._length = length
        return True

    def is_stuck(self, offset: int, reached: int, end: int, *, failed: bool = False) -> bool:
        """Whether it makes no progress any more, after one more request.

        Args:
            offset: Where the request began.
            reached: How far the registry says it has come.
            end: Where the request ended.
            failed: Whether it failed, which is counted in ``failures``.
        """
        if reached > offset and (reached - offset) * _LEAST_PART >= end - offset:
            self._stalls = self.failures = 0
        elif not failed:
            self._stalls += 1
        self._setbacks += reached < offset
        return self._stalls > _STALLS or self._setbacks > _SETBACKS
