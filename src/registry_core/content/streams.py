"""Bytes in are re-openable, bytes out are read once.

How much of a peer's answer is read.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Protocol, Self, runtime_checkable

from registry_core.cancellation import checkpoint
from registry_core.errors import InvalidValue, TooLarge

__all__ = [
    "CHUNK_SIZE",
    "MANIFEST_LIMIT",
    "BaseReader",
    "BorrowedReader",
    "ByteReader",
    "ByteSource",
    "BytesSource",
    "CallableSource",
    "FileObjectReader",
    "FileSource",
    "Readable",
    "read_limited",
]


# Bodies move in pieces of this many bytes: larger or smaller ones measured slower.
CHUNK_SIZE = 1 << 20


@runtime_checkable
class ByteReader(Protocol):
    """A stream that is read once, front to back, and closed by whoever opened it."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, all that is left if negative; ``b""`` only at the end."""
        ...

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill a buffer from its start; the count of bytes, 0 only at the end."""
        ...

    def close(self) -> None:
        """Let go of what is behind it. Idempotent."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


@runtime_checkable
class Readable(Protocol):
    """Anything that bytes are read from, front to back: an open file, a pipe, an answer."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, all that is left if negative; ``b""`` only at the end."""
        ...


@runtime_checkable
class ByteSource(Protocol):
    """Content that can be opened again and again, at any offset: what makes a lost connection recoverable."""

    def open(self, start: int = 0) -> ByteReader:
        """A fresh reader from the byte at ``start`` on."""
        ...


class BaseReader(ABC):
    """What readers have in common: each says how to ``read`` and to ``close``."""

    @abstractmethod
    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, all that is left if negative; ``b""`` only at the end."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is behind it. Idempotent."""

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill a buffer from its start, no further than a piece; raises as ``read`` does."""
        data = self.read(min(len(buffer), CHUNK_SIZE))
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def _rest(self) -> bytes:
        """All that is left, piece by piece: nothing is allocated on a peer's word."""
        return b"".join(iter(lambda: self.read(CHUNK_SIZE), b""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FileObjectReader(BaseReader):
    """A ``ByteReader`` over anything with ``read`` and ``close``; for adapters to build on."""

    def __init__(self, stream: BinaryIO | io.BufferedIOBase) -> None:
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes.

        Raises:
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed.
        """
        checkpoint()
        return self._stream.read(size)

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


class BorrowedReader(BaseReader):
    """A ``ByteReader`` over a stream of a caller's, who closes it."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes.

        Raises:
            InvalidValue: It is a stream of text, or one that does not wait for its bytes.
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed.
        """
        checkpoint()
        data = self._stream.read(size)
        if not isinstance(data, bytes):
            raise InvalidValue(f"a stream of {type(data).__name__} where bytes are needed")
        return data

    def close(self) -> None:
        """Leave that to the caller."""


class BytesSource:
    """Bytes in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def open(self, start: int = 0) -> ByteReader:
        """A reader over the bytes from ``start`` on."""
        stream = io.BytesIO(self.content)
        stream.seek(start)
        return FileObjectReader(stream)


class FileSource:
    """A file on disk; it must not change while it is read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def open(self, start: int = 0) -> ByteReader:
        """A reader over the file from ``start`` on.

        Raises:
            OSError: It cannot be opened.
        """
        stream = self.path.open("rb", buffering=0)
        try:
            stream.seek(start)
        except BaseException:
            stream.close()
            raise
        return FileObjectReader(stream)


class CallableSource:
    """Whatever a function opens at an offset, such as a blob of another store."""

    def __init__(self, opener: Callable[[int], ByteReader]) -> None:
        self._opener = opener

    def open(self, start: int = 0) -> ByteReader:
        """What the function opens at ``start``."""
        return self._opener(start)


# Manifests, indexes and configurations: the specification asks for 4 MB at least ("Pushing Manifests"; R-023).
MANIFEST_LIMIT: Final = 8 << 20


def read_limited(reader: ByteReader, limit: int, *, what: str = "content") -> bytes:
    """All that is left of a stream, if it is no more than ``limit`` bytes. Nothing is allocated on a peer's word.

    Raises:
        TooLarge: There is more.
    """
    parts: list[bytes] = []
    count = 0
    while data := reader.read(min(64 << 10, limit + 1 - count)):
        checkpoint()
        parts.append(data)
        count += len(data)
        if count > limit:
            raise TooLarge(f"{what} has more than {limit} bytes")
    return b"".join(parts)
