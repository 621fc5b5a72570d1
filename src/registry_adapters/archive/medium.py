"""A file that is read at any place by any thread, and stretches of it."""

from __future__ import annotations

import os
import stat
import threading
import weakref
from typing import Final, Protocol

import msgspec

from registry_adapters.archive.problems import explained
from registry_core.content.codecs import DecodingReader
from registry_core.content.limits import read_all
from registry_core.content.source import PIECE, ByteReader, Reader, StreamReader
from registry_core.content.spool import Spool
from registry_core.errors import LayoutError, TooLarge, Unsupported
from registry_core.scope import checkpoint

__all__ = ["FileMedium", "Medium", "Stretch", "compression_at", "opened"]

_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
# How much a stream, or a compressed archive, may become on disk; a ratio is asked for beyond the floor only.
_STREAM_LIMIT: Final = 256 << 30
_RATIO: Final = 200
_RATIO_FLOOR: Final = 8 << 30
_MAGICS: Final = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"))
_REFUSED: Final = ((b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2"))


class Medium(Protocol):
    """Bytes by their place."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def at(self, position: int, size: int) -> bytes:
        """Up to ``size`` bytes from a position; fewer only at the end."""
        ...


class FileMedium:
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
        with explained(self._where):
            return os.fstat(self._descriptor).st_size

    def at(self, position: int, size: int) -> bytes:
        """Up to ``size`` bytes from a position.

        Raises:
            Unavailable: The disk failed.
        """
        with explained(self._where):
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
        with explained(self._where):
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
        with explained(self._where):
            os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        """Return once the disk has it.

        Raises:
            Unavailable: The disk failed.
        """
        with explained(self._where):
            os.fsync(self._descriptor)


class Stretch(msgspec.Struct, frozen=True, eq=False):
    """A part of a medium; a ``ByteSource`` of known size.

    Args:
        medium: What it is a part of.
        offset: Where it begins.
        size: How long it is.
    """

    medium: Medium
    offset: int
    size: int

    def open(self, start: int = 0) -> ByteReader:
        """A reader from the stretch's byte at ``start`` on; as many at once as one likes."""
        return _StretchReader(self, start)

    def content(self, limit: int, what: str) -> bytes:
        """All of it, if it is no more than ``limit`` bytes.

        Raises:
            TooLarge: It is more.
            LayoutError: The file has become shorter.
        """
        if self.size > limit:
            raise TooLarge(f"{what} has more than {limit} bytes")
        with self.open() as reader:
            return read_all(reader, limit, what=what)


class _StretchReader(Reader):
    def __init__(self, stretch: Stretch, position: int) -> None:
        self._stretch: Stretch | None = stretch
        self._position = position

    def read(self, size: int = -1, /) -> bytes:
        if self._stretch is None:
            raise ValueError("read of a closed reader")
        if size < 0:
            return self._rest()
        checkpoint()
        count = min(size, PIECE, max(0, self._stretch.size - self._position))
        data = self._stretch.medium.at(self._stretch.offset + self._position, count) if count else b""
        if count and not data:
            raise LayoutError("the archive has become shorter while it was read")
        self._position += len(data)
        return data

    def close(self) -> None:
        self._stretch = None


def opened(path: str) -> Medium | None:
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
    with explained(path):
        try:
            descriptor = os.open(path, _FLAGS)
        except FileNotFoundError:
            return None
        medium = _medium(descriptor, path)
        start = medium.at(0, 6)
        for magic, name in _REFUSED:
            if start.startswith(magic):
                raise Unsupported(f"compressed with {name}: gzip and zstd are read, and what is not compressed")
        compression = compression_at(medium, 0)
        if not compression:
            return medium
        whole = Stretch(medium, 0, medium.size)
        with DecodingReader(whole.open(), compression) as decoder:
            return _spooled(decoder, max(_RATIO_FLOOR, _RATIO * whole.size))


def compression_at(medium: Medium, position: int) -> str:
    """How what begins somewhere is compressed, by its first bytes: ``gzip``, ``zstd``, or ``""`` for not at all."""
    start = medium.at(position, 4)
    return next((name for magic, name in _MAGICS if start.startswith(magic)), "")


def _medium(descriptor: int, path: str) -> Medium:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return FileMedium(descriptor, path)
    if stat.S_ISDIR(mode):
        os.close(descriptor)
        raise LayoutError(f"{path}: a directory, not an archive")
    with StreamReader(os.fdopen(descriptor, "rb", buffering=0)) as stream:
        return _spooled(stream, _STREAM_LIMIT)


def _spooled(reader: ByteReader, limit: int) -> Spool:
    spool = Spool()
    while data := reader.read(PIECE):
        checkpoint()
        spool.write(data)
        if spool.size > limit:
            raise TooLarge(f"an archive of more than {limit} bytes")
    return spool
