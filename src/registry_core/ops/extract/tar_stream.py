"""Streams that are made as they are read."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from types import TracebackType
from typing import Final, Self

from registry_core.content.streams import CHUNK_SIZE

__all__ = ["BATCH_SIZE", "GeneratorReader", "fill_holes"]

# Chunks of about this size are worth handing out.
BATCH_SIZE: Final = 1 << 18
_ZEROS: Final = bytes(BATCH_SIZE)


class GeneratorReader:
    """A ``ByteReader`` over what a generator yields. What it raises, each later read raises again.

    Args:
        chunks: The stream, in pieces of any size but none; closed with the reader.
    """

    def __init__(self, chunks: Generator[bytes, None, None]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._failure: BaseException | None = None
        self._closed = False

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, all that is left if negative.

        Raises:
            BaseException: What the generator raised.
            ValueError: The stream was closed.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK_SIZE), b""))
        if self._closed:
            raise ValueError("read of a closed stream")
        if self._failure is not None:
            raise self._failure
        if size and not len(self._rest):
            try:
                chunk = next(self._chunks, b"")
            except BaseException as error:
                # A generator that has failed looks like one that has ended.
                self._failure = error
                raise
            if len(chunk) <= size:
                return chunk
            self._rest = memoryview(chunk)
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill a buffer; raises as ``read`` does."""
        data = self.read(len(buffer))
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """End the generator. What was not read has not been verified. Idempotent."""
        self._closed = True
        self._rest = memoryview(b"")
        self._chunks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def fill_holes(size: int, pieces: Iterable[tuple[int, memoryview]]) -> Iterator[bytes | memoryview]:
    """A file's content from end to end, with zeros where it has holes.

    Args:
        size: Of the file.
        pieces: Its data, each piece with its offset.
    """
    position = 0
    for offset, piece in pieces:
        if offset > position:
            yield from _zeros(offset - position)
        yield piece
        position = offset + len(piece)
    if size > position:
        yield from _zeros(size - position)


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield _ZEROS[:count]
        count -= BATCH_SIZE
