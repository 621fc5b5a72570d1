"""One blob read to its end: what is wrong with it, and what its tar hashes to.

What the manifests of a check are made of: blobs, each read once, several at a time, and compared with what is said.

Only digests and sizes are kept until then.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from typing import Final

import msgspec

from registry_core.cancellation import CancelScope, checkpoint
from registry_core.content.compression import compression_for, decompress, detect_compression
from registry_core.content.streams import CHUNK_SIZE, BaseReader, ByteReader
from registry_core.content.verify import VerifyingReader
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import is_nondistributable
from registry_core.domain.reports import Finding, Severity
from registry_core.errors import BlobNotFound, IntegrityError, TooLarge, Unsupported
from registry_core.ops.tar.members import Budget, ExtractLimits
from registry_core.ops.workers import Workers
from registry_core.ports.catalog import Repository

__all__ = ["BlobCheck", "BlobContents", "BlobFacts"]


_HEAD: Final = 4

_NOT_READ: Final = "its digest cannot be verified, so it was not read"


class BlobFacts(msgspec.Struct, frozen=True):
    """What is known of a blob that was read.

    Args:
        problems: What makes it unusable.
        unverifiable: What could not be checked.
        is_missing: Whether it is not there.
        diff_ids: What its tar hashes to, where that was asked for and the blob is sound.
        bytes: How many bytes were read.
    """

    problems: tuple[str, ...] = ()
    unverifiable: tuple[str, ...] = ()
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
            return BlobFacts(unverifiable=(_NOT_READ,))
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
            while stored.read(CHUNK_SIZE):
                checkpoint()
        except IntegrityError as error:
            return BlobFacts(problems=(error.message,), bytes=stored.count)
        return BlobFacts(
            problems=(problem,) if problem else (),
            unverifiable=(doubt,) if doubt else (),
            diff_ids=diff_ids,
            bytes=stored.count,
        )

    def _diff_ids(self, stored: ByteReader, algorithms: Collection[str]) -> frozenset[Digest]:
        descriptor = self._descriptor
        budget = Budget(self._limits)
        budget.begin_layer(descriptor.size)
        hashers = {algorithm: Digest.of(b"", algorithm).hasher() for algorithm in algorithms}
        tar = decompress(stored, descriptor.media_type)
        while data := tar.read(CHUNK_SIZE):
            checkpoint()
            budget.add_bytes(len(data))
            for hasher in hashers.values():
                hasher.update(data)
        return frozenset(Digest(f"{algorithm}:{hasher.hexdigest()}") for algorithm, hasher in hashers.items())

    def _mistaken(self, head: bytes) -> str:
        """How the media type differs from what the layer turned out to be; empty where it does not."""
        claimed = compression_for(self._descriptor.media_type)
        actual = detect_compression(head)
        if claimed == actual:
            return ""
        return f"its media type says {claimed or 'no compression'}, and it has {actual or 'none'}"


class _Counted(BaseReader):
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


_Key = tuple[Digest, int]


class _Layer(msgspec.Struct, frozen=True):
    """A layer whose diff_id is to be compared once it has been read."""

    where: str
    key: _Key
    diff_id: Digest


class BlobContents:
    """Blobs that are to be read.

    Args:
        repository: Where they are.
        limits: How much layers may become when they are unpacked.
    """

    def __init__(self, repository: Repository, limits: ExtractLimits) -> None:
        self._repository = repository
        self._limits = limits
        self._blobs: dict[_Key, tuple[str, Descriptor]] = {}
        self._layers: list[_Layer] = []
        self._facts: dict[_Key, BlobFacts] = {}

    def add(self, where: str, part: Descriptor) -> None:
        """Have a blob read; where it is named in several places, the first of them is told."""
        self._blobs.setdefault((part.digest, part.size), (where, part))

    def add_layer(self, where: str, layer: Descriptor, diff_id: Digest) -> None:
        """Have a blob unpacked as well while it is read."""
        self._layers.append(_Layer(where, (layer.digest, layer.size), diff_id))

    @property
    def digests(self) -> set[Digest]:
        """Of all that was named."""
        return {digest for digest, _ in self._blobs}

    @property
    def count(self) -> int:
        """How many blobs there are."""
        return len(self._blobs)

    @property
    def bytes(self) -> int:
        """How many bytes were read."""
        return sum(facts.bytes for facts in self._facts.values())

    def read(self, jobs: int) -> Iterator[Finding]:
        """Read all of it, and tell what is wrong.

        Raises:
            RegistryError: The backend could not be asked.
        """
        lock = threading.Lock()
        unpacked: dict[_Key, set[str]] = {}
        for layer in self._layers:
            unpacked.setdefault(layer.key, set()).add(layer.diff_id.algorithm)

        def read(key: _Key) -> None:
            checkpoint()
            _, descriptor = self._blobs[key]
            found = BlobCheck(self._repository, descriptor, self._limits).read(unpacked.get(key, ()))
            with lock:
                self._facts[key] = found

        with CancelScope() as scope, Workers(jobs, scope) as workers:
            # The largest first: the last one to begin should not be the last one to end.
            workers.run_each(read, sorted(self._blobs, key=lambda key: key[1], reverse=True))
        return self._findings()

    def _findings(self) -> Iterator[Finding]:
        for key, (where, descriptor) in self._blobs.items():
            yield from _judged(where, descriptor, self._facts[key])
        for layer in self._layers:
            actual = self._facts[layer.key].diff_ids
            if actual and layer.diff_id not in actual:
                what = f"its tar hashes to {', '.join(sorted(actual))}, not to {layer.diff_id}"
                yield Finding(Severity.ERROR, layer.where, what)


def _judged(where: str, descriptor: Descriptor, facts: BlobFacts) -> Iterator[Finding]:
    if facts.is_missing and (is_nondistributable(descriptor.media_type) or descriptor.data is not None):
        yield Finding(Severity.WARNING, where, "it is not here")
        return
    for problem in facts.problems:
        yield Finding(Severity.ERROR, where, problem)
    for doubt in facts.unverifiable:
        yield Finding(Severity.WARNING, where, doubt)
