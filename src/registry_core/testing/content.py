"""Content for tests: deterministic, and of any size."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from registry_core.content.streams import CHUNK_SIZE, BaseReader, ByteReader, BytesSource
from registry_core.domain import media_types, strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag
from registry_core.ports.catalog import Repository

__all__ = [
    "PatternSource",
    "artifact_manifest",
    "blob",
    "descriptor_field",
    "image_manifest",
    "index_manifest",
    "push_image",
    "put_blob",
    "put_config_and_layer",
]

_BLOCK = CHUNK_SIZE


class PatternSource:
    """Content of any size that is generated while it is read: all its blocks differ, and none is kept in memory.

    Args:
        size: Size in bytes.
        seed: Seed; different seeds give different content.
    """

    def __init__(self, size: int, *, seed: int = 0) -> None:
        self.size = size
        self._pattern = random.Random(seed).randbytes(_BLOCK)

    def open(self, start: int = 0) -> ByteReader:
        """Open a reader at a position."""
        return _PatternReader(self, start)

    @cached_property
    def digest(self) -> Digest:
        """The sha256 digest of the content."""
        hasher = Digest.of(b"").hasher()
        for position in range(0, self.size, _BLOCK):
            hasher.update(self.bytes_at(position, _BLOCK))
        return Digest(f"sha256:{hasher.hexdigest()}")

    def bytes_at(self, position: int, size: int) -> bytes:
        """Up to ``size`` bytes from a position on."""
        end = min(position + size, self.size)
        parts = []
        while position < end:
            number, offset = divmod(position, _BLOCK)
            count = min(_BLOCK - offset, end - position)
            head = number.to_bytes(8, "big")[offset : offset + count]
            pattern_start = max(offset, 8)
            parts += [head, self._pattern[pattern_start : max(pattern_start, offset + count)]]
            position += count
        return b"".join(parts)


class _PatternReader(BaseReader):
    def __init__(self, source: PatternSource, position: int) -> None:
        self._source = source
        self._position = position
        self._closed = False

    def read(self, size: int = -1, /) -> bytes:
        if self._closed:
            raise ValueError("read of a closed reader")
        data = self._source.bytes_at(self._position, self._source.size if size < 0 else min(size, _BLOCK))
        self._position += len(data)
        return data

    def close(self) -> None:
        self._closed = True


def blob(label: str, size: int = 64) -> bytes:
    """Random bytes that depend on the label only."""
    return random.Random(label).randbytes(size)


def descriptor_field(content: bytes, media_type: str = media_types.OCI_LAYER) -> dict[str, Any]:
    """The descriptor of some bytes as JSON."""
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def image_manifest(
    config: bytes,
    layers: Sequence[bytes] = (),
    *,
    docker: bool = False,
    config_type: str = "",
    algorithm: str = "sha256",
    **fields: Any,
) -> RawManifest:
    """An image manifest with a config and layers.

    Args:
        config: Content of the config.
        layers: Contents of the layers, base first.
        docker: Docker schema 2 instead of OCI.
        config_type: Media type of the config; the usual one if empty.
        algorithm: Algorithm of the manifest's digest.
        fields: Further top-level fields, by their JSON names.
    """
    media_type = media_types.DOCKER_MANIFEST if docker else media_types.OCI_MANIFEST
    layer_type = media_types.DOCKER_LAYER_GZIP if docker else media_types.OCI_LAYER
    usual = media_types.DOCKER_CONFIG if docker else media_types.OCI_CONFIG
    mapping = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor_field(config, config_type or usual),
        "layers": [descriptor_field(layer, layer_type) for layer in layers],
    }
    return RawManifest(media_type, strict_json.encode(mapping | fields), algorithm)


def artifact_manifest(
    blobs: Sequence[bytes], *, media_type: str = media_types.OCI_ARTIFACT_MANIFEST, **fields: Any
) -> RawManifest:
    """An artifact manifest, which lists blobs and has no configuration.

    Args:
        blobs: Contents of the blobs.
        media_type: The type of OCI or of ORAS.
        fields: Further top-level fields, by their JSON names.
    """
    mapping = {"mediaType": media_type, "blobs": [descriptor_field(each, "text/plain") for each in blobs]}
    return RawManifest(media_type, strict_json.encode(mapping | fields))


def index_manifest(children: Sequence[Descriptor], *, docker: bool = False, **fields: Any) -> RawManifest:
    """An image index, or a Docker manifest list, of manifests for different architectures.

    Args:
        children: Descriptors of the manifests.
        docker: A Docker manifest list instead of an OCI index.
        fields: Further top-level fields, by their JSON names.
    """
    media_type = media_types.DOCKER_INDEX if docker else media_types.OCI_INDEX
    entries: list[Mapping[str, Any]] = [
        {
            "mediaType": child.media_type,
            "digest": str(child.digest),
            "size": child.size,
            "platform": {"os": "linux", "architecture": architecture},
        }
        for child, architecture in zip(children, ("amd64", "arm64", "s390x", "ppc64le"), strict=False)
    ]
    return RawManifest(
        media_type, strict_json.encode({"schemaVersion": 2, "mediaType": media_type, "manifests": entries} | fields)
    )


def put_blob(repository: Repository, content: bytes) -> Digest:
    """Put bytes into a repository as a blob.

    Returns:
        The digest.
    """
    digest = Digest.of(content)
    repository.blobs.put(digest, len(content), BytesSource(content))
    return digest


def put_config_and_layer(repository: Repository, label: str) -> tuple[bytes, bytes]:
    """Put a config and a layer into a repository.

    Returns:
        Their contents, which depend on the label only.
    """
    layer = blob(f"{label} layer")
    config = strict_json.encode(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"label": label}},
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer))]},
        }
    )
    put_blob(repository, config)
    put_blob(repository, layer)
    return config, layer


def push_image(repository: Repository, label: str, *, tags: Sequence[str] = (), **fields: Any) -> RawManifest:
    """Put an image into a repository, blobs first.

    Args:
        repository: Repository to push to.
        label: Label; different labels give different images.
        tags: Tags to set.
        fields: Arguments of ``image_manifest``.

    Returns:
        The manifest.
    """
    config, layer = put_config_and_layer(repository, label)
    manifest = image_manifest(config, [layer], **fields)
    repository.manifests.put(manifest, tags=[Tag(tag) for tag in tags])
    return manifest
