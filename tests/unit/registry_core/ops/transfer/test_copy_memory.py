"""The memory of a run does not grow with the number of images that it copies."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from registry_adapters.memory import MemoryCatalog
from registry_core.content.streams import ByteSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.ops.transfer.copy import run_copies
from registry_core.ops.transfer.options import CopyTask
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    Graphs = Any

MIB = 1 << 20
LAYER = 128 << 10


class _DiscardingBlobs(BlobStore):
    """Read every blob and store none."""

    def __init__(self, inner: BlobStore) -> None:
        self._inner = inner

    def stat(self, digest: Digest) -> int:
        return self._inner.stat(digest)

    def open(self, digest: Digest, *, start: int = 0) -> Any:
        return self._inner.open(digest, start=start)

    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        with source.open() as reader:
            while reader.read(1 << 16):
                pass

    def delete(self, digest: Digest) -> None:
        self._inner.delete(digest)

    def mount(self, digest: Digest, from_repository: RepositoryName) -> bool:
        return False


def _peak_memory(graphs_of: Any, count: int) -> int:
    """Copy a number of images, each with a separate source and target, and return the peak memory."""

    def tasks() -> Iterator[CopyTask]:
        for number in range(count):
            source = MemoryCatalog("source.test").repository(RepositoryName("app"))
            root = graphs_of(source).image(b"%08d" % number * (LAYER // 8), b"base")
            target: Repository = MemoryCatalog("target.test").repository(RepositoryName(f"copy{number}"))
            target = msgspec.structs.replace(target, blobs=_DiscardingBlobs(target.blobs))
            yield CopyTask(source=source, target=target, reference=root.digest, tags=(Tag("v1"),))

    gc.collect()
    tracemalloc.start()
    try:
        assert run_copies(tasks(), jobs=4, images=4).ok
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_five_hundred_images_take_no_more_memory_than_twenty(graphs_of: Any) -> None:
    few, many = _peak_memory(graphs_of, 20), _peak_memory(graphs_of, 500)

    # The layers alone are 62 MiB.
    assert many - few <= 32 * MIB
