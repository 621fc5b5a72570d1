"""Images in the making: what building a new one and editing one that exists have in common.

Documents are changed as decoded JSON, never through the typed views, so that fields nobody knew survive (R-027). What
is not changed keeps its bytes, and so its digest (R-026).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from registry_core.content.codecs import decoded
from registry_core.content.compression import Compression
from registry_core.content.source import ByteSource, BytesSource, LentReader, Readable
from registry_core.domain import wire
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import DOCKER_MANIFEST, OCI_CONFIG, OCI_LAYER
from registry_core.errors import InvalidValue
from registry_core.ops.build.config_draft import ConfigDraft, merged, ordered
from registry_core.ops.build.families import DOCKER, OCI, in_family, renamed
from registry_core.ops.build.layer_writer import directory_entries, file_entries, write_layer
from registry_core.ops.build.moments import seconds_of
from registry_core.ops.build.new_layer import NewLayer
from registry_core.ops.build.parts import Part, draft_of, ready_layer
from registry_core.ops.build.repacking import checked, repacked
from registry_core.ops.build.settings import Settings
from registry_core.ops.build.staged import StagedBlobs, StagedManifests, stage, staged_repository
from registry_core.ops.image import Image
from registry_core.ops.read import source_of

__all__ = ["Draft"]


class Draft(Settings):
    """An image in the making. Each method changes it and returns it; layers are read and written when they are added.

    Args:
        manifest: The decoded manifest to begin with, without its layers.
        parts: Its layers, lowest first.
        config: Its configuration; ``None`` where it has to be read, if it is needed at all.
        original: The image that is changed.
    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        parts: list[Part],
        config: ConfigDraft | None = None,
        original: Image | None = None,
    ) -> None:
        self._manifest = dict(manifest)
        self._annotations = tuple(self._manifest.get("annotations") or {})
        self._parts = parts
        self._known_config = config
        self._original = original
        self._converted = False
        self._annotated = False
        super().__init__(inherited_cmd=bool(parts) or original is not None)

    def add_files(
        self,
        files: Mapping[str, bytes | str | os.PathLike[str]],
        *,
        compression: Compression | str = "gzip",
        mtime: str | int | datetime = 0,
    ) -> Self:
        """Add a layer of single files.

        Args:
            files: By their paths in the image; bytes, text, or the path of a file on disk. Files on disk stay
                executable; content given as such is executable where it begins with ``#!`` or as ELF.
            compression: ``gzip``, ``zstd`` or ``""`` for none, or one with a level.
            mtime: When all of them were changed: never what the disk says, so that it does not matter.

        Raises:
            InvalidName: A path leaves the image.
            InvalidValue: What stands on disk is not a file, or it is not a moment.
            OSError: A file cannot be read.
        """
        chosen, seconds = Compression.of(compression), seconds_of(mtime)
        return self._add(write_layer(file_entries(files), chosen, seconds=seconds), "add files")

    def add_directory(
        self,
        directory: str | os.PathLike[str],
        target: str = "",
        *,
        compression: Compression | str = "gzip",
        mtime: str | int | datetime = 0,
    ) -> Self:
        """Add a layer of everything below a directory on disk; symbolic links are kept as they are.

        Args:
            directory: On disk.
            target: Where its content goes in the image; the root if empty.
            compression: ``gzip``, ``zstd`` or ``""`` for none, or one with a level.
            mtime: When all of it was changed: never what the disk says, so that it does not matter.

        Raises:
            InvalidName: The target leaves the image, or a file's name is not UTF-8.
            InvalidValue: Something is neither a file, a directory nor a symbolic link, or it is not a moment.
            OSError: Something cannot be read.
        """
        chosen, seconds = Compression.of(compression), seconds_of(mtime)
        return self._add(write_layer(directory_entries(directory, target), chosen, seconds=seconds), "add directory")

    def add_tar(
        self,
        tar: bytes | os.PathLike[str] | ByteSource | Readable,
        *,
        canonical: bool = False,
        compression: Compression | str = "gzip",
    ) -> Self:
        """Add a layer of a tar stream of any length, which is read once; its digests are taken as it passes.

        Args:
            tar: Plain, or compressed with gzip or zstd, which is undone. An open stream, such as a pipe, is read to
                its end, and closed by whoever opened it.
            canonical: Whether it is packed anew, in the order of names and under headers of one form, so that the
                same files give the same layer. Otherwise it stays as it is, byte for byte.
            compression: ``gzip``, ``zstd`` or ``""`` for none, or one with a level.

        Raises:
            UnsafeArchive: A name leaves the image, or it contradicts itself.
            IntegrityError: It is no tar, or corrupt or cut off.
            InvalidValue: It is text, which could be content or a path.
            OSError: It cannot be read.
        """
        chosen = Compression.of(compression)
        pack = repacked if canonical else checked
        if isinstance(tar, Readable):
            return self._add(pack(decoded(LentReader(tar), OCI_LAYER), chosen), "add tar")
        with source_of(tar).open() as reader:
            return self._add(pack(decoded(reader, OCI_LAYER), chosen), "add tar")

    def add_layer(
        self, content: bytes | os.PathLike[str] | ByteSource | Readable, *, media_type: str = OCI_LAYER
    ) -> Self:
        """Add a layer that is made already, as it is; it is read through once for its digests.

        Args:
            content: A tar, compressed as the media type says; of a stream, a copy is kept in a temporary file.
            media_type: Of the layer.

        Raises:
            Unsupported: Nobody knows layers of that type.
            IntegrityError: The compressed stream is corrupt.
            InvalidValue: It is text, which could be content or a path.
            OSError: The file cannot be read.
        """
        return self._add(ready_layer(content, media_type), "add layer")

    def annotate(self, key: str, value: str | None) -> Self:
        """Set an annotation of the manifest; ``None`` removes it.

        Raises:
            InvalidValue: Key or value is no text.
        """
        before = self._manifest.get("annotations") or {}
        after = merged(before, {key: value})
        if after != before:
            self._annotated = True
            self._manifest["annotations"] = after
        return self

    def build(self) -> Image:
        """The image, in a repository of its own; ``RegistryClient.push_image`` stores it anywhere.

        What comes from elsewhere is read from where it is when it is needed. An image that was not changed is the
        same to the byte.

        Raises:
            InvalidValue: A Docker manifest would have annotations, a subject or a type of artifact, which it has no
            place for; what was there before is carried.
            Unsupported: Docker has no name for the type of a layer.
        """
        if self._family == DOCKER:
            self._check_docker()
        return self._built()

    def _built(self) -> Image:
        blobs, manifests = StagedBlobs(), StagedManifests()
        for part in self._parts:
            part.stage(blobs)
        document = self._document(blobs)
        raw = RawManifest(document.get("mediaType") or self._media_type, wire.encode(document))
        if self._original is not None:
            original = self._original.document
            if wire.encode(original.mapping) == raw.content:
                raw = original
            else:
                raw = RawManifest(raw.media_type, raw.content, original.algorithm)
        manifests.put(raw)
        return Image(staged_repository(blobs, manifests), raw)

    @property
    def _config(self) -> ConfigDraft:
        if self._known_config is None:
            self._known_config = self._read_config()
        return self._known_config

    def _read_config(self) -> ConfigDraft:
        if self._original is None:
            raise InvalidValue("an image without a configuration")
        return draft_of(self._original)

    @property
    def _media_type(self) -> str:
        return str(self._manifest["mediaType"]) if self._original is None else self._original.media_type

    @property
    def _family(self) -> str:
        return DOCKER if (self._manifest.get("mediaType") or self._media_type) == DOCKER_MANIFEST else OCI

    def _check_docker(self) -> None:
        new = {"annotations"} if self._annotated else set()
        if self._converted:
            new = {"annotations", "artifactType", "subject"}
        for field in sorted(new):
            if self._manifest.get(field):
                raise InvalidValue(f"a Docker manifest has no place for {field}: make it an OCI image with to_oci()")

    def _add(self, layer: NewLayer, told: str) -> Self:
        self._config.append(layer.diff_id, told)
        self._parts.append(Part.of(layer))
        return self

    def _document(self, blobs: StagedBlobs) -> dict[str, Any]:
        family = self._family
        document = dict(self._manifest)
        document["config"] = self._config_entry(blobs)
        if self._converted:
            document["config"] = renamed(document["config"], family)
        layers = [renamed(part.entry, family) if part.ours or self._converted else part.entry for part in self._parts]
        if layers or self._original is None or self._original.document.mapping.get("layers"):
            document["layers"] = layers
        annotations = document.get("annotations")
        if annotations:
            document["annotations"] = ordered(annotations, first=self._annotations)
        elif self._annotated:
            document.pop("annotations", None)
        return document

    def _config_entry(self, blobs: StagedBlobs) -> dict[str, Any]:
        if self._original is None:
            content = wire.encode(self._config.document())
            before: dict[str, Any] = {"mediaType": in_family(OCI_CONFIG, self._family)}
        else:
            before = self._original.document.mapping["config"]
            descriptor = self._original.manifest().config
            known = self._known_config
            content = b"" if known is None else wire.encode(known.document())
            if known is None or content == wire.encode(wire.decode(self._original.config().raw)):
                stage(blobs, self._original.repository, descriptor)
                return before
        digest = Digest.of(content)
        blobs.add(digest, len(content), BytesSource(content))
        return _described(before) | {"digest": str(digest), "size": len(content)}


def _described(entry: dict[str, Any]) -> dict[str, Any]:
    """A descriptor's JSON without what belongs to the bytes that it pointed at."""
    return {key: value for key, value in entry.items() if key not in ("data", "urls")}
