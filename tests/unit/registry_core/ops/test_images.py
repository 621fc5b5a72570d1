"""Images and their layers."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from registry_core.content.streams import MANIFEST_LIMIT, BytesSource
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import DOCKER_LAYER_GZIP, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from registry_core.errors import (
    BlobNotFound,
    DigestMismatch,
    IntegrityError,
    InvalidDocument,
    NotAnImage,
    NotAnIndex,
    TooLarge,
    Unsupported,
)
from registry_core.ops.builder.builder import ImageBuilder
from registry_core.ops.builder.editor import ImageEditor
from registry_core.ops.builder.staged import StagedBlobs
from registry_core.ops.images import Image, Index
from registry_core.ops.validation.validate import validate
from registry_core.ports.catalog import Repository

if TYPE_CHECKING:
    Graphs = Any

TAR = b"tar" * 1000


def config_for(*diff_ids: str) -> bytes:
    return strict_json.encode(
        {"os": "linux", "architecture": "arm", "variant": "v6", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    )


def image_of(graphs: Graphs, stored: bytes, diff_id: str, media_type: str = OCI_LAYER_GZIP) -> Image:
    raw = graphs.image(stored, config=config_for(diff_id), layers=[graphs.entry(media_type, stored)])
    return Image(graphs.repository, raw)


class TestImage:
    def test_an_image_has_the_fields_of_its_manifest(self, source: Repository, graphs: Graphs) -> None:
        raw = graphs.image(b"1")

        image = Image(source, raw)

        assert (image.digest, image.size, image.media_type) == (raw.digest, len(raw.content), raw.media_type)
        assert image.document is raw
        assert image.raw == raw.content
        assert image.reference == source.at(raw.digest)
        assert image.descriptor == raw.descriptor
        assert image.manifest().config.media_type == OCI_CONFIG

    def test_its_configuration_is_read_once(self, source: Repository, graphs: Graphs) -> None:
        image = Image(source, graphs.image(b"1"))

        config = image.config()
        source.blobs.delete(image.manifest().config.digest)

        assert image.config() is config
        assert config.architecture == "amd64"

    def test_its_platform_is_that_of_its_configuration(self, source: Repository, graphs: Graphs) -> None:
        image = Image(source, graphs.image(config=config_for()))

        assert str(image.platform) == "linux/arm/v6"

    def test_a_wrong_configuration_is_not_returned(self, source: Repository, graphs: Graphs) -> None:
        """R-003."""
        raw = graphs.image(b"1")
        blobs = StagedBlobs()
        blobs.add(raw.image.config.digest, 2, BytesSource(b"{}" + b" " * (raw.image.config.size - 2)))
        lying = msgspec.structs.replace(source, blobs=blobs)

        with pytest.raises(DigestMismatch) as caught:
            Image(lying, raw).config()

        assert caught.value.reference == source.at(raw.image.config.digest)

    def test_a_huge_configuration_is_not_fetched(self, source: Repository, graphs: Graphs) -> None:
        """R-023."""
        config = graphs.entry(OCI_CONFIG, b"{}") | {"size": MANIFEST_LIMIT + 1}

        with pytest.raises(TooLarge):
            Image(source, graphs.image(overrides={"config": config})).config()

    def test_the_configuration_of_another_artifact_is_carried_and_not_parsed(
        self, source: Repository, graphs: Graphs
    ) -> None:
        """R-027."""
        config = graphs.entry("application/vnd.example.config", b"anything")
        image = Image(source, graphs.image(b"1", overrides={"config": config}))

        with pytest.raises(NotAnImage):
            image.config()

        assert image.manifest().config.digest == Digest.of(b"anything")

    def test_an_index_is_no_image_and_an_image_no_index(self, source: Repository, graphs: Graphs) -> None:
        image = graphs.image(b"1")

        with pytest.raises(NotAnImage):
            Image(source, graphs.index(image))
        with pytest.raises(NotAnIndex):
            Index(source, image)


class TestLayers:
    def test_a_layer_is_read_as_stored_and_uncompressed(self, graphs: Graphs) -> None:
        stored = gzip.compress(TAR, mtime=0)
        layer = image_of(graphs, stored, Digest.of(TAR)).layers()[0]

        with layer.open() as reader:
            assert reader.read() == stored
        with layer.open_uncompressed() as reader:
            assert reader.read() == TAR
        assert (layer.digest, layer.size, layer.diff_id()) == (Digest.of(stored), len(stored), Digest.of(TAR))

    def test_a_tar_that_is_not_the_configuration_s_is_refused(self, graphs: Graphs) -> None:
        layer = image_of(graphs, gzip.compress(TAR), Digest.of(b"another")).layers()[0]

        with layer.open_uncompressed() as reader, pytest.raises(DigestMismatch) as caught:
            reader.read()

        assert str(layer.digest) in caught.value.reference

    @pytest.mark.parametrize("media_type", [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER_GZIP])
    def test_a_layer_of_no_bytes_is_an_empty_layer(self, graphs: Graphs, media_type: str) -> None:
        """R-142: old versions of Docker have pushed them."""
        image = image_of(graphs, b"", Digest.of(b""), media_type)

        with image.layers()[0].open_uncompressed() as reader:
            assert reader.read() == b""
        assert list(image.list_files()) == []
        assert not validate(graphs.repository, image.digest).errors
        with image.extract() as tar:
            assert tar.read() == bytes(1024)

    @pytest.mark.parametrize("media_type", [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD])
    def test_a_layer_of_no_bytes_with_another_diff_id_is_refused(self, graphs: Graphs, media_type: str) -> None:
        image = image_of(graphs, b"", Digest.of(TAR), media_type)

        with image.layers()[0].open_uncompressed() as reader, pytest.raises(DigestMismatch):
            reader.read()
        assert validate(graphs.repository, image.digest).errors

    def test_a_layer_of_which_no_bytes_are_left_is_refused(self, source: Repository, graphs: Graphs) -> None:
        stored = gzip.compress(TAR)
        image = image_of(graphs, stored, Digest.of(b""))
        blobs = StagedBlobs()
        blobs.add(
            image.manifest().config.digest, len(config_for(Digest.of(b""))), BytesSource(config_for(Digest.of(b"")))
        )
        blobs.add(Digest.of(stored), len(stored), BytesSource(b""))
        layer = Image(msgspec.structs.replace(source, blobs=blobs), image.document).layers()[0]

        with layer.open_uncompressed() as reader, pytest.raises(IntegrityError):
            reader.read()

    def test_an_image_with_a_layer_of_no_bytes_is_built_on_and_edited(self, graphs: Graphs) -> None:
        image = image_of(graphs, b"", Digest.of(b""))

        built = ImageBuilder(base=image).add_files({"a": b"A"}).build()
        for edited in (
            built,
            ImageEditor(built).recompress("zstd").build(),
            ImageEditor(built).canonicalise().build(),
            ImageEditor(built).squash().build(),
        ):
            assert [entry.path for entry in edited.list_files()] == ["a"]

    def test_a_cut_off_layer_is_refused(self, graphs: Graphs) -> None:
        """R-144."""
        layer = image_of(graphs, gzip.compress(TAR)[:-4], Digest.of(TAR)).layers()[0]

        with layer.open_uncompressed() as reader, pytest.raises(IntegrityError):
            reader.read()

    def test_bytes_after_the_stream_are_verified_too(self, source: Repository, graphs: Graphs) -> None:
        """R-007: the compressed stream is verified to its end."""
        stored = gzip.compress(TAR, mtime=0)
        image = image_of(graphs, stored, Digest.of(TAR))
        blobs = StagedBlobs()
        for part, content in (
            (image.manifest().config, config_for(Digest.of(TAR))),
            (image.layers()[0], stored + bytes(8)),
        ):
            blobs.add(part.digest, len(content), BytesSource(content))
        padded = Image(msgspec.structs.replace(source, blobs=blobs), image.document)

        with padded.layers()[0].open_uncompressed() as reader, pytest.raises(IntegrityError):
            reader.read()

    def test_a_layer_of_an_unknown_type_is_only_read_as_stored(self, graphs: Graphs) -> None:
        """R-142."""
        layer = image_of(graphs, TAR, Digest.of(TAR), "application/x-layer").layers()[0]

        with pytest.raises(Unsupported):
            layer.open_uncompressed()

        with layer.open() as reader:
            assert reader.read() == TAR

    def test_a_configuration_without_a_diff_id_for_each_layer_is_malformed(self, graphs: Graphs) -> None:
        raw = graphs.image(b"1", b"2", config=config_for(Digest.of(b"1")))
        layer = Image(graphs.repository, raw).layers()[0]

        with pytest.raises(InvalidDocument):
            layer.diff_id()

    def test_an_absent_layer_fails_at_once(self, graphs: Graphs) -> None:
        layer = image_of(graphs, gzip.compress(TAR), Digest.of(TAR)).layers()[0]
        graphs.repository.blobs.delete(layer.digest)

        with pytest.raises(BlobNotFound):
            layer.open()

    def test_an_embedded_layer_needs_no_fetch(self, graphs: Graphs) -> None:
        """R-009."""
        entry = graphs.entry("application/vnd.oci.image.layer.v1.tar", b"abc", data="YWJj")
        layer = Image(graphs.repository, graphs.image(layers=[entry])).layers()[0]

        with layer.open() as reader:
            assert reader.read() == b"abc"
