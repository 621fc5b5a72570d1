"""What is sent, verified while it is sent: the last byte of wrong content never leaves."""

from __future__ import annotations

from registry_core.content.source import ByteReader, ByteSource, Reader
from registry_core.content.verify import Verifier
from registry_core.domain.digest import Digest
from registry_core.errors import SizeMismatch
from registry_core.scope import checkpoint

__all__ = ["CheckedSource"]


class CheckedSource:
    """A source whose readers raise instead of giving out the last piece of something wrong.

    Stretches are opened in order, as chunks are; one that was hashed before may be opened again. Opening at 0
    starts the check anew. What went wrong is kept in ``failure``, as a transport may report it as its own.

    Args:
        source: The bytes.
        digest: What all of them must hash to.
        size: How many there must be.
        reference: What they are, for errors.

    Raises:
        Unsupported: The digest cannot be verified.
    """

    def __init__(self, source: ByteSource, digest: Digest, size: int, *, reference: str) -> None:
        self._source = source
        self._digest = digest
        self._size = size
        self._reference = reference
        self._verifier = Verifier(digest, size, reference=reference)
        self.failure: BaseException | None = None
        self._reader: ByteReader | None = None

    @property
    def count(self) -> int:
        """How many bytes were read so far, from the first one on: nobody can have received more."""
        return self._verifier.count

    def open(self, start: int = 0) -> ByteReader:
        """A reader from ``start`` on.

        Raises:
            SizeMismatch: From its reads: the source is too short or too long.
            DigestMismatch: From its reads: the source has other bytes.
        """
        self.failure = None
        if start == 0:
            self._verifier = Verifier(self._digest, self._size, reference=self._reference)
        try:
            self._reader = self._source.open(start)
        except BaseException as error:
            self.failure = error
            raise
        return _CheckedReader(self, self._reader, start)

    def close(self) -> None:
        """Close what was opened last: whoever read it may have been interrupted."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def check_empty(self) -> None:
        """Verify a source that has to be empty, of which nothing is sent; do nothing for any other.

        Raises:
            SizeMismatch: It is not empty.
            DigestMismatch: The digest is not that of nothing.
        """
        if self._size == 0:
            with self._source.open() as reader:
                self._verifier.update(reader.read(1))
            self._verifier.finish()

    def account(self, data: bytes | memoryview, position: int, reader: ByteReader) -> None:
        """Take in what stands at a position; at the end, see that there is nothing behind it.

        Raises:
            SizeMismatch: The source is too short or too long.
            DigestMismatch: It has other bytes.
        """
        known = self._verifier.count - position
        if len(data) > known:
            fresh = memoryview(data)[max(known, 0) :]
            if self._verifier.count + len(fresh) == self._size and reader.read(1):
                raise SizeMismatch(
                    f"longer than the promised {self._size} bytes",
                    expected=self._size,
                    actual=self._size + 1,
                    reference=self._reference,
                )
            self._verifier.update(fresh)
            if self._verifier.count == self._size:
                self._verifier.finish()
        elif not len(data) and position < self._size:
            self._verifier.finish()


class _CheckedReader(Reader):
    def __init__(self, check: CheckedSource, reader: ByteReader, position: int) -> None:
        self._check = check
        self._reader = reader
        self._position = position

    def read(self, size: int = -1, /) -> bytes:
        try:
            checkpoint()
            data = self._reader.read(size)
            if size:
                self._check.account(data, self._position, self._reader)
        except BaseException as error:
            self._check.failure = error
            raise
        self._position += len(data)
        return data

    def close(self) -> None:
        self._reader.close()
