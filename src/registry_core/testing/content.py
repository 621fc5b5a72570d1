"""Content to test with: deterministic, small where it may be, and of any size where it must be."""

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
    "blob",
    "entry",
    "image_manifest",
    "index_manifest",
    "push_image",
    "put_blob",
    "put_parts",
]

_BLOCK = CHUNK_SIZE


class PatternSource:
    """Content of any size that is made as it is read: no two of its blocks are alike, and none is kept.

    Args:
        size: In bytes.
        seed: Other seeds give other content.
    """

    def __init__(self, size: int, *, seed: int = 0) -> None:
        self.size = size
        self._noise = random.Random(seed).randbytes(_BLOCK)

    def open(self, start: int = 0) -> ByteReader:
        """A reader from ``start`` on."""
        return _PatternReader(self, start)

    @cached_property
    def digest(self) -> Digest:
        """The sha256 of all of it."""
        hasher = Digest.of(b"").hasher()
        for position in range(0, self.size, _BLOCK):
            hasher.update(self.at(position, _BLOCK))
        return Digest(f"sha256:{hasher.hexdigest()}")

    def at(self, position: int, size: int) -> bytes:
        """Up to ``size`` bytes from a position, none from beyond the end."""
        end = min(position + size, self.size)
        parts = []
        while position < end:
            number, offset = divmod(position, _BLOCK)
            count = min(_BLOCK - offset, end - position)
            head = number.to_bytes(8, "big")[offset : offset + count]
            noise = max(offset, 8)
            parts += [head, self._noise[noise : max(noise, offset + count)]]
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
        data = self._source.at(self._position, self._source.size if size < 0 else min(size, _BLOCK))
        self._position += len(data)
        return data

    def close(self) -> None:
        self._closed = True


def blob(label: str, size: int = 64) -> bytes:
    """Some bytes that depend on a label alone."""
    return random.Random(label).randbytes(size)


def entry(content: bytes, media_type: str = media_types.OCI_LAYER) -> dict[str, Any]:
    """A descriptor of some bytes as it stands in a manifest's JSON."""
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
    """An image manifest over a configuration and layers.

    Args:
        config: The configuration's bytes.
        layers: The layers' bytes, lowest first.
        docker: Docker schema 2 instead of OCI.
        config_type: The configuration's media type, where it is not the usual one.
        algorithm: Of the manifest's own digest.
        fields: More top-level fields, by their names in JSON.
    """
    media_type = media_types.DOCKER_MANIFEST if docker else media_types.OCI_MANIFEST
    layer_type = media_types.DOCKER_LAYER_GZIP if docker else media_types.OCI_LAYER
    usual = media_types.DOCKER_CONFIG if docker else media_types.OCI_CONFIG
    mapping = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": entry(config, config_type or usual),
        "layers": [entry(layer, layer_type) for layer in layers],
    }
    return RawManifest(media_type, strict_json.encode(mapping | fields), algorithm)


def index_manifest(children: Sequence[Descriptor], *, docker: bool = False, **fields: Any) -> RawManifest:
    """An image index, or a Docker manifest list, over manifests for different architectures.

    Args:
        children: What the entries point at.
        docker: A Docker manifest list instead of an OCI index.
        fields: More top-level fields, by their names in JSON.
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
    """Put some bytes into a repository.

    Returns:
        Their digest.
    """
    digest = Digest.of(content)
    repository.blobs.put(digest, len(content), BytesSource(content))
    return digest


def put_parts(repository: Repository, label: str) -> tuple[bytes, bytes]:
    """Put what an image is made of into a repository.

    Returns:
        A configuration and a layer that depend on the label alone.
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
    """Put an image with all its parts into a repository, parts first.

    Args:
        repository: Where to.
        label: Other labels give other images.
        tags: To point at it.
        fields: As for ``image_manifest``.

    Returns:
        Its manifest.
    """
    config, layer = put_parts(repository, label)
    manifest = image_manifest(config, [layer], **fields)
    repository.manifests.put(manifest, tags=[Tag(tag) for tag in tags])
    return manifest
