"""A file that is read at any place by any thread, and stretches of it.

What the operating system says, in errors of the library's own.

Where a new archive grows, and where it goes: regular files, pipes and devices.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import weakref
from contextlib import AbstractContextManager
from typing import Final, Protocol

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content import safe_files
from registry_core.content.compression import DecompressingReader, detect_compression
from registry_core.content.operating_system import READ_FLAGS, WRITE_FLAGS, read_at, write_at
from registry_core.content.safe_files import OS_ERRORS, write_all
from registry_core.content.spool import Spool
from registry_core.content.streams import CHUNK_SIZE, BaseReader, ByteReader, FileObjectReader, read_limited
from registry_core.errors import (
    ConfigError,
    LayoutError,
    TooLarge,
    Unsupported,
)

__all__ = [
    "DiskFile",
    "FileSlice",
    "RandomAccessFile",
    "compression_at",
    "is_stream",
    "map_os_errors",
    "open_random_access",
    "write_stream",
]


_OS_ERRORS: Final = {
    **OS_ERRORS,
    errno.EISDIR: LayoutError,
    errno.ENOENT: ConfigError,
    errno.ENOTDIR: ConfigError,
    errno.ELOOP: ConfigError,
}


def map_os_errors(path: str) -> AbstractContextManager[None]:
    """Raise the library's errors for those of the system; see ``safe_files.map_os_errors``.

    Args:
        path: Path of the archive.

    Raises:
        LayoutError: The path leads to a directory.
        ConfigError: The archive's directory does not exist.
        Forbidden: The system denies access.
        Unsupported: The file system is read-only.
        InvalidName: The name is longer than the file system allows.
        Unavailable: Any other error, such as a full disk.
    """
    return safe_files.map_os_errors(path, _OS_ERRORS)


# How much a stream, or a compressed archive, may become on disk; a ratio is asked for beyond the floor only.
_STREAM_LIMIT: Final = 256 << 30

_RATIO: Final = 200

_RATIO_FLOOR: Final = 8 << 30

_REFUSED: Final = ((b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2"))


class RandomAccessFile(Protocol):
    """Bytes by their place."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def read_at(self, position: int, size: int) -> bytes:
        """Up to ``size`` bytes from a position; fewer only at the end."""
        ...


class DiskFile:
    """A regular file, closed when nobody has a stretch of it any more.

    Args:
        descriptor: Of the open file.
        where: Its name, for errors.
    """

    def __init__(self, descriptor: int, where: str) -> None:
        self._descriptor = descriptor
        self._where = where
        self._lock = threading.Lock()
        # Not closed while a slice of it may be read: its number would soon be another file's.
        self._close = weakref.finalize(self, os.close, descriptor)

    @property
    def size(self) -> int:
        """How long the file is."""
        with map_os_errors(self._where):
            return os.fstat(self._descriptor).st_size

    def read_at(self, position: int, size: int) -> bytes:
        """Up to ``size`` bytes from a position.

        Raises:
            Unavailable: The disk failed.
        """
        with map_os_errors(self._where):
            return read_at(self._descriptor, size, position, self._lock)

    def write(self, position: int, data: bytes) -> None:
        """Put bytes at a position.

        Raises:
            Unavailable: The disk is full, or failed.
        """
        view = memoryview(data)
        with map_os_errors(self._where):
            while len(view):
                count = write_at(self._descriptor, view, position, self._lock)
                view, position = view[count:], position + count

    def close(self) -> None:
        """Close the file, although slices of it may be read: for systems that do not rename open files. Idempotent."""
        self._close()

    def cut(self, size: int) -> None:
        """Forget what lies behind a position.

        Raises:
            Unavailable: The disk failed.
        """
        with map_os_errors(self._where):
            os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        """Return once the disk has it.

        Raises:
            Unavailable: The disk failed.
        """
        with map_os_errors(self._where):
            os.fsync(self._descriptor)


