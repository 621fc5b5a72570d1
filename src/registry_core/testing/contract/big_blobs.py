"""What every ``BlobStore`` promises about blobs larger than memory should have to be."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

from registry_core.content.streams import CHUNK_SIZE
from registry_core.content.verify import VerifyingReader
from registry_core.domain.digest import Digest
from registry_core.ports.catalog import Repository
from registry_core.testing.content import PatternSource
from registry_core.testing.contract.base import Can, Contract

__all__ = ["BigBlobContract"]

_SIZE = 64 << 20
_LIMIT = 32 << 20


class BigBlobContract(Contract):
    """Size costs time, not memory."""

    def test_a_big_blob_goes_in_and_out_in_flat_memory(self, repository: Repository) -> None:
        """It comes back as it went in; the backends that hold blobs in memory promise no more than that."""
        source = PatternSource(_SIZE, seed=1)
        read = 0

        def round_trip() -> None:
            nonlocal read
            repository.blobs.put(source.digest, source.size, source)
            with VerifyingReader(repository.blobs.open(source.digest), source.digest, source.size) as reader:
                while data := reader.read(CHUNK_SIZE):
                    read += len(data)

        peak = peak_of(round_trip)

        assert read == _SIZE
        assert repository.blobs.stat(source.digest) == _SIZE
        assert peak < _LIMIT or not self.can & Can.FLAT_MEMORY

    def test_the_middle_of_a_big_blob(self, repository: Repository) -> None:
        """An interrupted download goes on where it was cut, across pieces."""
        source = PatternSource(5 * CHUNK_SIZE + 17, seed=2)
        repository.blobs.put(source.digest, source.size, source)
        start = 3 * CHUNK_SIZE - 5

        with repository.blobs.open(source.digest, start=start) as reader:
            tail = b"".join(iter(lambda: reader.read(CHUNK_SIZE), b""))

        # By digest: what differs in megabytes would take minutes to show.
        assert Digest.of(tail) == Digest.of(source.at(start, source.size))


def peak_of(work: Callable[[], None]) -> int:
    """How many bytes some work held at once, over what was held before."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        work()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - before
