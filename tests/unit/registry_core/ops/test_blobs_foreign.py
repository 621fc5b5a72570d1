"""Layers that are not in the repository that names them."""

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


class Elsewhere(ForeignLayers):
    """Has everything, and remembers who asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Descriptor, int]] = []

    def open(self, layer: Descriptor, *, start: int = 0) -> ByteReader:
        self.asked.append((layer, start))
        return BytesSource(CONTENT).open(start)


def test_the_repository_comes_first(source: Repository) -> None:
    """R-032."""
    elsewhere = Elsewhere()
    repository = msgspec.structs.replace(source, foreign_layers=elsewhere)
    repository.blobs.put(LAYER.digest, LAYER.size, BytesSource(CONTENT))

    with open_blob_or_foreign(repository, LAYER, start=3) as reader:
        content = reader.read()

    assert (content, elsewhere.asked) == (CONTENT[3:], [])


def test_urls_are_for_what_the_repository_says_it_has_not(source: Repository) -> None:
    """R-032."""
    elsewhere = Elsewhere()
    repository = msgspec.structs.replace(source, foreign_layers=elsewhere)

    with open_blob_or_foreign(repository, LAYER, start=3) as reader:
        content = reader.read()

    assert (content, elsewhere.asked) == (CONTENT[3:], [(LAYER, 3)])


def test_nobody_is_asked_about_layers_without_urls(source: Repository) -> None:
    elsewhere = Elsewhere()
    repository = msgspec.structs.replace(source, foreign_layers=elsewhere)

    with pytest.raises(BlobNotFound):
        open_blob_or_foreign(repository, msgspec.structs.replace(LAYER, urls=()))

    assert elsewhere.asked == []


def test_backends_that_follow_no_urls_say_what_is_missing(source: Repository) -> None:
    with pytest.raises(BlobNotFound):
        open_blob_or_foreign(source, LAYER)
