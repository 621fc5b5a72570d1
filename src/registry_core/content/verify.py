"""Verification of content by digest and size while it is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from registry_core.cancellation import checkpoint
from registry_core.content.streams import CHUNK_SIZE, BaseReader, ByteReader, ByteSource, reader_remark
from registry_core.domain.digest import Digest
from registry_core.errors import DigestMismatch, SizeMismatch

__all__ = ["Verifier", "VerifyingReader", "verified_chunks"]


class Verifier:
    """A running check of content against its digest and size.

    Args:
        digest: Expected digest.
        size: Expected number of bytes; ``None`` to check the digest only.
        reference: Content that errors name.
        what: Name of the content in errors.

    Attributes:
        count: Number of bytes checked so far.
        reader: Reader of the content, whose ``remark`` is added to errors; ``None`` for none.

    Raises:
        Unsupported: The digest's algorithm cannot be verified.
    """

    def __init__(self, digest: Digest, size: int | None, *, reference: str = "", what: str = "the content") -> None:
        self._what = what
        self._hasher = digest.hasher()
        self._digest = digest
        self._size = size
        self._reference = reference
        self.count = 0
        self.reader: ByteReader | None = None

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Check the next bytes.

        The digest is checked with the last expected byte, because a caller may stop there.

        Raises:
            SizeMismatch: There are more bytes than expected.
            DigestMismatch: These bytes are the last, and the content has another digest.
        """
        self.count += len(data)
        if self._size is not None and self.count > self._size:
            raise SizeMismatch(
                f"more than the expected {self._size} bytes{self._remark}",
                expected=self._size,
                actual=self.count,
                reference=self._reference,
            )
        self._hasher.update(data)
        if self.count == self._size:
            self._check_digest()

    def finish(self) -> None:
        """Check that the content is complete, at its end.

        Raises:
            SizeMismatch: The content is shorter than expected.
            DigestMismatch: The content has another digest.
        """
        if self._size is not None and self.count != self._size:
            raise SizeMismatch(
                f"{self.count} bytes, expected {self._size}{self._remark}",
                expected=self._size,
                actual=self.count,
                reference=self._reference,
            )
        self._check_digest()

    @property
    def _remark(self) -> str:
        return reader_remark(self.reader)

    def _check_digest(self) -> None:
        actual = f"{self._digest.algorithm}:{self._hasher.hexdigest()}"
        if actual != self._digest:
            raise DigestMismatch(
                f"{self._what} has the digest {actual}, expected {self._digest}{self._remark}",
                expected=str(self._digest),
                actual=actual,
                reference=self._reference,
            )


class VerifyingReader(BaseReader):
    """A reader that verifies a stream: the read that reaches its end raises if the content is wrong.

    Content that is not read to its end is not verified.

    Args:
        reader: Stream to verify; closed with this reader.
        digest: Expected digest.
        size: Expected number of bytes, if known.
        reference: Content that errors name.
        what: Name of the content in errors.

    Attributes:
        verified: Whether the stream was read to its end and is what was expected.

    Raises:
        Unsupported: The digest's algorithm cannot be verified.
    """

    def __init__(
        self,
        reader: ByteReader,
        digest: Digest,
        size: int | None,
        *,
        reference: str = "",
        what: str = "the content",
    ) -> None:
        self._reader = reader
        self._verifier = Verifier(digest, size, reference=reference, what=what)
        self._verifier.reader = reader
        self.verified = False

    @property
    def remark(self) -> str:
        """The remark of the stream."""
        return reader_remark(self._reader)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes; all that are left, verified, if negative.

        Raises:
            SizeMismatch: The stream is too short or too long.
            DigestMismatch: The stream has another digest.
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
        """
        if size < 0:
            return self._rest()
        if size == 0 or self.verified:
            return b""
        checkpoint()
        data = self._reader.read(size)
        self._verify(data)
        return data

    def close(self) -> None:
        """Close the stream."""
        self._reader.close()

    def _verify(self, data: bytes | memoryview) -> None:
        self._verifier.update(data)
        if not len(data):
            self._verifier.finish()
            self.verified = True


def verified_chunks(source: ByteSource, digest: Digest, size: int) -> Iterator[bytes]:
    """Read a source in chunks for a store to write on ``put``; raise before the end if the content is wrong.

    Args:
        source: Content to read.
        digest: Expected digest.
        size: Expected number of bytes.

    Raises:
        SizeMismatch: The source is too short or too long.
        DigestMismatch: The source has another digest.
        Unsupported: The digest's algorithm cannot be verified.
        Cancelled: The current scope was cancelled.
        DeadlineExceeded: The deadline has passed.
    """
    checkpoint()
    with contextlib.closing(VerifyingReader(source.open(), digest, size)) as reader:
        yield from iter(lambda: reader.read(CHUNK_SIZE), b"")
