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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.compression import DecompressingReader
from registry_core.content.spool import Spool
from registry_core.content.streams import CHUNK_SIZE, BaseReader, ByteReader, FileObjectReader, read_limited
from registry_core.errors import (
    ConfigError,
    Forbidden,
    InvalidName,
    LayoutError,
    RegistryError,
    TooLarge,
    Unavailable,
    Unsupported,
)

__all__ = [
    "DiskFile",
    "FileSlice",
    "RandomAccessFile",
    "compression_at",
    "created",
    "is_stream",
    "map_os_errors",
    "open_random_access",
    "remove",
    "sync_directory",
    "write_stream",
]


@contextmanager
def map_os_errors(where: str) -> Iterator[None]:
    """Errors of the system as errors of the library.

    Args:
        where: The file that it is about.

    Raises:
        LayoutError: A directory stands where the file should.
        ConfigError: The directory that it should be in is none.
        Forbidden: The system does not let us.
        Unsupported: The file system cannot be written.
        InvalidName: The name is longer than the file system takes.
        Unavailable: Anything else, such as a full disk.
    """
    try:
        yield
    except RegistryError:
        raise
    except OSError as error:
        message = f"{where}: {error.strerror or type(error).__name__}"
        if error.errno == errno.EISDIR:
            raise LayoutError(message) from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise ConfigError(message) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise Forbidden(message) from error
        if error.errno == errno.EROFS:
            raise Unsupported(message) from error
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidName(message) from error
        raise Unavailable(message) from error


_READ_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

# How much a stream, or a compressed archive, may become on disk; a ratio is asked for beyond the floor only.
_STREAM_LIMIT: Final = 256 << 30

_RATIO: Final = 200

_RATIO_FLOOR: Final = 8 << 30

_MAGICS: Final = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"))

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
        # Not by a method: a number that was closed under a reader would soon be another file's.
        weakref.finalize(self, os.close, descriptor)

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
            if hasattr(os, "pread"):
                return os.pread(self._descriptor, size, position)
            with self._lock:
                os.lseek(self._descriptor, position, os.SEEK_SET)
                return os.read(self._descriptor, size)

    def write(self, position: int, data: bytes) -> None:
        """Put bytes at a position.

        Raises:
            Unavailable: The disk is full, or failed.
        """
        view = memoryview(data)
        with map_os_errors(self._where):
            while len(view):
                if hasattr(os, "pwrite"):
                    count = os.pwrite(self._descriptor, view, position)
                else:
                    with self._lock:
                        os.lseek(self._descriptor, position, os.SEEK_SET)
                        count = os.write(self._descriptor, view)
                view, position = view[count:], position + count

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
    """A part of a medium; a ``ByteSource`` of known size.

    Args:
        medium: What it is a part of.
        offset: Where it begins.
        size: How long it is.
    """

    medium: RandomAccessFile
    offset: int
    size: int

    def open(self, start: int = 0) -> ByteReader:
        """A reader from the stretch's byte at ``start`` on; as many at once as one likes."""
        return _FileSliceReader(self, start)

    def content(self, limit: int, what: str) -> bytes:
        """All of it, if it is no more than ``limit`` bytes.

        Raises:
            TooLarge: It is more.
            LayoutError: The file has become shorter.
        """
        if self.size > limit:
            raise TooLarge(f"{what} has more than {limit} bytes")
        with self.open() as reader:
            return read_limited(reader, limit, what=what)


class _FileSliceReader(BaseReader):
    def __init__(self, stretch: FileSlice, position: int) -> None:
        self._stretch: FileSlice | None = stretch
        self._position = position

    def read(self, size: int = -1, /) -> bytes:
        if self._stretch is None:
            raise ValueError("read of a closed reader")
        if size < 0:
            return self._rest()
        checkpoint()
        count = min(size, CHUNK_SIZE, max(0, self._stretch.size - self._position))
        data = self._stretch.medium.read_at(self._stretch.offset + self._position, count) if count else b""
        if count and not data:
            raise LayoutError("the archive has become shorter while it was read")
        self._position += len(data)
        return data

    def close(self) -> None:
        self._stretch = None


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
            descriptor = os.open(path, _READ_FLAGS)
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
    start = medium.read_at(position, 4)
    return next((name for magic, name in _MAGICS if start.startswith(magic)), "")


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


_CREATE_FLAGS: Final = (
    os.O_RDWR
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_BINARY", 0)
)

_STREAM: Final = os.O_WRONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def created(path: str, where: str) -> int:
    """The descriptor of a file that was not there before.

    Args:
        path: Of the file.
        where: What it is going to be, for errors.

    Raises:
        ConfigError: Its directory is none.
        Forbidden: The system does not let us.
        Unavailable: The disk is full, or failed.
    """
    with map_os_errors(where):
        return os.open(path, _CREATE_FLAGS, 0o666)


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
            rest = memoryview(data)
            while len(rest):
                rest = rest[stream.write(rest) or 0 :]


def remove(path: str, owner: int) -> None:
    """Remove a file, if the process that made it is this one: a forked child must not take its parent's away."""
    if os.getpid() == owner:
        with suppress(OSError):
            os.unlink(path)


def sync_directory(path: str) -> None:
    """Have the disk keep the name of a file. Not every system does that; the file is in place either way."""
    with suppress(OSError):
        handle = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _opened(path: str, _flags: int) -> int:
    # Neither created nor cut: it was a stream a moment ago, and must not become a file.
    return os.open(path, _STREAM)
