"""Build images: the layer methods that builder and editor share, and the builder.

Documents are edited as decoded JSON and not through the typed views, so unknown fields are kept. An unchanged document
keeps its bytes, and so its digest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from registry_core.content.compression import Compression, decompress
from registry_core.content.streams import BorrowedReader, ByteReader, ByteSource, BytesSource, Readable
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import (
    DOCKER,
    DOCKER_MANIFEST,
    OCI,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    convert_config,
    convert_descriptor,
    convert_media_type,
)
from registry_core.domain.platform import Platform
from registry_core.errors import InvalidValue, Unsupported
from registry_core.ops.blobs import to_source
from registry_core.ops.builder.config import (
    EPOCH_TEXT,
    ConfigEditor,
    order_keys,
    to_platform,
    unix_seconds,
    update_strings,
)
from registry_core.ops.builder.config_methods import ConfigMethods
from registry_core.ops.builder.entries import (
    DEFAULT_ATTRIBUTES,
    Attributes,
    Entry,
    directory_entries,
    file_entries,
    image_path,
)
from registry_core.ops.builder.layers import (
    BuiltLayer,
    LayerPart,
    config_editor,
    inherited_parts,
    prebuilt_layer,
    write_layer,
)
from registry_core.ops.builder.lower_paths import LowerPaths
from registry_core.ops.builder.patterns import path_filter
from registry_core.ops.builder.repack import check_layer, passthrough_layer, repack_layer
from registry_core.ops.builder.staged import StagedBlobs, StagedManifests, stage_blob, staged_repository
from registry_core.ops.images import Image, check_kind

__all__ = ["BaseImageBuilder", "ImageBuilder"]


class BaseImageBuilder(ConfigMethods):
    """Methods that ``ImageBuilder`` and ``ImageEditor`` share. Layers are read and written when they are added.

    Args:
        manifest: Decoded manifest to start from; its layers are in ``parts``.
        parts: Layers, lowest first.
        config: Image configuration; ``None`` to read it from ``original`` when it is first needed.
        original: Image that is edited; ``None`` for a new one.
    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        parts: list[LayerPart],
        config: ConfigEditor | None = None,
        original: Image | None = None,
    ) -> None:
        self._manifest = dict(manifest)
        self._first_annotations = tuple(self._manifest.get("annotations") or {})
        self._parts = parts
        self._loaded_config = config
        self._original = original
        self._converted = False
        self._annotated = False
        self._lower_paths = LowerPaths()
        self._skipped: list[str] = []
        super().__init__(inherited_cmd=bool(parts) or original is not None)

    @property
    def skipped(self) -> tuple[str, ...]:
        """The paths on disk of the sockets that ``add_directory`` has left out."""
        return tuple(self._skipped)

    def add_files(
        self,
        files: Mapping[str, bytes | str | os.PathLike[str]],
        *,
        compression: Compression | str = "gzip",
        mtime: str | int | datetime = 0,
        mode: int | None = None,
        owner: tuple[int, int] = (0, 0),
        special_modes: bool = False,
    ) -> Self:
        """Add a layer of single files.

        Parent directories that lower layers have are not part of the layer, so they keep their mode and owner. New ones
        have the mode 0755 and belong to root. Symbolic links of lower layers among the parents are followed.

        To know the parents, layers below of up to 16 MiB are read. Larger layers, and layers in a registry, are read
        only if a parent is one that distributions make a link, such as ``lib``, or if a layer below them has a link
        there; all other parents count as existing directories.

        Args:
            files: Content by path in the image: bytes, text (encoded as UTF-8), or the path of a file on disk.
            compression: ``gzip``, ``zstd``, ``""`` for none, or a ``Compression`` with a level.
            mtime: Modification time of all files; the times on disk are never used.
            mode: Permissions of all files, such as ``0o644``; executable files may also be executed by everyone who may
                read them. By default, files on disk keep their permissions, and bytes and text have ``0o644``. Files
                are executable if they are on disk, or begin with ``#!`` or an ELF header.
            owner: Numeric owner and group of all files; those on disk are never used.
            special_modes: Whether files on disk keep their setuid and setgid bits.

        Raises:
            InvalidName: A path leaves the image, names its root, or leads through a loop of symbolic links.
            InvalidValue: A value is neither content nor a regular file on disk, or ``mtime``, ``mode`` or ``owner`` is
                malformed.
            OSError: A file cannot be read.
            SizeMismatch: A file changed while it was read.
            Unsupported: The image is for Windows, and the files have modes or owners, or are opaque whiteouts.
            RegistryError: A lower layer cannot be read.
        """
        attributes = Attributes(mode, owner, special_modes)
        return self._add_entries(file_entries(files, attributes), attributes, compression, mtime, "add files")

    def add_directory(
        self,
        directory: str | os.PathLike[str],
        target: str | os.PathLike[str] = "",
        *,
        compression: Compression | str = "gzip",
        mtime: str | int | datetime = 0,
        mode: int | None = None,
        owner: tuple[int, int] = (0, 0),
        special_modes: bool = False,
        exclude: Iterable[str] = (),
    ) -> Self:
        """Add a layer with the content of a directory on disk.

        Symbolic links are stored as links, and files with several names as several files. Sockets are left out and
        listed in ``skipped``. Extended attributes are not stored.

        The target and its parents keep their mode and owner if lower layers have them, as with ``add_files``; a new
        target gets ``mode`` and ``owner``. Directories below the target get the attributes of those on disk. Symbolic
        links of lower layers are followed, as by ``add_files``.

        Args:
            directory: Directory on disk.
            target: Directory in the image that receives the content; the root by default.
            compression: ``gzip``, ``zstd``, ``""`` for none, or a ``Compression`` with a level.
            mtime: Modification time of all files; the times on disk are never used.
            mode: Permissions of all files and directories, such as ``0o644``; directories and executable files may also
                be executed by everyone who may read them. By default, the permissions on disk are kept.
            owner: Numeric owner and group of all files; those on disk are never used.
            special_modes: Whether files and directories keep their setuid and setgid bits.
            exclude: Patterns of files and directories to leave out, as in ``.gitignore``: ``*.pyc``, ``/build/``,
                ``!keep.pyc``. They apply to paths below the directory, and need the extra ``ociport[build]``. To keep
                some files of a directory, leave out its content: ``build/*``, ``!build/keep``.

        Raises:
            InvalidName: The target leaves the image or leads through a loop of symbolic links, or the name of a file
                is not UTF-8.
            InvalidValue: The directory contains a device or fifo that is not excluded, or ``mtime``, ``mode``,
                ``owner`` or ``exclude`` is malformed.
            ConfigError: ``exclude`` is set, and the extra ``ociport[build]`` is not installed.
            OSError: A file or directory cannot be read.
            SizeMismatch: A file changed while it was read.
            Unsupported: The image is for Windows, and the files have modes or owners, or are symbolic links.
            RegistryError: A lower layer cannot be read.
        """
        attributes = Attributes(mode, owner, special_modes)
        skipped: list[str] = []
        entries = directory_entries(directory, target, attributes, exclude=path_filter(exclude), skipped=skipped)
        self._add_entries(entries, attributes, compression, mtime, "add directory", image_path(target))
        self._skipped += skipped
        return self

    def add_tar(
        self,
        tar: str | os.PathLike[str] | bytes | ByteSource | Readable,
        *,
        canonical: bool = False,
        compression: Compression | str = "gzip",
    ) -> Self:
        """Add a layer from a tar of any length, which is read once.

        Args:
            tar: Tar, uncompressed or compressed with gzip or zstd: the path of a file, bytes, or an open stream such as
                a pipe. A stream is read to its end and not closed.
            canonical: Whether to repack the tar with sorted names and uniform headers, so that equal files give equal
                layers. By default its bytes are kept.
            compression: Compression of the layer: ``gzip``, ``zstd``, ``""`` for none, or a ``Compression`` with a
                level.

        Raises:
            UnsafeArchive: A path leaves the image, or members contradict each other.
            IntegrityError: The content is not a tar, corrupt, or truncated.
            InvalidValue: The value has another type, or is a text stream.
            OSError: The file or stream cannot be read.
            Unsupported: The image is for Windows, and files are not below ``Files``, or ``canonical`` is set.
        """
        parsed = Compression.of(compression)
        if canonical:
            self._refuse_windows("add_tar with canonical=True")
        if isinstance(tar, Readable):
            return self._add(self._pack(BorrowedReader(tar), parsed, canonical=canonical), "add tar")
        with to_source(Path(tar) if isinstance(tar, str) else tar).open() as reader:
            return self._add(self._pack(reader, parsed, canonical=canonical), "add tar")

    def add_layer(
        self,
        content: str | os.PathLike[str] | bytes | ByteSource | Readable,
        *,
        media_type: str = OCI_LAYER,
    ) -> Self:
        """Add an existing layer unchanged. It is read once to compute its digests.

        Args:
            content: Tar, compressed as the media type says: the path of a file, bytes, or an open stream, which is
                copied to a temporary file.
            media_type: Media type of the layer.

        Raises:
            Unsupported: The media type is not one of a layer, or the image is for Windows, and files are not below
                ``Files``.
            IntegrityError: The compressed stream is corrupt.
            InvalidValue: The value has another type.
            OSError: The file cannot be read.
        """
        return self._add(self._prebuilt(content, media_type), "add layer")

    def annotate(self, key: str, value: str | None) -> Self:
        """Set an annotation of the manifest; ``None`` removes it.

        Raises:
            InvalidValue: The key or the value is not a string, or the key is empty.
        """
        before = self._manifest.get("annotations") or {}
        after = update_strings(before, {key: value})
        if after != before:
            self._annotated = True
            self._manifest["annotations"] = after
        return self

    def build(self) -> Image:
        """Build the image as a repository that contains only this image; ``RegistryClient.push_image`` pushes it.

        Inherited blobs are read from their source when they are needed. An unchanged image keeps its exact bytes.

        Raises:
            InvalidValue: A Docker manifest would get annotations, a subject or an artifact type, which the format does
                not have. Those that the original had are kept. Or the operating system was changed after layers were
                added for another one.
            Unsupported: The media type of a layer has no equivalent in Docker manifests.
        """
        self._check_os_of_layers()
        if self._format == DOCKER:
            self._check_docker_fields()
        return self._assemble()

    def _assemble(self) -> Image:
        blobs, manifests = StagedBlobs(), StagedManifests()
        for part in self._parts:
            part.stage(blobs)
        document = self._manifest_document(blobs)
        raw = RawManifest(document.get("mediaType") or self._media_type, strict_json.encode(document))
        if self._original is not None:
            original = self._original.document
            if strict_json.encode(original.mapping) == raw.content:
                raw = original
            else:
                raw = RawManifest(raw.media_type, raw.content, original.algorithm)
        manifests.put(raw)
        return Image(staged_repository(blobs, manifests), raw)

    @property
    def _config(self) -> ConfigEditor:
        if self._loaded_config is None:
            self._loaded_config = self._load_config()
        return self._loaded_config

    def _load_config(self) -> ConfigEditor:
        if self._original is None:
            raise InvalidValue("image without a configuration")
        return config_editor(self._original)

    @property
    def _media_type(self) -> str:
        return str(self._manifest["mediaType"]) if self._original is None else self._original.media_type

    @property
    def _format(self) -> str:
        return DOCKER if (self._manifest.get("mediaType") or self._media_type) == DOCKER_MANIFEST else OCI

    def _check_docker_fields(self) -> None:
        new = {"annotations"} if self._annotated else set()
        if self._converted:
            new = {"annotations", "artifactType", "subject"}
        for field in sorted(new):
            if self._manifest.get(field):
                raise InvalidValue(f"Docker manifests have no field {field}: convert the image with to_oci()")

    def _add_entries(
        self,
        entries: dict[str, Entry],
        attributes: Attributes,
        compression: Compression | str,
        mtime: str | int | datetime,
        created_by: str,
        target: str = "",
    ) -> Self:
        parsed, seconds = Compression.of(compression), unix_seconds(mtime)
        if self._is_windows:
            if attributes != DEFAULT_ATTRIBUTES:
                raise Unsupported(
                    "layers for Windows have neither modes nor numeric owners: omit mode, owner, special_modes"
                )
            return self._add(write_layer(entries, parsed, seconds=seconds, windows=True), created_by)
        entries = self._lower_paths.resolve(entries, self._parts, target=target)
        layer = write_layer(entries, parsed, seconds=seconds)
        self._lower_paths.add(layer.descriptor.digest, entries)
        return self._add(layer, created_by)

    def _add(self, layer: BuiltLayer, created_by: str) -> Self:
        self._config.append(layer.diff_id, created_by)
        self._parts.append(LayerPart.from_built(layer, os=self._config.os))
        return self

    def _pack(self, tar: ByteReader, compression: Compression, *, canonical: bool) -> BuiltLayer:
        uncompressed = decompress(tar, OCI_LAYER)
        if canonical:
            return repack_layer(uncompressed, compression)
        return passthrough_layer(uncompressed, compression, windows=self._is_windows)

    def _prebuilt(self, content: str | os.PathLike[str] | bytes | ByteSource | Readable, media_type: str) -> BuiltLayer:
        layer = prebuilt_layer(content, media_type)
        if self._is_windows:
            with layer.content.open() as stored:
                check_layer(decompress(stored, media_type), windows=True)
        return layer

    @property
    def _is_windows(self) -> bool:
        return self._config.os == "windows"

    def _refuse_windows(self, operation: str) -> None:
        if self._is_windows:
            raise Unsupported(f"{operation}: attributes that Windows needs would be lost from a layer that is repacked")

    def _check_os_of_layers(self) -> None:
        for number, part in enumerate(self._parts):
            if part.os and (part.os == "windows") != self._is_windows:
                raise InvalidValue(
                    f"layer {number + 1} was added for {part.os}, and the operating system of the image is now "
                    f"{self._config.os!r:.50}: set the platform before adding layers"
                )

    def _manifest_document(self, blobs: StagedBlobs) -> dict[str, Any]:
        document = dict(self._manifest)
        document["config"] = self._config_descriptor(blobs)
        if self._converted:
            original = OCI_MANIFEST if self._original is None else self._original.media_type
            document["config"] = convert_config(document["config"], self._format, manifest=original)
        layers = [
            convert_descriptor(part.json, self._format) if part.convertible or self._converted else part.json
            for part in self._parts
        ]
        if layers or self._original is None or self._original.document.mapping.get("layers"):
            document["layers"] = layers
        annotations = document.get("annotations")
        if annotations:
            document["annotations"] = order_keys(annotations, first=self._first_annotations)
        elif self._annotated:
            document.pop("annotations", None)
        return document

    def _config_descriptor(self, blobs: StagedBlobs) -> dict[str, Any]:
        if self._original is None:
            content = strict_json.encode(self._config.document())
            before: dict[str, Any] = {"mediaType": convert_media_type(OCI_CONFIG, self._format)}
        else:
            before = self._original.document.mapping["config"]
            descriptor = self._original.manifest().config
            loaded = self._loaded_config
            content = b"" if loaded is None else strict_json.encode(loaded.document())
            if loaded is None or content == strict_json.encode(strict_json.decode(self._original.config().raw)):
                stage_blob(blobs, self._original.repository, descriptor)
                return before
        digest = Digest.of(content)
        blobs.add(digest, len(content), BytesSource(content))
        # Embedded data and URLs are those of the old bytes.
        kept = {key: value for key, value in before.items() if key not in ("data", "urls")}
        return kept | {"digest": str(digest), "size": len(content)}


