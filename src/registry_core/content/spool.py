"""Temporary storage of streams of unknown length."""

from __future__ import annotations

import tempfile
import threading
import weakref
from typing import BinaryIO, Self

from registry_core.cancellation import checkpoint
from registry_core.content.operating_system import read_at
from registry_core.content.safe_files import write_all
from registry_core.content.streams import CHUNK_SIZE, BaseReader, ByteReader
from registry_core.domain.digest import Digest

__all__ = ["Spool"]

_IN_MEMORY = 1 << 20


class Spool:
    """Temporary storage that is written once, and then is a ``ByteSource`` with a digest and a size.

    Up to 1 MiB is kept in memory, more in an unnamed temporary file, which is removed with the spool.

    Attributes:
        size: Number of bytes written so far.
    """

    def __init__(self) -> None:
        self._hasher = Digest.of(b"").hasher()
        self._memory = bytearray()
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()
        self.size = 0

    @classmethod
    def of(cls, reader: ByteReader) -> Self:
        """Store the rest of a stream.

        Raises:
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
            OSError: The temporary file cannot be written.
        """
        spool = cls()
        while data := reader.read(CHUNK_SIZE):
            checkpoint()
            spool.write(data)
        return spool

    @property
    def digest(self) -> Digest:
        """The sha256 digest of the bytes written so far."""
        return Digest(f"sha256:{self._hasher.hexdigest()}")

    def write(self, data: bytes) -> int:
        """Append bytes and return their number. One thread writes, before the spool is opened.

        Raises:
            OSError: The temporary file cannot be written.
        """
        self._hasher.update(data)
        self.size += len(data)
        if self._file is None and self.size > _IN_MEMORY:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # it outlives this call
            weakref.finalize(self, self._file.close)
            write_all(self._file, self._memory)
            self._memory = bytearray()
        if self._file is None:
            self._memory += data
        else:
            write_all(self._file, data)
        return len(data)

    def open(self, start: int = 0) -> ByteReader:
        """Open a reader at the byte offset ``start``; any number of readers may be open at once."""
        return _SpoolReader(self, start)

    def read_at(self, position: int, size: int) -> bytes:
        """Return up to ``size`` bytes from a position; fewer only at the end."""
        if self._file is None:
            return bytes(memoryview(self._memory)[position : position + size])
        return read_at(self._file.fileno(), size, position, self._lock)


class _SpoolReader(BaseReader):
    def __init__(self, spool: Spool, position: int) -> None:
        self._spool: Spool | None = spool
        self._position = position

    def read(self, size: int = -1, /) -> bytes:
        if self._spool is None:
            raise ValueError("read of a closed reader")
        if size < 0:
            return self._rest()
        checkpoint()
        data = self._spool.read_at(self._position, min(size, max(0, self._spool.size - self._position)))
        self._position += len(data)
        return data

    def close(self) -> None:
        self._spool = None
