"""One blob read to its end: what is wrong with it, and what its tar hashes to."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from registry_core.content.codecs import compression_of, decoded
from registry_core.content.source import PIECE, ByteReader, Reader
from registry_core.content.verify import VerifyingReader
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.errors import BlobNotFound, IntegrityError, TooLarge, Unsupported
from registry_core.ops.tar.members import Budget, ExtractLimits
from registry_core.ports.repository import Repository
from registry_core.scope import checkpoint

__all__ = ["BlobCheck", "BlobFacts"]

_MAGIC: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_HEAD: Final = 4
_NOT_READ: Final = "its digest cannot be verified, so it was not read"


class BlobFacts(msgspec.Struct, frozen=True):
    """What is known of a blob that was read.

    Args:
        problems: What makes it unusable.
        doubts: What could not be checked.
        is_missing: Whether it is not there.
        diff_ids: What its tar hashes to, where that was asked for and the blob is sound.
        bytes: How many bytes were read.
    """

    problems: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    is_missing: bool = False
    diff_ids: frozenset[Digest] = frozenset()
    bytes: int = 0


class BlobCheck:
    """Reads one blob.

    Args:
        repository: Where it is.
        descriptor: What it should be.
        limits: How much it may become when it is unpacked.
    """

    def __init__(self, repository: Repository, descriptor: Descriptor, limits: ExtractLimits) -> None:
        self._repository = repository
        self._descriptor = descriptor
        self._limits = limits

    def read(self, algorithms: Collection[str] = ()) -> BlobFacts:
        """Read it to its end, once.

        Args:
            algorithms: Those by which to find out what its tar hashes to.

        Raises:
            RegistryError: The backend could not be asked.
        """
        descriptor = self._descriptor
        if not descriptor.digest.verifiable:
            return BlobFacts(doubts=(_NOT_READ,))
        try:
            stored = self._repository.blobs.open(descriptor.digest)
        except BlobNotFound:
            return BlobFacts(problems=("it is missing",), is_missing=True)
        except IntegrityError as error:
            return BlobFacts(problems=(error.message,))
        counted = _Counted(VerifyingReader(stored, descriptor.digest, descriptor.size))
        with counted:
            return self._judge(counted, algorithms)

    def _judge(self, stored: _Counted, algorithms: Collection[str]) -> BlobFacts:
        diff_ids: frozenset[Digest] = frozenset()
        problem = doubt = ""
        if algorithms:
            try:
                diff_ids = self._diff_ids(stored, algorithms)
            except (Unsupported, TooLarge) as error:
                doubt = error.message
            except IntegrityError as error:
                # What comes to light as a broken stream may be broken bytes: the rest of them tells.
                problem = error.message
            else:
                doubt = self._mistaken(stored.head)
        try:
            while stored.read(PIECE):
                checkpoint()
        except IntegrityError as error:
            return BlobFacts(problems=(error.message,), bytes=stored.count)
        return BlobFacts(
            problems=(problem,) if problem else (),
            doubts=(doubt,) if doubt else (),
            diff_ids=diff_ids,
            bytes=stored.count,
        )

    def _diff_ids(self, stored: ByteReader, algorithms: Collection[str]) -> frozenset[Digest]:
        descriptor = self._descriptor
        budget = Budget(self._limits)
        budget.begin(descriptor.size)
        hashers = {algorithm: Digest.of(b"", algorithm).hasher() for algorithm in algorithms}
        tar = decoded(stored, descriptor.media_type)
        while data := tar.read(PIECE):
            checkpoint()
            budget.take(len(data))
            for hasher in hashers.values():
                hasher.update(data)
        return frozenset(Digest(f"{algorithm}:{hasher.hexdigest()}") for algorithm, hasher in hashers.items())

    def _mistaken(self, head: bytes) -> str:
        """How the media type differs from what the layer turned out to be; empty where it does not."""
        claimed = compression_of(self._descriptor.media_type)
        actual = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")
        if claimed == actual:
            return ""
        return f"its media type says {claimed or 'no compression'}, and it has {actual or 'none'}"


class _Counted(Reader):
    """A verifying reader that knows how it began and how far it is, and raises a mismatch only once asked again."""

    def __init__(self, reader: VerifyingReader) -> None:
        self._reader = reader
        self._failure: IntegrityError | None = None
        self.count = 0
        self.head = b""

    def read(self, size: int = -1, /) -> bytes:
        if self._failure is not None:
            raise self._failure
        try:
            data = self._reader.read(size)
        except IntegrityError as error:
            self._failure = error
            raise
        if len(self.head) < _HEAD:
            self.head += data[:_HEAD]
        self.count += len(data)
        return data

    def close(self) -> None:
        self._reader.close()