class FileSlice(msgspec.Struct, frozen=True, eq=False):
    """Consecutive bytes of a file; a ``ByteSource`` of known size.

    Args:
        file: The file.
        offset: Position of the first byte in the file.
        size: Number of bytes.
    """

    file: RandomAccessFile
    offset: int
    size: int

    def open(self, start: int = 0) -> ByteReader:
        """Open the slice for reading at its byte ``start``. Any number of readers may be open at once."""
        return _FileSliceReader(self, start)

    def read(self, limit: int, what: str) -> bytes:
        """Return all bytes, unless there are more than ``limit``.

        Raises:
            TooLarge: There are more.
            LayoutError: The file was truncated since it was opened.
        """
        if self.size > limit:
            raise TooLarge(f"{what} has more than {limit} bytes")
        with self.open() as reader:
            return read_limited(reader, limit, what=what)


class _FileSliceReader(BaseReader):
    def __init__(self, file_slice: FileSlice, position: int) -> None:
        self._slice: FileSlice | None = file_slice
        self._position = position

    def read(self, size: int = -1, /) -> bytes:
        if self._slice is None:
            raise ValueError("read of a closed reader")
        if size < 0:
            return self._rest()
        checkpoint()
        count = min(size, CHUNK_SIZE, max(0, self._slice.size - self._position))
        data = self._slice.file.read_at(self._slice.offset + self._position, count) if count else b""
        if count and not data:
            raise LayoutError("the archive was truncated while it was read")
        self._position += len(data)
        return data

    def close(self) -> None:
        self._slice = None


def open_random_access(path: str) -> RandomAccessFile | None:
    """A file to read at any place; ``None`` if there is none.

    What cannot be read twice, such as a pipe, and what is compressed as a whole, goes to a temporary file first.

    Raises:
        LayoutError: It is a directory.
        IntegrityError: It is compressed, and corrupt.
        TooLarge: It becomes larger than any honest archive.
        Unsupported: It is compressed in a way that we do not read.
        Forbidden: It cannot be read.
        Unavailable: The disk is full, or failed.
    """
    with map_os_errors(path):
        try:
            descriptor = os.open(path, READ_FLAGS)
        except FileNotFoundError:
            return None
        medium = _medium(descriptor, path)
        start = medium.read_at(0, 6)
        for magic, name in _REFUSED:
            if start.startswith(magic):
                raise Unsupported(f"compressed with {name}: gzip and zstd are read, and what is not compressed")
        compression = compression_at(medium, 0)
        if not compression:
            return medium
        whole = FileSlice(medium, 0, medium.size)
        with DecompressingReader(whole.open(), compression) as decoder:
            return _spooled(decoder, max(_RATIO_FLOOR, _RATIO * whole.size))


def compression_at(medium: RandomAccessFile, position: int) -> str:
    """How what begins somewhere is compressed, by its first bytes: ``gzip``, ``zstd``, or ``""`` for not at all."""
    return detect_compression(medium.read_at(position, 4))


def _medium(descriptor: int, path: str) -> RandomAccessFile:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return DiskFile(descriptor, path)
    if stat.S_ISDIR(mode):
        os.close(descriptor)
        raise LayoutError(f"{path}: a directory, not an archive")
    with FileObjectReader(os.fdopen(descriptor, "rb", buffering=0)) as stream:
        return _spooled(stream, _STREAM_LIMIT)


def _spooled(reader: ByteReader, limit: int) -> Spool:
    spool = Spool()
    while data := reader.read(CHUNK_SIZE):
        checkpoint()
        spool.write(data)
        if spool.size > limit:
            raise TooLarge(f"an archive of more than {limit} bytes")
    return spool


def is_stream(path: str) -> bool:
    """Whether a name is a pipe's, a device's or a socket's."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_stream(archive: FileSlice, path: str) -> None:
    """Write an archive to a stream.

    Raises:
        Forbidden: The system does not let us.
        Unavailable: Nobody reads it to its end, or the disk failed.
    """
    with map_os_errors(path), archive.open() as reader, open(path, "wb", buffering=0, opener=_opened) as stream:
        while data := reader.read(CHUNK_SIZE):
            write_all(stream, data)


def _opened(path: str, _flags: int) -> int:
    # Neither created nor cut: it was a stream a moment ago, and must not become a file.
    return os.open(path, WRITE_FLAGS)
