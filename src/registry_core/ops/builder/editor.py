"""Edit existing images: parts that are not changed keep their exact bytes, and stay in their repository."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Self

import msgspec

from registry_core.content.compression import Compression, compression_for
from registry_core.content.streams import ByteSource, Readable
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import (
    BASE_DIGEST,
    DOCKER,
    DOCKER_MANIFEST,
    OCI,
    OCI_LAYER,
    OCI_MANIFEST,
    is_nondistributable,
)
from registry_core.domain.platform import Platform
from registry_core.errors import InvalidValue, error_reference
from registry_core.ops.builder.builder import BaseImageBuilder
from registry_core.ops.builder.config import to_platform, to_rfc3339, unix_seconds
from registry_core.ops.builder.layers import (
    BuiltLayer,
    LayerPart,
    compress_layer,
    config_editor,
    inherited_parts,
    with_annotation,
)
from registry_core.ops.builder.repack import MetadataOverride, repack_layer
from registry_core.ops.extract.unpack import flat_tar
from registry_core.ops.images import Image, Layer, check_kind
from registry_core.ops.tar.members import ExtractLimits

__all__ = ["ImageEditor"]


class ImageEditor(BaseImageBuilder):
    """Edit an image. Each method changes the editor and returns it; the image itself is not changed.

    The result has the format of the image, OCI or Docker, unless it is converted. Unknown fields are kept, and an
    unchanged image keeps its digest. Unchanged layers stay where they are, and a push transfers only what the target
    lacks.

    Methods that change layers read and write them when they are called. ``add_files`` and ``add_directory`` may read
    the names in the layers below.

    Args:
        image: Image from any repository, or from a builder.

    Raises:
        InvalidValue: The argument is not an image.
    """

    def __init__(self, image: Image) -> None:
        check_kind(image, Image)
        super().__init__(image.document.mapping, inherited_parts(image), original=image)
        self._reference = image.reference

    def platform(self, platform: Platform | str) -> Self:
        """Set the platform of the image. Set the operating system before adding layers: Windows needs other ones.

        Raises:
            InvalidName: The text is not a platform.
        """
        self._config.set_platform(to_platform(platform))
        return self

    def replace_layer(
        self,
        layer: int | Digest | str,
        content: str | os.PathLike[str] | bytes | ByteSource | Readable,
        *,
        media_type: str = OCI_LAYER,
    ) -> Self:
        """Replace a layer by an existing one.

        Args:
            layer: Position of the layer, counted from 0 for the lowest, or its digest.
            content: Tar, compressed as the media type says: the path of a file, bytes, or an open stream.
            media_type: Media type of the new layer.

        Raises:
            InvalidValue: The image has no such layer.
            Unsupported: The media type is not one of a layer, or the image is for Windows, and files are not below
                ``Files``.
            IntegrityError: The compressed stream is corrupt.
        """
        position = self._position(layer)
        new = self._prebuilt(content, media_type)
        self._config.replace(position, new.diff_id, "replace layer")
        self._parts[position] = LayerPart.from_built(new, os=self._config.os)
        return self

    def remove_layer(self, layer: int | Digest | str) -> Self:
        """Remove a layer and its history entry.

        Args:
            layer: Position of the layer, counted from 0 for the lowest, or its digest.

        Raises:
            InvalidValue: The image has no such layer.
        """
        position = self._position(layer)
        self._config.remove(position)
        del self._parts[position]
        return self

    def annotate_layer(self, layer: int | Digest | str, key: str, value: str | None) -> Self:
        """Set an annotation in the descriptor of a layer; ``None`` removes it. The layer is not changed.

        Args:
            layer: Position of the layer, counted from 0 for the lowest, or its digest.
            key: Key of the annotation.
            value: Value of the annotation.

        Raises:
            InvalidValue: The image has no such layer, or the key or the value is not a string.
        """
        position = self._position(layer)
        json = with_annotation(self._parts[position].json, key, value)
        descriptor = strict_json.convert(json, Descriptor)
        self._parts[position] = msgspec.structs.replace(self._parts[position], json=json, descriptor=descriptor)
        return self

    def recompress(self, compression: Compression | str, layer: int | Digest | str | None = None) -> Self:
        """Change the compression of layers; their tars, and so their diff IDs, stay the same.

        A layer that already has this compression is kept, unless a level is given. Nondistributable layers are kept as
        well: their URLs would no longer match.

        Args:
            compression: ``gzip``, ``zstd``, ``""`` for none, or a ``Compression`` with a level.
            layer: Position of a single layer, counted from 0 for the lowest, or its digest; by default all layers.

        Raises:
            InvalidValue: The image has no such layer.
            Unsupported: A layer has an unknown media type, or zstd is not installed.
            IntegrityError: A layer is corrupt, or does not match its digest.
        """
        parsed = Compression.of(compression)
        compressed: dict[Digest, BuiltLayer] = {}
        positions = range(len(self._parts)) if layer is None else (self._position(layer),)
        layers = self._layers()
        for position in positions:
            old = layers[position]
            if parsed.level is None and compression_for(old.media_type) == parsed.name:
                continue
            if is_nondistributable(old.media_type):
                continue
            if old.digest not in compressed:
                with old.open_uncompressed() as tar:
                    compressed[old.digest] = compress_layer(tar, parsed)
            self._set_layer(position, compressed[old.digest])
        return self

    def canonicalise(
        self,
        time: str | int | datetime = 0,
        *,
        owner: tuple[int, int] | None = None,
        limits: ExtractLimits | None = None,
    ) -> Self:
        """Remove everything that depends on the time and the machine of the build.

        Layers are repacked with sorted names, one modification time and uniform headers, and keep their compression.
        The configuration and all history entries get the same time, and the fields in which Docker records the machine
        are removed. Nondistributable layers are not changed.

        Args:
            time: RFC 3339 text, a ``datetime`` with a time zone, or whole seconds since 1970, such as the number in
                ``SOURCE_DATE_EPOCH``.
            owner: Numeric owner and group of all files; by default each file keeps its own.
            limits: Limits for reading the layers.

        Raises:
            InvalidValue: The time has none of these forms.
            UnsafeArchive: Members of a layer contradict each other, or a path leaves the image.
            IntegrityError: A layer is corrupt, truncated, or does not match its digest.
            TooLarge: A limit is exceeded.
            Unsupported: A layer has an unknown media type, or the image is for Windows.
        """
        self._refuse_windows("canonicalise")
        text, override = to_rfc3339(time), MetadataOverride(unix_seconds(time), owner)
        repacked: dict[Digest, BuiltLayer] = {}
        for position, layer in enumerate(self._layers()):
            if is_nondistributable(layer.media_type):
                continue
            if layer.digest not in repacked:
                compression = Compression(compression_for(layer.media_type))
                with layer.open_uncompressed() as tar:
                    repacked[layer.digest] = repack_layer(
                        tar, compression, override, stored_size=layer.size, limits=limits, reference=self._reference
                    )
            self._set_layer(position, repacked[layer.digest])
        self._config.set_times(text)
        return self

    def squash(self, *, compression: Compression | str = "gzip", limits: ExtractLimits | None = None) -> Self:
        """Replace all layers by one that contains the visible files.

        Its names are sorted, so equal files give an equal layer however they were distributed. Times and owners are
        kept. The history keeps its entries, marked as empty layers.

        Args:
            compression: ``gzip``, ``zstd``, ``""`` for none, or a ``Compression`` with a level.
            limits: Limits for reading the layers.

        Raises:
            UnsafeArchive: Members of a layer contradict each other, or a path or link leaves the image.
            IntegrityError: A layer is corrupt, truncated, or does not match its digest.
            TooLarge: A limit is exceeded.
            Unsupported: A layer has an unknown media type, or the image is for Windows.
        """
        self._refuse_windows("squash")
        parsed = Compression.of(compression)
        with flat_tar(self._layers(), limits or ExtractLimits(), reference=self._reference, root=True) as tar:
            layer = repack_layer(tar, parsed, limits=limits, reference=self._reference)
        self._config.squash(layer.diff_id, "squash")
        self._parts = [LayerPart.from_built(layer)]
        return self

    def rebase(self, old_base: Image, new_base: Image) -> Self:
        """Replace the base of the image. No layer is read.

        The layers of the old base must be the lowest layers of the image; they are compared by diff ID, so their
        compression may differ. Configuration fields that equal those of the old base get the values of the new base;
        labels, ports, volumes and variables are compared one by one, and all other fields are kept. The history becomes
        that of the new base, followed by the entries that the image added.

        Args:
            old_base: Base that the image was built on.
            new_base: Base to build on.

        Raises:
            InvalidValue: The image was not built on the old base, or the new base is for another platform.
            RegistryError: A configuration cannot be read.
        """
        old, new = config_editor(old_base), config_editor(new_base)
        config = self._config
        count = len(old.diff_ids)
        if config.diff_ids[:count] != old.diff_ids:
            equal = sum(1 for own, base in zip(config.diff_ids, old.diff_ids, strict=False) if own == base)
            raise InvalidValue(
                f"not built on {old_base.reference}: {equal} of the {count} layers of that base are among the "
                f"{len(config.diff_ids)} layers of the image at the same position",
                reference=self._reference,
            )
        wanted, available = config.platform, new.platform
        if wanted is not None and available is not None and not _is_same_platform(wanted, available):
            raise InvalidValue(f"new base is for {available}, but the image is for {wanted}", reference=self._reference)
        config.rebase(old, new)
        self._parts = [*inherited_parts(new_base, convertible=True), *self._parts[count:]]
        if BASE_DIGEST in (self._manifest.get("annotations") or {}):
            self.annotate(BASE_DIGEST, str(new_base.digest))
        return self

    def to_oci(self) -> Self:
        """Convert the image to an OCI image, with the same configuration and layers."""
        return self._convert(OCI_MANIFEST)

    def to_docker(self) -> Self:
        """Convert the image to a Docker image, with the same configuration and layers.

        ``build`` raises an error if the manifest has fields that Docker manifests do not have.
        """
        return self._convert(DOCKER_MANIFEST)

    def _convert(self, media_type: str) -> Self:
        self._converted = True
        # ``mediaType`` is optional in OCI manifests: one that omits it is not changed.
        if self._format != (DOCKER if media_type == DOCKER_MANIFEST else OCI):
            self._manifest["mediaType"] = media_type
        return self

    def _set_layer(self, position: int, layer: BuiltLayer) -> None:
        self._config.replace(position, layer.diff_id)
        self._parts[position] = LayerPart.from_built(layer, os=self._parts[position].os)

    def _layers(self) -> tuple[Layer, ...]:
        """The layers in their present state, readable."""
        return self._assemble().layers()

    def _position(self, layer: int | Digest | str) -> int:
        with error_reference(self._reference):
            if isinstance(layer, str):
                digest = Digest(layer)
                for position, part in enumerate(self._parts):
                    if part.descriptor.digest == digest:
                        return position
                raise InvalidValue(f"image has no layer {digest}")
            if not 0 <= layer < len(self._parts):
                raise InvalidValue(f"image has no layer {layer}: it has {len(self._parts)} layers, counted from 0")
            return layer


def _is_same_platform(one: Platform, other: Platform) -> bool:
    one, other = one.normalised(), other.normalised()
    return (one.os, one.architecture, one.variant) == (other.os, other.architecture, other.variant)
