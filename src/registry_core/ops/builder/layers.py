"""Layers from files: the same files give the same tar on any machine (image-spec layer.md).

Nothing of the machine goes in: no owners, times, link counts or directory order. Headers are written field by field,
because what the standard library writes has changed between versions. The bytes of the compressed layer are up to the
zlib that Python was built with.

Layers in the making: a tar goes in, and comes out compressed, with the digests of both.

Layers of images in the making: those that were there before, and those that were just made.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.compression import GZIP, Compression, DecompressingReader, compression_for
from registry_core.content.streams import CHUNK_SIZE, ByteReader, ByteSource, BytesSource, FileSource, Readable
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from registry_core.errors import InvalidName, InvalidValue, SizeMismatch, error_reference
from registry_core.ops.blobs import describe, to_source
from registry_core.ops.builder.config import ConfigEditor, merged, ordered
from registry_core.ops.builder.staged import StagedBlobs, origin_source
from registry_core.ops.images import Image
from registry_core.ops.tar.headers import padding
from registry_core.ops.tar.members import FileKind, Member
from registry_core.ops.tar.writer import END_OF_ARCHIVE, encode_header
from registry_core.ports.catalog import BlobLocation

if TYPE_CHECKING:
    from registry_core.content.spool import Spool

__all__ = [
    "BuiltLayer",
    "Entry",
    "LayerPart",
    "LayerStream",
    "annotated",
    "clean_name",
    "compress_layer",
    "directory_entries",
    "draft_of",
    "entry_of",
    "file_entries",
    "inherited_parts",
    "prebuilt_layer",
    "write_entry",
    "write_layer",
]


_TYPES: Final = {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}


class BuiltLayer(msgspec.Struct, frozen=True):
    """A layer that was just made.

    Args:
        descriptor: Of the layer as it is stored.
        diff_id: Of its tar.
        content: The layer as it is stored.
    """

    descriptor: Descriptor
    diff_id: Digest
    content: ByteSource


class LayerStream:
    """Takes in a tar and keeps it compressed.

    Args:
        compression: How.

    Raises:
        Unsupported: It is zstd, which is not installed.
    """

    def __init__(self, compression: Compression = GZIP) -> None:
        from registry_core.content.spool import Spool

        self._spool: Spool = Spool()
        self._hasher = Digest.of(b"").hasher()
        self._encoder = compression.encoder()
        self._media_type = _TYPES[compression.name]

    def write(self, data: bytes) -> None:
        """Take in the next bytes of the tar."""
        self._hasher.update(data)
        self._spool.write(self._encoder.compress(data))

    def finish(self) -> BuiltLayer:
        """The layer, once the tar is complete."""
        self._spool.write(self._encoder.finish())
        descriptor = Descriptor(media_type=self._media_type, digest=self._spool.digest, size=self._spool.size)
        return BuiltLayer(descriptor, Digest(f"sha256:{self._hasher.hexdigest()}"), self._spool)


def compress_layer(tar: ByteReader, compression: Compression = GZIP) -> BuiltLayer:
    """A layer of a tar that stays as it is, byte for byte.

    Args:
        tar: Read to its end; whoever opened it closes it.
        compression: How it is stored.

    Raises:
        Unsupported: The compression is zstd, which is not installed.
        RegistryError: The tar cannot be read.
    """
    stream = LayerStream(compression)
    while data := tar.read(CHUNK_SIZE):
        checkpoint()
        stream.write(data)
    return stream.finish()


_PROGRAMS: Final = (b"#!", b"\x7fELF")


class Entry(msgspec.Struct, frozen=True):
    """One member of a layer.

    Args:
        kind: A file, a directory or a symbolic link.
        mode: Its permissions.
        size: Of the content, in bytes.
        content: Of a file.
        link: Where a symbolic link points, as it stands.
    """

    kind: FileKind
    mode: int
    size: int = 0
    content: ByteSource | None = None
    link: str = ""


_FOLDER: Final = Entry(FileKind.DIRECTORY, 0o755)


def clean_name(name: str) -> str:
    """A member's name: relative, with single slashes and without dots; empty for the root itself.

    Raises:
        InvalidName: It climbs with ``..``, has a NUL, or is not text.
    """
    if not isinstance(name, str) or "\0" in name:
        raise InvalidName(f"not a path: {name!r:.200}")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidName(f"a path that leaves the image: {name!r:.200}")
    _check_text(name)
    return "/".join(parts)


def file_entries(files: Mapping[str, bytes | str | os.PathLike[str]]) -> dict[str, Entry]:
    """Members for single files, by their names in the image.

    Files on disk are executable where their owner may execute them; content given as such is, where it begins as
    programs do: with ``#!`` or as ELF.

    Args:
        files: Bytes, text (as UTF-8), or the path of a file on disk.

    Raises:
        InvalidName: A name leaves the image, or is the image's root.
        InvalidValue: What stands on disk is not a file.
        OSError: It cannot be read.
    """
    entries: dict[str, Entry] = {}
    for name, content in files.items():
        cleaned = clean_name(name)
        if not cleaned:
            raise InvalidName(f"not a file's path: {name!r:.200}")
        if cleaned in entries:
            raise InvalidName(f"two files for one path: {cleaned!r:.200}")
        if isinstance(content, os.PathLike):
            entries[cleaned] = _from_disk(Path(content), follow=True)
        elif isinstance(content, bytes | bytearray | memoryview | str):
            data = content.encode("utf-8") if isinstance(content, str) else bytes(content)
            mode = 0o755 if data.startswith(_PROGRAMS) else 0o644
            entries[cleaned] = Entry(FileKind.FILE, mode, len(data), BytesSource(data))
        else:
            raise InvalidValue(f"neither content nor a path for {cleaned!r:.200}: {type(content).__name__}")
    return entries


def directory_entries(directory: str | os.PathLike[str], target: str = "") -> dict[str, Entry]:
    """Members for everything below a directory on disk; symbolic links are kept as they are, never followed.

    Args:
        directory: On disk.
        target: Where its content goes in the image; the root if empty.

    Raises:
        InvalidName: The target leaves the image, or a file's name is not UTF-8.
        InvalidValue: Something is neither a file, a directory nor a symbolic link.
        OSError: Something cannot be read.
    """
    base = clean_name(target)
    entries = {base: _FOLDER} if base else {}
    waiting = [(Path(directory), base)]
    while waiting:
        checkpoint()
        folder, prefix = waiting.pop()
        with os.scandir(folder) as found:
            names = [item.name for item in found]
        for name in names:
            member = clean_name(f"{prefix}/{name}")
            path = folder / name
            entries[member] = entry = _from_disk(path, follow=False)
            if entry.kind is FileKind.DIRECTORY:
                waiting.append((path, member))
    return entries


def write_layer(entries: Mapping[str, Entry], compression: Compression = GZIP, *, seconds: int = 0) -> BuiltLayer:
    """A compressed layer of some members, parents before what is in them.

    Args:
        entries: By clean names; directories that are not among them are made.
        compression: How it is stored.
        seconds: When all of them were changed, since 1970.

    Raises:
        InvalidName: Something lies below a file.
        SizeMismatch: A file changed while it was read.
        OSError: A file cannot be read.
        Unsupported: The compression is zstd, which is not installed.
        Cancelled: The ambient scope was cancelled.
        DeadlineExceeded: Its deadline has passed.
    """
    stream = LayerStream(compression)
    for name, entry in _with_parents(entries):
        write_entry(stream, name, entry, seconds=seconds)
    stream.write(END_OF_ARCHIVE)
    return stream.finish()


def write_entry(stream: LayerStream, name: str, entry: Entry, *, seconds: int = 0) -> None:
    """Write one member to a layer in the making.

    Args:
        stream: Takes it in.
        name: Clean.
        entry: The member.
        seconds: When it was changed, since 1970.

    Raises:
        SizeMismatch: A file changed while it was read.
        OSError: A file cannot be read.
    """
    checkpoint()
    member = Member(
        name.encode(), entry.kind, entry.mode, mtime=seconds * 10**9, size=entry.size, link=entry.link.encode()
    )
    stream.write(encode_header(member))
    if entry.content is not None:
        for piece in _content(name, entry.content, entry.size):
            stream.write(piece)
        stream.write(bytes(padding(entry.size)))


def _with_parents(entries: Mapping[str, Entry]) -> Iterator[tuple[str, Entry]]:
    whole = dict(entries)
    for name in entries:
        parent = name.rpartition("/")[0]
        while parent:
            if whole.setdefault(parent, _FOLDER).kind is not FileKind.DIRECTORY:
                raise InvalidName(f"{name!r:.200} lies below {parent!r:.200}, which is not a directory")
            parent = parent.rpartition("/")[0]
    return iter(sorted(whole.items(), key=lambda item: item[0].split("/")))


def _from_disk(path: Path, *, follow: bool) -> Entry:
    status = path.stat() if follow else path.lstat()
    if stat.S_ISLNK(status.st_mode):
        link = os.fspath(path.readlink())
        _check_text(link)
        return Entry(FileKind.SYMLINK, 0o777, link=link)
    if stat.S_ISDIR(status.st_mode) and not follow:
        return _FOLDER
    if not stat.S_ISREG(status.st_mode):
        raise InvalidValue(f"not a file: {path}")
    mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
    return Entry(FileKind.FILE, mode, status.st_size, FileSource(path))


def _content(name: str, source: ByteSource, size: int) -> Iterator[bytes]:
    count = 0
    with source.open() as reader:
        while data := reader.read(CHUNK_SIZE):
            checkpoint()
            count += len(data)
            if count > size:
                break
            yield data
    if count != size:
        raise SizeMismatch(f"{name!r:.200} changed while it was read", expected=size, actual=count)


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidName(f"not UTF-8: {text!r:.200}") from None


class LayerPart(msgspec.Struct, frozen=True):
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
    home: BlobLocation | None = None
    ours: bool = False

    @classmethod
    def of(cls, layer: BuiltLayer) -> Self:
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


def inherited_parts(image: Image, *, ours: bool = False) -> list[LayerPart]:
    """The layers of an image, whose bytes stay where they are."""
    entries = image.document.mapping.get("layers") or []
    return [
        LayerPart(
            entry,
            descriptor,
            origin_source(image.repository, descriptor),
            image.repository.blob_location(descriptor.digest),
            ours=ours,
        )
        for entry, descriptor in zip(entries, image.manifest().layers, strict=True)
    ]


def draft_of(image: Image, *, complete: bool = False) -> ConfigEditor:
    """An image's configuration, to be changed.

    Raises:
        InvalidDocument: It does not have a diff_id for each layer.
        RegistryError: It cannot be read.
    """
    with error_reference(image.reference):
        return ConfigEditor(strict_json.decode(image.config().raw), len(image.manifest().layers), complete=complete)


def prebuilt_layer(content: bytes | os.PathLike[str] | ByteSource | Readable, media_type: str) -> BuiltLayer:
    """A layer that is made already, after it was read through once for its digests.

    Raises:
        Unsupported: Nobody knows layers of that type.
        IntegrityError: The compressed stream is corrupt.
        InvalidValue: It is text, which could be content or a path.
        OSError: The file cannot be read.
    """
    compression = compression_for(media_type)
    source = to_source(content)
    descriptor = describe(source, media_type)
    hasher = Digest.of(b"").hasher()
    with source.open() as stored:
        tar = DecompressingReader(stored, compression) if compression else stored
        while data := tar.read(CHUNK_SIZE):
            hasher.update(data)
    return BuiltLayer(descriptor, Digest(f"sha256:{hasher.hexdigest()}"), source)
