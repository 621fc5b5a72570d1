"""Layers of images in the making: those that were there before, and those that were just made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Self

import msgspec

from registry_core.content.codecs import DecodingReader, compression_of
from registry_core.content.source import PIECE, ByteSource, Readable
from registry_core.domain import wire
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.errors import during
from registry_core.ops.build.config_draft import ConfigDraft, merged, ordered
from registry_core.ops.build.new_layer import NewLayer
from registry_core.ops.build.staged import StagedBlobs, origin_source
from registry_core.ops.image import Image
from registry_core.ops.read import identify, source_of
from registry_core.ports.blob_homes import Home

__all__ = ["Part", "annotated", "draft_of", "entry_of", "inherited_parts", "ready_layer"]


class Part(msgspec.Struct, frozen=True):
    """A layer of an image in the making.

    Args:
        entry: Its descriptor as it stands in the manifest.
        descriptor: The same, typed.
        content: Where its bytes are.
        home: In which registry they lie, if they do.
        ours: Whether its descriptor is ours to write; one that was there before stays as it is.
    """

    entry: dict[str, Any]
    descriptor: Descriptor
    content: ByteSource
    home: Home | None = None
    ours: bool = False

    @classmethod
    def of(cls, layer: NewLayer) -> Self:
        """A layer that was just made."""
        return cls(entry_of(layer.descriptor), layer.descriptor, layer.content, ours=True)

    def stage(self, blobs: StagedBlobs) -> None:
        """Make it readable among others."""
        blobs.add(self.descriptor.digest, self.descriptor.size, self.content, self.home)


def entry_of(descriptor: Descriptor) -> dict[str, Any]:
    """The JSON of a descriptor that has nothing but type, digest and size."""
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


def annotated(entry: Mapping[str, Any], key: str, value: str | None) -> dict[str, Any]:
    """A descriptor's JSON with an annotation more, or with one less where there is no value.

    Raises:
        InvalidValue: Key or value is no text.
    """
    before = entry.get("annotations") or {}
    after = merged(before, {key: value})
    if after == before:
        return dict(entry)
    if not after:
        return {name: field for name, field in entry.items() if name != "annotations"}
    return dict(entry) | {"annotations": ordered(after, first=before)}


def inherited_parts(image: Image, *, ours: bool = False) -> list[Part]:
    """The layers of an image, whose bytes stay where they are."""
    entries = image.document.mapping.get("layers") or []
    return [
        Part(
            entry,
            descriptor,
            origin_source(image.repository, descriptor),
            image.repository.home(descriptor.digest),
            ours=ours,
        )
        for entry, descriptor in zip(entries, image.manifest().layers, strict=True)
    ]


def draft_of(image: Image, *, complete: bool = False) -> ConfigDraft:
    """An image's configuration, to be changed.

    Raises:
        InvalidDocument: It does not have a diff_id for each layer.
        RegistryError: It cannot be read.
    """
    with during("", image.reference):
        return ConfigDraft(wire.decode(image.config().raw), len(image.manifest().layers), complete=complete)


def ready_layer(content: bytes | os.PathLike[str] | ByteSource | Readable, media_type: str) -> NewLayer:
    """A layer that is made already, after it was read through once for its digests.

    Raises:
        Unsupported: Nobody knows layers of that type.
        IntegrityError: The compressed stream is corrupt.
        InvalidValue: It is text, which could be content or a path.
        OSError: The file cannot be read.
    """
    compression = compression_of(media_type)
    source = source_of(content)
    descriptor = identify(source, media_type)
    hasher = Digest.of(b"").hasher()
    with source.open() as stored:
        tar = DecodingReader(stored, compression) if compression else stored
        while data := tar.read(PIECE):
            hasher.update(data)
    return NewLayer(descriptor, Digest(f"sha256:{hasher.hexdigest()}"), source)
