"""Contract of ``BlobStore`` for large blobs."""

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
_MEMORY_LIMIT = 32 << 20


class BigBlobContract(Contract):
    """The memory for a blob does not depend on its size."""

    def test_a_big_blob_is_returned_unchanged_in_little_memory(self, repository: Repository) -> None:
        """A backend without ``FLAT_MEMORY`` promises only the content."""
        source = PatternSource(_SIZE, seed=1)
        read = 0

        def round_trip() -> None:
            nonlocal read
            repository.blobs.put(source.digest, source.size, source)
            with VerifyingReader(repository.blobs.open(source.digest), source.digest, source.size) as reader:
                while data := reader.read(CHUNK_SIZE):
                    read += len(data)

        peak = peak_memory(round_trip)

        assert read == _SIZE
        assert repository.blobs.stat(source.digest) == _SIZE
        is_flat = peak < _MEMORY_LIMIT
        assert is_flat or not self.can & Can.FLAT_MEMORY, f"{peak} bytes of memory; without limit, use ~Can.FLAT_MEMORY"

    def test_the_end_of_a_big_blob_can_be_read(self, repository: Repository) -> None:
        """An interrupted download is resumed, across chunk boundaries."""
        source = PatternSource(5 * CHUNK_SIZE + 17, seed=2)
        repository.blobs.put(source.digest, source.size, source)
        start = 3 * CHUNK_SIZE - 5

        with repository.blobs.open(source.digest, start=start) as reader:
            tail = b"".join(iter(lambda: reader.read(CHUNK_SIZE), b""))

        # Compared by digest: pytest takes minutes to show a difference of megabytes.
        assert Digest.of(tail) == Digest.of(source.bytes_at(start, source.size))


def peak_memory(work: Callable[[], None]) -> int:
    """Peak memory in bytes that a function allocates."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        work()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - before
