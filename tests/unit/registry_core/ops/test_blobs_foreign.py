"""Foreign layers, which are not stored in the repository."""

from __future__ import annotations

import msgspec
import pytest

from registry_core.content.streams import ByteReader, BytesSource
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import DOCKER_FOREIGN_LAYER_GZIP
from registry_core.errors import BlobNotFound
from registry_core.ops.blobs import open_blob_or_foreign
from registry_core.ports.catalog import ForeignLayers, Repository

CONTENT = b"windows"
LAYER = Descriptor(
    media_type=DOCKER_FOREIGN_LAYER_GZIP,
    digest=Digest.of(CONTENT),
    size=len(CONTENT),
    urls=("https://layers.example.com/windows",),
)


class RecordingForeignLayers(ForeignLayers):
    """Has all layers, and records the requests."""

    def __init__(self) -> None:
        self.asked: list[tuple[Descriptor, int]] = []

    def open(self, layer: Descriptor, *, start: int = 0) -> ByteReader:
        self.asked.append((layer, start))
        return BytesSource(CONTENT).open(start)


def test_the_repository_comes_first(source: Repository) -> None:
    """R-032."""
    elsewhere = RecordingForeignLayers()
    repository = msgspec.structs.replace(source, foreign_layers=elsewhere)
    repository.blobs.put(LAYER.digest, LAYER.size, BytesSource(CONTENT))

    with open_blob_or_foreign(repository, LAYER, start=3) as reader:
        content = reader.read()

    assert (content, elsewhere.asked) == (CONTENT[3:], [])


def test_urls_are_used_only_for_blobs_that_the_repository_lacks(source: Repository) -> None:
    """R-032."""
    elsewhere = RecordingForeignLayers()
    repository = msgspec.structs.replace(source, foreign_layers=elsewhere)

    with open_blob_or_foreign(repository, LAYER, start=3) as reader:
        content = reader.read()

    assert (content, elsewhere.asked) == (CONTENT[3:], [(LAYER, 3)])


def test_layers_without_urls_are_not_requested(source: Repository) -> None:
    elsewhere = RecordingForeignLayers()
    repository = msgspec.structs.replace(source, foreign_layers=elsewhere)

    with pytest.raises(BlobNotFound):
        open_blob_or_foreign(repository, msgspec.structs.replace(LAYER, urls=()))

    assert elsewhere.asked == []


def test_a_backend_that_follows_no_urls_reports_the_missing_blob(source: Repository) -> None:
    with pytest.raises(BlobNotFound):
        open_blob_or_foreign(source, LAYER)
