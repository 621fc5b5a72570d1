"""How far a blob has come, as events: told by its source, whatever backends it moves between."""

from __future__ import annotations

import threading

from registry_core.content.source import PIECE, ByteReader, ByteSource, Reader
from registry_core.domain.digest import Digest
from registry_core.ports.observer import BlobProgress, BlobRestarted, Observer

__all__ = ["ProgressSource"]


class ProgressSource:
    """A source that tells how much of it has been read.

    There is a ``BlobProgress`` for each piece, and one at the end. A store that begins behind the first byte, since it
    has the rest, begins with a ``BlobProgress`` there; one that goes back is a ``BlobRestarted``.
    What an observer raises ends the read.

    Args:
        source: The content.
        digest: Of the blob.
        size: Of the blob.
        observer: Who is told, from whichever thread reads.
    """

    def __init__(self, source: ByteSource, digest: Digest, size: int, observer: Observer) -> None:
        self._source = source
        self._digest = digest
        self._size = size
        self._observer = observer
        # Held while telling, so that events come in the order in which things happened.
        self._lock = threading.Lock()
        self._done = 0
        self._told = 0
        self._latest: ByteReader | None = None

    def open(self, start: int = 0) -> ByteReader:
        """A reader from ``start`` on; the latest one tells, whatever older ones still read."""
        inner = self._source.open(start)
        try:
            reader = _ProgressReader(self, inner, start)
            self._begin(reader, start)
        except BaseException:
            inner.close()
            raise
        return reader

    def finish(self) -> None:
        """Say that the blob is where it should be, however much of it had to be read."""
        with self._lock:
            if self._told != self._size or not self._size:
                self._tell_progress(self._size)

    def _begin(self, reader: ByteReader, start: int) -> None:
        with self._lock:
            self._latest = reader
            before, self._done = self._done, start
            if start < before:
                self._told = start
                self._observer.on(BlobRestarted(digest=self._digest, done=start, size=self._size))
            elif start > before:
                self._tell_progress(start)

    def _advance(self, reader: ByteReader, done: int) -> None:
        with self._lock:
            if reader is not self._latest or done > self._size:
                return
            self._done = done
            if done - self._told >= PIECE or self._told < done == self._size:
                self._tell_progress(done)

    def _tell_progress(self, done: int) -> None:
        self._told = done
        self._observer.on(BlobProgress(digest=self._digest, done=done, size=self._size))


class _ProgressReader(Reader):
    def __init__(self, source: ProgressSource, reader: ByteReader, position: int) -> None:
        self._source = source
        self._reader = reader
        self._position = position

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return self._rest()
        data = self._reader.read(min(size, PIECE))
        self._count(len(data))
        return data

    def close(self) -> None:
        self._reader.close()

    def _count(self, count: int) -> None:
        if count:
            self._position += count
            self._source._advance(self, self._position)
