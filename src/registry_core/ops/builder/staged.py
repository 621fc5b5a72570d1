"""The repository that holds what a builder has built; it is read like any other repository."""

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

__all__ = ["StagedBlobs", "StagedManifests", "origin_source", "stage_blob", "staged_repository"]

_NAME: Final = RepositoryName("staged")


def staged_repository(blobs: StagedBlobs | None = None, manifests: StagedManifests | None = None) -> Repository:
    """Make a repository in memory; large blobs are in temporary files.

    Args:
        blobs: Blobs of the repository; a copy mounts those whose location in a registry is known.
        manifests: Manifests of the repository.
    """
    blobs = StagedBlobs() if blobs is None else blobs
    return Repository(_NAME, blobs, StagedManifests() if manifests is None else manifests, blob_locator=blobs)


def stage_blob(blobs: StagedBlobs, repository: Repository, descriptor: Descriptor) -> None:
    """Make a blob of another repository readable; it is fetched from there when it is read."""
    blobs.add(
        descriptor.digest,
        descriptor.size,
        origin_source(repository, descriptor),
        repository.blob_location(descriptor.digest),
    )


def origin_source(repository: Repository, descriptor: Descriptor) -> ByteSource:
    """A source for a blob that stays in its repository; embedded data of the descriptor is used instead."""
    embedded = descriptor.embedded()
    if embedded is not None:
        return BytesSource(embedded)
    return CallableSource(lambda start: repository.blobs.open(descriptor.digest, start=start))


class StagedBlobs(BlobStore, BlobLocator):
    """Blobs by their sources; bytes are copied only by ``put``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blobs: dict[Digest, tuple[int, ByteSource]] = {}
        self._locations: dict[Digest, BlobLocation] = {}

    def add(self, digest: Digest, size: int, source: ByteSource, location: BlobLocation | None = None) -> None:
        """Add a blob unless it is already present. The source is not verified, and must not change.

        Args:
            digest: Digest of the blob.
            size: Size of the blob in bytes.
            source: Source of its bytes.
            location: Registry and repository that hold the blob, if any.
        """
        with self._lock:
            self._blobs.setdefault(digest, (size, source))
            if location is not None:
                self._locations.setdefault(digest, location)

    def locate(self, digest: Digest) -> BlobLocation | None:
        """The registry and repository that hold a blob, if known."""
        with self._lock:
            return self._locations.get(digest)

    def stat(self, digest: Digest) -> int:
        """The size of a blob."""
        return self._find(digest)[0]

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        """Open a blob at its source."""
        return self._find(digest)[1].open(start)

    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        """Verify a blob and copy it to memory or a temporary file."""
        spool = Spool()
        for chunk in verified_chunks(source, digest, size):
            spool.write(chunk)
        self.add(digest, size, spool)

    def delete(self, digest: Digest) -> None:
        """Remove a blob."""
        with self._lock:
            self._locations.pop(digest, None)
            if self._blobs.pop(digest, None) is None:
                raise BlobNotFound("no such blob", reference=_at(digest))

    def _find(self, digest: Digest) -> tuple[int, ByteSource]:
        with self._lock:
            found = self._blobs.get(digest)
        if found is None:
            raise BlobNotFound("no such blob", reference=_at(digest))
        return found


class StagedManifests(ManifestStore):
    """Manifests and tags in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._manifests: dict[Digest, RawManifest] = {}
        self._tags: dict[Tag, Digest] = {}

    def resolve(self, reference: Tag | Digest) -> Descriptor:
        """The descriptor of a manifest."""
        return self.get(reference).descriptor

    def get(self, reference: Tag | Digest) -> RawManifest:
        """The exact bytes of a manifest."""
        with self._lock:
            digest = reference if isinstance(reference, Digest) else self._tags.get(reference)
            found = None if digest is None else self._manifests.get(digest)
        if found is None:
            raise ImageNotFound("no such manifest", reference=_at(reference))
        return found

    def put(self, manifest: RawManifest, *, tags: Collection[Tag] = ()) -> Descriptor:
        """Store a manifest and its tags."""
        manifest = manifest.checked(expected=manifest.media_type)
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
        """Remove a manifest and its tags."""
        with self._lock:
            if self._manifests.pop(digest, None) is None:
                raise ImageNotFound("no such manifest", reference=_at(digest))
            self._tags = {tag: target for tag, target in self._tags.items() if target != digest}

    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Iterator[Tag]:
        """The tags in ASCII order."""
        with self._lock:
            return iter(sorted(tag for tag in self._tags if after is None or tag > after))

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        """The descriptors of manifests that have the subject."""
        with self._lock:
            manifests = list(self._manifests.values())
        referrers = (
            entry
            for raw in manifests
            if raw.subject is not None and raw.subject.digest == subject
            if (entry := referrer_descriptor(raw)) is not None
        )
        return filter_by_artifact_type(referrers, artifact_type)


def _at(reference: Tag | Digest) -> str:
    return join_reference(_NAME, reference)
