"""A new archive: it grows in a file of another name, and has its own once it is whole.

The documents at the end of a new archive: an image layout's, and beside them those of ``docker save``.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from registry_adapters.archive.contents import ArchivedImage, StoredManifest
from registry_adapters.archive.file_io import (
    DiskFile,
    FileSlice,
    is_stream,
    map_os_errors,
    write_stream,
)
from registry_adapters.archive.names import ArchiveForm, canonical_name, name_annotations, short_name
from registry_adapters.archive.reader import blob_name
from registry_core.cancellation import CancellableLock
from registry_core.content.compression import compression_for
from registry_core.content.operating_system import CAN_RENAME_OPEN_FILES
from registry_core.content.safe_files import StagedFile
from registry_core.content.streams import MANIFEST_LIMIT, ByteSource, BytesSource
from registry_core.content.verify import verified_chunks
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.referrers import referrer_descriptor
from registry_core.errors import TooLarge, Unsupported
from registry_core.ops.tar.headers import padding
from registry_core.ops.tar.members import FileKind, Member
from registry_core.ops.tar.writer import END_OF_ARCHIVE, encode_header

__all__ = ["ArchiveWriter", "trailing_files", "untagged_roots"]


_TaggedDigest = tuple[RepositoryName, Tag, Digest]

_NamedImage = tuple[RawManifest, list[tuple[RepositoryName, Tag]]]

_IMAGE_TYPES: Final = (OCI_MANIFEST, DOCKER_MANIFEST)

_CONFIG_TYPES: Final = (OCI_CONFIG, DOCKER_CONFIG)


def trailing_files(
    form: ArchiveForm, manifests: Sequence[StoredManifest], tags: Sequence[_TaggedDigest], blobs: Collection[Digest]
) -> Iterator[tuple[str, bytes]]:
    """Iterate over name and content of the JSON files at the end of an archive. Equal arguments give equal bytes.

    Args:
        form: Format of the archive.
        manifests: All manifests in the archive, each once, ordered by digest.
        tags: All tags, sorted, with the digests that they point to.
        blobs: Digests of everything in the archive.
    """
    untagged = untagged_roots(manifests, {digest for _, _, digest in tags})
    yield "oci-layout", strict_json.encode({"imageLayoutVersion": "1.0.0"})
    yield "index.json", _index_json(form, manifests, tags, untagged)
    if form is ArchiveForm.DOCKER:
        images = _docker_images(manifests, tags, untagged, blobs)
        yield "manifest.json", strict_json.encode([_docker_manifest_entry(image, names) for image, names in images])
        yield "repositories", _repositories_json(images)


def untagged_roots(manifests: Sequence[StoredManifest], tagged: Collection[Digest]) -> list[StoredManifest]:
    """Return the manifests that have no tag and are not in an index."""
    referenced = set(tagged)
    for stored in manifests:
        manifest = stored.read()
        if manifest.is_index:
            referenced.update(child.digest for child in manifest.children)
    return [stored for stored in manifests if stored.descriptor.digest not in referenced]


def _index_json(
    form: ArchiveForm,
    manifests: Sequence[StoredManifest],
    tags: Sequence[_TaggedDigest],
    untagged: Sequence[StoredManifest],
) -> bytes:
    by_digest = {each.descriptor.digest: each for each in manifests}
    entries = [
        _index_entry(by_digest[digest]) | {"annotations": name_annotations(form, name, tag)}
        for name, tag, digest in tags
    ] + [_index_entry(each) for each in untagged]
    return strict_json.encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})


def _index_entry(stored: StoredManifest) -> dict[str, Any]:
    return {
        "mediaType": stored.descriptor.media_type,
        "digest": str(stored.descriptor.digest),
        "size": stored.descriptor.size,
    }


def _docker_images(
    manifests: Sequence[StoredManifest],
    tags: Sequence[_TaggedDigest],
    untagged: Sequence[StoredManifest],
    blobs: Collection[Digest],
) -> list[_NamedImage]:
    """Return the images that Docker can load, each once, with their names."""
    by_digest = {each.descriptor.digest: each for each in manifests}
    names_by_digest: dict[Digest, list[tuple[RepositoryName, Tag]]] = {}
    for name, tag, digest in tags:
        names_by_digest.setdefault(digest, []).append((name, tag))
    for root in untagged:
        names_by_digest.setdefault(root.descriptor.digest, [])
    found: dict[Digest, _NamedImage] = {}
    for digest, names in names_by_digest.items():
        for image in _complete_images(by_digest[digest].read(), by_digest, blobs):
            found.setdefault(image.digest, (image, []))[1].extend(names)
            # manifest.json cannot express an index: its name goes to its first image.
            names = []
    return list(found.values())


def _complete_images(
    manifest: RawManifest, by_digest: Mapping[Digest, StoredManifest], blobs: Collection[Digest]
) -> Iterator[RawManifest]:
    candidates = [manifest]
    if manifest.is_index:
        candidates = [by_digest[child.digest].read() for child in manifest.children if child.digest in by_digest]
    for each in candidates:
        if (
            each.media_type in _IMAGE_TYPES
            and each.image.config.media_type in _CONFIG_TYPES
            and all(_is_layer(layer.media_type) for layer in each.image.layers)
            and all(child.digest in blobs for child in each.children)
        ):
            yield each


def _is_layer(media_type: str) -> bool:
    # An attestation of BuildKit has the configuration of an image, but its "layers" are not tars.
    try:
        compression_for(media_type)
    except Unsupported:
        return False
    return True


def _docker_manifest_entry(image: RawManifest, names: Sequence[tuple[RepositoryName, Tag]]) -> dict[str, Any]:
    return {
        "Config": blob_name(image.image.config.digest),
        "RepoTags": [short_name(name, tag) for name, tag in names] or None,
        "Layers": [blob_name(layer.digest) for layer in image.image.layers],
    }


def _repositories_json(images: Sequence[_NamedImage]) -> bytes:
    # Docker no longer reads the ID of the top layer, but some tools still expect the file.
    mapping: dict[str, dict[str, str]] = {}
    for image, names in images:
        top_layer = image.children[-1].digest.encoded
        for name, tag in names:
            repository = short_name(name, tag).removesuffix(f":{tag}")
            mapping.setdefault(repository, {})[tag] = top_layer
    return strict_json.encode(mapping)


class _Room:
    """One repository."""

    def __init__(self) -> None:
        self.blobs: set[Digest] = set()
        self.manifests: dict[Digest, Descriptor] = {}
        self.tags: dict[Tag, Digest] = {}
        self.referrers: dict[Digest, dict[Digest, Descriptor]] = {}


class ArchiveWriter:
    """The contents of an archive that is being written. What was put can be read at once.

    Blobs are appended as they come, one at a time and each once; documents follow when it is published.

    Args:
        path: What it will be called.
        form: How it is written.
        fsync: Whether it gets its name only once the disk has it.
    """

    def __init__(self, path: str, form: ArchiveForm, *, fsync: bool) -> None:
        self._path = path
        self._form = form
        self._fsync = fsync
        self._rooms: dict[RepositoryName, _Room] = {}
        self._lock = threading.Lock()
        self._write_lock = CancellableLock()
        self._stretches: dict[Digest, FileSlice] = {}
        self._medium: DiskFile | None = None
        self._staged: StagedFile | None = None
        self._end = 0
        self._over = False

    @property
    def description(self) -> str:
        """The archive in error messages; if the file does not exist, its path may be misspelled."""
        return "a new archive" if os.path.lexists(self._path) else "a new archive (the file does not exist)"

    def names(self) -> list[RepositoryName]:
        """The repositories that hold something."""
        with self._lock:
            return sorted(self._rooms)

    def images(self) -> Iterator[ArchivedImage]:
        """What has a tag, and what was put without one and is no part of anything else."""
        for name in self.names():
            with self._lock:
                room = self._rooms[name]
                manifests = [
                    StoredManifest(room.manifests[each], self._stretches[each]) for each in sorted(room.manifests)
                ]
                tags = sorted((tag, digest) for tag, digest in room.tags.items())
            called: dict[Digest, list[Tag]] = {}
            for tag, digest in tags:
                called.setdefault(digest, []).append(tag)
            untagged = {held.descriptor.digest for held in untagged_roots(manifests, called.keys())}
            for held in manifests:
                digest = held.descriptor.digest
                if digest in called or digest in untagged:
                    yield ArchivedImage(name, tuple(called.get(digest, ())), held.check_size())

    def canonical_name(self, name: RepositoryName) -> RepositoryName | None:
        """A repository's name as the archive is going to spell it, if it holds something."""
        name = canonical_name(self._form, name)
        with self._lock:
            return name if name in self._rooms else None

    def blob(self, name: RepositoryName, digest: Digest) -> FileSlice | None:
        """Where a blob of a repository is."""
        with self._lock:
            room = self._rooms.get(name)
            return self._stretches[digest] if room is not None and digest in room.blobs else None

    def manifest(self, name: RepositoryName, reference: Tag | Digest) -> StoredManifest | None:
        """A manifest of a repository, by tag or digest."""
        with self._lock:
            room = self._rooms.get(name)
            if room is None:
                return None
            digest = reference if isinstance(reference, Digest) else room.tags.get(reference)
            descriptor = None if digest is None else room.manifests.get(digest)
            return None if descriptor is None else StoredManifest(descriptor, self._stretches[descriptor.digest])

    def tags(self, name: RepositoryName) -> list[Tag]:
        """The tags of a repository."""
        with self._lock:
            room = self._rooms.get(name)
            return [] if room is None else sorted(room.tags)

    def referrers(self, name: RepositoryName, subject: Digest) -> list[Descriptor]:
        """What was put into a repository with that subject."""
        with self._lock:
            room = self._rooms.get(name)
            found = {} if room is None else room.referrers.get(subject, {})
            return [found[digest] for digest in sorted(found)]

    def put_blob(self, name: RepositoryName, digest: Digest, size: int, source: ByteSource) -> None:
        """Append a blob, unless the archive has it.

        Raises:
            DigestMismatch: The content hashes to something else; nothing is left behind.
            SizeMismatch: It is shorter or longer than ``size``; nothing is left behind.
            Unsupported: The digest's algorithm cannot be verified.
            Unavailable: The disk is full, or failed.
        """
        digest.hasher()
        name = canonical_name(self._form, name)
        self._keep(digest, size, source)
        with self._lock:
            self._rooms.setdefault(name, _Room()).blobs.add(digest)

    def mount(self, name: RepositoryName, digest: Digest, origin: RepositoryName) -> bool:
        """Let a repository have what another one has.

        Returns:
            Whether the blob is in this repository now.
        """
        name, origin = canonical_name(self._form, name), canonical_name(self._form, origin)
        with self._lock:
            room, there = self._rooms.get(name), self._rooms.get(origin)
            if room is not None and digest in room.blobs:
                return True
            if there is None or digest not in there.blobs:
                return False
            self._rooms.setdefault(name, _Room()).blobs.add(digest)
            return True

    def put_manifest(self, name: RepositoryName, manifest: RawManifest, tags: Collection[Tag]) -> Descriptor:
        """Append a manifest, unless the archive has it, and point tags at it.

        Raises:
            InvalidDocument: The bytes are no manifest of their media type; nothing is stored.
            InvalidName: The archive's form has no names for these tags; nothing is stored.
            TooLarge: It is larger than 8 MiB.
            Unsupported: A Docker schema 1 manifest, or a digest that cannot be verified.
            Unavailable: The disk is full, or failed.
        """
        name = canonical_name(self._form, name)
        for tag in tags:
            name_annotations(self._form, name, tag)
        checked = manifest.checked()
        if len(manifest.content) > MANIFEST_LIMIT:
            raise TooLarge(f"a manifest has more than {MANIFEST_LIMIT} bytes")
        descriptor, subject, stands = checked.descriptor, checked.subject, referrer_descriptor(checked)
        self._keep(descriptor.digest, descriptor.size, BytesSource(checked.content))
        with self._lock:
            room = self._rooms.setdefault(name, _Room())
            room.manifests[descriptor.digest] = descriptor
            room.tags.update((tag, descriptor.digest) for tag in tags)
            if subject is not None and stands is not None:
                room.referrers.setdefault(subject.digest, {})[descriptor.digest] = stands
        return descriptor

    def publish(self) -> None:
        """Append the documents and give the archive its name, in place of what had it. Without a manifest, do nothing.

        A pipe or a device keeps its name, and is written to instead.

        Raises:
            Unavailable: The disk is full, or failed; nothing is left behind.
            Forbidden: The system does not let us.
        """
        try:
            with self._write_lock:
                medium, staged, over, self._over = self._medium, self._staged, self._over, True
                if over or medium is None or staged is None or not any(room.manifests for room in self._rooms.values()):
                    return
                for name, content in trailing_files(self._form, self._manifests(), self._tags(), self._stretches):
                    self._append(name, len(content), [content])
                medium.write(self._end, END_OF_ARCHIVE)
                if is_stream(self._path):
                    write_stream(FileSlice(medium, 0, self._end + len(END_OF_ARCHIVE)), self._path)
                else:
                    self._rename(medium, staged)
        finally:
            self.discard()

    def discard(self) -> None:
        """Leave nothing behind, if it was not published. Idempotent."""
        self._over = True
        if self._staged is not None:
            self._staged.discard()

    def _rename(self, medium: DiskFile, staged: StagedFile) -> None:
        if self._fsync:
            medium.sync()
        if not CAN_RENAME_OPEN_FILES:
            medium.close()
        with map_os_errors(self._path):
            staged.commit(fsync=self._fsync)

    def _manifests(self) -> list[StoredManifest]:
        found: dict[Digest, StoredManifest] = {}
        for room in self._rooms.values():
            for digest, descriptor in room.manifests.items():
                found.setdefault(digest, StoredManifest(descriptor, self._stretches[digest]))
        return sorted(found.values(), key=lambda held: held.descriptor.digest)

    def _tags(self) -> list[tuple[RepositoryName, Tag, Digest]]:
        return sorted((name, tag, digest) for name, room in self._rooms.items() for tag, digest in room.tags.items())

    def _keep(self, digest: Digest, size: int, source: ByteSource) -> None:
        with self._write_lock:
            if self._over:
                raise Unsupported("the archive is closed: what comes now is too late for it")
            if digest in self._stretches:
                return
            stretch = self._append(blob_name(digest), size, verified_chunks(source, digest, size))
            with self._lock:
                self._stretches[digest] = stretch

    def _append(self, name: str, size: int, content: Iterable[bytes]) -> FileSlice:
        medium = self._begun()
        header = encode_header(Member(name.encode(), FileKind.FILE, size=size))
        offset = position = self._end + len(header)
        try:
            for piece in content:
                medium.write(position, piece)
                position += len(piece)
            medium.write(position, bytes(padding(size)))
            medium.write(self._end, header)
        except BaseException:
            # What was half written is overwritten by what comes next; the rest is cut off for the sake of the disk.
            with suppress(Exception):
                medium.cut(self._end)
            raise
        self._end = position + padding(size)
        return FileSlice(medium, offset, size)

    def _begun(self) -> DiskFile:
        if self._medium is None:
            # Nothing is renamed to a pipe, and where pipes and devices live is seldom a place for files. What a link
            # leads to is replaced, not the link: it may be /dev/stdout.
            directory = tempfile.gettempdir() if is_stream(self._path) else None
            with map_os_errors(self._path):
                self._staged = StagedFile(os.path.realpath(self._path), directory=directory, mode=0o666)
            self._medium = DiskFile(self._staged.descriptor, self._path)
        return self._medium
