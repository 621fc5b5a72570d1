"""The file of an archive: read at any position by many threads, written, and sent to pipes and devices."""

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


# Largest size of an archive that is read from a pipe.
_STREAM_LIMIT: Final = 256 << 30

# A compressed archive may expand to this size, and beyond it up to this ratio.
_RATIO_FLOOR: Final = 8 << 30
_RATIO: Final = 200

_UNSUPPORTED_COMPRESSION: Final = ((b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2"))


class RandomAccessFile(Protocol):
    """Bytes that can be read at any position."""

    @property
    def size(self) -> int:
        """The number of bytes."""
        ...

    def read_at(self, position: int, size: int) -> bytes:
        """Read up to ``size`` bytes at a position. Fewer are returned only at the end."""
        ...


class DiskFile:
    """A regular file. It is closed when no slice refers to it any more.

    Args:
        descriptor: Descriptor of the open file.
        path: Path of the archive, for errors.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path
        self._lock = threading.Lock()
        # Not closed while a slice of it may be read: its number would soon be another file's.
        self._close = weakref.finalize(self, os.close, descriptor)

    @property
    def size(self) -> int:
        """The number of bytes."""
        with map_os_errors(self._path):
            return os.fstat(self._descriptor).st_size

    def read_at(self, position: int, size: int) -> bytes:
        """Read up to ``size`` bytes at a position.

        Raises:
            Unavailable: The disk failed.
        """
        with map_os_errors(self._path):
            return read_at(self._descriptor, size, position, self._lock)

    def write_at(self, position: int, data: bytes) -> None:
        """Write bytes at a position.

        Raises:
            Unavailable: The disk is full, or failed.
        """
        view = memoryview(data)
        with map_os_errors(self._path):
            while len(view):
                count = write_at(self._descriptor, view, position, self._lock)
                view, position = view[count:], position + count

    def truncate(self, size: int) -> None:
        """Remove everything after the first ``size`` bytes.

        Raises:
            Unavailable: The disk failed.
        """
        with map_os_errors(self._path):
            os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        """Return after the disk has the content.

        Raises:
            Unavailable: The disk failed.
        """
        with map_os_errors(self._path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file although it may have slices: for systems that do not rename open files. Idempotent."""
        self._close()


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

    def compression(self) -> str:
        """Return the compression of the slice by its first bytes: ``gzip``, ``zstd``, or an empty string."""
        return detect_compression(self.file.read_at(self.offset, min(4, self.size)))

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
    """Open an archive for reading at any position; ``None`` if it does not exist.

    A pipe is first copied to a temporary file, a compressed archive is first decompressed to one.

    Raises:
        LayoutError: The path leads to a directory.
        IntegrityError: The compressed stream is corrupt.
        TooLarge: The pipe, or the decompressed archive, is too large.
        Unsupported: The file is compressed, but not with gzip or zstd.
        Forbidden: The operating system denies access.
        Unavailable: The disk is full, or failed.
    """
    with map_os_errors(path):
        try:
            descriptor = os.open(path, READ_FLAGS)
        except FileNotFoundError:
            return None
        file = _random_access(descriptor, path)
        magic = file.read_at(0, 6)
        for prefix, name in _UNSUPPORTED_COMPRESSION:
            if magic.startswith(prefix):
                raise Unsupported(f"compressed with {name}; only gzip and zstd are supported")
        compressed = FileSlice(file, 0, file.size)
        compression = compressed.compression()
        if not compression:
            return file
        with DecompressingReader(compressed.open(), compression) as reader:
            return _spool(reader, max(_RATIO_FLOOR, _RATIO * compressed.size))


def _random_access(descriptor: int, path: str) -> RandomAccessFile:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return DiskFile(descriptor, path)
    if stat.S_ISDIR(mode):
        os.close(descriptor)
        raise LayoutError(f"a directory, not an archive; open an image layout in a directory with oci:{path}")
    with FileObjectReader(os.fdopen(descriptor, "rb", buffering=0)) as reader:
        return _spool(reader, _STREAM_LIMIT)


def _spool(reader: ByteReader, limit: int) -> Spool:
    spool = Spool()
    while data := reader.read(CHUNK_SIZE):
        checkpoint()
        spool.write(data)
        if spool.size > limit:
            raise TooLarge(f"the archive has more than {limit} bytes")
    return spool


def is_stream(path: str) -> bool:
    """Return whether a path leads to a pipe, a device or a socket."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_stream(archive: FileSlice, path: str) -> None:
    """Write an archive to a pipe or a device.

    Raises:
        Forbidden: The operating system denies access.
        Unavailable: The reader of the pipe closed it too early, or the disk is full.
    """
    with map_os_errors(path), archive.open() as reader, open(path, "wb", buffering=0, opener=_open_stream) as stream:
        while data := reader.read(CHUNK_SIZE):
            write_all(stream, data)


def _open_stream(path: str, _flags: int) -> int:
    # The flags of "wb" would create or truncate a regular file, if one has replaced the pipe.
    return os.open(path, WRITE_FLAGS)
