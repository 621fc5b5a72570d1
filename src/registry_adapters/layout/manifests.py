"""Manifests of a layout: the entries of ``index.json``, the manifests that they lead to, and their tags."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from registry_adapters.layout.blobs import open_blob, remove_blob, renew_blob_lease, store_blob
from registry_adapters.layout.directory import Directory
from registry_adapters.layout.index import IndexFile
from registry_adapters.layout.repository_layouts import OpenLayout, RepositoryLayouts
from registry_core.cancellation import checkpoint
from registry_core.content.streams import MANIFEST_LIMIT, BytesSource, read_limited
from registry_core.content.verify import Verifier
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import is_index, is_listed_manifest
from registry_core.domain.names import Tag
from registry_core.domain.reference import join_reference
from registry_core.domain.referrers import filter_by_artifact_type, referrer_descriptor
from registry_core.errors import (
    ImageNotFound,
    IntegrityError,
    InvalidDocument,
    SizeMismatch,
    TooLarge,
    Unsupported,
    error_reference,
)
from registry_core.ops.manifests import GraphLimits, ManifestQueue
from registry_core.ports.manifest_store import ManifestStore

__all__ = ["LayoutManifests"]


class LayoutManifests(ManifestStore):
    """Manifests, tags and referrers of one repository in an image layout.

    A manifest exists if ``index.json`` or an index in it lists the manifest, or if its blob states the media type of a
    manifest.

    Args:
        layouts: Layouts that hold the repository.
        label: Repository in errors, as ``registry/name``.
    """

    def __init__(self, layouts: RepositoryLayouts, label: str) -> None:
        self._layouts = layouts
        self._label = label

    def resolve(self, reference: Tag | Digest) -> Descriptor:
        """Return media type, digest and size of a manifest, and renew the lease of its blob.

        Raises:
            ImageNotFound: The manifest does not exist.
            RepositoryNotFound: The layout does not exist.
            SizeMismatch: The size is not the one in the entry of ``index.json``.
            LayoutError: The layout is malformed, or several manifests have the tag.
        """
        checkpoint()

        def look(opened: OpenLayout) -> Descriptor:
            entry = opened.read_index().find(reference, opened.repository)
            if entry is None or not entry.media_type or not entry.digest.verifiable:
                descriptor = _get(opened, reference).descriptor
                if renew_blob_lease(opened.directory, descriptor.digest) is None:
                    raise ImageNotFound("the blob of the manifest is missing")
                return descriptor
            return _described(opened, entry)

        with error_reference(self._at(reference)):
            return self._layouts.first(look)

    def get(self, reference: Tag | Digest) -> RawManifest:
        """Return the exact bytes of a manifest, verified.

        Raises:
            ImageNotFound: The manifest does not exist.
            RepositoryNotFound: The layout does not exist.
            DigestMismatch: The bytes have another digest.
            SizeMismatch: The size is not the one in the entry of ``index.json``.
            InvalidDocument: The bytes are not a manifest of the media type in the entry.
            TooLarge: The manifest is larger than 8 MiB.
            Unsupported: It is a Docker schema 1 manifest, or the digest cannot be verified.
            LayoutError: The layout is malformed, or several manifests have the tag.
        """
        checkpoint()
        with error_reference(self._at(reference)):
            return self._layouts.first(lambda opened: _get(opened, reference))

    def put(self, manifest: RawManifest, *, tags: Collection[Tag] = ()) -> Descriptor:
        """Store a manifest and point tags to it. The layout is created if it does not exist.

        The blobs and children of the manifest need not exist.

        Raises:
            InvalidDocument: The bytes are not a manifest of the media type; nothing is stored.
            TooLarge: The manifest is larger than 8 MiB.
            Unsupported: The digest algorithm cannot be verified, or the file system is read-only.
            LayoutError: The layout is malformed; it is left unchanged.
        """
        checkpoint()
        with error_reference(self._label):
            if len(manifest.content) > MANIFEST_LIMIT:
                raise TooLarge(f"a manifest has more than {MANIFEST_LIMIT} bytes")
            checked = manifest.checked(expected=manifest.media_type)
            size, source = len(manifest.content), BytesSource(manifest.content)
            descriptor = Descriptor(media_type=checked.media_type, digest=manifest.digest, size=size)
        with error_reference(self._at(descriptor.digest)), self._layouts.open_for_writing() as opened:
            directory = opened.directory
            opened.layout.initialize(directory)
            with opened.layout.locked(directory):
                # Under the lock, so that a concurrent delete cannot remove the blob of the new entry.
                store_blob(directory, descriptor.digest, size, source)
                before = opened.read_index()
                names = [before.new_name(tag, opened.repository) for tag in sorted(set(tags))]
                after = before.with_manifest(descriptor, names)
                if after.encode() != before.encode():
                    opened.write_index(after)
        return descriptor

    def untag(self, tag: Tag) -> None:
        """Delete a tag. The manifest and its other tags stay.

        Raises:
            ImageNotFound: The tag does not exist.
            LayoutError: The layout is malformed.
        """
        checkpoint()

        def look(opened: OpenLayout) -> None:
            with opened.layout.locked(opened.directory):
                index = opened.read_index()
                if not index.tagged(tag, opened.repository):
                    raise ImageNotFound("no such tag")
                opened.write_index(index.without_name(index.new_name(tag, opened.repository)))

        with error_reference(self._at(tag)):
            self._layouts.change_each(look)

    def delete(self, digest: Digest) -> None:
        """Delete a manifest, every tag that points to it, and its blob.

        In a layout that other repositories share, the manifest and its tags in those stay.

        Raises:
            ImageNotFound: The manifest does not exist.
            Unsupported: Other repositories of the same layout have the manifest, or may need it.
            LayoutError: The layout is malformed.
        """
        checkpoint()

        def look(opened: OpenLayout) -> None:
            with opened.layout.locked(opened.directory):
                index = opened.read_index()
                if index.find(digest) is None:
                    _get(opened, digest)
                    if opened.repository:
                        raise Unsupported("an index of the layout may need the manifest; prune the layout instead")
                else:
                    count = len(index.entries)
                    index = index.without_manifest(digest, opened.repository)
                    if len(index.entries) == count:
                        raise Unsupported("other repositories in the same layout have this manifest under their names")
                    opened.write_index(index)
                if index.find(digest) is None:
                    remove_blob(opened.directory, digest)

        with error_reference(self._at(digest)):
            self._layouts.first(look)

    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Iterator[Tag]:
        """Iterate over all tags in ASCII order.

        Raises:
            RepositoryNotFound: The layout does not exist.
            LayoutError: The layout is malformed.
        """
        checkpoint()
        with error_reference(self._label):
            found = self._layouts.each(lambda opened: opened.read_index().tags(opened.repository))
            if not found:
                raise self._layouts.not_found()
        for tag in found[0] if len(found) == 1 else sorted({tag for tags in found for tag in tags}):
            if after is None or tag > after:
                checkpoint()
                yield tag

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        """Iterate over the descriptors of the manifests in ``index.json`` and its indexes that refer to a subject.

        An index that another tool keeps under a fallback tag is followed like any other index.

        Raises:
            LayoutError: The layout is malformed.
            DigestMismatch: A manifest that was searched is corrupt.
            TooLarge: Indexes are nested more than 16 levels deep.
        """
        checkpoint()
        with error_reference(self._at(subject)):
            found = self._layouts.each(lambda opened: list(_referrers(opened, subject)))
        listed = (each for referrers in found for each in referrers)
        for entry in filter_by_artifact_type(listed, artifact_type):
            checkpoint()
            yield entry

    def _at(self, reference: Tag | Digest) -> str:
        return join_reference(self._label, reference)


def _described(opened: OpenLayout, entry: Descriptor) -> Descriptor:
    size = renew_blob_lease(opened.directory, entry.digest)
    if size is None:
        raise ImageNotFound("the blob of the manifest is missing")
    if size != entry.size:
        raise SizeMismatch(f"the manifest has {size} bytes instead of {entry.size}", expected=entry.size, actual=size)
    return Descriptor(media_type=entry.media_type, digest=entry.digest, size=size)


def _get(opened: OpenLayout, reference: Tag | Digest) -> RawManifest:
    index = opened.read_index()
    entry = index.find(reference, opened.repository)
    if entry is None and isinstance(reference, Digest):
        return _get_unlisted(opened.directory, index, reference)
    manifest = None if entry is None else _read(opened.directory, entry.digest, entry)
    if manifest is None:
        raise ImageNotFound("no such tag" if entry is None else "the blob of the manifest is missing")
    return manifest


def _get_unlisted(directory: Directory, index: IndexFile, digest: Digest) -> RawManifest:
    digest.hasher()
    try:
        manifest = _read(directory, digest)
    except (InvalidDocument, TooLarge, Unsupported):
        manifest = None
    else:
        if manifest is None:
            raise ImageNotFound("no such manifest")
        if manifest.mapping.get("mediaType"):
            return manifest
    # The manifest does not state its media type, but an index that lists it may.
    parent = _parent_entry(directory, index, digest)
    if parent is not None:
        manifest = _read(directory, digest, parent)
    if manifest is None:
        raise ImageNotFound("the blob with this digest is not a manifest")
    return manifest


def _referrers(opened: OpenLayout, subject: Digest) -> Iterator[Descriptor]:
    for manifest in _walk(opened.read_index().entries, lambda entry: _readable(opened.directory, entry)):
        try:
            if manifest.subject is None or manifest.subject.digest != subject:
                continue
            entry = referrer_descriptor(manifest)
        except InvalidDocument:
            continue
        if entry is not None:
            yield entry


def _read(directory: Directory, digest: Digest, entry: Descriptor | None = None) -> RawManifest | None:
    verifier = Verifier(digest, None if entry is None else entry.size)
    file = open_blob(directory, digest)
    if file is None:
        return None
    with file:
        content = read_limited(file, MANIFEST_LIMIT, what="a manifest")
    verifier.update(content)
    verifier.finish()
    expected = "" if entry is None else entry.media_type
    return RawManifest.of(content, expected=expected, algorithm=digest.algorithm)


def _readable(directory: Directory, entry: Descriptor) -> RawManifest | None:
    if not is_listed_manifest(entry.media_type):
        return None
    try:
        return _read(directory, entry.digest, entry)
    except (InvalidDocument, TooLarge, Unsupported):
        return None


def _parent_entry(directory: Directory, index: IndexFile, digest: Digest) -> Descriptor | None:
    def load(entry: Descriptor) -> RawManifest | None:
        if not is_index(entry.media_type):
            return None
        try:
            return _readable(directory, entry)
        except IntegrityError:
            # A corrupt index elsewhere in the layout does not concern this manifest.
            return None

    for manifest in _walk(index.entries, load):
        for entry in manifest.index.manifests:
            if entry.digest == digest:
                return entry
    return None


def _walk(entries: Sequence[Descriptor], load: Callable[[Descriptor], RawManifest | None]) -> Iterator[RawManifest]:
    """Iterate over the manifests that entries lead to, each once, breadth first. The limits hold for each entry."""
    queue = ManifestQueue(entries, limits=GraphLimits(graphs=len(entries)))
    for entry in queue:
        manifest = load(entry)
        if manifest is None:
            continue
        yield manifest
        if manifest.is_index:
            for child in manifest.index.manifests:
                queue.add(child)
