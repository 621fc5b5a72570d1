"""Readers over content that is generated while it is read."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Final

from registry_core.content.streams import BaseReader

__all__ = ["BATCH_SIZE", "GeneratorReader", "fill_holes"]

# Smaller chunks are joined to about this size before they are returned.
BATCH_SIZE: Final = 1 << 18
_ZEROS: Final = bytes(BATCH_SIZE)


class GeneratorReader(BaseReader):
    """Read the chunks of a generator. An exception of the generator is raised again by each later read.

    Args:
        chunks: Chunks of any size except zero; the generator is closed with the reader.
    """

    def __init__(self, chunks: Generator[bytes, None, None]) -> None:
        self._chunks = chunks
        self._buffer = memoryview(b"")
        self._failure: BaseException | None = None
        self._closed = False

    def read(self, size: int = -1, /) -> bytes:
        """Read up to ``size`` bytes; all if ``size`` is negative.

        Raises:
            BaseException: Exception of the generator.
            ValueError: The reader is closed.
        """
        if size < 0:
            return self._rest()
        if self._closed:
            raise ValueError("read of a closed stream")
        if self._failure is not None:
            raise self._failure
        if size and not len(self._buffer):
            try:
                chunk = next(self._chunks, b"")
            except BaseException as error:
                # after an exception, a generator looks as if it had ended.
                self._failure = error
                raise
            if len(chunk) <= size:
                return chunk
            self._buffer = memoryview(chunk)
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return bytes(data)

    def close(self) -> None:
        """Close the generator. Content that was not read is not verified. Idempotent."""
        self._closed = True
        self._buffer = memoryview(b"")
        self._chunks.close()


def fill_holes(size: int, chunks: Iterable[tuple[int, memoryview]]) -> Iterator[bytes | memoryview]:
    """The complete content of a file, with zeros in its holes.

    Args:
        size: Size of the file.
        chunks: Offsets and data.
    """
    position = 0
    for offset, chunk in chunks:
        if offset > position:
            yield from _zeros(offset - position)
        yield chunk
        position = offset + len(chunk)
    if size > position:
        yield from _zeros(size - position)


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield _ZEROS[:count]
        count -= BATCH_SIZE
