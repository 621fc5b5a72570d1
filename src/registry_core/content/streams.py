"""Byte streams: sources that can be opened again and again, and readers that are read once."""

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


# Size of the chunks in which content is read and written; larger and smaller ones measured slower.
CHUNK_SIZE = 1 << 20


@runtime_checkable
class ByteReader(Protocol):
    """A stream that is read once, from start to end, and closed by the code that opened it."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, all that are left if negative; ``b""`` only at the end."""
        ...

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill a buffer from its start and return the number of bytes; 0 only at the end."""
        ...

    def close(self) -> None:
        """Release the resources of the stream. Idempotent."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


@runtime_checkable
class Readable(Protocol):
    """Any object that bytes are read from, such as an open file, a pipe or a response body."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, all that are left if negative; ``b""`` only at the end."""
        ...


@runtime_checkable
class ByteSource(Protocol):
    """Content that can be opened repeatedly, at any offset, so that a transfer can resume after a lost connection."""

    def open(self, start: int = 0) -> ByteReader:
        """Open a new reader at the byte offset ``start``."""
        ...


class BaseReader(ABC):
    """The base class of readers; a subclass defines ``read`` and ``close``."""

    @property
    def remark(self) -> str:
        """A remark for errors about wrong content, such as the content coding of a response; empty for none."""
        return ""

    @abstractmethod
    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, all that are left if negative; ``b""`` only at the end."""

    @abstractmethod
    def close(self) -> None:
        """Release the resources of the stream. Idempotent."""

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill a buffer from its start with at most ``CHUNK_SIZE`` bytes; raises as ``read`` does."""
        data = self.read(min(len(buffer), CHUNK_SIZE))
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def _rest(self) -> bytes:
        """Return all bytes that are left; memory grows with the bytes received, not with a claimed size."""
        return b"".join(iter(lambda: self.read(CHUNK_SIZE), b""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def reader_remark(reader: object) -> str:
    """The ``remark`` of a reader; empty if it has none, as a reader from outside of this library may not."""
    return str(getattr(reader, "remark", ""))


class FileObjectReader(BaseReader):
    """A ``ByteReader`` over a binary file object, closed with it."""

    def __init__(self, stream: BinaryIO | io.BufferedIOBase) -> None:
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes.

        Raises:
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
        """
        checkpoint()
        return self._stream.read(size)

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


class BorrowedReader(BaseReader):
    """A ``ByteReader`` over a stream that the caller keeps and closes."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes.

        Raises:
            InvalidValue: The stream reads text, or is non-blocking and has no bytes ready.
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
        """
        checkpoint()
        data = self._stream.read(size)
        if not isinstance(data, bytes):
            raise InvalidValue(
                f"read a stream: got {type(data).__name__} instead of bytes; open files in binary mode, and streams as"
                " blocking"
            )
        return data

    def close(self) -> None:
        """Leave the stream open."""


class BytesSource:
    """A source of bytes in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def open(self, start: int = 0) -> ByteReader:
        """Open a reader at the byte offset ``start``."""
        stream = io.BytesIO(self.content)
        stream.seek(start)
        return FileObjectReader(stream)


class FileSource:
    """A source of a file's content; the file must not change while it is read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def open(self, start: int = 0) -> ByteReader:
        """Open a reader at the byte offset ``start``.

        Raises:
            OSError: The file cannot be opened.
        """
        stream = self.path.open("rb", buffering=0)
        try:
            stream.seek(start)
        except BaseException:
            stream.close()
            raise
        return FileObjectReader(stream)


class CallableSource:
    """A source whose readers a function opens, such as a blob of another store.

    Args:
        opener: Called with a byte offset; returns a new reader.
    """

    def __init__(self, opener: Callable[[int], ByteReader]) -> None:
        self._opener = opener

    def open(self, start: int = 0) -> ByteReader:
        """Open a reader at the byte offset ``start``."""
        return self._opener(start)


# Largest manifest, index or configuration that is read; registries should accept 4 MB (distribution-spec, "Pushing
# Manifests"; R-023).
MANIFEST_LIMIT: Final = 8 << 20


def read_limited(reader: ByteReader, limit: int, *, what: str = "content") -> bytes:
    """Read the rest of a stream, if it is no more than ``limit`` bytes.

    Args:
        reader: Stream to read.
        limit: Greatest number of bytes to accept.
        what: Name of the content in errors.

    Raises:
        TooLarge: The stream has more bytes.
        Cancelled: The current scope was cancelled.
        DeadlineExceeded: The deadline has passed.
    """
    parts: list[bytes] = []
    count = 0
    while data := reader.read(min(64 << 10, limit + 1 - count)):
        checkpoint()
        parts.append(data)
        count += len(data)
        if count > limit:
            raise TooLarge(f"read {what}: more than {limit} bytes")
    return b"".join(parts)
