"""New archives: blobs are appended to a temporary file, which gets its name when the archive is complete.

The JSON files of the image layout, and those of ``docker save``, are at the end.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from registry_adapters.archive.contents import StoredManifest
from registry_adapters.archive.file_io import (
    DiskFile,
    FileSlice,
    is_stream,
    map_os_errors,
    write_stream,
)
from registry_adapters.archive.names import ArchiveForm, canonical_name, check_name, name_annotations, short_name
from registry_adapters.archive.reader import blob_name
from registry_core.cancellation import CancellableLock
from registry_core.content.compression import compression_for
from registry_core.content.operating_system import CAN_RENAME_OPEN_FILES
from registry_core.content.safe_files import AtomicFile
from registry_core.content.streams import MANIFEST_LIMIT, ByteSource, BytesSource
from registry_core.content.verify import verified_chunks
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.image_names import ROOT, ImageName, aliases, entry_name
from registry_core.domain.manifest import ImageManifest, RawManifest
from registry_core.domain.media_types import OCI_INDEX, REF_NAME
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.referrers import referrer_descriptor
from registry_core.errors import ImageNotFound, TooLarge, Unsupported
from registry_core.ops.manifests import has_config
from registry_core.ops.tar.headers import padding
from registry_core.ops.tar.members import FileKind, Member
from registry_core.ops.tar.writer import END_OF_ARCHIVE, encode_header
from registry_core.ports.image_names import NamedImage

__all__ = ["ArchiveWriter", "trailing_files", "untagged_roots"]


# Repository and tag of an image, its name as it was given or empty, and its digest.
_TaggedDigest = tuple[RepositoryName, Tag | None, str, Digest]

_NamedImage = tuple[RawManifest, list[tuple[RepositoryName, Tag]]]

_LAYER_PREFIXES: Final = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")


def trailing_files(
    form: ArchiveForm, manifests: Sequence[StoredManifest], tags: Sequence[_TaggedDigest], blobs: Collection[Digest]
) -> Iterator[tuple[str, bytes]]:
    """Iterate over name and content of the JSON files at the end of an archive. Equal arguments give equal bytes.

    Args:
        form: Format of the archive.
        manifests: All manifests in the archive, each once, ordered by digest.
        tags: All tags, sorted, with the digests that they point to.
        blobs: Digests of everything in the archive.

    Raises:
        Unsupported: Docker could not load an image of an archive for Docker.
    """
    untagged = untagged_roots(manifests, {digest for *_, digest in tags})
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
        _index_entry(by_digest[digest]) | {"annotations": _annotations(form, name, tag, given)}
        for name, tag, given, digest in tags
    ] + [_index_entry(each) for each in untagged]
    return strict_json.encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})


def _annotations(form: ArchiveForm, name: RepositoryName, tag: Tag | None, given: str) -> dict[str, str]:
    if tag is None or (given and form is ArchiveForm.OCI):
        return {REF_NAME: given}
    return name_annotations(form, name, tag)


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
    """Return the images for Docker to load, each once, with their names.

    Raises:
        Unsupported: Docker could not load an image.
    """
    by_digest = {each.descriptor.digest: each for each in manifests}
    names_by_digest: dict[Digest, list[tuple[RepositoryName, Tag]]] = {}
    for name, tag, _, digest in tags:
        if tag is None:
            continue
        names_by_digest.setdefault(digest, []).append((name, tag))
    for root in untagged:
        names_by_digest.setdefault(root.descriptor.digest, [])
    found: dict[Digest, _NamedImage] = {}
    for digest, names in names_by_digest.items():
        reference = short_name(*names[0]) if names else str(digest)
        for image in _images(by_digest[digest].read(), by_digest):
            _check_loadable(image, blobs, reference)
            found.setdefault(image.digest, (image, []))[1].extend(names)
            # manifest.json cannot express an index: its name goes to its first image.
            names = []
    return list(found.values())


def _images(manifest: RawManifest, by_digest: Mapping[Digest, StoredManifest]) -> Iterator[RawManifest]:
    """Yield an image, or the images of an index and of the indexes in it that are in the archive, each once."""
    pending: list[RawManifest | Digest] = [manifest]
    seen: set[Digest] = set()
    while pending:
        item = pending.pop()
        each = by_digest[item].read() if isinstance(item, Digest) else item
        if each.digest in seen:
            continue
        seen.add(each.digest)
        if each.is_index:
            pending += [child.digest for child in reversed(each.children) if child.digest in by_digest]
        elif has_config(each) and _has_image_layers(each.image):
            yield each


def _has_image_layers(image: ImageManifest) -> bool:
    # Attestations of BuildKit and signatures of cosign have the configuration of an image, but no layer of an image.
    types = [layer.media_type for layer in image.layers]
    return not types or any(_is_layer(each) or each.startswith(_LAYER_PREFIXES) for each in types)


def _check_loadable(image: RawManifest, blobs: Collection[Digest], reference: str) -> None:
    for layer in image.image.layers:
        if not _is_layer(layer.media_type):
            raise Unsupported(
                f"Docker cannot load layers of the type {layer.media_type!r:.200}: write an oci-archive instead",
                reference=reference,
            )
    for part in image.children:
        if part.digest not in blobs:
            raise Unsupported(
                f"Docker cannot load the image without its blob {part.digest}: copy it too (nondistributable layers are"
                " copied with foreign_layers), or write an oci-archive instead",
                reference=reference,
            )


def _is_layer(media_type: str) -> bool:
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


class _RepositoryContents:
    """Blobs, manifests, tags and referrers of one repository."""

    def __init__(self) -> None:
        self.blobs: set[Digest] = set()
        self.manifests: dict[Digest, Descriptor] = {}
        self.tags: dict[Tag, Digest] = {}
        self.given_names: dict[Tag, ImageName] = {}
        self.referrers: dict[Digest, dict[Digest, Descriptor]] = {}

    def add(self, other: _RepositoryContents) -> None:
        """Add the blobs, manifests and referrers of another repository, without its tags."""
        self.blobs |= other.blobs
        self.manifests.update(other.manifests)
        for subject, found in other.referrers.items():
            self.referrers.setdefault(subject, {}).update(found)


class ArchiveWriter:
    """The contents of an archive that is being written. Everything that was put can be read at once.

    Each blob is stored once. Concurrent calls append one blob after the other.

    Args:
        path: Path of the archive.
        form: Format of the archive.
        fsync: Whether the archive gets its name only after the disk has the content.
    """

    def __init__(self, path: str, form: ArchiveForm, *, fsync: bool) -> None:
        self._path = path
        self._form = form
        self._fsync = fsync
        self._repositories: dict[RepositoryName, _RepositoryContents] = {}
        # Names that mean no repository and tag.
        self._other_names: dict[ImageName, Digest] = {}
        self._lock = threading.Lock()
        self._write_lock = CancellableLock()
        self._slices: dict[Digest, FileSlice] = {}
        self._file: DiskFile | None = None
        self._staged: AtomicFile | None = None
        self._end = 0
        self._is_closed = False

    @property
    def description(self) -> str:
        """The archive in error messages; if the file does not exist, its path may be misspelled."""
        return "a new archive" if os.path.lexists(self._path) else f"a new archive (no such file: {self._path})"

    def names(self) -> list[RepositoryName]:
        """Return the repositories that hold a blob or a manifest, in ASCII order."""
        with self._lock:
            return sorted(self._repositories)

    def images(self, repository: RepositoryName = ROOT) -> Iterator[NamedImage]:
        """Iterate over the images of a repository, or all, that have a name or are not part of an index."""
        with self._lock:
            manifests, tags = self._manifests(), self._tags()
            repositories = {
                digest: name
                for name in sorted(self._repositories, reverse=True)
                for digest in self._repositories[name].manifests
            }
        by_digest = {stored.descriptor.digest: stored for stored in manifests}
        untagged = untagged_roots(manifests, {digest for *_, digest in tags})
        listed = [(name, tag, given, by_digest[digest]) for name, tag, given, digest in tags]
        listed += [(repositories[stored.descriptor.digest], None, "", stored) for stored in untagged]
        for name, tag, given, stored in sorted(listed, key=lambda each: (each[0], each[1] or "", each[2])):
            if repository and name != repository:
                continue
            annotations = {} if tag is None and not given else _annotations(self._form, name, tag, given)
            yield NamedImage(
                name=entry_name(annotations).written, repository=name, tag=tag, descriptor=stored.check_size()
            )

    def named(self, name: ImageName, repository: RepositoryName = ROOT) -> StoredManifest | None:
        """Return the manifest that has a name; ``None`` without one."""
        meant = entry_name({REF_NAME: name})
        with self._lock:
            digest = None if repository else self._other_names.get(name)
            for place in aliases(meant.repository) if meant.tag is not None else ():
                contents = self._repositories.get(place) if repository in (ROOT, place) else None
                if digest is None and contents is not None and meant.tag is not None:
                    digest = contents.tags.get(meant.tag)
            return None if digest is None else self._stored(digest)

    def canonical_name(self, name: RepositoryName) -> RepositoryName | None:
        """Return the name under which the archive stores a repository; ``None`` if the repository holds nothing."""
        name = canonical_name(self._form, name)
        with self._lock:
            return name if name in self._repositories or (not name and self._repositories) else None

    def blob(self, name: RepositoryName, digest: Digest) -> FileSlice | None:
        """Return the position of a blob; ``None`` if the repository does not have it."""
        with self._lock:
            return self._slices[digest] if any(digest in each.blobs for each in self._visible(name)) else None

    def manifest(self, name: RepositoryName, reference: Tag | Digest) -> StoredManifest | None:
        """Return a manifest by tag or digest; ``None`` if the repository does not have it."""
        with self._lock:
            if not isinstance(reference, Digest):
                contents = self._repositories.get(name)
                digest = None if contents is None else contents.tags.get(reference)
                return None if digest is None else self._stored(digest)
            is_visible = any(reference in each.manifests for each in self._visible(name))
            return self._stored(reference) if is_visible else None

    def tags(self, name: RepositoryName) -> list[Tag]:
        """Return the tags of a repository, in ASCII order."""
        with self._lock:
            contents = self._repositories.get(name)
            return [] if contents is None else sorted(contents.tags)

    def referrers(self, name: RepositoryName, subject: Digest) -> list[Descriptor]:
        """Return the descriptors of the manifests that refer to a subject, ordered by digest."""
        with self._lock:
            found: dict[Digest, Descriptor] = {}
            for contents in self._visible(name):
                found.update(contents.referrers.get(subject, {}))
            return [found[digest] for digest in sorted(found)]

    def put_blob(self, name: RepositoryName, digest: Digest, size: int, source: ByteSource) -> None:
        """Append a blob, unless the archive has it.

        Raises:
            DigestMismatch: The content has another digest; nothing is stored.
            SizeMismatch: The content is shorter or longer than ``size``; nothing is stored.
            Unsupported: The digest algorithm cannot be verified.
            Unavailable: The disk is full, or failed.
        """
        digest.hasher()
        name = canonical_name(self._form, name)
        self._store(digest, size, source)
        with self._lock:
            self._get_or_create(name).blobs.add(digest)

    def mount(self, name: RepositoryName, digest: Digest, from_repository: RepositoryName) -> bool:
        """Add a blob of another repository to a repository.

        Returns:
            Whether the blob is in this repository now.
        """
        name, from_repository = canonical_name(self._form, name), canonical_name(self._form, from_repository)
        with self._lock:
            target, source = self._repositories.get(name), self._repositories.get(from_repository)
            if target is not None and digest in target.blobs:
                return True
            if source is None or digest not in source.blobs:
                return False
            self._get_or_create(name).blobs.add(digest)
            return True

    def put_manifest(self, name: RepositoryName, manifest: RawManifest, tags: Collection[Tag]) -> Descriptor:
        """Append a manifest, unless the archive has it, and point tags to it.

        Raises:
            InvalidDocument: The bytes are not a manifest of the media type; nothing is stored.
            InvalidName: The format of the archive cannot express the name; nothing is stored.
            TooLarge: The manifest is larger than 8 MiB.
            Unsupported: It is a Docker schema 1 manifest, or the digest algorithm cannot be verified.
            Unavailable: The disk is full, or failed.
        """
        name = canonical_name(self._form, name)
        for tag in tags:
            name_annotations(self._form, name, tag)
        checked = manifest.checked()
        if len(manifest.content) > MANIFEST_LIMIT:
            raise TooLarge(f"a manifest has more than {MANIFEST_LIMIT} bytes")
        descriptor, subject, referrer = checked.descriptor, checked.subject, referrer_descriptor(checked)
        self._store(descriptor.digest, descriptor.size, BytesSource(checked.content))
        with self._lock:
            contents = self._get_or_create(name)
            contents.manifests[descriptor.digest] = descriptor
            contents.tags.update((tag, descriptor.digest) for tag in tags)
            for tag in tags:
                # A name with the digest of another manifest does not fit any more.
                if "@" in contents.given_names.get(tag, ""):
                    del contents.given_names[tag]
            if subject is not None and referrer is not None:
                contents.referrers.setdefault(subject.digest, {})[descriptor.digest] = referrer
        return descriptor

    def assign(self, repository: RepositoryName, name: ImageName, digest: Digest) -> None:
        """Give a name to a manifest of a repository, which the repository in the name has from now on, too.

        Raises:
            ImageNotFound: The repository has no such manifest.
            InvalidName: The format of the archive cannot express the name.
        """
        check_name(self._form, repository, name)
        meant = entry_name({REF_NAME: name})
        with self._lock:
            sources = self._visible(canonical_name(self._form, repository))
            if not any(digest in source.manifests for source in sources):
                raise ImageNotFound("no such manifest")
            if meant.tag is None:
                self._other_names[name] = digest
                return
            contents = self._get_or_create(canonical_name(self._form, meant.repository))
            for source in sources:
                contents.add(source)
            contents.tags[meant.tag] = digest
            contents.given_names[meant.tag] = name

    def publish(self) -> None:
        """Append the JSON files and rename the archive to its path, replacing a file there.

        If the path leads to a pipe or a device, the archive is written to it. Without a manifest, nothing is written.

        Raises:
            Unsupported: The format is that of Docker, which could not load an image; nothing is left behind.
            Unavailable: The disk is full, or failed; nothing is left behind.
            Forbidden: The operating system denies access.
        """
        try:
            with self._write_lock:
                file, staged = self._file, self._staged
                is_closed, self._is_closed = self._is_closed, True
                manifests = self._manifests()
                if is_closed or file is None or staged is None or not manifests:
                    return
                for name, content in trailing_files(self._form, manifests, self._tags(), self._slices):
                    self._append(name, len(content), [content])
                file.write_at(self._end, END_OF_ARCHIVE)
                if is_stream(self._path):
                    write_stream(FileSlice(file, 0, self._end + len(END_OF_ARCHIVE)), self._path)
                else:
                    self._commit(file, staged)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the temporary file, unless it was published. Idempotent."""
        self._is_closed = True
        if self._staged is not None:
            self._staged.discard()

    def _commit(self, file: DiskFile, staged: AtomicFile) -> None:
        if self._fsync:
            file.sync()
        if not CAN_RENAME_OPEN_FILES:
            file.close()
        with map_os_errors(self._path):
            staged.commit(fsync=self._fsync)

    def _get_or_create(self, name: RepositoryName) -> _RepositoryContents:
        return self._repositories.setdefault(name, _RepositoryContents())

    def _visible(self, name: RepositoryName) -> list[_RepositoryContents]:
        """Return the contents that a repository finds by digest: those of all repositories for the empty name."""
        if not name:
            return list(self._repositories.values())
        return [self._repositories[name]] if name in self._repositories else []

    def _stored(self, digest: Digest) -> StoredManifest:
        descriptor = next(each.manifests[digest] for each in self._repositories.values() if digest in each.manifests)
        return StoredManifest(descriptor, self._slices[digest])

    def _manifests(self) -> list[StoredManifest]:
        found: dict[Digest, StoredManifest] = {}
        for contents in self._repositories.values():
            for digest, descriptor in contents.manifests.items():
                found.setdefault(digest, StoredManifest(descriptor, self._slices[digest]))
        return sorted(found.values(), key=lambda stored: stored.descriptor.digest)

    def _tags(self) -> list[_TaggedDigest]:
        tags: list[_TaggedDigest] = [
            (name, tag, contents.given_names.get(tag, ""), digest)
            for name, contents in sorted(self._repositories.items())
            for tag, digest in sorted(contents.tags.items())
        ]
        tags += [(ROOT, None, name, digest) for name, digest in sorted(self._other_names.items())]
        return tags

    def _store(self, digest: Digest, size: int, source: ByteSource) -> None:
        with self._write_lock:
            if self._is_closed:
                raise Unsupported("the archive was closed before the content was stored")
            if digest in self._slices:
                return
            content = self._append(blob_name(digest), size, verified_chunks(source, digest, size))
            with self._lock:
                self._slices[digest] = content

    def _append(self, name: str, size: int, chunks: Iterable[bytes]) -> FileSlice:
        file = self._open_file()
        header = encode_header(Member(name.encode(), FileKind.FILE, size=size))
        offset = position = self._end + len(header)
        try:
            for chunk in chunks:
                file.write_at(position, chunk)
                position += len(chunk)
            file.write_at(position, bytes(padding(size)))
            file.write_at(self._end, header)
        except BaseException:
            # The next member overwrites an incomplete one; truncating only frees the disk.
            with suppress(Exception):
                file.truncate(self._end)
            raise
        self._end = position + padding(size)
        return FileSlice(file, offset, size)

    def _open_file(self) -> DiskFile:
        if self._file is None:
            # A pipe or device is not replaced by a file, and its directory may not be writable. A symbolic link stays,
            # and the file it leads to is replaced: it may be /dev/stdout.
            directory = tempfile.gettempdir() if is_stream(self._path) else None
            with map_os_errors(self._path):
                self._staged = AtomicFile(os.path.realpath(self._path), directory=directory, mode=0o666)
            self._file = DiskFile(self._staged.descriptor, self._path)
        return self._file
