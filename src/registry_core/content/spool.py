"""Streams of unknown length, kept once so that they can be opened again."""

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
    """A place to write bytes to, once; then a ``ByteSource`` with a digest and a size.

    Up to a mebibyte it lives in memory, beyond that in an unnamed temporary file that vanishes with the spool.
    """

    def __init__(self) -> None:
        self._hasher = Digest.of(b"").hasher()
        self._memory = bytearray()
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()
        self.size = 0

    @classmethod
    def of(cls, reader: ByteReader) -> Self:
        """Everything that a reader has left."""
        spool = cls()
        while data := reader.read(CHUNK_SIZE):
            checkpoint()
            spool.write(data)
        return spool

    @property
    def digest(self) -> Digest:
        """The sha256 of what was written so far."""
        return Digest(f"sha256:{self._hasher.hexdigest()}")

    def write(self, data: bytes) -> int:
        """Take in the next bytes; a spool is written by one thread, before it is opened."""
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
        """A reader from ``start`` on; as many at once as one likes."""
        return _SpoolReader(self, start)

    def read_at(self, position: int, size: int) -> bytes:
        """Up to ``size`` bytes from a position."""
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
