"""The manifests of one layout: entries of ``index.json``, what they lead to, and tags on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from registry_adapters.layout.blobs import open_blob, remove_blob, renewed_blob, store_blob
from registry_adapters.layout.directory import Directory
from registry_adapters.layout.index import IndexFile
from registry_adapters.layout.layout import Layout
from registry_core.cancellation import checkpoint
from registry_core.content.streams import MANIFEST_LIMIT, BytesSource, read_limited
from registry_core.content.verify import Verifier
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest, identify
from registry_core.domain.media_types import is_index, is_manifest
from registry_core.domain.names import Tag
from registry_core.domain.reference import join_reference
from registry_core.domain.referrers import filter_by_artifact_type, referrer_descriptor
from registry_core.errors import (
    ImageNotFound,
    IntegrityError,
    InvalidDocument,
    RepositoryNotFound,
    SizeMismatch,
    TooLarge,
    Unsupported,
    error_reference,
)
from registry_core.ops.manifests import GraphLimits, ManifestQueue

__all__ = ["LayoutManifests"]


class LayoutManifests:
    """A ``ManifestStore`` over a layout.

    A manifest is here if ``index.json`` or an index that it leads to names it, or if its blob is one by all it says.

    Args:
        place: Of the repository.
        label: The repository in errors, as ``registry/name``.
    """

    def __init__(self, place: Layout, label: str) -> None:
        self._place = place
        self._label = label

    def resolve(self, reference: Tag | Digest) -> Descriptor:
        """Type, digest and size of a manifest, which a garbage collection will leave alone for its grace period.

        Raises:
            ImageNotFound: No such manifest.
            RepositoryNotFound: No such layout.
            SizeMismatch: Its file is not as long as its entry says.
            LayoutError: The layout is broken, or ambiguous about the tag.
        """
        checkpoint()
        with error_reference(self._at(reference)), self._reading() as directory:
            entry = self._place.index(directory).find(reference)
            if entry is None or not entry.media_type or not entry.digest.verifiable:
                found = self._get(directory, reference).descriptor
                if renewed_blob(directory, found.digest) is None:
                    raise ImageNotFound("its blob is missing")
                return found
            size = renewed_blob(directory, entry.digest)
            if size is None:
                raise ImageNotFound("its blob is missing")
            if size != entry.size:
                raise SizeMismatch("its file has another size", expected=entry.size, actual=size)
            return Descriptor(media_type=entry.media_type, digest=entry.digest, size=size)

    def get(self, reference: Tag | Digest) -> RawManifest:
        """A manifest's bytes, verified.

        Raises:
            ImageNotFound: No such manifest.
            RepositoryNotFound: No such layout.
            DigestMismatch: Its file has other bytes.
            SizeMismatch: Its file is not as long as its entry says.
            InvalidDocument: It is no manifest of the type that its entry says.
            TooLarge: It is larger than 8 MiB.
            Unsupported: It is a Docker schema 1 manifest, or its digest cannot be verified.
            LayoutError: The layout is broken, or ambiguous about the tag.
        """
        checkpoint()
        with error_reference(self._at(reference)), self._reading() as directory:
            return self._get(directory, reference)

    def put(self, manifest: RawManifest, *, tags: Collection[Tag] = ()) -> Descriptor:
        """Store a manifest and point tags at it; the first one makes the layout. Its parts need not be here.

        Raises:
            InvalidDocument: The bytes are no manifest of their media type; nothing is stored.
            TooLarge: It is larger than 8 MiB.
            Unsupported: Its digest's algorithm cannot be verified, or the place cannot be written.
            LayoutError: The layout is broken; it is left as it is.
        """
        checkpoint()
        with error_reference(self._label):
            if len(manifest.content) > MANIFEST_LIMIT:
                raise TooLarge(f"a manifest of more than {MANIFEST_LIMIT} bytes")
            kind = identify(manifest.content, expected=manifest.media_type)
            size, source = len(manifest.content), BytesSource(manifest.content)
            descriptor = Descriptor(media_type=kind, digest=manifest.digest, size=size)
        with error_reference(self._at(descriptor.digest)), self._place.open_for_writing() as directory:
            self._place.initialize(directory)
            with self._place.locked(directory):
                # Under the lock, so that a delete at the same time cannot take the blob from under a new entry.
                store_blob(directory, descriptor.digest, size, source)
                before = self._place.index(directory)
                after = before.with_manifest(descriptor, tags)
                if after.encode() != before.encode():
                    self._place.write_index(directory, after)
        return descriptor

    def untag(self, tag: Tag) -> None:
        """Remove a tag; the manifest keeps an entry.

        Raises:
            ImageNotFound: No such tag.
            LayoutError: The layout is broken.
        """
        checkpoint()
        with error_reference(self._at(tag)), self._editing() as directory:
            index = self._place.index(directory)
            if tag not in index.tags:
                raise ImageNotFound("no such tag")
            self._place.write_index(directory, index.without_tag(tag))

    def delete(self, digest: Digest) -> None:
        """Remove a manifest: its entries, with their tags, and its blob.

        Raises:
            ImageNotFound: No such manifest.
            LayoutError: The layout is broken.
        """
        checkpoint()
        with error_reference(self._at(digest)), self._editing() as directory:
            index = self._place.index(directory)
            if index.find(digest) is None:
                self._get(directory, digest)
            else:
                self._place.write_index(directory, index.without_manifest(digest))
            remove_blob(directory, digest)

    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Iterator[Tag]:
        """All tags in ASCII order.

        Raises:
            RepositoryNotFound: No such layout.
            LayoutError: The layout is broken.
        """
        checkpoint()
        with error_reference(self._label), self._reading() as directory:
            found = self._place.index(directory).tags
        for tag in found:
            if after is None or tag > after:
                checkpoint()
                yield tag

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        """The manifests that ``index.json`` leads to and whose subject is that digest, in the order they are found.

        Lists that other tools keep under a fallback tag are indexes like any other, and followed.

        Raises:
            LayoutError: The layout is broken.
            DigestMismatch: A manifest on the way has other bytes than its digest.
            TooLarge: Indexes are nested more than 16 deep.
        """
        checkpoint()
        with error_reference(self._at(subject)):
            found = list(self._referrers(subject))
        for entry in filter_by_artifact_type(found, artifact_type):
            checkpoint()
            yield entry

    def _referrers(self, subject: Digest) -> Iterator[Descriptor]:
        with self._place.open() as directory:
            if directory is None:
                return
            for manifest in _walk(self._place.index(directory).entries, lambda entry: _readable(directory, entry)):
                try:
                    if manifest.subject is None or manifest.subject.digest != subject:
                        continue
                    entry = referrer_descriptor(manifest)
                except InvalidDocument:
                    continue
                if entry is not None:
                    yield entry

    def _get(self, directory: Directory, reference: Tag | Digest) -> RawManifest:
        index = self._place.index(directory)
        entry = index.find(reference)
        if entry is None and isinstance(reference, Digest):
            return self._unlisted(directory, index, reference)
        manifest = None if entry is None else _read(directory, entry.digest, entry)
        if manifest is None:
            raise ImageNotFound("no such tag" if entry is None else "its blob is missing")
        return manifest

    def _unlisted(self, directory: Directory, index: IndexFile, digest: Digest) -> RawManifest:
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
        # What it does not say itself, an index that lists it may say.
        parent = _parent_entry(directory, index, digest)
        if parent is not None:
            manifest = _read(directory, digest, parent)
        if manifest is None:
            raise ImageNotFound("what has this digest is no manifest")
        return manifest

    @contextmanager
    def _reading(self) -> Iterator[Directory]:
        with self._place.open() as directory:
            if directory is None:
                raise RepositoryNotFound("no image layout there")
            yield directory

    @contextmanager
    def _editing(self) -> Iterator[Directory]:
        with self._reading() as directory, self._place.locked(directory):
            yield directory

    def _at(self, reference: Tag | Digest) -> str:
        return join_reference(self._label, reference)


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
    if not is_manifest(entry.media_type):
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
            # A broken index elsewhere in the layout says nothing about this manifest.
            return None

    for manifest in _walk(index.entries, load):
        for entry in manifest.index.manifests:
            if entry.digest == digest:
                return entry
    return None


def _walk(entries: Sequence[Descriptor], load: Callable[[Descriptor], RawManifest | None]) -> Iterator[RawManifest]:
    """Yield the manifests that entries lead to, each once, the least deep first.

    Each entry may be a graph of the size that the limits allow.
    """
    queue = ManifestQueue(entries, limits=GraphLimits(graphs=len(entries)))
    for entry in queue:
        manifest = load(entry)
        if manifest is None:
            continue
        yield manifest
        if manifest.is_index:
            for child in manifest.index.manifests:
                queue.add(child)