class ImageBuilder(BaseImageBuilder):
    """Build a new image. Each method changes the builder and returns it.

    Layers are read and written when they are added. All times are 1970 unless ``created`` or ``mtime`` is given, so the
    result does not depend on the time of the build.

    Equal input gives equal tars, and so equal diff IDs, on every machine. The permissions of files on disk are part of
    the input, unless ``mode`` is given. Digests of compressed layers are equal only with the same compressor: another
    zlib, such as zlib-ng, may produce other bytes from the same tar. If digests must agree across such machines, build
    the layers once and use ``add_layer``, or do not compress them.

    The result is an OCI image without the annotations of the base. To change an existing image and keep the rest of
    it, use ``ImageEditor``.

    Args:
        platform: Platform of the image; by default that of the base, or ``linux/amd64`` without a base.
        base: Image to build on: its layers, its configuration with unknown fields, and its history.

    Raises:
        InvalidName: The text is not a platform.
        InvalidValue: The base does not run on the platform.
        RegistryError: The configuration of the base cannot be read.
    """

    def __init__(self, platform: Platform | str | None = None, base: Image | None = None) -> None:
        wanted = None if platform is None else to_platform(platform)
        if base is not None:
            check_kind(base, Image)
        config = ConfigEditor({}, 0, complete=True) if base is None else config_editor(base, complete=True)
        available = config.platform
        if wanted is not None and available is not None and not wanted.runs(available):
            raise InvalidValue(f"base image for {available} does not run on {wanted}")
        if wanted is not None or available is None:
            config.set_platform(wanted or Platform(os="linux", architecture="amd64"))
        config.created = EPOCH_TEXT
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
        super().__init__(manifest, [] if base is None else inherited_parts(base, convertible=True), config)
        self._inherited_cmd = base is not None
