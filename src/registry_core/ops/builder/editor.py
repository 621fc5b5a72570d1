"""Images changed: what is not touched stays as it is to the byte, and where it is."""

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
from registry_core.ops.builder.config import rfc3339, unix_seconds
from registry_core.ops.builder.layers import (
    BuiltLayer,
    LayerPart,
    annotated,
    compress_layer,
    draft_of,
    inherited_parts,
    prebuilt_layer,
)
from registry_core.ops.builder.repack import MetadataOverride, repack_layer
from registry_core.ops.extract.unpack import flat_tar
from registry_core.ops.images import Image, Layer
from registry_core.ops.tar.members import ExtractLimits

__all__ = ["ImageEditor"]


class ImageEditor(BaseImageBuilder):
    """An image that is changed. Each method changes the editor and returns it; the image itself stays as it is.

    The result is of the same family as the image, Docker or OCI, unless it is converted; fields that nobody knows
    stay; without a change it has the same digest. Layers that are not touched are not read: they stay where they are,
    and a push moves only what its target has not.

    Methods that change layers read and write them when they are called.

    Args:
        image: From any backend, or from a builder.
    """

    def __init__(self, image: Image) -> None:
        super().__init__(image.document.mapping, inherited_parts(image), original=image)
        self._reference = image.reference

    def platform(self, platform: Platform | str) -> Self:
        """Say what the image runs on.

        Raises:
            InvalidName: The text is not a platform.
        """
        self._config.set_platform(Platform.parse(platform) if isinstance(platform, str) else platform)
        return self

    def replace_layer(
        self,
        which: int | Digest,
        content: bytes | os.PathLike[str] | ByteSource | Readable,
        *,
        media_type: str = OCI_LAYER,
    ) -> Self:
        """Put another layer, which is made already, in the place of one.

        Args:
            which: Its place from the lowest, counted from 0, or its digest.
            content: A tar, compressed as the media type says.
            media_type: Of the new layer.

        Raises:
            InvalidValue: There is no such layer.
            Unsupported: Nobody knows layers of that type.
            IntegrityError: The compressed stream is corrupt.
        """
        position = self._position(which)
        layer = prebuilt_layer(content, media_type)
        self._config.replace(position, layer.diff_id, "replace layer")
        self._parts[position] = LayerPart.of(layer)
        return self

    def remove_layer(self, which: int | Digest) -> Self:
        """Take a layer out, and its step of the history.

        Args:
            which: Its place from the lowest, counted from 0, or its digest.

        Raises:
            InvalidValue: There is no such layer.
        """
        position = self._position(which)
        self._config.remove(position)
        del self._parts[position]
        return self

    def annotate_layer(self, which: int | Digest, key: str, value: str | None) -> Self:
        """Set an annotation of a layer's descriptor; ``None`` removes it. The layer itself stays as it is.

        Args:
            which: Its place from the lowest, counted from 0, or its digest.
            key: Of the annotation.
            value: What it says.

        Raises:
            InvalidValue: There is no such layer, or key or value is no text.
        """
        position = self._position(which)
        entry = annotated(self._parts[position].entry, key, value)
        descriptor = strict_json.convert(entry, Descriptor)
        self._parts[position] = msgspec.structs.replace(self._parts[position], entry=entry, descriptor=descriptor)
        return self

    def recompress(self, compression: Compression | str, which: int | Digest | None = None) -> Self:
        """Compress layers otherwise; their tars, and so their diff_ids, stay.

        A layer that is compressed that way already stays as it is, unless a level is asked for; so does one that may
        not be distributed, for it would not be found under its URLs any more.

        Args:
            compression: ``gzip``, ``zstd`` or ``""`` for none, or one with a level.
            which: A single layer, by its place from the lowest, counted from 0, or its digest; all if not given.

        Raises:
            InvalidValue: There is no such layer.
            Unsupported: A layer is of a type that nobody knows, or zstd is not installed.
            IntegrityError: A layer is corrupt, or not what the image says.
        """
        chosen = Compression.of(compression)
        made: dict[Digest, BuiltLayer] = {}
        wanted = range(len(self._parts)) if which is None else (self._position(which),)
        layers = self._layers()
        for position in wanted:
            layer = layers[position]
            if chosen.level is None and compression_for(layer.media_type) == chosen.name:
                continue
            if is_nondistributable(layer.media_type):
                continue
            if layer.digest not in made:
                with layer.open_uncompressed() as tar:
                    made[layer.digest] = compress_layer(tar, chosen)
            self._put(position, made[layer.digest])
        return self

    def canonicalise(
        self,
        moment: str | int | datetime = 0,
        *,
        owner: tuple[int, int] | None = None,
        limits: ExtractLimits | None = None,
    ) -> Self:
        """Leave out all that depends on when and where the image was built.

        Layers are packed anew: in the order of names, with one time for all, under headers of one form. The
        configuration and each step of its history get that time as well, and what Docker keeps there of the machine
        goes. Each layer is compressed with what it was compressed with. Layers that may not be distributed stay as they
        are.

        Args:
            moment: RFC 3339 text, a ``datetime`` with a time zone, or whole seconds since 1970, such as the number
                in ``SOURCE_DATE_EPOCH``.
            owner: The numbers of one owner and group for all files; by default each keeps its own.
            limits: How much is accepted of each layer.

        Raises:
            InvalidValue: It is not a moment.
            UnsafeArchive: A layer contradicts itself, or a name leaves the image.
            IntegrityError: A layer is corrupt, cut off, or not what the image says.
            TooLarge: A limit was reached.
            Unsupported: A layer is of a type that nobody knows.
        """
        text, uniform = rfc3339(moment), MetadataOverride(unix_seconds(moment), owner)
        made: dict[Digest, BuiltLayer] = {}
        for position, layer in enumerate(self._layers()):
            if is_nondistributable(layer.media_type):
                continue
            if layer.digest not in made:
                compression = Compression(compression_for(layer.media_type))
                with layer.open_uncompressed() as tar:
                    made[layer.digest] = repack_layer(
                        tar, compression, uniform, stored=layer.size, limits=limits, reference=self._reference
                    )
            self._put(position, made[layer.digest])
        self._config.date(text)
        return self

    def squash(self, *, compression: Compression | str = "gzip", limits: ExtractLimits | None = None) -> Self:
        """Have one layer with the files that all layers make together, instead of them.

        It is packed in the order of names, so that the same files give the same layer, however they were spread.
        Times and owners stay. The history keeps its steps, as ones without a layer.

        Args:
            compression: ``gzip``, ``zstd`` or ``""`` for none, or one with a level.
            limits: How much is accepted.

        Raises:
            UnsafeArchive: A layer contradicts itself, or tries to reach outside.
            IntegrityError: A layer is corrupt, cut off, or not what the image says.
            TooLarge: A limit was reached.
            Unsupported: A layer is of a type that nobody knows.
        """
        chosen = Compression.of(compression)
        with flat_tar(self._layers(), limits or ExtractLimits(), reference=self._reference, root=True) as tar:
            layer = repack_layer(tar, chosen, limits=limits, reference=self._reference)
        self._config.squash(layer.diff_id, "squash")
        self._parts = [LayerPart.of(layer)]
        return self

    def rebase(self, old_base: Image, new_base: Image) -> Self:
        """Stand on a new base instead of an old one.

        The old base's layers have to be the lowest of the image, by their diff_ids, however they are compressed. The
        configuration's fields that are as the old base has them become as the new base has them; labels, ports,
        volumes and variables one by one; what the image has set itself stays. Our own steps of the history follow
        those of the new base. No layer is read.

        Args:
            old_base: What the image stands on.
            new_base: What it shall stand on.

        Raises:
            InvalidValue: The image does not stand on the old base, or the new one is for another platform.
            RegistryError: A configuration cannot be read.
        """
        old, new = draft_of(old_base), draft_of(new_base)
        ours = self._config
        count = len(old.diff_ids)
        if ours.diff_ids[:count] != old.diff_ids:
            equal = sum(1 for mine, theirs in zip(ours.diff_ids, old.diff_ids, strict=False) if mine == theirs)
            raise InvalidValue(
                f"the image does not stand on {old_base.reference}: "
                f"of the {count} layers of that, {equal} are among its {len(ours.diff_ids)} in the same place",
                reference=self._reference,
            )
        wanted, offered = ours.platform, new.platform
        if wanted is not None and offered is not None and not _alike(wanted, offered):
            raise InvalidValue(f"a base for {offered} is none for {wanted}", reference=self._reference)
        ours.rebase(old, new)
        self._parts = [*inherited_parts(new_base, ours=True), *self._parts[count:]]
        if BASE_DIGEST in (self._manifest.get("annotations") or {}):
            self.annotate(BASE_DIGEST, str(new_base.digest))
        return self

    def to_oci(self) -> Self:
        """Make it an OCI image: the same configuration and layers, under OCI's names."""
        return self._convert(OCI_MANIFEST)

    def to_docker(self) -> Self:
        """Make it a Docker image: the same configuration and layers, under Docker's names.

        ``build`` refuses it where it has what Docker has no place for.
        """
        return self._convert(DOCKER_MANIFEST)

    def _convert(self, media_type: str) -> Self:
        self._converted = True
        # An OCI manifest need not name its type: one that does not stays as it is.
        if self._family != (DOCKER if media_type == DOCKER_MANIFEST else OCI):
            self._manifest["mediaType"] = media_type
        return self

    def _put(self, position: int, layer: BuiltLayer) -> None:
        self._config.replace(position, layer.diff_id)
        self._parts[position] = LayerPart.of(layer)

    def _layers(self) -> tuple[Layer, ...]:
        """The layers as they are now, readable."""
        return self._built().layers()

    def _position(self, which: int | Digest) -> int:
        with error_reference(self._reference):
            if isinstance(which, str):
                places = [place for place, part in enumerate(self._parts) if part.descriptor.digest == which]
                if not places:
                    raise InvalidValue(f"no such layer: {which!r:.100}")
                return places[0]
            if not 0 <= which < len(self._parts):
                raise InvalidValue(f"no layer {which} of {len(self._parts)}")
            return which


def _alike(one: Platform, other: Platform) -> bool:
    one, other = one.normalised(), other.normalised()
    return (one.os, one.architecture, one.variant) == (other.os, other.architecture, other.variant)
