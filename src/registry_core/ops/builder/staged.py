"""A repository in the making: what a builder has made, readable like any other."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from typing import Final

from registry_core.content.spool import Spool
from registry_core.content.streams import ByteReader, ByteSource, BytesSource, CallableSource
from registry_core.content.verify import verified_chunks
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.reference import join_reference
from registry_core.domain.referrers import filter_by_artifact_type, referrer_descriptor
from registry_core.errors import BlobNotFound, ImageNotFound
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.catalog import BlobLocation, BlobLocator, Repository
from registry_core.ports.manifest_store import ManifestStore

__all__ = ["StagedBlobs", "StagedManifests", "origin_source", "stage", "staged_repository"]

_NAME: Final = RepositoryName("staged")


def staged_repository(blobs: StagedBlobs | None = None, manifests: StagedManifests | None = None) -> Repository:
    """A repository in memory, large blobs in temporary files; for builders and tests to fill.

    Args:
        blobs: What is in it so far; what of that lies in a registry is mounted from there, where it can be.
        manifests: What is in it so far.
    """
    blobs = StagedBlobs() if blobs is None else blobs
    return Repository(_NAME, blobs, StagedManifests() if manifests is None else manifests, blob_locator=blobs)


def stage(blobs: StagedBlobs, origin: Repository, part: Descriptor) -> None:
    """Make a blob of another repository readable here; its bytes stay where they are until somebody asks."""
    blobs.add(part.digest, part.size, origin_source(origin, part), origin.blob_location(part.digest))


def origin_source(origin: Repository, part: Descriptor) -> ByteSource:
    """A blob where it is; nothing is read before somebody asks, and nothing at all where its descriptor embeds it."""
    embedded = part.embedded()
    if embedded is not None:
        return BytesSource(embedded)
    return CallableSource(lambda start: origin.blobs.open(part.digest, start=start))


class StagedBlobs(BlobStore, BlobLocator):
    """Blobs as sources, without a copy of their bytes where the source keeps them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blobs: dict[Digest, tuple[int, ByteSource]] = {}
        self._homes: dict[Digest, BlobLocation] = {}

    def add(self, digest: Digest, size: int, source: ByteSource, home: BlobLocation | None = None) -> None:
        """Take in a source that is known to hold what it should, and will not change; what is here stays.

        Args:
            digest: Of the blob.
            size: In bytes.
            source: Where its bytes are.
            home: In which registry it lies, if it does.
        """
        with self._lock:
            self._blobs.setdefault(digest, (size, source))
            if home is not None:
                self._homes.setdefault(digest, home)

    def home(self, digest: Digest) -> BlobLocation | None:
        """Where a blob lies that was taken over from a registry."""
        with self._lock:
            return self._homes.get(digest)

    def stat(self, digest: Digest) -> int:
        """The size of a blob."""
        return self._held(digest)[0]

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        """A reader over a blob, wherever its bytes are."""
        return self._held(digest)[1].open(start)

    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        """Store a blob, verified and copied."""
        spool = Spool()
        for piece in verified_chunks(source, digest, size):
            spool.write(piece)
        self.add(digest, size, spool)

    def delete(self, digest: Digest) -> None:
        """Remove a blob."""
        with self._lock:
            self._homes.pop(digest, None)
            if self._blobs.pop(digest, None) is None:
                raise BlobNotFound("no such blob", reference=_at(digest))

    def _held(self, digest: Digest) -> tuple[int, ByteSource]:
        with self._lock:
            held = self._blobs.get(digest)
        if held is None:
            raise BlobNotFound("no such blob", reference=_at(digest))
        return held


class StagedManifests(ManifestStore):
    """Manifests and tags in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._manifests: dict[Digest, RawManifest] = {}
        self._tags: dict[Tag, Digest] = {}

    def resolve(self, reference: Tag | Digest) -> Descriptor:
        """Type, digest and size of a manifest."""
        return self.get(reference).descriptor

    def get(self, reference: Tag | Digest) -> RawManifest:
        """A manifest's exact bytes."""
        with self._lock:
            digest = reference if isinstance(reference, Digest) else self._tags.get(reference)
            held = None if digest is None else self._manifests.get(digest)
        if held is None:
            raise ImageNotFound("no such manifest", reference=_at(reference))
        return held

    def put(self, manifest: RawManifest, *, tags: Collection[Tag] = ()) -> Descriptor:
        """Store a manifest and tag it."""
        RawManifest.of(manifest.content, expected=manifest.media_type, algorithm=manifest.algorithm)
        with self._lock:
            self._manifests[manifest.digest] = manifest
            self._tags.update(dict.fromkeys(tags, manifest.digest))
        return manifest.descriptor

    def untag(self, tag: Tag) -> None:
        """Remove a tag."""
        with self._lock:
            if self._tags.pop(tag, None) is None:
                raise ImageNotFound("no such tag", reference=_at(tag))

    def delete(self, digest: Digest) -> None:
        """Remove a manifest that is here, and its tags."""
        with self._lock:
            if self._manifests.pop(digest, None) is None:
                raise ImageNotFound("no such manifest", reference=_at(digest))
            self._tags = {tag: target for tag, target in self._tags.items() if target != digest}

    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Iterator[Tag]:
        """All tags in ASCII order."""
        with self._lock:
            return iter(sorted(tag for tag in self._tags if after is None or tag > after))

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        """The manifests that are here and point at a subject."""
        with self._lock:
            held = list(self._manifests.values())
        mine = (
            entry
            for raw in held
            if raw.subject is not None and raw.subject.digest == subject
            if (entry := referrer_descriptor(raw)) is not None
        )
        return filter_by_artifact_type(mine, artifact_type)


def _at(reference: Tag | Digest) -> str:
    return join_reference(_NAME, reference)
