"""Manifests, tags and referrers in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from registry_adapters.memory.state import RepositoryContents, State
from registry_core.cancellation import checkpoint
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest, identify
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.referrers import filter_by_artifact_type, referrer_descriptor
from registry_core.errors import DigestMismatch, ImageNotFound, RepositoryNotFound, error_reference
from registry_core.ports.manifest_store import ManifestStore

__all__ = ["MemoryManifests"]


class MemoryManifests(ManifestStore):
    """The manifests of one repository.

    Args:
        state: The catalog's.
        name: The repository's.
    """

    def __init__(self, state: State, name: RepositoryName) -> None:
        self._state = state
        self._name = name

    def resolve(self, reference: Tag | Digest) -> Descriptor:
        """Type, digest and size of a manifest.

        Raises:
            ImageNotFound: No such manifest.
            RepositoryNotFound: The repository holds nothing.
        """
        return self._find(reference)[1].descriptor

    def get(self, reference: Tag | Digest) -> RawManifest:
        """A manifest's exact bytes, verified.

        Raises:
            ImageNotFound: No such manifest.
            RepositoryNotFound: The repository holds nothing.
            DigestMismatch: Its bytes are not those that were stored.
        """
        digest, held = self._find(reference)
        # A fresh value for each caller: the decoded views that it caches can be changed, and are not shared.
        manifest = RawManifest(held.media_type, held.content, held.algorithm)
        if manifest.digest != digest:
            raise DigestMismatch(
                "other bytes are held under this digest",
                expected=str(digest),
                actual=str(manifest.digest),
                reference=self._state.at(self._name, digest),
            )
        return manifest

    def put(self, manifest: RawManifest, *, tags: Collection[Tag] = ()) -> Descriptor:
        """Store a manifest and point tags at it; its parts need not be there.

        Raises:
            InvalidDocument: The bytes are no manifest of their media type; nothing is stored.
            Unsupported: A Docker schema 1 manifest, or a digest algorithm that cannot be verified.
        """
        checkpoint()
        with error_reference(self._state.at(self._name)):
            media_type = identify(manifest.content, claimed=manifest.media_type)
            stored = RawManifest(media_type, bytes(manifest.content), manifest.algorithm)
            descriptor, subject = stored.descriptor, stored.subject
        with self._state.lock:
            contents = self._state.make(self._name)
            contents.manifests[descriptor.digest] = stored
            contents.tags.update((tag, descriptor.digest) for tag in tags)
            if subject is not None:
                contents.referrers.setdefault(subject.digest, set()).add(descriptor.digest)
        return descriptor

    def untag(self, tag: Tag) -> None:
        """Remove a tag; the manifest stays.

        Raises:
            ImageNotFound: No such tag.
            RepositoryNotFound: The repository holds nothing.
        """
        checkpoint()
        with self._state.lock:
            if self._contents(tag).tags.pop(tag, None) is None:
                raise self._absent(tag)

    def delete(self, digest: Digest) -> None:
        """Remove a manifest and every tag on it.

        Raises:
            ImageNotFound: No such manifest.
            RepositoryNotFound: The repository holds nothing.
        """
        checkpoint()
        with self._state.lock:
            contents = self._contents(digest)
            removed = contents.manifests.pop(digest, None)
            if removed is None:
                raise self._absent(digest)
            contents.tags = {tag: target for tag, target in contents.tags.items() if target != digest}
            if removed.subject is not None:
                contents.referrers[removed.subject.digest].discard(digest)
            self._state.sweep(self._name)

    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Iterator[Tag]:
        """All tags in ASCII order, as they were at the first step.

        Raises:
            RepositoryNotFound: The repository holds nothing.
        """
        checkpoint()
        with self._state.lock:
            tags = sorted(self._contents().tags)
        for tag in tags:
            if after is None or tag > after:
                checkpoint()
                yield tag

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        """The manifests whose subject is that digest, ordered by their own digests."""
        checkpoint()
        with self._state.lock:
            contents = self._state.find(self._name)
            digests = contents.referrers.get(subject, ()) if contents else ()
            held = [contents.manifests[digest] for digest in sorted(digests)] if contents else []
        # Built anew from the bytes each time, so that no caller can change what the next one sees.
        fresh = (referrer_descriptor(RawManifest(each.media_type, each.content, each.algorithm)) for each in held)
        for entry in filter_by_artifact_type((entry for entry in fresh if entry is not None), artifact_type):
            checkpoint()
            yield entry

    def _find(self, reference: Tag | Digest) -> tuple[Digest, RawManifest]:
        checkpoint()
        with self._state.lock:
            contents = self._contents(reference)
            digest = reference if isinstance(reference, Digest) else contents.tags.get(reference)
            manifest = None if digest is None else contents.manifests.get(digest)
        if digest is None or manifest is None:
            raise self._absent(reference)
        return digest, manifest

    def _contents(self, reference: str = "") -> RepositoryContents:
        contents = self._state.find(self._name)
        if contents is None:
            raise RepositoryNotFound("no such repository", reference=self._state.at(self._name, reference))
        return contents

    def _absent(self, reference: str) -> ImageNotFound:
        return ImageNotFound("no such manifest", reference=self._state.at(self._name, reference))
