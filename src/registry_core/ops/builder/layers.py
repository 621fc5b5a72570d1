"""Build layers from files, directories and tars (image-spec layer.md).

Equal files give an equal tar on every machine: owners, times, link counts and directory order of the disk are not used,
and headers are encoded here, because ``tarfile`` has changed its output between versions. The bytes of a compressed
layer depend on the compressor.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.compression import GZIP, Compression, DecompressingReader, compression_for
from registry_core.content.spool import Spool
from registry_core.content.streams import CHUNK_SIZE, ByteReader, ByteSource, BytesSource, FileSource, Readable
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from registry_core.errors import InvalidName, InvalidValue, SizeMismatch, error_reference
from registry_core.ops.blobs import describe, to_source
from registry_core.ops.builder.config import ConfigEditor, order_keys, update_strings
from registry_core.ops.builder.staged import StagedBlobs, origin_source
from registry_core.ops.images import Image
from registry_core.ops.tar.headers import padding
from registry_core.ops.tar.members import FileKind, Member
from registry_core.ops.tar.writer import END_OF_ARCHIVE, encode_header
from registry_core.ports.catalog import BlobLocation

__all__ = [
    "BuiltLayer",
    "Entry",
    "LayerPart",
    "LayerStream",
    "compress_layer",
    "config_editor",
    "descriptor_json",
    "directory_entries",
    "file_entries",
    "image_path",
    "inherited_parts",
    "prebuilt_layer",
    "with_annotation",
    "write_entry",
    "write_layer",
]


_MEDIA_TYPES: Final = {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}

# The first bytes of scripts and ELF programs.
_EXECUTABLE_MAGIC: Final = (b"#!", b"\x7fELF")


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
        media_type: Media type of the layer, which states its compression.

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
        tar = DecompressingReader(stored, compression) if compression else stored
        while data := tar.read(CHUNK_SIZE):
            hasher.update(data)
    return BuiltLayer(descriptor, Digest(f"sha256:{hasher.hexdigest()}"), source)


class Entry(msgspec.Struct, frozen=True):
    """A file, directory or symbolic link of a new layer.

    Args:
        kind: Type of the file.
        mode: Permissions.
        size: Size of the content in bytes.
        content: Source of the content of a file.
        link: Target of a symbolic link.
    """

    kind: FileKind
    mode: int
    size: int = 0
    content: ByteSource | None = None
    link: str = ""


_DIRECTORY: Final = Entry(FileKind.DIRECTORY, 0o755)


def image_path(path: str | os.PathLike[str]) -> str:
    """Clean a path in an image: relative, without empty parts and dots; the root is the empty string.

    Raises:
        InvalidName: The path contains ``..`` or a NUL byte, is not a string, or is not UTF-8.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or "\0" in text:
        raise InvalidName(f"not a path in an image: {text!r:.200}")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidName(f"path leaves the image: {text!r:.200}")
    _check_utf8(text)
    return "/".join(parts)


def file_entries(files: Mapping[str, bytes | str | os.PathLike[str]]) -> dict[str, Entry]:
    """Entries for single files, by path in the image.

    A file on disk is executable if its owner may execute it. Bytes and text are executable if they begin with ``#!`` or
    an ELF header.

    Args:
        files: Content by path in the image: bytes, text (encoded as UTF-8), or the path of a file on disk.

    Raises:
        InvalidName: A path leaves the image, names its root, or is given twice.
        InvalidValue: A value is neither content nor a regular file on disk, or ``files`` is not a mapping.
        OSError: A file cannot be read.
    """
    if not isinstance(files, Mapping):
        raise InvalidValue(f"files must be a mapping of paths to content, not {type(files).__name__}")
    entries: dict[str, Entry] = {}
    for name, content in files.items():
        path = image_path(name)
        if not path:
            raise InvalidName(f"not the path of a file: {name!r:.200}")
        if path in entries:
            raise InvalidName(f"two files with the same path: {path!r:.200}")
        if isinstance(content, os.PathLike):
            entries[path] = _entry_from_disk(Path(content), follow=True)
        elif isinstance(content, bytes | bytearray | memoryview | str):
            data = content.encode("utf-8") if isinstance(content, str) else bytes(content)
            mode = 0o755 if data.startswith(_EXECUTABLE_MAGIC) else 0o644
            entries[path] = Entry(FileKind.FILE, mode, len(data), BytesSource(data))
        else:
            raise InvalidValue(f"content of {path!r:.200} must be bytes, text or a Path, not {type(content).__name__}")
    return entries


