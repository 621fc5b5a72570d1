"""Verification as content flows: size and digest, raised at the end of a wrong stream."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from registry_core.cancellation import checkpoint
from registry_core.content.streams import CHUNK_SIZE, BaseReader, ByteReader, ByteSource
from registry_core.domain.digest import Digest
from registry_core.errors import DigestMismatch, SizeMismatch

__all__ = ["Verifier", "VerifyingReader", "verified_chunks"]


class Verifier:
    """The running check of a stream against its digest and size.

    Args:
        digest: What it must hash to.
        size: How long it must be, in bytes; ``None`` if only the digest counts.
        reference: What it is, for errors.

    Raises:
        Unsupported: The digest's algorithm cannot be verified.
    """

    def __init__(self, digest: Digest, size: int | None, *, reference: str = "") -> None:
        self._hasher = digest.hasher()
        self._digest = digest
        self._size = size
        self._reference = reference
        self.count = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take in the next bytes.

        The last of the promised bytes is judged at once, so that whoever stops there is not deceived.

        Raises:
            SizeMismatch: There are more than promised.
            DigestMismatch: These are the last, and all hash to something else.
        """
        self.count += len(data)
        if self._size is not None and self.count > self._size:
            raise SizeMismatch(
                f"longer than the promised {self._size} bytes",
                expected=self._size,
                actual=self.count,
                reference=self._reference,
            )
        self._hasher.update(data)
        if self.count == self._size:
            self._check_digest()

    def finish(self) -> None:
        """Say that the stream has ended.

        Raises:
            SizeMismatch: It was shorter than promised.
            DigestMismatch: It hashes to something else.
        """
        if self._size is not None and self.count != self._size:
            raise SizeMismatch(
                f"{self.count} bytes instead of the promised {self._size}",
                expected=self._size,
                actual=self.count,
                reference=self._reference,
            )
        self._check_digest()

    def _check_digest(self) -> None:
        actual = f"{self._digest.algorithm}:{self._hasher.hexdigest()}"
        if actual != self._digest:
            raise DigestMismatch(
                f"hashes to {actual} instead of {self._digest}",
                expected=str(self._digest),
                actual=actual,
                reference=self._reference,
            )


class VerifyingReader(BaseReader):
    """A reader that checks what passes: the read that reaches the end raises if anything is wrong.

    A consumer that stops early has verified nothing; ``verified`` tells.

    Args:
        reader: The untrusted stream; closed with this one.
        digest: What it must hash to.
        size: How long it must be, in bytes, if known.
        reference: What it is, for errors.
    """

    def __init__(self, reader: ByteReader, digest: Digest, size: int | None, *, reference: str = "") -> None:
        self._reader = reader
        self._verifier = Verifier(digest, size, reference=reference)
        self.verified = False

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes; all that is left, verified, if negative.

        Raises:
            SizeMismatch: The stream is too short or too long.
            DigestMismatch: It hashes to something else.
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed.
        """
        if size < 0:
            return self._rest()
        if size == 0 or self.verified:
            return b""
        checkpoint()
        data = self._reader.read(size)
        self._account(data)
        return data

    def close(self) -> None:
        """Close the stream behind it."""
        self._reader.close()

    def _account(self, data: bytes | memoryview) -> None:
        self._verifier.update(data)
        if not len(data):
            self._verifier.finish()
            self.verified = True


def verified_chunks(source: ByteSource, digest: Digest, size: int) -> Iterator[bytes]:
    """A source's bytes piece by piece, verified: what a store writes on ``put``.

    It raises before its end if they are wrong.

    Raises:
        SizeMismatch: The source is too short or too long.
        DigestMismatch: It hashes to something else.
        Unsupported: The digest cannot be verified.
        Cancelled: The ambient scope was cancelled.
        DeadlineExceeded: Its deadline has passed.
    """
    checkpoint()
    with contextlib.closing(VerifyingReader(source.open(), digest, size)) as reader:
        yield from iter(lambda: reader.read(CHUNK_SIZE), b"")
