"""Read the blobs of a validation, each once and several at a time, and check digests and diff IDs."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from typing import Final

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.compression import compression_for, decompress, detect_compression
from registry_core.content.streams import CHUNK_SIZE, BaseReader, ByteReader
from registry_core.content.verify import VerifyingReader
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import is_nondistributable
from registry_core.domain.reports import Finding, Severity
from registry_core.errors import BlobNotFound, IntegrityError, TooLarge, Unsupported
from registry_core.ops.tar.members import Budget, ExtractLimits
from registry_core.ops.workers import run_each
from registry_core.ports.catalog import Repository

__all__ = ["BlobChecker"]


_HEAD_SIZE: Final = 4

# Descriptors of one digest that state different sizes are checked separately.
_Key = tuple[Digest, int]


class _BlobResult(msgspec.Struct, frozen=True):
    """Facts about a blob that was read.

    Args:
        problems: Problems that make the blob unusable.
        unverifiable: Reasons why something could not be checked, and minor problems.
        is_missing: Whether the repository does not have the blob.
        diff_ids: Digests of the uncompressed layer, if they were requested and the blob is intact.
        bytes: Number of bytes read.
    """

    problems: tuple[str, ...] = ()
    unverifiable: tuple[str, ...] = ()
    is_missing: bool = False
    diff_ids: frozenset[Digest] = frozenset()
    bytes: int = 0


class _ExpectedDiffId(msgspec.Struct, frozen=True):
    where: str
    key: _Key
    diff_id: Digest


class BlobChecker:
    """Collect blobs, then read them.

    Args:
        repository: Repository that holds the blobs.
        limits: Limits for decompressing layers.
    """

    def __init__(self, repository: Repository, limits: ExtractLimits) -> None:
        self._repository = repository
        self._limits = limits
        self._blobs: dict[_Key, tuple[str, Descriptor]] = {}
        self._expected: list[_ExpectedDiffId] = []
        self._results: dict[_Key, _BlobResult] = {}

    def add(self, where: str, descriptor: Descriptor) -> None:
        """Add a blob to read.

        Args:
            where: Location of the descriptor, for findings; of several locations, the first is used.
            descriptor: Descriptor of the blob.
        """
        self._blobs.setdefault((descriptor.digest, descriptor.size), (where, descriptor))

    def add_diff_id(self, where: str, layer: Descriptor, diff_id: Digest) -> None:
        """Decompress a layer while it is read, and compare its diff ID.

        Args:
            where: Location of the descriptor, for findings.
            layer: Descriptor of the layer, which was added as a blob.
            diff_id: Diff ID that the configuration states.
        """
        self._expected.append(_ExpectedDiffId(where, (layer.digest, layer.size), diff_id))

    @property
    def digests(self) -> set[Digest]:
        """The digests of the blobs."""
        return {digest for digest, _ in self._blobs}

    @property
    def count(self) -> int:
        """The number of blobs."""
        return len(self._blobs)

    @property
    def bytes(self) -> int:
        """The number of bytes read."""
        return sum(result.bytes for result in self._results.values())

    def read(self, jobs: int) -> Iterator[Finding]:
        """Read all blobs and return the findings.

        Args:
            jobs: Number of blobs to read at a time.

        Raises:
            RegistryError: The repository cannot be read.
        """
        lock = threading.Lock()
        algorithms: dict[_Key, set[str]] = {}
        for expected in self._expected:
            algorithms.setdefault(expected.key, set()).add(expected.diff_id.algorithm)

        def read(key: _Key) -> None:
            checkpoint()
            _, descriptor = self._blobs[key]
            result = _check_blob(self._repository, descriptor, algorithms.get(key, ()), self._limits)
            with lock:
                self._results[key] = result

        # The largest first, so that none runs alone at the end.
        run_each(read, sorted(self._blobs, key=lambda key: key[1], reverse=True), jobs=jobs)
        return self._findings()

    def _findings(self) -> Iterator[Finding]:
        for key, (where, descriptor) in self._blobs.items():
            yield from _findings(where, descriptor, self._results[key])
        for expected in self._expected:
            actual = self._results[expected.key].diff_ids
            if actual and expected.diff_id not in actual:
                digests = ", ".join(sorted(actual))
                what = f"the uncompressed layer has the digest {digests}, not the diff_id {expected.diff_id}"
                yield Finding(Severity.ERROR, expected.where, what)


def _findings(where: str, descriptor: Descriptor, result: _BlobResult) -> Iterator[Finding]:
    if result.is_missing and descriptor.data is not None:
        yield Finding(Severity.WARNING, where, "blob is missing; its content is embedded in the descriptor")
        return
    if result.is_missing and is_nondistributable(descriptor.media_type):
        yield Finding(Severity.WARNING, where, "blob is missing; the layer is nondistributable")
        return
    for problem in result.problems:
        yield Finding(Severity.ERROR, where, problem)
    for reason in result.unverifiable:
        yield Finding(Severity.WARNING, where, reason)


def _check_blob(
    repository: Repository, descriptor: Descriptor, algorithms: Collection[str], limits: ExtractLimits
) -> _BlobResult:
    """Read a blob to its end.

    Args:
        repository: Repository that holds the blob.
        descriptor: Descriptor of the blob.
        algorithms: Algorithms of the diff IDs to compute; none for a blob that is not a layer.
        limits: Limits for decompressing.

    Raises:
        RegistryError: The repository cannot be read.
    """
    if not descriptor.digest.verifiable:
        algorithm = descriptor.digest.algorithm
        return _BlobResult(unverifiable=(f"not read: digest algorithm {algorithm!r:.50} is not supported",))
    try:
        stored = repository.blobs.open(descriptor.digest)
    except BlobNotFound:
        return _BlobResult(problems=("blob is missing",), is_missing=True)
    except IntegrityError as error:
        return _BlobResult(problems=(error.message,))
    with _CountingReader(VerifyingReader(stored, descriptor.digest, descriptor.size)) as reader:
        return _read_blob(reader, descriptor, algorithms, limits)


def _read_blob(
    reader: _CountingReader, descriptor: Descriptor, algorithms: Collection[str], limits: ExtractLimits
) -> _BlobResult:
    diff_ids: frozenset[Digest] = frozenset()
    problem = warning = ""
    if algorithms:
        try:
            diff_ids = _diff_ids(reader, descriptor, algorithms, limits)
        except (Unsupported, TooLarge) as error:
            warning = error.message
        except IntegrityError as error:
            # The cause may be wrong bytes: if the digest does not match either, that error is reported instead.
            problem = error.message
        else:
            warning = _compression_mismatch(reader.head, descriptor.media_type)
    try:
        while reader.read(CHUNK_SIZE):
            checkpoint()
    except IntegrityError as error:
        return _BlobResult(problems=(error.message,), bytes=reader.count)
    return _BlobResult(
        problems=(problem,) if problem else (),
        unverifiable=(warning,) if warning else (),
        diff_ids=diff_ids,
        bytes=reader.count,
    )


def _diff_ids(
    reader: ByteReader, descriptor: Descriptor, algorithms: Collection[str], limits: ExtractLimits
) -> frozenset[Digest]:
    budget = Budget(limits)
    budget.begin_layer(descriptor.size)
    hashers = {algorithm: Digest.of(b"", algorithm).hasher() for algorithm in algorithms}
    tar = decompress(reader, descriptor.media_type)
    while data := tar.read(CHUNK_SIZE):
        checkpoint()
        budget.add_bytes(len(data))
        for hasher in hashers.values():
            hasher.update(data)
    return frozenset(Digest(f"{algorithm}:{hasher.hexdigest()}") for algorithm, hasher in hashers.items())


def _compression_mismatch(head: bytes, media_type: str) -> str:
    """How the compression differs from the media type; empty if it does not."""
    stated = compression_for(media_type)
    actual = detect_compression(head)
    if stated == actual:
        return ""
    if not head:
        return f"media type states {stated}, but the layer has no bytes; it counts as an empty layer"
    return f"media type states {stated or 'no compression'}, but the layer has {actual or 'no compression'}"


class _CountingReader(BaseReader):
    """A verifying reader that keeps the first bytes, counts all bytes, and raises the same mismatch again."""

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
        if len(self.head) < _HEAD_SIZE:
            self.head += data[:_HEAD_SIZE]
        self.count += len(data)
        return data

    def close(self) -> None:
        self._reader.close()