def directory_entries(directory: str | os.PathLike[str], target: str | os.PathLike[str] = "") -> dict[str, Entry]:
    """Entries for the content of a directory on disk. Symbolic links are stored as links and never followed.

    Args:
        directory: Directory on disk.
        target: Directory in the image that receives the content; the root by default.

    Raises:
        InvalidName: The target leaves the image, or the name of a file is not UTF-8.
        InvalidValue: The directory contains a device, fifo or socket.
        OSError: A file or directory cannot be read.
    """
    root = image_path(target)
    entries = {root: _DIRECTORY} if root else {}
    pending = [(Path(directory), root)]
    while pending:
        checkpoint()
        folder, prefix = pending.pop()
        with os.scandir(folder) as items:
            names = [item.name for item in items]
        for name in names:
            path = image_path(f"{prefix}/{name}")
            entries[path] = entry = _entry_from_disk(folder / name, follow=False)
            if entry.kind is FileKind.DIRECTORY:
                pending.append((folder / name, path))
    return entries


def write_layer(entries: Mapping[str, Entry], compression: Compression = GZIP, *, seconds: int = 0) -> BuiltLayer:
    """Write a layer; directories precede their content, and missing parent directories are added.

    Args:
        entries: Entries by clean path.
        compression: Compression of the layer.
        seconds: Modification time of all entries, in seconds since 1970.

    Raises:
        InvalidName: An entry is below one that is not a directory.
        SizeMismatch: A file changed while it was read.
        OSError: A file cannot be read.
        Unsupported: The compression is zstd, which is not installed.
        Cancelled: The current scope was cancelled.
        DeadlineExceeded: The deadline has passed.
    """
    stream = LayerStream(compression)
    for path, entry in _with_parents(entries):
        write_entry(stream, path, entry, seconds=seconds)
    stream.write(END_OF_ARCHIVE)
    return stream.finish()


def write_entry(stream: LayerStream, path: str, entry: Entry, *, seconds: int = 0) -> None:
    """Write an entry to a layer.

    Args:
        stream: Layer to write to.
        path: Clean path of the entry.
        entry: Entry to write.
        seconds: Modification time in seconds since 1970.

    Raises:
        SizeMismatch: A file changed while it was read.
        OSError: A file cannot be read.
    """
    checkpoint()
    member = Member(
        path.encode(), entry.kind, entry.mode, mtime=seconds * 10**9, size=entry.size, link=entry.link.encode()
    )
    stream.write(encode_header(member))
    if entry.content is not None:
        for chunk in _read_exactly(path, entry.content, entry.size):
            stream.write(chunk)
        stream.write(bytes(padding(entry.size)))


def _with_parents(entries: Mapping[str, Entry]) -> Iterator[tuple[str, Entry]]:
    complete = dict(entries)
    for path in entries:
        parent = path.rpartition("/")[0]
        while parent:
            if complete.setdefault(parent, _DIRECTORY).kind is not FileKind.DIRECTORY:
                raise InvalidName(f"{path!r:.200} is below {parent!r:.200}, which is not a directory")
            parent = parent.rpartition("/")[0]
    return iter(sorted(complete.items(), key=lambda item: item[0].split("/")))


def _entry_from_disk(path: Path, *, follow: bool) -> Entry:
    status = path.stat() if follow else path.lstat()
    if stat.S_ISLNK(status.st_mode):
        link = os.fspath(path.readlink())
        _check_utf8(link)
        return Entry(FileKind.SYMLINK, 0o777, link=link)
    if stat.S_ISDIR(status.st_mode) and not follow:
        return _DIRECTORY
    if not stat.S_ISREG(status.st_mode):
        raise InvalidValue(f"not a regular file: {path}")
    mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
    return Entry(FileKind.FILE, mode, status.st_size, FileSource(path))


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


def _check_utf8(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidName(f"path or link is not UTF-8: {text!r:.200}") from None


class LayerPart(msgspec.Struct, frozen=True):
    """A layer of an image that is being built.

    Args:
        json: JSON of its descriptor, as it will be written to the manifest.
        descriptor: The same descriptor, typed.
        content: Source of its bytes.
        location: Registry and repository that hold it, if any.
        convertible: Whether its descriptor gets the media type of the manifest's format, OCI or Docker. An inherited
            descriptor is kept unless the whole image is converted.
    """

    json: dict[str, Any]
    descriptor: Descriptor
    content: ByteSource
    location: BlobLocation | None = None
    convertible: bool = False

    @classmethod
    def from_built(cls, layer: BuiltLayer) -> Self:
        """Make a part of a new layer."""
        return cls(descriptor_json(layer.descriptor), layer.descriptor, layer.content, convertible=True)

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
