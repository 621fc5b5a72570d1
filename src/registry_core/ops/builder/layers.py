"""Build layers from entries and tars (image-spec layer.md).

Equal entries give an equal tar on every machine: headers are encoded here, because ``tarfile`` has changed its output
between versions. The bytes of a compressed layer depend on the compressor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.compression import GZIP, Compression, DecompressingReader, compression_for, decompress
from registry_core.content.spool import Spool
from registry_core.content.streams import CHUNK_SIZE, ByteReader, ByteSource, Readable
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from registry_core.errors import InvalidName, SizeMismatch, error_reference
from registry_core.ops.blobs import describe, to_source
from registry_core.ops.builder.config import ConfigEditor, order_keys, update_strings
from registry_core.ops.builder.entries import Entry, whiteout_entry
from registry_core.ops.builder.staged import StagedBlobs, origin_source
from registry_core.ops.builder.windows import windows_entries, windows_records
from registry_core.ops.images import Image
from registry_core.ops.tar.headers import padding
from registry_core.ops.tar.members import FileKind, Member
from registry_core.ops.tar.writer import END_OF_ARCHIVE, encode_header
from registry_core.ports.catalog import BlobLocation

__all__ = [
    "BuiltLayer",
    "LayerPart",
    "LayerStream",
    "compress_layer",
    "config_editor",
    "descriptor_json",
    "inherited_parts",
    "prebuilt_layer",
    "with_annotation",
    "write_entry",
    "write_layer",
]


_MEDIA_TYPES: Final = {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}

# Names of backends that are not registries, such as ``oci:DIRECTORY``.
_OTHER_BACKEND: Final = re.compile(r"[A-Za-z][\w.+-]*:(?!\d+$)")


class BuiltLayer(msgspec.Struct, frozen=True):
    """A new layer.

    Args:
        descriptor: Descriptor of the layer as stored.
        diff_id: Digest of its uncompressed tar.
        content: Source of the layer as stored.
    """

    descriptor: Descriptor
    diff_id: Digest
    content: ByteSource


class LayerStream:
    """Compress a tar as it is written, and compute both digests.

    Args:
        compression: Compression of the layer.

    Raises:
        Unsupported: The compression is zstd, which is not installed.
    """

    def __init__(self, compression: Compression = GZIP) -> None:
        self._spool = Spool()
        self._hasher = Digest.of(b"").hasher()
        self._encoder = compression.encoder()
        self._media_type = _MEDIA_TYPES[compression.name]

    def write(self, data: bytes) -> None:
        """Add bytes of the tar."""
        self._hasher.update(data)
        self._spool.write(self._encoder.compress(data))

    def finish(self) -> BuiltLayer:
        """Return the layer; the tar must be complete."""
        self._spool.write(self._encoder.finish())
        descriptor = Descriptor(media_type=self._media_type, digest=self._spool.digest, size=self._spool.size)
        return BuiltLayer(descriptor, Digest(f"sha256:{self._hasher.hexdigest()}"), self._spool)


def compress_layer(tar: ByteReader, compression: Compression = GZIP) -> BuiltLayer:
    """Compress a tar without changing its bytes.

    Args:
        tar: Uncompressed tar; it is read to its end and not closed.
        compression: Compression of the layer.

    Raises:
        Unsupported: The compression is zstd, which is not installed.
        RegistryError: The tar cannot be read.
    """
    stream = LayerStream(compression)
    while data := tar.read(CHUNK_SIZE):
        checkpoint()
        stream.write(data)
    return stream.finish()


def prebuilt_layer(content: str | os.PathLike[str] | bytes | ByteSource | Readable, media_type: str) -> BuiltLayer:
    """Take an existing layer unchanged; it is read once to compute its digests.

    Args:
        content: Path of a file, bytes, or an open stream, which is copied to a temporary file.
        media_type: Media type of the layer, which states its compression. The diff ID is that of what readers find:
            they decompress a layer whose first bytes show a compression, and take one of no bytes for empty.

    Raises:
        Unsupported: The media type is not one of a layer.
        IntegrityError: The compressed stream is corrupt.
        InvalidValue: The content has another type.
        OSError: The file cannot be read.
    """
    compression = compression_for(media_type)
    source = to_source(Path(content) if isinstance(content, str) else content)
    descriptor = describe(source, media_type)
    hasher = Digest.of(b"").hasher()
    with source.open() as stored:
        is_stated = compression and descriptor.size
        tar = DecompressingReader(stored, compression) if is_stated else decompress(stored, media_type)
        while data := tar.read(CHUNK_SIZE):
            hasher.update(data)
    return BuiltLayer(descriptor, Digest(f"sha256:{hasher.hexdigest()}"), source)


def write_layer(
    entries: Mapping[str, Entry], compression: Compression = GZIP, *, seconds: int = 0, windows: bool = False
) -> BuiltLayer:
    """Write a layer; directories precede their content.

    Parent directories are written only if they are entries themselves, or for Windows: a member would replace the
    attributes that a lower layer gives the directory.

    Args:
        entries: Entries by clean path.
        compression: Compression of the layer.
        seconds: Modification time of all entries, in seconds since 1970.
        windows: Whether to write the layer as Windows expects it.

    Raises:
        InvalidName: An entry is below one that is not a directory, a whiteout is malformed, or a name is not possible
            on Windows.
        SizeMismatch: A file changed while it was read.
        OSError: A file cannot be read.
        Unsupported: The compression is zstd, which is not installed, or an entry is not supported on Windows.
        Cancelled: The current scope was cancelled.
        DeadlineExceeded: The deadline has passed.
    """
    stream = LayerStream(compression)
    if windows:
        entries = windows_entries(entries)
    for path, entry in sorted(entries.items(), key=lambda item: item[0].split("/")):
        _check_parents(path, entry, entries)
        write_entry(stream, path, entry, seconds=seconds, records=windows_records(path, entry) if windows else ())
    stream.write(END_OF_ARCHIVE)
    return stream.finish()


def write_entry(
    stream: LayerStream, path: str, entry: Entry, *, seconds: int = 0, records: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """Write an entry to a layer.

    Args:
        stream: Layer to write to.
        path: Clean path of the entry.
        entry: Entry to write.
        seconds: Modification time in seconds since 1970.
        records: Further PAX records of the entry.

    Raises:
        SizeMismatch: A file changed while it was read.
        OSError: A file cannot be read.
    """
    checkpoint()
    uid, gid = entry.owner
    member = Member(path.encode(), entry.kind, entry.mode, uid, gid, seconds * 10**9, entry.size, entry.link.encode())
    stream.write(encode_header(member, records))
    if entry.content is not None:
        for chunk in _read_exactly(path, entry.content, entry.size):
            stream.write(chunk)
        stream.write(bytes(padding(entry.size)))


def _check_parents(path: str, entry: Entry, entries: Mapping[str, Entry]) -> None:
    whiteout_entry(path, entry)
    parent = path.rpartition("/")[0]
    while parent:
        if parent in entries and entries[parent].kind is not FileKind.DIRECTORY:
            raise InvalidName(f"{path!r:.200} is below {parent!r:.200}, which is not a directory")
        parent = parent.rpartition("/")[0]


def _read_exactly(path: str, source: ByteSource, size: int) -> Iterator[bytes]:
    count = 0
    with source.open() as reader:
        while data := reader.read(CHUNK_SIZE):
            checkpoint()
            count += len(data)
            if count > size:
                break
            yield data
    if count != size:
        raise SizeMismatch(f"file changed while it was read: {path!r:.200}", expected=size, actual=count)


class LayerPart(msgspec.Struct, frozen=True):
    """A layer of an image that is being built.

    Args:
        json: JSON of its descriptor, as it will be written to the manifest.
        descriptor: The same descriptor, typed.
        content: Source of its bytes.
        location: Registry and repository that hold it, if any.
        convertible: Whether its descriptor gets the media type of the manifest's format, OCI or Docker. An inherited
            descriptor is kept unless the whole image is converted.
        os: Operating system for which the layer was added; empty for an inherited layer.
    """

    json: dict[str, Any]
    descriptor: Descriptor
    content: ByteSource
    location: BlobLocation | None = None
    convertible: bool = False
    os: str = ""

    @classmethod
    def from_built(cls, layer: BuiltLayer, *, os: str = "") -> Self:
        """Make a part of a new layer.

        Args:
            layer: The new layer.
            os: Operating system for which it was written.
        """
        return cls(descriptor_json(layer.descriptor), layer.descriptor, layer.content, convertible=True, os=os)

    @property
    def is_remote(self) -> bool:
        """Whether a registry holds the layer, so that reading it means a download."""
        return self.location is not None and not _OTHER_BACKEND.match(self.location.registry)

    def stage(self, blobs: StagedBlobs) -> None:
        """Make the layer readable from the repository of the built image."""
        blobs.add(self.descriptor.digest, self.descriptor.size, self.content, self.location)


def descriptor_json(descriptor: Descriptor) -> dict[str, Any]:
    """The JSON of a descriptor with only media type, digest and size."""
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


def with_annotation(json: Mapping[str, Any], key: str, value: str | None) -> dict[str, Any]:
    """Set an annotation in the JSON of a descriptor; ``None`` removes it.

    Raises:
        InvalidValue: The key or the value is not a string, or the key is empty.
    """
    before = json.get("annotations") or {}
    after = update_strings(before, {key: value})
    if after == before:
        return dict(json)
    if not after:
        return {name: field for name, field in json.items() if name != "annotations"}
    return dict(json) | {"annotations": order_keys(after, first=before)}


def inherited_parts(image: Image, *, convertible: bool = False) -> list[LayerPart]:
    """The layers of an existing image, which are not read.

    Args:
        image: Image that has the layers.
        convertible: Value of ``LayerPart.convertible``.
    """
    layers = image.document.mapping.get("layers") or []
    return [
        LayerPart(
            json,
            descriptor,
            origin_source(image.repository, descriptor),
            image.repository.blob_location(descriptor.digest),
            convertible=convertible,
        )
        for json, descriptor in zip(layers, image.manifest().layers, strict=True)
    ]


def config_editor(image: Image, *, complete: bool = False) -> ConfigEditor:
    """An editor for the configuration of an image.

    Args:
        image: Image whose configuration is read.
        complete: See ``ConfigEditor``.

    Raises:
        InvalidDocument: The configuration does not have one diff ID per layer.
        RegistryError: The configuration cannot be read.
    """
    with error_reference(image.reference):
        return ConfigEditor(strict_json.decode(image.config().raw), len(image.manifest().layers), complete=complete)
